//! Opens sources. The only module of the node that names concrete buses, and it hands out none:
//! everything else knows the `EventBus` seam. The concrete stores are named in [`crate::stores`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tidegate_connectors::bus::file::{FileBus, FileInput};
use tidegate_connectors::bus::http::{HttpBus, HttpIntake, IntakeLimits};
#[cfg(feature = "msk-iam")]
use tidegate_connectors::bus::kafka::MskIamSigner;
#[cfg(feature = "kafka")]
use tidegate_connectors::bus::kafka::{
    KafkaAssignment, KafkaBus, KafkaIdentity, KafkaLogin, KafkaMechanism, KafkaOptions,
    KafkaSigner, KafkaTls, KafkaView,
};
use tidegate_engine::access::Leases;
use tidegate_engine::bus::{BusError, EventBus, Intake, SourceView};
use tidegate_engine::position::{SourceName, SourcePartition};
use tidegate_engine::store::{StateStore, StoreError};
#[cfg(feature = "kafka")]
use tidegate_engine::topics::TenantOfTopic;
use tidegate_engine::topics::{SourceTopic, TopicsFound};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::Instant;

#[cfg(feature = "kafka")]
use crate::config::kafka::{Assignment, Mechanism};
use crate::config::{self, SourceKind};

/// Files that are read as one source.
#[derive(Clone)]
pub struct Files(Arc<FileBus>);

/// How far files are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FilesProgress {
    /// Bytes below the acknowledged low watermarks.
    pub acknowledged_bytes: u64,
    /// Bytes in all; `None` while one of them is a stream that has not ended.
    pub total_bytes: Option<u64>,
}

impl Files {
    /// Opens them in this order, which numbers their source partitions. `-` is standard input.
    pub async fn open(name: SourceName, paths: &[PathBuf]) -> Result<Self, BusError> {
        let inputs = paths.iter().map(|path| input(path)).collect();
        Ok(Self(Arc::new(FileBus::open(name, inputs).await?)))
    }

    /// Their bus behind its seam.
    pub fn bus(&self) -> Arc<dyn EventBus> {
        self.0.clone()
    }

    /// How far all of them are.
    pub fn progress(&self) -> FilesProgress {
        let files = self.0.progress();
        FilesProgress {
            acknowledged_bytes: files.iter().map(|file| file.acknowledged_bytes).sum(),
            total_bytes: files.iter().map(|file| file.total_bytes).sum(),
        }
    }
}

fn input(path: &Path) -> FileInput {
    if path.as_os_str() == "-" {
        FileInput::StandardInput
    } else {
        FileInput::Path(path.to_owned())
    }
}

/// The bus of a source of Kafka. No broker is waited for: while none answers, its polls say so.
#[cfg(feature = "kafka")]
pub fn kafka(
    source: &config::Source,
    node: &str,
    store: &Arc<dyn StateStore>,
    io: &Handle,
) -> Option<Result<Arc<dyn EventBus>, BusError>> {
    let options = kafka_options(source, node)?;
    let bus = options.and_then(|options| KafkaBus::open(options, store.clone(), io));
    Some(bus.map(|bus| Arc::new(bus) as Arc<dyn EventBus>))
}

/// The topics that the nodes of a source know.
pub async fn known_topics(
    store: &dyn StateStore,
    source: &SourceName,
) -> Result<Vec<SourceTopic>, StoreError> {
    let nothing_new = TopicsFound {
        source: source.clone(),
        topics: Vec::new(),
    };
    store.source_topics(nothing_new).await
}

/// The source seen from outside, where its bus can be: with the topics that its nodes know.
#[cfg(feature = "kafka")]
pub fn source_view(
    source: &config::Source,
    node: &str,
    known: Vec<SourceTopic>,
    io: &Handle,
) -> Option<Result<Box<dyn SourceView>, BusError>> {
    let options = kafka_options(source, node)?;
    let view = options.and_then(|options| KafkaView::open(options, known, io));
    Some(view.map(|view| Box::new(view) as Box<dyn SourceView>))
}

/// This binary knows none.
#[cfg(not(feature = "kafka"))]
pub fn source_view(
    source: &config::Source,
    node: &str,
    _known: Vec<SourceTopic>,
    _io: &Handle,
) -> Option<Result<Box<dyn SourceView>, BusError>> {
    check_kafka(source, node).err().map(Err)
}

#[cfg(not(feature = "kafka"))]
fn check_kafka(source: &config::Source, _node: &str) -> Result<(), BusError> {
    let Some(source_name) = source
        .name
        .clone()
        .filter(|_| source.kind == SourceKind::Kafka)
    else {
        return Ok(());
    };
    Err(BusError::Unreadable {
        source_name,
        detail: "this binary was built without Kafka: build it with `cargo build --release`, whose default \
                 features have it"
            .to_owned(),
    })
}

/// This binary knows none.
#[cfg(not(feature = "kafka"))]
pub fn kafka(
    source: &config::Source,
    node: &str,
    _store: &Arc<dyn StateStore>,
    _io: &Handle,
) -> Option<Result<Arc<dyn EventBus>, BusError>> {
    check_kafka(source, node).err().map(Err)
}

#[cfg(feature = "kafka")]
fn kafka_options(source: &config::Source, node: &str) -> Option<Result<KafkaOptions, BusError>> {
    let section = &source.kafka;
    let name = source
        .name
        .clone()
        .filter(|_| source.kind == SourceKind::Kafka)?;
    let topics = section.topics.clone();
    let group = section.group.clone().unwrap_or_default();
    let options = KafkaOptions::new(name, node, group, section.brokers.clone(), topics);
    let identity = |certificate: &PathBuf, key: &PathBuf| KafkaIdentity {
        certificate: certificate.clone(),
        key: key.clone(),
    };
    let tls = section.tls.enabled.then(|| KafkaTls {
        ca: section.tls.ca.clone(),
        identity: match (&section.tls.certificate, &section.tls.key) {
            (Some(certificate), Some(key)) => Some(identity(certificate, key)),
            _ => None,
        },
    });
    let login = match (
        &section.login.mechanism,
        &section.login.user,
        &section.login.password,
    ) {
        (Some(mechanism), Some(user), Some(password)) => {
            password_mechanism(*mechanism).map(|mechanism| KafkaLogin {
                mechanism,
                user: user.clone(),
                password: password.expose().to_owned(),
            })
        }
        _ => None,
    };
    let signer = match signer(&section.login) {
        Ok(signer) => signer,
        Err(detail) => {
            let source_name = options.source;
            return Some(Err(BusError::Unreadable {
                source_name,
                detail,
            }));
        }
    };
    Some(Ok(KafkaOptions {
        // A configuration that was read is checked.
        tenant_of_topic: section
            .tenant_of_topic
            .as_deref()
            .and_then(|pattern| TenantOfTopic::new(pattern).ok()),
        start_group: section.start_group.clone(),
        record_headers: section.record_headers,
        assignment: match section.assignment {
            Assignment::Eager => KafkaAssignment::Eager,
            Assignment::Cooperative => KafkaAssignment::Cooperative,
        },
        tls,
        login,
        signer,
        fetched_bytes_max: section.fetched_bytes_max,
        buffered_bytes_max: section.buffered_bytes_max,
        buffered_events_max: section.buffered_events_max,
        librdkafka: section.librdkafka.0.clone(),
        ..options
    }))
}

#[cfg(feature = "kafka")]
fn password_mechanism(mechanism: Mechanism) -> Option<KafkaMechanism> {
    match mechanism {
        Mechanism::Plain => Some(KafkaMechanism::Plain),
        Mechanism::ScramSha256 => Some(KafkaMechanism::ScramSha256),
        Mechanism::ScramSha512 => Some(KafkaMechanism::ScramSha512),
        Mechanism::AwsMskIam => None,
    }
}

/// Who signs the tokens of a login that has some.
#[cfg(feature = "kafka")]
fn signer(login: &config::kafka::KafkaLogin) -> Result<Option<KafkaSigner>, String> {
    let region = login
        .region
        .as_ref()
        .filter(|_| login.mechanism == Some(Mechanism::AwsMskIam));
    let Some(region) = region else {
        return Ok(None);
    };
    #[cfg(feature = "msk-iam")]
    return Ok(Some(KafkaSigner {
        signer: Arc::new(MskIamSigner::new(region)),
        clock: Arc::new(crate::runtime::SystemClock),
    }));
    #[cfg(not(feature = "msk-iam"))]
    Err(format!(
        "`login.mechanism: aws-msk-iam` (for {region}) needs a binary with the feature `msk-iam`: build it with \
         `cargo build --release --features msk-iam`"
    ))
}

/// A source that requests hand events to.
pub struct Requests {
    source: SourceName,
    bus: Arc<HttpBus>,
    intake: HttpIntake,
}

/// How a source of requests gets the slot that its events are numbered in.
#[derive(Clone, Debug)]
pub struct SlotTerms {
    /// Slots of the source, over all processes.
    pub slots: u32,
    /// How long a slot stays with a process that says nothing any more.
    pub lease: Duration,
    /// The name of this process, which no other has.
    pub holder: String,
}

impl Requests {
    /// A source without a slot yet: [`Requests::keep_slot`] gets one.
    pub fn new(source: SourceName, pending_events_max: usize, pending_bytes_max: usize) -> Self {
        let limits = IntakeLimits {
            events_max: pending_events_max,
            bytes_max: pending_bytes_max,
        };
        let bus = Arc::new(HttpBus::new(source.clone(), limits));
        let intake = bus.intake();
        Self {
            source,
            bus,
            intake,
        }
    }

    /// Its bus behind its seam.
    pub fn bus(&self) -> Arc<dyn EventBus> {
        self.bus.clone()
    }

    /// Its way in.
    pub fn intake(&self) -> Arc<dyn Intake> {
        Arc::new(self.intake.clone())
    }

    /// Leases a slot and keeps it, until `stopped` says so; then it is given back. Without one, another is
    /// looked for. The lease says who tries, so that processes do not fence each other; epoch and revision
    /// stay the truth.
    pub async fn keep_slot(
        self: Arc<Self>,
        leases: Arc<dyn Leases>,
        terms: SlotTerms,
        mut stopped: watch::Receiver<bool>,
    ) {
        let mut slot = None;
        let pause = terms.lease / 4;
        while !*stopped.borrow_and_update() {
            slot = match slot {
                None => self.look_for_a_slot(&leases, &terms).await,
                Some(held) => self.hold(&leases, &terms, held).await,
            };
            if let Some(held) = &slot {
                // After an outage it may have been here for what was left in it, and been lost as that.
                self.intake.assign(held.partition);
            }
            let wait = match slot {
                None => pause.min(Duration::from_millis(500)),
                Some(_) => pause,
            };
            tokio::select! {
                biased;
                changed = stopped.changed() => if changed.is_err() { break },
                () = tokio::time::sleep(wait) => {}
            }
        }
        if let Some(Slot { partition, .. }) = slot {
            self.give_back(&leases, &terms, partition).await;
        }
    }

    async fn give_back(&self, leases: &Arc<dyn Leases>, terms: &SlotTerms, partition: u32) {
        self.intake.lose(partition);
        let place = self.place(partition);
        if let Err(error) = leases.release(&place, &terms.holder).await {
            tracing::warn!(slot = %place, %error, "slot not given back; it is free when its lease ends");
        }
    }

    /// Takes over slots whose process has gone and left open work, until that is done, beside the slot that
    /// requests are numbered in: whoever comes in its place may take another. Its leases are held by a name of
    /// its own, so that it never has the slot that [`Requests::keep_slot`] has.
    pub async fn keep_left(
        self: Arc<Self>,
        store: Arc<dyn StateStore>,
        leases: Arc<dyn Leases>,
        mut terms: SlotTerms,
        mut stopped: watch::Receiver<bool>,
    ) {
        terms.holder.push_str(" (left work)");
        let mut left: BTreeMap<u32, Slot> = BTreeMap::new();
        while !*stopped.borrow_and_update() {
            for (partition, held) in std::mem::take(&mut left) {
                // Whoever had it before may have found out only now.
                self.intake.assign_to_finish(partition);
                if let Some(held) = self.hold(&leases, &terms, held).await {
                    left.insert(partition, held);
                }
            }
            if let Err(error) = self.look_after(&store, &leases, &terms, &mut left).await {
                tracing::warn!(source = %self.source, %error, "it is not known which slots were left");
            }
            tokio::select! {
                biased;
                changed = stopped.changed() => if changed.is_err() { break },
                () = tokio::time::sleep(terms.lease / 4) => {}
            }
        }
        for partition in left.into_keys() {
            self.give_back(&leases, &terms, partition).await;
        }
    }

    /// Gives back what is done, and takes what somebody left.
    async fn look_after(
        &self,
        store: &Arc<dyn StateStore>,
        leases: &Arc<dyn Leases>,
        terms: &SlotTerms,
        left: &mut BTreeMap<u32, Slot>,
    ) -> Result<(), StoreError> {
        let used = store.checkpoints().await?;
        let used = used
            .into_iter()
            .map(|checkpoint| checkpoint.source_partition);
        for place in used.filter(|place| place.source == self.source) {
            let partition = place.partition;
            let someone = store.tenants_with_open_work(&place, None, 1).await?;
            let is_ours = left.contains_key(&partition);
            if is_ours && someone.is_empty() {
                tracing::info!(slot = %place, "what was left in the slot is done");
                left.remove(&partition);
                self.give_back(leases, terms, partition).await;
            } else if !is_ours && !someone.is_empty() {
                let asked = Instant::now();
                if leases.acquire(&place, &terms.holder, terms.lease).await? {
                    tracing::info!(slot = %place, "slot taken over: open work was left in it");
                    self.intake.assign_to_finish(partition);
                    left.insert(partition, Slot { partition, asked });
                }
            }
        }
        Ok(())
    }

    async fn look_for_a_slot(&self, leases: &Arc<dyn Leases>, terms: &SlotTerms) -> Option<Slot> {
        for partition in 0..terms.slots {
            let asked = Instant::now();
            let place = self.place(partition);
            match leases.acquire(&place, &terms.holder, terms.lease).await {
                Ok(false) => {}
                Ok(true) => {
                    tracing::info!(slot = %place, "slot leased");
                    return Some(Slot { partition, asked });
                }
                Err(error) => {
                    tracing::warn!(%error, "no slot was had, trying again");
                    return None;
                }
            }
        }
        tracing::warn!(source = %self.source, slots = terms.slots, "every slot is somebody's: no event is taken yet");
        None
    }

    /// The slot, as long as its lease is ours for sure.
    async fn hold(&self, leases: &Arc<dyn Leases>, terms: &SlotTerms, held: Slot) -> Option<Slot> {
        let asked = Instant::now();
        let place = self.place(held.partition);
        // The lease runs from before we asked; a quarter of it is left for what is under way.
        let until = held.asked + terms.lease * 3 / 4;
        let (store, holder, lease) = (leases.clone(), terms.holder.clone(), terms.lease);
        let at = place.clone();
        // A task of its own: when nobody waits any more, it ends its question all the same.
        let asking = tokio::spawn(async move { store.renew(&at, &holder, lease).await });
        let renewed = match tokio::time::timeout_at(until, asking).await {
            Ok(Ok(renewed)) => renewed,
            Ok(Err(_)) | Err(_) => Err(StoreError::Unavailable {
                detail: "the lease's renewal had no answer in time".to_owned(),
            }),
        };
        match renewed {
            Ok(true) => Some(Slot { asked, ..held }),
            Err(error) if Instant::now() < until => {
                tracing::warn!(slot = %place, %error, "lease not renewed, trying again");
                Some(held)
            }
            Ok(false) | Err(_) => {
                tracing::warn!(slot = %place, "slot lost: its lease ran out or is somebody else's");
                self.intake.lose(held.partition);
                None
            }
        }
    }

    fn place(&self, partition: u32) -> SourcePartition {
        SourcePartition {
            source: self.source.clone(),
            partition,
        }
    }
}

/// A leased slot, and when its lease was asked for last.
struct Slot {
    partition: u32,
    asked: Instant,
}
