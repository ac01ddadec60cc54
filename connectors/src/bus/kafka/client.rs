//! What librdkafka calls back: assignments are written down for the polling thread, its log goes to ours,
//! and its words for what is wrong are kept for the errors of the bus.

use std::collections::VecDeque;
use std::error::Error;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::client::{ClientContext, DefaultClientContext, OAuthToken};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::types::RDKafkaRespErr;

use super::tokens::Tokens;

/// How long the answer to a question about a topic may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// A client of this source.
pub(super) type Client = BaseConsumer<Callbacks>;

/// What a group wants of its member.
pub(super) enum Rebalance {
    Assign(TopicPartitionList),
    Revoke(TopicPartitionList),
}

/// What is called back, and what came of it. Cheap to clone.
#[derive(Clone)]
pub(super) struct Callbacks {
    heard: Arc<Heard>,
    /// What it logs in with, where that is tokens.
    tokens: Option<Arc<Tokens>>,
}

#[derive(Default)]
struct Heard {
    /// Rebalances to be carried out. The group asks for the next one when the one before was answered.
    rebalances: Mutex<VecDeque<Rebalance>>,
    /// The last words about what is wrong.
    complaint: Mutex<Option<Complaint>>,
    /// The client ends: nobody carries anything out any more.
    closing: AtomicBool,
}

/// What librdkafka said of itself.
#[derive(Clone)]
pub(super) struct Complaint {
    pub code: RDKafkaErrorCode,
    pub words: String,
}

impl Callbacks {
    pub(super) fn new(tokens: Option<Arc<Tokens>>) -> Self {
        Self {
            heard: Arc::default(),
            tokens,
        }
    }

    /// Why nobody can log in yet, where that takes a token.
    pub(super) fn lacks_token(&self) -> Option<String> {
        self.tokens.as_ref()?.current().err()
    }

    pub(super) fn next_rebalance(&self) -> Option<Rebalance> {
        let mut rebalances = self
            .heard
            .rebalances
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        rebalances.pop_front()
    }

    /// True while one waits to be carried out.
    pub(super) fn has_rebalance(&self) -> bool {
        let rebalances = self.heard.rebalances.lock();
        let rebalances = rebalances.unwrap_or_else(PoisonError::into_inner);
        !rebalances.is_empty()
    }

    pub(super) fn complaint(&self) -> Option<Complaint> {
        let complaint = self.heard.complaint.lock();
        complaint.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn complain(&self, code: RDKafkaErrorCode, words: &str) {
        let complaint = self.heard.complaint.lock();
        let mut complaint = complaint.unwrap_or_else(PoisonError::into_inner);
        // That all brokers are down says less than why the last one is.
        if code != RDKafkaErrorCode::AllBrokersDown || complaint.is_none() {
            *complaint = Some(Complaint {
                code,
                words: words.to_owned(),
            });
        }
    }

    pub(super) fn forget_complaint(&self) {
        let complaint = self.heard.complaint.lock();
        *complaint.unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// From now on what is revoked is given back at once.
    pub(super) fn close(&self) {
        self.heard.closing.store(true, Ordering::Release);
    }
}

impl ClientContext for Callbacks {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        let tokens = self.tokens.as_ref().ok_or("there is nobody who signs")?;
        Ok(tokens.current()?)
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        // Why TLS failed is logged and no more: the error that follows says that all brokers are down.
        // A broker to which we showed no certificate, or none that it trusts, says so after the handshake.
        let is_of_tls = ["SSL handshake failed", "ssl/tls alert"];
        if facility == "FAIL" && is_of_tls.iter().any(|words| message.contains(words)) {
            self.complain(RDKafkaErrorCode::SSL, message);
        }
        match level {
            RDKafkaLogLevel::Emerg
            | RDKafkaLogLevel::Alert
            | RDKafkaLogLevel::Critical
            | RDKafkaLogLevel::Error
            | RDKafkaLogLevel::Warning => {
                tracing::warn!(target: "librdkafka", facility, "{message}");
            }
            RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => {
                tracing::info!(target: "librdkafka", facility, "{message}");
            }
            RDKafkaLogLevel::Debug => tracing::debug!(target: "librdkafka", facility, "{message}"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let Some(code) = error.rdkafka_error_code() else {
            return;
        };
        if code == RDKafkaErrorCode::PartitionEOF {
            return;
        }
        tracing::debug!(target: "librdkafka", ?code, "{reason}");
        self.complain(code, reason);
    }
}

impl ConsumerContext for Callbacks {
    /// Writes down what is asked for. The polling thread answers it, when what was read is drained.
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        what: RDKafkaRespErr,
        partitions: &mut TopicPartitionList,
    ) {
        if self.heard.closing.load(Ordering::Acquire) {
            let _ = consumer.unassign();
            return;
        }
        let partitions = partitions.clone();
        let rebalance = match what {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => Rebalance::Assign(partitions),
            _ => Rebalance::Revoke(partitions),
        };
        self.heard
            .rebalances
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push_back(rebalance);
    }
}

/// Whether a topic's old records give way to newer ones of their key.
pub(super) async fn is_compacted(config: &ClientConfig, topic: &str) -> Result<bool, String> {
    let admin: AdminClient<DefaultClientContext> =
        config.create().map_err(|error| error.to_string())?;
    let options = AdminOptions::new().request_timeout(Some(ANSWER_WITHIN));
    let asked = [ResourceSpecifier::Topic(topic)];
    let why = |error: &dyn std::fmt::Display| {
        format!(
            "whether `{topic}` is compacted is not known ({error}); grant DESCRIBE_CONFIGS on it if that is refused"
        )
    };
    let answers = admin.describe_configs(&asked, &options).await;
    let answers = answers.map_err(|error| why(&error))?;
    let mut policy = None;
    for answer in answers {
        let settings = answer.map_err(|code| why(&code))?;
        let found = settings
            .get("cleanup.policy")
            .and_then(|it| it.value.clone());
        policy = policy.or(found);
    }
    Ok(policy.is_some_and(|policy| policy.split(',').any(|it| it.trim() == "compact")))
}

/// True for what the credentials, and not the network, are the reason of. A connection that breaks during
/// its greeting is an error of TLS too: only what is said of a certificate counts.
pub(super) fn is_refusal(complaint: &Complaint) -> bool {
    match complaint.code {
        RDKafkaErrorCode::SSL => complaint.words.contains("certificate"),
        RDKafkaErrorCode::Authentication
        | RDKafkaErrorCode::SaslAuthenticationFailed
        | RDKafkaErrorCode::UnsupportedSASLMechanism => true,
        code => is_forbidden(code),
    }
}

/// True for what a user may not do.
pub(super) fn is_forbidden(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::TopicAuthorizationFailed
            | RDKafkaErrorCode::GroupAuthorizationFailed
            | RDKafkaErrorCode::ClusterAuthorizationFailed
    )
}
