//! The names of this crate's metrics, each with its kind, unit, labels and meaning, and those of all crates
//! together: what `/metrics` gives as HELP and `docs/OPERATING.md` as description. A test holds the two
//! against each other.

use tidegate_actors::metrics_of_crate;
pub use tidegate_actors::names as actors;
pub use tidegate_actors::names::{Kind, Metric};

metrics_of_crate! {
    UNSETTLED = Gauge "tidegate_unsettled_events", "events", ["source", "partition"],
        "Events received and not below the low watermark";
    LAG_EVENTS = Gauge "tidegate_consumer_lag_events", "events", ["source", "partition"],
        "Records between the low watermark and the end of the source partition, where the bus numbers records. Offsets that hold no record count too";
    LAG_BYTES = Gauge "tidegate_consumer_lag_bytes", "bytes", ["source", "partition"],
        "The same where the bus counts bytes: files";
    LAG_SECONDS = Gauge "tidegate_consumer_lag_seconds", "seconds", ["source", "partition"],
        "Time since the oldest record that is not settled was written, where the bus says when, else since it was first known of: received, or behind the last end that the bus told. 0 when everything known is settled";
    CONSUMER_STATUS = Gauge "tidegate_consumer_status", "status", ["source", "partition"],
        "How a source partition of this node stands, by the trend of half a minute: 0 ok, 1 slow (it moves, and more arrives than it settles), 2 stalled (records wait and nothing is settled), 4 rewound. One that is stopped with an alarm is counted in tidegate_source_partitions";
    PARTITION_INFO = Gauge "tidegate_source_partition_info", "constant", ["source", "partition", "group", "topic", "topic_partition"],
        "1 for each source partition of this node that has a name of its broker's: join by source and partition";
    KAFKA_LAG = Gauge "kafka_consumergroup_lag", "events", ["consumergroup", "topic", "partition"],
        "The lag in events under the name that exporters of Kafka use, for boards and autoscalers that know it. With telemetry.kafka_exporter_names alone";
    TENANT_LAG_SECONDS = Gauge "tidegate_tenant_lag_seconds", "seconds", ["tenant"],
        "Age of the oldest event of a tenant that this node received and has not settled: since it was written, where its bus says when, else since its receipt. Tenants beyond telemetry.tenants_max are together `_other`";
    EPOCH = Gauge "tidegate_ownership_epoch", "epoch", ["source", "partition"],
        "The epoch of the current ownership: it grows with each claim, of any node";
    SOURCE_UP = Gauge "tidegate_source_up", "boolean", ["source"],
        "1 while a source runs or has ended, 0 while a part of it is stopped with an alarm";
    PARTITIONS = Gauge "tidegate_source_partitions", "partitions", ["source", "state"],
        "Source partitions of this node: owned, claiming (assigned and not read yet: a partition that was added to its topic waits for the older ones), or quarantined (stopped with an alarm)";
    LOGIN_FAILURES = Counter "tidegate_login_failures_total", "failures", ["source"],
        "Times that a token to log in with was not signed: the one before is used until it expires. 0 for sources that log in without tokens";
    NODE_EVENTS = Gauge "tidegate_permits_events", "events", [],
        "Events that hold a permit of the node, those that polls ask for included";
    NODE_EVENTS_MAX = Gauge "tidegate_permits_events_max", "events", [],
        "The most that may: limits.node_events_max";
    NODE_BYTES = Gauge "tidegate_permits_bytes", "bytes", [],
        "Bytes that hold a permit of the node, those that polls ask for included";
    NODE_BYTES_MAX = Gauge "tidegate_permits_bytes_max", "bytes", [],
        "The most that may: limits.node_bytes_max";
    LANE_EVENTS = Gauge "tidegate_lane_events", "events", ["tenant"],
        "Events in a tenant's lane: routed and not settled";
    LANE_BYTES = Gauge "tidegate_lane_bytes", "bytes", ["tenant"],
        "Bytes in a tenant's lane";
    LANE_EVENTS_MAX = Gauge "tidegate_lane_events_max", "events", [],
        "The most events of one lane: limits.tenant_events_max";
    LANE_BYTES_MAX = Gauge "tidegate_lane_bytes_max", "bytes", [],
        "The most bytes of one lane: limits.tenant_bytes_max";
    TENANTS = Gauge "tidegate_active_tenants", "tenants", [],
        "Tenants with work or a memory of it in this node";
    MAILBOX_WAIT = Gauge "tidegate_mailbox_wait_seconds", "seconds", ["actor"],
        "How long the slowest actor of a kind (committer; supervisor with its partitions) let a message wait, measured with the message that asks for its figures";
    MAILBOX_MAX = Gauge "tidegate_mailbox_messages_max", "messages", ["actor"],
        "The capacity of an actor's mailbox: committer, supervisor or partition";
    OPEN_WORK = Gauge "tidegate_open_work_events", "events", ["kind"],
        "Open work of the source partitions of this node by kind: loop_back is what machines emitted and none has taken up again";
    OPEN_WORK_AGE = Gauge "tidegate_open_work_oldest_seconds", "seconds", ["kind"],
        "Time since the oldest of it in memory was taken up by this node; 0 without any";
    CACHED_ENTITIES = Gauge "tidegate_cached_entities", "entities", [],
        "Entities in memory";
    CACHED_ENTITIES_MAX = Gauge "tidegate_cached_entities_max", "entities", [],
        "What all partitions share: limits.cached_entities_max. Smallest shares may go beyond it";
    CACHED_ENTITY_BYTES = Gauge "tidegate_cached_entity_bytes", "bytes", [],
        "Bytes of the data of the entities in memory";
    CACHED_ENTITY_BYTES_MAX = Gauge "tidegate_cached_entity_bytes_max", "bytes", [],
        "What all partitions share: limits.cached_entities_bytes_max. What one event needs may go beyond it";
    CACHED_KEYS = Gauge "tidegate_cached_keys", "keys", [],
        "Idempotency keys in memory";
    CACHED_KEYS_MAX = Gauge "tidegate_cached_keys_max", "keys", [],
        "What all partitions share: limits.cached_keys_max. Keys of unsettled events may go beyond it";
    LETTERS_OPEN = Gauge "tidegate_dead_letters_open", "dead letters", ["tenant"],
        "Dead letters that wait for a decision, of any node; counted once a minute, up to 10000 of each of the first 1000 tenants";
    EVENTS_OFFERED = Counter "tidegate_http_events_total", "events", [],
        "Events that requests handed in";
    PENDING_EVENTS = Gauge "tidegate_http_pending_events", "events", ["stream"],
        "Events of requests that wait for their commit";
    PENDING_BYTES = Gauge "tidegate_http_pending_bytes", "bytes", ["stream"],
        "Bytes of these";
    STREAMS_OPEN = Gauge "tidegate_http_streams_open", "streams", [],
        "Requests to GET /v1/stream that are open";
    REQUESTS_DENIED = Counter "tidegate_http_denied_total", "requests", ["reason"],
        "Requests without a valid token";
    REQUESTS = Counter "tidegate_http_requests_total", "requests", ["method", "route", "status"],
        "Requests that were answered";
    REQUEST_SECONDS = Histogram "tidegate_http_request_seconds", "seconds", ["method", "route"],
        "Time from a request's head to its response; an event's commit is in it";
}

/// The metrics of all crates.
pub fn all() -> impl Iterator<Item = &'static Metric> {
    ALL.iter().chain(tidegate_actors::names::ALL)
}
