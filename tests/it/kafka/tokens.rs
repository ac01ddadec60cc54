//! Logins by tokens that expire, against a broker that ends a connection with its token: signed ahead of time,
//! by whoever the node is given. It believes tokens that nobody signed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;
use tidegate::runtime::SystemClock;
use tidegate_connectors::bus::kafka::{
    KafkaMechanism, KafkaOptions, KafkaSigner, KafkaToken, KafkaView, TokenSigner,
};
use tidegate_engine::bus::{BusError, BusEvent, EventBus as _, SourceView as _};
use tidegate_engine::clock::Timestamp;
use tidegate_engine::position::Offset;
use tokio::runtime::Handle;

use super::options::{failure, secured};
use super::{Stage, assigned, news, open, read, texts};

/// Signs nothing, for a broker that does not look; the first attempts fail.
struct Scripted {
    lifetime: Duration,
    fails: u32,
    asked: AtomicU32,
    is_token: bool,
}

impl Scripted {
    fn new(lifetime: Duration, fails: u32) -> Arc<Self> {
        Arc::new(Self {
            lifetime,
            fails,
            asked: AtomicU32::new(0),
            is_token: true,
        })
    }

    fn asked(&self) -> u32 {
        self.asked.load(Ordering::SeqCst)
    }
}

#[async_trait::async_trait]
impl TokenSigner for Scripted {
    async fn sign(&self, now: Timestamp) -> Result<KafkaToken, String> {
        if self.asked.fetch_add(1, Ordering::SeqCst) < self.fails {
            return Err("scripted: the role is not there yet".to_owned());
        }
        let seconds = |at: Timestamp| at.0 as f64 / 1e6;
        let expires_at = Timestamp(now.0 + i64::try_from(self.lifetime.as_micros()).unwrap());
        let claims = json!({ "sub": "tidegate", "iat": seconds(now), "exp": seconds(expires_at) });
        let part = |json: &str| URL_SAFE_NO_PAD.encode(json);
        let header = part(r#"{"alg":"none"}"#);
        let mut token = format!("{header}.{}.", part(&claims.to_string()));
        if !self.is_token {
            token = "hush-hush".to_owned();
        }
        Ok(KafkaToken {
            token,
            principal: "tidegate".to_owned(),
            expires_at,
        })
    }
}

/// What a node with that signer would read the stage's topic with; `None` without a broker.
fn signed(test: &str, stage: &Stage, signer: &Arc<Scripted>) -> Option<KafkaOptions> {
    let mut options = secured(test, &stage.topic, KafkaMechanism::Plain)?;
    options.login = None;
    options.signer = Some(KafkaSigner {
        signer: signer.clone(),
        clock: Arc::new(SystemClock),
    });
    Some(options)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_are_renewed_ahead_of_time_and_reading_goes_on() {
    let test = "tokens_are_renewed_ahead_of_time_and_reading_goes_on";
    let Some(stage) = Stage::set("renewed", 1).await else {
        return;
    };
    let signer = Scripted::new(Duration::from_secs(5), 0);
    let Some(options) = signed(test, &stage, &signer) else {
        return;
    };
    stage.write(0, "one").await;
    let group = options.group.clone();
    let bus = open(options).unwrap();
    assigned(&bus, 1).await;
    bus.seek(0, Offset(0)).await.unwrap();
    assert_eq!(texts(&read(&bus, 0, 1).await), ["one"]);
    // Three lives of a token.
    tokio::time::sleep(Duration::from_secs(15)).await;
    assert!(signer.asked() >= 4, "signed {} times", signer.asked());
    stage.write(0, "two").await;
    assert_eq!(texts(&read(&bus, 0, 1).await), ["two"]);
    bus.acknowledge(0, Offset(2)).await.unwrap();
    let committed = stage.client.committed(&group, &stage.topic, 0);
    assert_eq!(committed, Some(Offset(2)));
    assert_eq!(bus.end_offset(0).await.unwrap(), Some(Offset(2)));
    assert_eq!(bus.login_failures(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signer_that_fails_is_told_counted_and_asked_again() {
    let test = "a_signer_that_fails_is_told_counted_and_asked_again";
    let Some(stage) = Stage::set("unsigned", 1).await else {
        return;
    };
    let signer = Scripted::new(Duration::from_secs(60), 2);
    let Some(options) = signed(test, &stage, &signer) else {
        return;
    };
    stage.write(0, "one").await;
    let bus = open(options).unwrap();
    let mut said = Vec::new();
    let assigned = loop {
        match news(&bus).await {
            Err(error @ BusError::Unavailable { .. }) => said.push(error.to_string()),
            other => break other.unwrap(),
        }
    };
    assert!(matches!(
        assigned[..],
        [BusEvent::Assigned { partition: 0, .. }]
    ));
    let words = "no token was signed: scripted: the role is not there yet";
    assert!(said.iter().any(|it| it.contains(words)), "{said:?}");
    assert_eq!(bus.login_failures(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_the_broker_refuses_is_a_clear_error_without_it() {
    let test = "a_token_that_the_broker_refuses_is_a_clear_error_without_it";
    let Some(stage) = Stage::set("refused", 1).await else {
        return;
    };
    let mut signer = Scripted::new(Duration::from_secs(60), 0);
    Arc::get_mut(&mut signer).unwrap().is_token = false;
    let Some(options) = signed(test, &stage, &signer) else {
        return;
    };
    let said = failure(options).await;
    assert!(said.contains("refuse who signs the tokens"), "{said}");
    assert!(
        said.contains("`login`") && !said.contains("hush-hush"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_look_from_outside_logs_in_by_tokens_too() {
    let test = "a_look_from_outside_logs_in_by_tokens_too";
    let Some(stage) = Stage::set("looked-at", 2).await else {
        return;
    };
    let signer = Scripted::new(Duration::from_secs(60), 0);
    let Some(options) = signed(test, &stage, &signer) else {
        return;
    };
    stage.write(1, "one").await;
    let view = KafkaView::open(options, Vec::new(), &Handle::current()).unwrap();
    assert_eq!(view.partitions().await.unwrap().len(), 2);
    assert_eq!(view.behind(1, None).await.unwrap().end, Offset(1));
    let never = Scripted::new(Duration::from_secs(60), u32::MAX);
    let Some(options) = signed(test, &stage, &never) else {
        return;
    };
    let view = KafkaView::open(options, Vec::new(), &Handle::current()).unwrap();
    let said = view.partitions().await.unwrap_err().to_string();
    assert!(said.contains("the role is not there yet"), "{said}");
}
