//! The options of librdkafka that no operator sets as such: the bus sets them, and is right only with them.

/// An option that librdkafka would take and the operator sets elsewhere, or never: with the reason.
/// A name that ends with `.` or `_` stands for all that begin with it.
const OWNED: &[(&str, &str)] = &[
    ("bootstrap.servers", "set `brokers`"),
    ("metadata.broker.list", "set `brokers`"),
    ("group.id", "set `group`"),
    (
        "group.instance.id",
        "it comes from the node's name and the source's",
    ),
    ("group.protocol", "the bus speaks the `classic` protocol"),
    (
        "group.remote.assignor",
        "the bus speaks the `classic` protocol",
    ),
    ("client.id", "it is the node's name"),
    ("partition.assignment.strategy", "set `assignment`"),
    (
        "enable.auto.commit",
        "the store's checkpoint says where to go on; what the broker is told comes after it",
    ),
    (
        "auto.commit.",
        "the store's checkpoint says where to go on; what the broker is told comes after it",
    ),
    (
        "enable.auto.offset.store",
        "the store's checkpoint says where to go on; what the broker is told comes after it",
    ),
    (
        "offset.store.",
        "the store's checkpoint says where to go on; what the broker is told comes after it",
    ),
    (
        "auto.offset.reset",
        "a range that is lost must be an alarm; where a new source begins says `start`",
    ),
    (
        "isolation.level",
        "records of transactions that were aborted never happened",
    ),
    (
        "enable.partition.eof",
        "the lag of a topic with transactions is known by it",
    ),
    (
        "allow.auto.create.topics",
        "a topic that is missing is a mistake to be told",
    ),
    ("queued.max.messages.kbytes", "set the memory of the source"),
    ("fetch.max.bytes", "set the memory of the source"),
    ("fetch.message.max.bytes", "set the memory of the source"),
    ("max.partition.fetch.bytes", "set the memory of the source"),
    ("security.protocol", "set `tls` and `login`"),
    ("sasl.", "set `login`"),
    ("ssl.ca.", "set `tls`"),
    ("ssl_", "set `tls`"),
    (
        "ssl.engine.",
        "it would load code of somebody else's into the node",
    ),
    (
        "ssl.providers",
        "it would load code of somebody else's into the node",
    ),
    ("ssl.certificate.", "set `tls`"),
    ("ssl.key.", "set `tls`"),
    ("ssl.keystore.", "set `tls`"),
    (
        "ssl.endpoint.identification.algorithm",
        "a broker's name is always checked",
    ),
    (
        "enable.ssl.certificate.verification",
        "a broker's certificate is always checked",
    ),
    (
        "plugin.library.paths",
        "it would load code of somebody else's into the node",
    ),
    ("enable.sasl.", "set `login`"),
    ("enable.metrics.push", "the node sends nobody its figures"),
];

/// Why an option may not be set; `None` when it may.
pub(super) fn why(option: &str) -> Option<&'static str> {
    let owned = OWNED.iter().find(|(owned, _)| is_owned(owned, option));
    owned.map(|(_, why)| *why)
}

fn is_owned(owned: &str, option: &str) -> bool {
    // A topic's options may be written with their prefix.
    let option = option.strip_prefix("topic.").unwrap_or(option);
    option == owned || (owned.ends_with(['.', '_']) && option.starts_with(owned))
}
