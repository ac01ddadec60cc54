//! What an operator may set, what is refused by name, and who may read.

use std::collections::BTreeMap;
use std::path::PathBuf;

use tidegate_connectors::bus::kafka::{
    KafkaIdentity, KafkaLogin, KafkaMechanism, KafkaOptions, KafkaTls,
};
use tidegate_engine::bus::{BusError, EventBus as _, Start};
use tidegate_engine::position::SourceName;

use super::{KAFKA, Stage, assigned, name, news, open, read, texts};
use crate::support::server;

/// The listener with TLS and SCRAM; its user, password and authority.
const SASL: &str = "TIDEGATE_TEST_KAFKA_SASL";

fn options() -> KafkaOptions {
    KafkaOptions::new(
        SourceName::new("kafka").unwrap(),
        "node-a",
        "group",
        vec!["127.0.0.1:1".to_owned()],
        vec!["topic".to_owned()],
    )
}

#[track_caller]
fn refused(options: KafkaOptions) -> String {
    match open(options) {
        Err(error @ BusError::Unreadable { .. }) => error.to_string(),
        other => panic!("expected a refusal, found {other:?}"),
    }
}

#[tokio::test]
async fn options_that_the_bus_owns_are_refused_by_name() {
    for (option, value, reason) in [
        ("enable.auto.commit", "true", "the store's checkpoint"),
        ("enable.auto.offset.store", "true", "the store's checkpoint"),
        ("auto.commit.interval.ms", "1", "the store's checkpoint"),
        ("auto.offset.reset", "earliest", "`start`"),
        ("topic.auto.offset.reset", "earliest", "`start`"),
        ("isolation.level", "read_uncommitted", "aborted"),
        ("group.id", "other", "`group`"),
        ("group.instance.id", "other", "node's name"),
        ("bootstrap.servers", "other:1", "`brokers`"),
        ("partition.assignment.strategy", "range", "`assignment`"),
        ("security.protocol", "plaintext", "`tls` and `login`"),
        ("sasl.password", "hush-hush", "`login`"),
        ("ssl.ca.pem", "hush-hush", "`tls`"),
        ("ssl_key", "hush-hush", "`tls`"),
        (
            "enable.ssl.certificate.verification",
            "false",
            "always checked",
        ),
        (
            "ssl.endpoint.identification.algorithm",
            "none",
            "always checked",
        ),
        ("plugin.library.paths", "evil.so", "load code"),
        ("queued.max.messages.kbytes", "1", "memory"),
    ] {
        let mut options = options();
        options.librdkafka = BTreeMap::from([(option.to_owned(), value.to_owned())]);
        let said = refused(options);
        assert!(said.contains("`kafka`") && said.contains(option), "{said}");
        assert!(said.contains(reason), "{option}: {said}");
        assert!(!said.contains("hush-hush"), "{said}");
    }
}

#[tokio::test]
async fn what_librdkafka_does_not_take_is_named_without_its_value() {
    for (option, value) in [("no.such.option", "x"), ("session.timeout.ms", "hush-hush")] {
        let mut options = options();
        options.librdkafka = BTreeMap::from([(option.to_owned(), value.to_owned())]);
        let said = refused(options);
        assert!(
            said.contains(option) && !said.contains("hush-hush"),
            "{said}"
        );
    }
    let mut options = options();
    options.librdkafka = BTreeMap::from([("session.timeout.ms".to_owned(), "6000".to_owned())]);
    open(options).unwrap();
}

type Change = Box<dyn Fn(&mut KafkaOptions)>;

#[tokio::test]
async fn what_cannot_work_is_refused_by_name() {
    let path = PathBuf::from("/no/such/file.pem");
    let changes: Vec<(&str, Change)> = vec![
        ("`brokers` is empty", Box::new(|it| it.brokers.clear())),
        (
            "`brokers` is `host`",
            Box::new(|it| it.brokers = vec!["host".into()]),
        ),
        (
            "`brokers` is `a:1,b:2`",
            Box::new(|it| it.brokers = vec!["a:1,b:2".into()]),
        ),
        ("`topics` has 0", Box::new(|it| it.topics.clear())),
        (
            "`topics` is `^all.*`",
            Box::new(|it| it.topics = vec!["^all.*".into()]),
        ),
        (
            "each topic once",
            Box::new(|it| it.topics = vec!["a".into(), "a".into()]),
        ),
        ("`group` is ``", Box::new(|it| it.group.clear())),
        (
            "`node.name` is `nöde`",
            Box::new(|it| it.node = "nöde".into()),
        ),
        (
            "`login` has an empty",
            Box::new(|it| it.login = Some(login("user", "", KafkaMechanism::Plain))),
        ),
        (
            "`tls.ca` is /no/such/file.pem",
            Box::new({
                let path = path.clone();
                move |it| {
                    it.tls = Some(KafkaTls {
                        ca: Some(path.clone()),
                        identity: None,
                    })
                }
            }),
        ),
        (
            "`tls.certificate` is /no/such/file.pem",
            Box::new(move |it| {
                let identity = KafkaIdentity {
                    certificate: path.clone(),
                    key: path.clone(),
                };
                it.tls = Some(KafkaTls {
                    ca: None,
                    identity: Some(identity),
                });
            }),
        ),
    ];
    for (expected, change) in changes {
        let mut options = options();
        change(&mut options);
        let said = refused(options);
        assert!(said.contains(expected), "expected {expected}: {said}");
    }
}

#[test]
fn a_password_in_the_open_is_told() {
    let mut options = options();
    options.login = Some(login("user", "password", KafkaMechanism::Plain));
    assert_eq!(options.exposed(), None, "nobody listens on this machine");
    options.brokers.push("kafka.example.org:9092".to_owned());
    let told = options.exposed().unwrap();
    assert!(
        told.contains("kafka.example.org:9092") && told.contains("in the open"),
        "{told}"
    );
    options.tls = Some(KafkaTls::default());
    assert_eq!(options.exposed(), None);
}

fn login(user: &str, password: &str, mechanism: KafkaMechanism) -> KafkaLogin {
    KafkaLogin {
        mechanism,
        user: user.to_owned(),
        password: password.to_owned(),
    }
}

/// The options for the listener with TLS; `None` without it.
pub fn secured(test: &str, topic: &str, mechanism: KafkaMechanism) -> Option<KafkaOptions> {
    let of = |variable| server(test, variable);
    let mut options = options();
    (options.brokers, options.topics) = (vec![of(SASL)?], vec![topic.to_owned()]);
    options.group = topic.to_owned();
    let (user, password) = (
        of("TIDEGATE_TEST_KAFKA_USER")?,
        of("TIDEGATE_TEST_KAFKA_PASSWORD")?,
    );
    options.login = Some(login(&user, &password, mechanism));
    options.tls = Some(KafkaTls {
        ca: Some(of("TIDEGATE_TEST_KAFKA_CA")?.into()),
        identity: None,
    });
    Some(options)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_with_each_login_reads_and_commits() {
    let test = "tls_with_each_login_reads_and_commits";
    let Some(stage) = Stage::set("secured", 1).await else {
        return;
    };
    stage.write(0, "one").await;
    for mechanism in [
        KafkaMechanism::ScramSha256,
        KafkaMechanism::ScramSha512,
        KafkaMechanism::Plain,
    ] {
        let Some(options) = secured(test, &stage.topic, mechanism) else {
            return;
        };
        reads_and_commits(&stage, options).await;
    }
}

/// Reads the one record of a stage, under a group of its own, and commits behind it.
async fn reads_and_commits(stage: &Stage, mut options: KafkaOptions) {
    options.group = name("secured");
    let group = options.group.clone();
    let bus = open(options).unwrap();
    assigned(&bus, 1).await;
    let start = bus.start_offset(0, Start::Earliest).await.unwrap();
    bus.seek(0, start).await.unwrap();
    let all = read(&bus, 0, 1).await;
    assert_eq!(texts(&all), ["one"]);
    bus.acknowledge(0, all[0].next).await.unwrap();
    assert_eq!(
        stage.client.committed(&group, &stage.topic, 0),
        Some(all[0].next)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_of_our_own_lets_us_in_and_without_one_the_error_is_clear() {
    let test = "a_certificate_of_our_own_lets_us_in_and_without_one_the_error_is_clear";
    let Some(stage) = Stage::set("certified", 1).await else {
        return;
    };
    stage.write(0, "one").await;
    let Some(mut options) = certified(test, &stage.topic) else {
        return;
    };
    reads_and_commits(&stage, options.clone()).await;
    options.tls.as_mut().unwrap().identity = None;
    let said = failure(options).await;
    assert!(
        said.contains("refuse") && said.contains("certificate") && said.contains("`tls`"),
        "{said}"
    );
}

/// The options for the listener that asks for a certificate; `None` without it.
fn certified(test: &str, topic: &str) -> Option<KafkaOptions> {
    let of = |variable| server(test, variable);
    let mut options = options();
    options.brokers = vec![of("TIDEGATE_TEST_KAFKA_SSL")?];
    options.topics = vec![topic.to_owned()];
    options.tls = Some(KafkaTls {
        ca: Some(of("TIDEGATE_TEST_KAFKA_CA")?.into()),
        identity: Some(KafkaIdentity {
            certificate: of("TIDEGATE_TEST_KAFKA_CERTIFICATE")?.into(),
            key: of("TIDEGATE_TEST_KAFKA_KEY")?.into(),
        }),
    });
    Some(options)
}

/// What a bus says that cannot begin. What passes by itself does not count.
pub async fn failure(options: KafkaOptions) -> String {
    let bus = open(options).unwrap();
    let mut before = String::new();
    for _ in 0..20 {
        match news(&bus).await {
            Err(error @ BusError::Unavailable { .. }) => before = error.to_string(),
            Err(error) => return error.to_string(),
            Ok(events) => panic!("expected an error, found {events:?}"),
        }
    }
    panic!("expected an end, found again and again: {before}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_is_a_clear_error() {
    let test = "a_wrong_password_is_a_clear_error";
    for mechanism in [KafkaMechanism::ScramSha512, KafkaMechanism::Plain] {
        let Some(mut options) = secured(test, "any", mechanism) else {
            return;
        };
        let wrong = "not-the-password";
        options.login.as_mut().unwrap().password = wrong.to_owned();
        let said = failure(options).await;
        assert!(
            said.contains("refuse") && said.contains("`login`"),
            "{said}"
        );
        assert!(said.to_lowercase().contains("authentication"), "{said}");
        assert!(!said.contains(wrong), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_whose_certificate_nobody_trusts_is_a_clear_error() {
    let test = "a_broker_whose_certificate_nobody_trusts_is_a_clear_error";
    let Some(mut options) = secured(test, "any", KafkaMechanism::ScramSha512) else {
        return;
    };
    // Trusted by this machine, which does not know the development authority.
    options.tls = Some(KafkaTls::default());
    let said = failure(options).await;
    assert!(
        said.contains("certificate") && said.contains("`tls`"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_is_missing_is_a_clear_error() {
    let Some(brokers) = server("a_topic_that_is_missing_is_a_clear_error", KAFKA) else {
        return;
    };
    let mut options = options();
    let topic = name("missing");
    (options.brokers, options.topics) = (vec![brokers], vec![topic.clone()]);
    let said = failure(options).await;
    assert!(said.contains(&topic) && said.contains("`topics`"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_away_is_told_and_waited_for() {
    let bus = open(options()).unwrap();
    for _ in 0..2 {
        let error = news(&bus).await.unwrap_err();
        assert!(matches!(error, BusError::Unavailable { .. }), "{error:?}");
        let said = error.to_string();
        assert!(said.contains("127.0.0.1:1"), "{said}");
    }
}
