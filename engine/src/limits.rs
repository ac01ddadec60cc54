//! Every fixed bound of the engine, with its unit and its reason. What an operator may tune is in the
//! configuration instead; a bound stands here when a larger value would break a promise.

/// Bytes of one delivery as the bus hands it over. Larger ones are unreadable: one event must fit a
/// batch, a segment and a dead letter without special cases.
pub const DELIVERY_BYTES_MAX: usize = 1024 * 1024;

/// Nesting of JSON in an event. Deep nesting is the cheapest way to exhaust a parser's stack.
pub const JSON_DEPTH_MAX: usize = 32;

/// Keys of one JSON object. Duplicate detection compares keys, so their number is bounded.
pub const JSON_OBJECT_KEYS_MAX: usize = 1_024;

/// Bytes of a tenant's name: it stands in every key and in metric labels.
pub const TENANT_BYTES_MAX: usize = 63;

/// Bytes of the name of a source, stream or machine.
pub const NAME_BYTES_MAX: usize = 63;

/// Bytes of `id`, `source`, `type`, `subject`, `correlationid`, `causationid`, `idempotencykey` and
/// of each extension attribute. They are indexed and hashed, never meant to carry payload.
pub const ATTRIBUTE_BYTES_MAX: usize = 1_024;

/// Extension attributes of one event.
pub const EXTENSIONS_MAX: usize = 32;

/// Headers that are kept of one delivery. Those of tracing and transport stand among them.
pub const HEADERS_MAX: usize = 64;

/// Bytes of the names and values of those headers: they carry attributes, never payload.
pub const HEADERS_BYTES_MAX: usize = 64 * 1024;

/// Bytes of an entity's key (DESIGN: "a key is text of 1 to 256 bytes").
pub const ENTITY_KEY_BYTES_MAX: usize = 256;

/// Bytes of an entity's canonical data: it is read, hashed and written with every change.
pub const ENTITY_DATA_BYTES_MAX: usize = 64 * 1024;

/// Hops of emitted events before an event is `dead` with reason `loop`.
pub const HOPS_MAX: u8 = 16;

/// Events of one commit. Measured: 500 to 5,000 adds a fifth of throughput for eight times the latency.
pub const BATCH_EVENTS_MAX: usize = 10_000;

/// Bytes of one commit: what a server takes in one message is twice as much. The limits of a configuration
/// end a batch long before, but for what single events of many tenants write beyond them.
pub const BATCH_BYTES_MAX: usize = 512 * 1024 * 1024;

/// Events asked of a source at once.
pub const RECEIVE_EVENTS_MAX: usize = BATCH_EVENTS_MAX;

/// Ranges in `done_above` from which only the oldest unsettled events are settled, about a batch of them,
/// until the watermark moves: a checkpoint is written with every commit, so it has to stay small.
pub const DONE_ABOVE_FRAGMENTED: usize = 512;

/// Records above the low watermark that are remembered, from which only what stands among the oldest of
/// them is settled: permits bound what is unsettled, and nothing else bounds what others settle while
/// one tenant stays behind. About 64 MiB.
pub const TRACKED_RECORDS_MAX: usize = 1_000_000;

/// Ranges in `done_above` at most. Before it counts as fragmented, the batch in flight and the one behind
/// it can each add one an event; from then on ranges come only within a window of a batch's or a poll's
/// events.
pub const DONE_ABOVE_RANGES_MAX: usize =
    DONE_ABOVE_FRAGMENTED + 2 * BATCH_EVENTS_MAX + RECEIVE_EVENTS_MAX + 1;

/// Attempts of one event at one machine before a panicking machine makes it `dead`. Machines are
/// pure, so a second attempt only guards against a panic that came from outside (memory, a bug of ours).
pub const APPLY_ATTEMPTS_MAX: u32 = 2;

/// Tries to win an ownership back after `Fenced` before an alarm is raised.
pub const RECLAIM_ATTEMPTS_MAX: u32 = 5;

/// Characters kept of a reason that a machine or a database gave.
pub const REASON_CHARS_MAX: usize = 512;

/// Bytes of one CEL expression.
pub const EXPRESSION_BYTES_MAX: usize = 2_048;

/// Nodes of one CEL expression's syntax tree. With [`COMPREHENSION_ITEMS_MAX`] and comprehensions one
/// deep this bounds the steps of an evaluation, which the library does not.
pub const EXPRESSION_NODES_MAX: usize = 512;

/// Levels of one CEL expression's syntax tree. Evaluation recurses, and the stack of a worker thread is
/// two megabytes.
pub const EXPRESSION_DEPTH_MAX: usize = 64;

/// Items of a list that a comprehension may visit.
pub const COMPREHENSION_ITEMS_MAX: usize = 1_000;

/// Values that `in` and `==` may look at in one evaluation: a list of 1,000 items searched for each of
/// 1,000. Some tens of milliseconds at worst.
pub const EVALUATION_VISITS_MAX: usize = 1 << 20;

/// Bytes that lists, maps, `+` and comprehensions may copy in one evaluation, a value counted as 16 and
/// its text: the largest event about three times.
pub const EVALUATION_COPIED_BYTES_MAX: usize = 32 * DELIVERY_BYTES_MAX;

/// Bytes of a text, or items of a list, that `+` may make: what an entity could hold at all.
pub const EXPRESSION_RESULT_MAX: usize = ENTITY_DATA_BYTES_MAX;

/// States of one machine, and fields of one machine: each is a line that people read.
pub const MACHINE_NAMES_MAX: usize = 256;

/// Candidates for one event type: they are tried in order, so their number bounds an event's cost.
pub const MACHINE_CANDIDATES_MAX: usize = 64;

/// Events that one candidate may emit. With [`HOPS_MAX`] this bounds what one event can set off.
pub const MACHINE_EMITS_MAX: usize = 16;

/// Test cases in one definition, and given events in one case.
pub const MACHINE_TESTS_MAX: usize = 1_000;

/// Valid tokens of one tenant with one label: the one in use, and the one that is about to replace it.
pub const VALID_TOKENS_MAX: usize = 2;

/// The longest lease of a source partition: for what a node took and vanished, an operator waits that
/// long at most.
pub const LEASE_TTL_MAX: std::time::Duration = std::time::Duration::from_secs(3_600);

/// Bytes of the name of a lease's holder: a name of a process, for people.
pub const LEASE_HOLDER_BYTES_MAX: usize = 256;

/// Pieces of open work read at once. Each may be as large as an entity's data, so that a page is some
/// megabytes at worst.
pub const OPEN_WORK_PAGE: u32 = 100;

/// Tenants with open work read at once, when a source partition is claimed.
pub const OPEN_WORK_TENANTS_PAGE: u32 = 1_000;
