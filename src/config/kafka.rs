//! The key `kafka` of a source: how its cluster is reached and what is read there. Owns how that is
//! written and what has to hold between its keys; what a broker says of it is the connector's.

use std::collections::BTreeMap;
use std::path::PathBuf;

use tidegate_engine::topics::TenantOfTopic;

use super::fill::{Tree, Value, join};
use super::problem::Problems;
use super::reference::{Reference, quoted};
use super::sections::{Source, SourceKind, StartAt, UnknownTenants};
use super::setting::{self, Check, Secret, Setting};
use crate::{choice, section};

choice! {
    /// How the members of a group share its partitions.
    pub enum Assignment {
        /// All are given back at each change, and dealt out anew.
        Eager = "eager",
        /// Only what moves is given back. All members of a group have to use it.
        Cooperative = "cooperative",
    }

    /// How a login is proved.
    pub enum Mechanism {
        /// The password itself goes over the connection.
        Plain = "plain",
        /// SCRAM-SHA-256.
        ScramSha256 = "scram-sha-256",
        /// SCRAM-SHA-512.
        ScramSha512 = "scram-sha-512",
        /// Tokens of Amazon's IAM, signed with the credentials of this process, for MSK.
        AwsMskIam = "aws-msk-iam",
    }
}

section! {
    /// How a cluster is reached, and what is read there.
    pub struct Kafka {
        /// `host:port` of some brokers; they tell of the others.
        brokers: Vec<String> = Vec::new();
        /// The consumer group: nodes that share the partitions have the same one. One of its own for each
        /// source, and no other program in it.
        group: Option<String> = None;
        /// The topics. One that ends with `*` stands for all whose names begin so, also those that are made
        /// later: `orders.*`.
        topics: Vec<String> = Vec::new();
        /// Each topic is one tenant's: the name of a topic with `{tenant}` where the tenant's stands, like
        /// `orders.{tenant}`. Then the source has no `tenant` of its own.
        tenant_of_topic: Option<String> = None;
        /// `eager`, or `cooperative`, which all members of the group have to use.
        assignment: Assignment = Assignment::Eager;
        /// With `start: offsets_of_group`: the group whose position is taken over. `group` when it is null.
        start_group: Option<String> = None;
        /// TLS to the brokers. Without it, who is in between reads along and may answer in their place.
        tls: KafkaTls = KafkaTls::default();
        /// Who we are, for brokers that ask.
        login: KafkaLogin = KafkaLogin::default();
        /// A record's topic, key and time can be mapped, as the headers `kafka.topic`, `kafka.key` and
        /// `kafka.timestamp` (milliseconds since 1970). It costs a little for each record.
        record_headers: bool = false;
        /// Bytes fetched ahead, over all partitions of the source; 64 KiB each at least.
        fetched_bytes_max: usize [1_048_576..=68_719_476_736] = 67_108_864;
        /// Bytes copied out of what was fetched that wait for their turn, over all partitions.
        buffered_bytes_max: usize [1_048_576..=68_719_476_736] = 8_388_608;
        /// Records that wait for their turn, over all partitions.
        buffered_events_max: usize [64..=10_000_000] = 8_192;
        /// Options of librdkafka by their own names, but for those that are set above or never:
        /// `{ session.timeout.ms: 6000 }`.
        librdkafka: Options = Options::default();
    }

    /// TLS to the brokers. Their names and certificates are always checked.
    pub struct KafkaTls {
        /// Speak TLS.
        enabled: bool = false;
        /// The certificates that are trusted, PEM; those of this machine when it is null.
        ca: Option<PathBuf> = None;
        /// Our certificate, for brokers that ask for one, PEM.
        certificate: Option<PathBuf> = None;
        /// Its private key, PEM and not encrypted.
        key: Option<PathBuf> = None;
    }

    /// A login. Without a mechanism there is none.
    pub struct KafkaLogin {
        /// `plain`, `scram-sha-256`, `scram-sha-512`, `aws-msk-iam` (a binary with the feature `msk-iam`, with
        /// `region` and without `user` and `password`), or null.
        mechanism: Option<Mechanism> = None;
        /// The user.
        user: Option<String> = None;
        /// The password, from outside: `${env:NAME}` or `${file:PATH}`.
        password: Option<Secret> = None;
        /// The region of the cluster, for `aws-msk-iam`.
        region: Option<String> = None;
    }
}

impl Check for Kafka {}

impl Check for KafkaTls {
    fn check(&self, line: u32, path: &str, problems: &mut Problems) {
        let mut wrong = |key: &str, what: &str| problems.add(line, &join(path, key), what);
        let named = [
            ("ca", &self.ca),
            ("certificate", &self.certificate),
            ("key", &self.key),
        ];
        for (key, file) in named {
            if file.is_some() && !self.enabled {
                wrong(key, "is read with `enabled: true` alone");
            }
        }
        match (&self.certificate, &self.key) {
            (Some(_), None) => wrong("key", "is needed beside `certificate`"),
            (None, Some(_)) => wrong("certificate", "is needed beside `key`"),
            _ => {}
        }
    }
}

impl Check for KafkaLogin {
    fn check(&self, line: u32, path: &str, problems: &mut Problems) {
        let by_iam = self.mechanism == Some(Mechanism::AwsMskIam);
        if by_iam {
            return self.check_iam(line, path, problems);
        }
        if self.region.is_some() {
            let what = "is read with `mechanism: aws-msk-iam` alone";
            problems.add(line, &join(path, "region"), what);
        }
        let given = [
            ("mechanism", self.mechanism.is_some()),
            ("user", self.user.is_some()),
            ("password", self.password.is_some()),
        ];
        let any = given.iter().any(|(_, is_there)| *is_there);
        for (key, is_there) in given {
            if any && !is_there {
                let what = "is needed: a login has `mechanism`, `user` and `password`";
                problems.add(line, &join(path, key), what);
            }
        }
    }
}

impl KafkaLogin {
    fn check_iam(&self, line: u32, path: &str, problems: &mut Problems) {
        let is_region = |it: &String| {
            let fits =
                |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            !it.is_empty() && it.bytes().all(fits)
        };
        if !self.region.as_ref().is_some_and(is_region) {
            let what =
                "is needed with `aws-msk-iam`: the region of the cluster, like `eu-central-1`";
            problems.add(line, &join(path, "region"), what);
        }
        let others = [
            ("user", self.user.is_some()),
            ("password", self.password.is_some()),
        ];
        for (key, is_given) in others {
            if is_given {
                let what = "is not for `aws-msk-iam`, which takes the credentials of the process";
                problems.add(line, &join(path, key), what);
            }
        }
    }
}

impl Kafka {
    /// Notes what does not fit the rest of its source.
    pub(super) fn check_in(&self, source: &Source, line: u32, path: &str, problems: &mut Problems) {
        if source.kind != SourceKind::Kafka {
            if *self != Kafka::default() {
                problems.add(line, &join(path, "kafka"), "is for `kind: kafka`");
            }
            return;
        }
        let path_of = |key: &str| join(&join(path, "kafka"), key);
        let needed = [
            ("brokers", self.brokers.is_empty()),
            ("group", self.group.is_none()),
            ("topics", self.topics.is_empty()),
        ];
        for (key, is_missing) in needed {
            if is_missing {
                problems.add(line, &path_of(key), "is needed");
            }
        }
        if self.login.mechanism == Some(Mechanism::AwsMskIam) && !self.tls.enabled {
            let what = "is needed with `aws-msk-iam`: whoever reads a token along is who signed it";
            problems.add(line, &path_of("tls.enabled"), what);
        }
        if source.start.is_none() {
            let what = "is needed: where a partition begins that this source has never read: `earliest`, `latest`, \
                        `time` with `start_time`, or `offsets_of_group`";
            problems.add(line, &join(path, "start"), what);
        }
        if self.start_group.is_some() && source.start != Some(StartAt::OffsetsOfGroup) {
            let what = "is read with `start: offsets_of_group` alone";
            problems.add(line, &path_of("start_group"), what);
        }
        let Some(pattern) = &self.tenant_of_topic else {
            return;
        };
        let others = [
            ("tenant", source.tenant.is_some()),
            ("tenant_from_event_unsafe", source.tenant_from_event_unsafe),
            (
                "unknown_tenants",
                source.unknown_tenants == UnknownTenants::Create,
            ),
        ];
        for (key, is_given) in others {
            if is_given {
                let what = "is given, and `kafka.tenant_of_topic` too; only one decides";
                problems.add(line, &join(path, key), what);
            }
        }
        let tenants = match TenantOfTopic::new(pattern) {
            Ok(tenants) => tenants,
            Err(what) => return problems.add(line, &path_of("tenant_of_topic"), what),
        };
        for (index, topic) in self.topics.iter().enumerate() {
            let wrong = match topic.strip_suffix('*') {
                // Which topics there will be is not known: those that do not fit are left out.
                Some(_) => continue,
                None => tenants.tenant(topic).err(),
            };
            if let Some(what) = wrong {
                problems.add(line, &path_of(&format!("topics[{index}]")), what);
            }
        }
    }

    /// Every file that it names.
    pub(super) fn files(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let tls = &mut self.tls;
        [&mut tls.ca, &mut tls.certificate, &mut tls.key]
            .into_iter()
            .flatten()
    }
}

/// Options by name. Numbers and booleans are texts here, as librdkafka has them.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Options(pub BTreeMap<String, String>);

impl Setting for Options {
    fn read(tree: &Tree, path: &str, problems: &mut Problems) -> Option<Self> {
        let entries = match &tree.value {
            Value::Null => return Some(Self::default()),
            Value::Map(entries) => entries,
            other => {
                let what = format!("expected a map of options, found {}", other.kind());
                problems.add(tree.line, path, what);
                return None;
            }
        };
        let mut options = BTreeMap::new();
        for (name, line, value) in entries {
            let text = match &value.value {
                Value::Int(number) => number.to_string(),
                Value::Double(number) => number.to_string(),
                Value::Bool(word) => word.to_string(),
                _ => match setting::text(value, &join(path, name), problems) {
                    Some(text) => text,
                    None => continue,
                },
            };
            if options.insert(name.clone(), text).is_some() {
                problems.add(*line, &join(path, name), "stands here a second time");
            }
        }
        Some(Self(options))
    }

    fn write(&self, key: &str, reference: &mut Reference) {
        let options: Vec<String> = self
            .0
            .iter()
            .map(|(name, value)| format!("{name}: {}", quoted(value)))
            .collect();
        reference.line(&match options.is_empty() {
            true => format!("{key}: {{}}"),
            false => format!("{key}: {{ {} }}", options.join(", ")),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::fill::Outside;
    use super::super::{Config, StartAt};

    struct Nothing;

    impl Outside for Nothing {
        fn env(&self, name: &str) -> Option<String> {
            (name == "PASSWORD").then(|| "hunter2".to_owned())
        }

        fn file(&self, _: &str) -> Result<String, String> {
            Err("no such file".to_owned())
        }
    }

    fn read(source: &str) -> Result<Config, String> {
        let text = format!("sources:\n  - {{ name: shop, stream: orders, {source} }}\n");
        Config::parse(&text, "t.yaml", &Nothing).map_err(|problems| problems.to_string())
    }

    const CLUSTER: &str = "brokers: ['b:9092'], group: g, topics: [orders.acme, orders.bolt]";

    #[test]
    fn a_source_of_kafka_is_read_with_all_it_has() {
        let config = read(&format!(
            "kind: kafka, start: time, start_time: '2026-11-01T00:00:00Z', kafka: {{ {CLUSTER}, \
             tenant_of_topic: 'orders.{{tenant}}', assignment: cooperative, \
             tls: {{ enabled: true, ca: ca.pem }}, \
             login: {{ mechanism: scram-sha-512, user: u, password: '${{env:PASSWORD}}' }}, \
             librdkafka: {{ session.timeout.ms: 6000, socket.keepalive.enable: true, client.rack: a }} }}"
        ))
        .unwrap();
        let source = &config.sources[0];
        let options: Vec<_> = source.kafka.librdkafka.0.values().collect();
        assert_eq!(options, ["a", "6000", "true"]);
        assert_eq!(source.start, Some(StartAt::Time));
        assert!(!format!("{config:?}").contains("hunter2"));
    }

    #[test]
    fn what_does_not_fit_is_refused_by_name() {
        let with = |more: &str| format!("kind: kafka, start: earliest, {more}");
        let cluster = |more: &str| with(&format!("kafka: {{ {CLUSTER}, {more} }}"));
        let acme = |more: &str| {
            cluster(&format!(
                "{more} }}, tenant: acme, secrets: off, mapping: {{"
            ))
        };
        for (source, says) in [
            (with("tenant: a"), "sources[0].kafka.brokers: is needed"),
            (with("tenant: a"), "sources[0].kafka.group: is needed"),
            (with("tenant: a"), "sources[0].kafka.topics: is needed"),
            (
                format!("kind: kafka, tenant: a, kafka: {{ {CLUSTER} }}"),
                "sources[0].start: is needed",
            ),
            (
                format!("kind: file, tenant: a, paths: [a], kafka: {{ {CLUSTER} }}"),
                "sources[0].kafka: is for `kind: kafka`",
            ),
            (acme("start_group: x"), "start_group: is read with"),
            (
                acme("login: { mechanism: plain, user: u }"),
                "login.password: is needed",
            ),
            (
                acme("login: { mechanism: plain, user: u, password: hunter2 }"),
                "login.password: a password stands here",
            ),
            (acme("tls: { ca: a.pem }"), "tls.ca: is read with"),
            (
                acme("tls: { enabled: true, key: a.pem }"),
                "tls.certificate: is needed",
            ),
            (acme("librdkafka: [a]"), "librdkafka: expected a map"),
            (
                cluster("tenant_of_topic: '{tenant}'"),
                "tenant_of_topic: expected `{tenant}` once",
            ),
            (
                cluster("tenant_of_topic: 'orders.a{tenant}'"),
                "topics[1]: expected a topic like",
            ),
            (
                acme("tenant_of_topic: 'orders.{tenant}'"),
                "sources[0].tenant: is given, and",
            ),
            (
                format!("kind: kafka, start: time, tenant: a, kafka: {{ {CLUSTER} }}"),
                "start_time: is needed",
            ),
            (
                "kind: file, paths: [a], tenant: a, start: offsets_of_group".to_owned(),
                "sources[0].start: a file knows neither",
            ),
            (with("paths: [a], tenant: a"), "paths: is for `kind: file`"),
            (
                "kind: http, start: earliest".to_owned(),
                "start: is not for requests",
            ),
        ] {
            let error = read(&source).unwrap_err();
            assert!(error.contains(says), "{source}\n{error}\n{says}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_login_by_iam_has_a_region_tls_and_no_password() {
        let by_iam = |more: &str| {
            format!(
                "kind: kafka, start: earliest, tenant: acme, kafka: {{ {CLUSTER}, login: {{ {more} }} }}"
            )
        };
        for (source, says) in [
            (by_iam("mechanism: aws-msk-iam"), "login.region: is needed"),
            (
                by_iam("mechanism: aws-msk-iam, region: 'Europe/Berlin'"),
                "login.region: is needed",
            ),
            (
                by_iam("mechanism: aws-msk-iam, region: eu-central-1"),
                "kafka.tls.enabled: is needed",
            ),
            (
                by_iam("mechanism: aws-msk-iam, region: eu-central-1, user: u"),
                "login.user: is not for",
            ),
            (
                by_iam("mechanism: plain, region: eu-central-1"),
                "login.region: is read with",
            ),
        ] {
            let error = read(&source).unwrap_err();
            assert!(error.contains(says), "{source}\n{error}\n{says}");
        }
        let whole = by_iam("mechanism: aws-msk-iam, region: eu-central-1")
            .replace("login:", "tls: { enabled: true }, login:");
        read(&whole).unwrap();
    }
}
