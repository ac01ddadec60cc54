//! What an operator may set for a source of Kafka, and what it becomes for librdkafka. Owns the options
//! that no operator sets, for the bus is right only with them.

mod owned;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rdkafka::ClientConfig;
use tidegate_engine::bus::BusError;
use tidegate_engine::position::SourceName;
use tidegate_engine::topics::TenantOfTopic;

use super::tokens::KafkaSigner;

/// Topics that a source lists.
const TOPICS_MAX: usize = 1_000;

/// What a pattern may not take in: the brokers' own topics begin so.
const OF_BROKERS: &str = "__";

/// Bytes of a topic's, a group's or an instance's name, as the broker has it.
const NAME_BYTES_MAX: usize = 249;

/// How the members of a group share its partitions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum KafkaAssignment {
    /// All partitions are given back at each change and dealt out anew: `range`, `roundrobin`.
    #[default]
    Eager,
    /// Only what moves is given back: `cooperative-sticky`. All members of a group have to use it.
    Cooperative,
}

/// TLS to the brokers. Their names and certificates are always checked.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct KafkaTls {
    /// A file with the certificates that are trusted; those of the machine when there is none.
    pub ca: Option<PathBuf>,
    /// Who we are, for brokers that ask for a certificate.
    pub identity: Option<KafkaIdentity>,
}

/// A certificate of our own and its key, files in PEM.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KafkaIdentity {
    /// The certificate, with those between it and the authority.
    pub certificate: PathBuf,
    /// Its key, not encrypted.
    pub key: PathBuf,
}

/// How a login is proved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KafkaMechanism {
    /// The password itself goes over the connection.
    Plain,
    /// SCRAM-SHA-256.
    ScramSha256,
    /// SCRAM-SHA-512.
    ScramSha512,
}

impl KafkaMechanism {
    fn as_str(self) -> &'static str {
        match self {
            KafkaMechanism::Plain => "PLAIN",
            KafkaMechanism::ScramSha256 => "SCRAM-SHA-256",
            KafkaMechanism::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

/// A login. It has no `Debug`, for its password.
#[derive(Clone)]
pub struct KafkaLogin {
    /// How it is proved.
    pub mechanism: KafkaMechanism,
    /// Who.
    pub user: String,
    /// The password.
    pub password: String,
}

/// How to reach a source of Kafka. It has no `Debug`, for the password in it.
#[derive(Clone)]
pub struct KafkaOptions {
    /// The configured source.
    pub source: SourceName,
    /// The node's name: with the source's it is the member's identity in the group, so that a node that
    /// comes back within the session's time gets its partitions without a rebalance.
    pub node: String,
    /// `host:port` of some brokers; the others are learned from them.
    pub brokers: Vec<String>,
    /// The consumer group.
    pub group: String,
    /// Its topics. One that ends with `*` stands for all whose names begin so.
    pub topics: Vec<String>,
    /// How a topic's name says whose it is, where it does.
    pub tenant_of_topic: Option<TenantOfTopic>,
    /// The group whose position [`Start::OffsetsOfGroup`](tidegate_engine::bus::Start) takes over; ours when
    /// there is none.
    pub start_group: Option<String>,
    /// A record's topic, key and time stand beside it as headers.
    pub record_headers: bool,
    /// Assignment.
    pub assignment: KafkaAssignment,
    /// TLS, if any.
    pub tls: Option<KafkaTls>,
    /// A login with a password, if any.
    pub login: Option<KafkaLogin>,
    /// Who signs tokens to log in with (OAUTHBEARER), if anybody.
    pub signer: Option<KafkaSigner>,
    /// Bytes that librdkafka fetches ahead, over all partitions of the source. A partition has at least
    /// one fetch of its own, so that very many partitions take more.
    pub fetched_bytes_max: usize,
    /// Bytes copied out and not received yet, over all partitions.
    pub buffered_bytes_max: usize,
    /// Records copied out and not received yet, over all partitions.
    pub buffered_events_max: usize,
    /// Options of librdkafka by their own names, but for those that the bus sets.
    pub librdkafka: BTreeMap<String, String>,
}

impl KafkaOptions {
    /// A source with defaults: no TLS, no login.
    pub fn new(
        source: SourceName,
        node: impl Into<String>,
        group: impl Into<String>,
        brokers: Vec<String>,
        topics: Vec<String>,
    ) -> Self {
        Self {
            source,
            node: node.into(),
            brokers,
            group: group.into(),
            topics,
            tenant_of_topic: None,
            start_group: None,
            record_headers: false,
            assignment: KafkaAssignment::default(),
            tls: None,
            login: None,
            signer: None,
            // A second of 60 MB/s, which is beyond what one store takes.
            fetched_bytes_max: 64 * 1024 * 1024,
            // A few polls of the node.
            buffered_bytes_max: 8 * 1024 * 1024,
            buffered_events_max: 8_192,
            librdkafka: BTreeMap::new(),
        }
    }

    /// The member's identity in its group.
    pub(super) fn instance(&self) -> String {
        format!("{}.{}", self.node, self.source)
    }

    /// Who we are for the brokers.
    pub(super) fn who(&self) -> String {
        let identity = self.tls.as_ref().and_then(|tls| tls.identity.as_ref());
        match (&self.login, identity) {
            (Some(login), _) => {
                format!("the user `{}` by {}", login.user, login.mechanism.as_str())
            }
            (None, _) if self.signer.is_some() => "who signs the tokens".to_owned(),
            (None, Some(identity)) => {
                format!("the certificate {}", identity.certificate.display())
            }
            (None, None) => "a client without login".to_owned(),
        }
    }

    /// What to say of a connection over which others may read along, or answer in the broker's place.
    pub fn exposed(&self) -> Option<String> {
        let reachable = self
            .brokers
            .iter()
            .find(|broker| !is_this_machine(broker))?;
        self.tls.is_none().then(|| {
            let more = match &self.login {
                Some(login) if login.mechanism == KafkaMechanism::Plain => {
                    ", and the password is sent in the open"
                }
                None if self.signer.is_some() => ", and tokens are sent in the open",
                _ => "",
            };
            format!("the connection to {reachable} goes without TLS{more}: set `tls`")
        })
    }

    /// Refuses what cannot work, by name. Asks no broker.
    pub fn check(&self) -> Result<(), BusError> {
        let wrong = |what: &str, found: &str, expected: &str| {
            Err(self.refused(format!("`{what}` is `{found}`: expected {expected}")))
        };
        if self.brokers.is_empty() {
            return Err(
                self.refused("`brokers` is empty: expected `host:port` of some brokers".to_owned())
            );
        }
        for broker in &self.brokers {
            let port = broker.rsplit_once(':').filter(|(host, _)| !host.is_empty());
            if port
                .and_then(|(_, port)| port.parse::<u16>().ok())
                .is_none()
                || broker.contains(',')
            {
                return wrong("brokers", broker, "`host:port`");
            }
        }
        if self.topics.is_empty() || self.topics.len() > TOPICS_MAX {
            return Err(self.refused(format!(
                "`topics` has {}: expected 1 to {TOPICS_MAX}",
                self.topics.len()
            )));
        }
        for (place, topic) in self.topics.iter().enumerate() {
            let begins = prefix(topic);
            if !is_name(begins.unwrap_or(topic)) {
                return wrong("topics", topic, NAME);
            }
            if begins.is_some_and(|begins| OF_BROKERS.starts_with(begins)) {
                let expected = "a beginning that the brokers' own topics do not have";
                return wrong("topics", topic, expected);
            }
            let mut others = self.topics.iter().enumerate();
            if others.any(|(other, name)| other != place && covers(name, topic)) {
                return wrong("topics", topic, "each topic once");
            }
        }
        let groups = [
            ("group", Some(&self.group)),
            ("start_group", self.start_group.as_ref()),
        ];
        for (what, group) in groups {
            if let Some(group) = group.filter(|it| it.is_empty() || it.len() > NAME_BYTES_MAX) {
                return wrong(what, group, "1 to 249 bytes");
            }
        }
        if !is_name(&self.instance()) {
            return wrong("node.name", &self.node, NAME);
        }
        if let Some(login) = &self.login
            && (login.user.is_empty() || login.password.is_empty())
        {
            return Err(self.refused("`login` has an empty user or password: set both".to_owned()));
        }
        if self.login.is_some() && self.signer.is_some() {
            return Err(
                self.refused("`login` has a user and signed tokens: only one logs in".to_owned())
            );
        }
        for option in self.librdkafka.keys() {
            if let Some(why) = owned::why(option) {
                return Err(self.refused(format!("`librdkafka` may not set `{option}`: {why}")));
            }
        }
        self.check_files()
    }

    /// librdkafka says of a file that is missing no more than that TLS does not work.
    fn check_files(&self) -> Result<(), BusError> {
        let tls = self.tls.iter();
        let named = tls.flat_map(|tls| {
            let identity = tls.identity.iter();
            let own = identity
                .flat_map(|it| [("tls.certificate", &it.certificate), ("tls.key", &it.key)]);
            tls.ca.iter().map(|path| ("tls.ca", path)).chain(own)
        });
        for (what, path) in named {
            if let Err(error) = std::fs::File::open(path) {
                return Err(self.refused(format!(
                    "`{what}` is {}, which cannot be read: {error}. Name a file in PEM that the node may read",
                    path.display()
                )));
            }
        }
        Ok(())
    }

    pub(super) fn refused(&self, detail: String) -> BusError {
        BusError::Unreadable {
            source_name: self.source.clone(),
            detail,
        }
    }

    /// What every client of this source has.
    fn base(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", self.brokers.join(","))
            .set("client.id", &self.node)
            .set("group.id", &self.group)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error")
            .set("isolation.level", "read_committed")
            .set("enable.partition.eof", "true")
            .set("allow.auto.create.topics", "false")
            .set("enable.metrics.push", "false")
            // A broker that comes back is there at once, not after the ten seconds of the default.
            .set("reconnect.backoff.max.ms", "2000");
        self.set_security(&mut config);
        for (option, value) in &self.librdkafka {
            config.set(option, value);
        }
        config
    }

    /// What a member subscribes to.
    pub(super) fn subscription(&self) -> Vec<String> {
        let asked = self.topics.iter().map(|topic| match prefix(topic) {
            Some(begins) => format!("^{}.*", begins.replace('.', "\\.")),
            None => topic.clone(),
        });
        asked.collect()
    }

    /// The member of the group, with memory for so many partitions.
    pub(super) fn member(&self, partitions: usize) -> ClientConfig {
        let mut config = self.base();
        let strategy = match self.assignment {
            KafkaAssignment::Eager => "range,roundrobin",
            KafkaAssignment::Cooperative => "cooperative-sticky",
        };
        // Each partition has a queue of its own, and the limit is for each.
        let queue_bytes = (self.fetched_bytes_max / partitions.max(1)).max(FETCH_BYTES_MIN);
        let fetch_bytes = queue_bytes.min(FETCH_BYTES_MAX);
        config
            .set("group.instance.id", self.instance())
            .set("partition.assignment.strategy", strategy)
            .set(
                "queued.max.messages.kbytes",
                (queue_bytes / 1024).to_string(),
            )
            .set("fetch.message.max.bytes", fetch_bytes.to_string())
            .set(
                "fetch.max.bytes",
                self.fetched_bytes_max.max(FETCH_BYTES_MAX).to_string(),
            );
        let defaults = [
            // A queue that is full is looked at again soon; the default lets a reader wait for a second.
            ("fetch.queue.backoff.ms", "20"),
            // A partition that was assigned is asked for at its end before it can be paused, and is read from
            // its place once that was answered: half a second later by the default.
            ("fetch.wait.max.ms", "100"),
            // Topics and partitions that were added are there after half a minute, not after five.
            ("topic.metadata.refresh.interval.ms", "30000"),
        ];
        for (option, value) in defaults {
            if !self.librdkafka.contains_key(option) {
                config.set(option, value);
            }
        }
        config
    }

    /// The client that is asked for single records and for ends, and is no member of anything.
    pub(super) fn asker(&self) -> ClientConfig {
        let mut config = self.base();
        if let Some(group) = &self.start_group {
            // It commits nothing: what it says of a group is where that one has got to.
            config.set("group.id", group);
        }
        config
            .set("fetch.message.max.bytes", FETCH_BYTES_MIN.to_string())
            .set("queued.max.messages.kbytes", "1024")
            // An end is told at once.
            .set("fetch.wait.max.ms", "10");
        config
    }

    fn set_security(&self, config: &mut ClientConfig) {
        let logs_in = self.login.is_some() || self.signer.is_some();
        let protocol = match (self.tls.is_some(), logs_in) {
            (false, false) => "plaintext",
            (true, false) => "ssl",
            (false, true) => "sasl_plaintext",
            (true, true) => "sasl_ssl",
        };
        config.set("security.protocol", protocol);
        if let Some(tls) = &self.tls {
            // Without a file, where this system has them: our OpenSSL is not the system's.
            config.set(
                "ssl.ca.location",
                tls.ca.as_deref().map_or("probe".into(), text),
            );
            if let Some(identity) = &tls.identity {
                config.set("ssl.certificate.location", text(&identity.certificate));
                config.set("ssl.key.location", text(&identity.key));
            }
        }
        if self.signer.is_some() {
            config.set("sasl.mechanism", "OAUTHBEARER");
        }
        if let Some(login) = &self.login {
            config
                .set("sasl.mechanism", login.mechanism.as_str())
                .set("sasl.username", &login.user)
                .set("sasl.password", &login.password);
        }
    }
}

/// Below this a fetch brings little more than its own overhead.
const FETCH_BYTES_MIN: usize = 64 * 1024;

/// What one fetch brings of one partition, unless one batch of records is larger.
const FETCH_BYTES_MAX: usize = 1024 * 1024;

const NAME: &str =
    "1 to 249 letters, digits, `.`, `_` and `-`, and `*` at the end for all that begin so";

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn is_name(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    !text.is_empty() && text.len() <= NAME_BYTES_MAX && text.bytes().all(fits)
}

/// What all names begin with that a pattern stands for; `None` for a name.
pub(super) fn prefix(topic: &str) -> Option<&str> {
    topic.strip_suffix('*')
}

/// True when a listed topic is this one or stands for it.
pub(super) fn covers(listed: &str, topic: &str) -> bool {
    match prefix(listed) {
        Some(begins) => topic.starts_with(begins),
        None => listed == topic,
    }
}

fn is_this_machine(broker: &str) -> bool {
    let host = broker.rsplit_once(':').map_or(broker, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}
