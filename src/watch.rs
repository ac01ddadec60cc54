//! The metrics of this process: where they are collected, and what a node's snapshot looks like among them.
//! What the movement counts itself it counts by the batch; what only has to be looked at is read from the
//! snapshot a few times a second.

mod letters;
mod status;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use metrics_util::MetricKindMask;
use tidegate_actors::committer::CommitterSnapshot;
use tidegate_actors::node::SourceSnapshot;
use tidegate_actors::{NodeSnapshot, SourceStatus, committer, partition, supervisor};
use tidegate_engine::bus::{OffsetUnit, TopicPartition};
use tidegate_engine::clock::{Clock as _, Timestamp};
use tidegate_engine::partition::Cached;

use crate::config;
use crate::names::{self, Kind};
use crate::runtime::SystemClock;
pub use letters::LettersTask;
use status::Window;

/// A source and the number of one of its partitions.
type Labels = [(&'static str, String); 2];

/// Upper bounds of histograms of seconds.
const SECONDS: [f64; 14] = [
    0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0,
];

/// Upper bounds of histograms of events.
const EVENTS: [f64; 10] = [
    1.0, 5.0, 20.0, 100.0, 250.0, 500.0, 1_000.0, 2_500.0, 5_000.0, 10_000.0,
];

/// Upper bounds of histograms of bytes.
const BYTES: [f64; 9] = [
    1_024.0,
    4_096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
];

/// A gauge that nothing has told for so long is dropped: its partition or its tenant is elsewhere. Counters
/// and histograms stay, for whoever holds one would count into nothing.
const IDLE: Duration = Duration::from_secs(600);

/// Looks between two upkeeps of the collection. Values of histograms gather until then, scraped or not.
const LOOKS_PER_UPKEEP: u32 = 20;

static INSTALLED: std::sync::OnceLock<PrometheusHandle> = std::sync::OnceLock::new();

/// Metrics of this process, in Prometheus' text format.
#[derive(Clone)]
pub struct Telemetry(PrometheusHandle);

impl Telemetry {
    /// Collects from now on. A process has one; a second one reads the same. Whatever counts before is not
    /// counted.
    pub fn install() -> Result<Self, String> {
        if let Some(handle) = INSTALLED.get() {
            return Ok(Self(handle.clone()));
        }
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)
            .and_then(|it| {
                it.set_buckets_for_metric(Matcher::Suffix("_events".to_owned()), &EVENTS)
            })
            .and_then(|it| it.set_buckets_for_metric(Matcher::Suffix("_bytes".to_owned()), &BYTES))
            .map_err(|error| error.to_string())?
            .idle_timeout(MetricKindMask::GAUGE, Some(IDLE))
            .build_recorder();
        let handle = recorder.handle();
        // Somebody who embeds the node may have a recorder of their own: then that one has everything.
        let _ = metrics::set_global_recorder(recorder);
        for metric in names::all() {
            match metric.kind {
                Kind::Counter => describe_counter!(metric.name, metric.help),
                Kind::Gauge => describe_gauge!(metric.name, metric.help),
                Kind::Histogram => describe_histogram!(metric.name, metric.help),
            }
        }
        Ok(Self(INSTALLED.get_or_init(|| handle).clone()))
    }

    /// The text.
    pub fn render(&self) -> String {
        self.0.run_upkeep();
        self.0.render()
    }
}

/// Tells what a node shows.
#[derive(Default)]
pub struct Teller {
    looks: u32,
    /// Source partitions that were told of.
    partitions: BTreeSet<Labels>,
    /// Lanes that were told of.
    lanes: BTreeSet<String>,
    /// What source partitions did lately.
    windows: BTreeMap<Labels, Window>,
    /// Lag also under the name that exporters of Kafka use.
    kafka_exporter_names: bool,
}

impl Teller {
    /// With what the configuration asks for.
    pub fn new(section: &config::Telemetry) -> Self {
        Self {
            kafka_exporter_names: section.kafka_exporter_names,
            ..Self::default()
        }
    }

    /// Tells it.
    pub fn tell(&mut self, snapshot: &NodeSnapshot) {
        self.looks = self.looks.wrapping_add(1);
        if self.looks.is_multiple_of(LOOKS_PER_UPKEEP)
            && let Some(handle) = INSTALLED.get()
        {
            handle.run_upkeep();
        }
        let now = SystemClock.now();
        tell_permits(snapshot);
        tell_memory(snapshot, now);
        tell_mailboxes(snapshot);
        self.tell_lanes(snapshot, now);
        self.tell_sources(snapshot, now);
    }

    fn tell_sources(&mut self, snapshot: &NodeSnapshot, now: Timestamp) {
        let mut told = BTreeSet::new();
        for source in &snapshot.sources {
            let name = source.source.as_str().to_owned();
            let is_up = !matches!(source.status, SourceStatus::Failed { .. });
            gauge!(names::SOURCE_UP, "source" => name.clone()).set(f64::from(u8::from(is_up)));
            let states = [
                ("owned", source.partitions.len()),
                ("claiming", source.claiming),
                ("quarantined", source.quarantined),
            ];
            for (state, count) in states {
                gauge!(names::PARTITIONS, "source" => name.clone(), "state" => state)
                    .set(count as f64);
            }
            counter!(names::LOGIN_FAILURES, "source" => name.clone())
                .absolute(source.login_failures);
            for (partition, broker_name) in source.partitions.iter().zip(&source.names) {
                let number = partition.source_partition.partition.to_string();
                let labels = [("source", name.clone()), ("partition", number)];
                tell_partition(source, partition, &labels, now);
                if let Some(behind) = behind(partition) {
                    let window = self.windows.entry(labels.clone()).or_default();
                    let status = window.look(now, partition.low_watermark, behind);
                    gauge!(names::CONSUMER_STATUS, &labels).set(f64::from(status as u8));
                    self.tell_names(&labels, broker_name.as_ref(), behind);
                }
                told.insert(labels);
            }
            told.extend(self.tell_unread(source, now));
        }
        // What went elsewhere lags there, if at all.
        for gone in self.partitions.difference(&told) {
            for name in [
                names::UNSETTLED,
                names::LAG_EVENTS,
                names::LAG_BYTES,
                names::LAG_SECONDS,
                names::CONSUMER_STATUS,
            ] {
                gauge!(name, gone).set(0.0);
            }
            self.windows.remove(gone);
        }
        self.partitions = told;
    }

    /// What lies in partitions that are not read adds up too.
    fn tell_unread(&mut self, source: &SourceSnapshot, now: Timestamp) -> Vec<Labels> {
        let mut told = Vec::with_capacity(source.unread.len());
        for partition in &source.unread {
            let place = &partition.source_partition;
            let (name, number) = (place.source.as_str(), place.partition.to_string());
            let labels = [("source", name.to_owned()), ("partition", number)];
            let behind = partition.end.0.saturating_sub(partition.low_watermark.0);
            gauge!(names::UNSETTLED, &labels).set(0.0);
            tell_lag(source, &labels, behind, age_seconds(partition.since, now));
            let window = self.windows.entry(labels.clone()).or_default();
            let status = window.look(now, partition.low_watermark, behind);
            gauge!(names::CONSUMER_STATUS, &labels).set(f64::from(status as u8));
            self.tell_names(&labels, partition.name.as_ref(), behind);
            told.push(labels);
        }
        told
    }

    /// What the tools of the broker call it.
    fn tell_names(&self, labels: &Labels, name: Option<&TopicPartition>, behind: u64) {
        let Some(name) = name else { return };
        let partition = name.partition.to_string();
        let mut all = labels.to_vec();
        all.extend([
            ("group", name.group.clone()),
            ("topic", name.topic.clone()),
            ("topic_partition", partition.clone()),
        ]);
        gauge!(names::PARTITION_INFO, &all).set(1.0);
        if self.kafka_exporter_names {
            let known = [
                ("consumergroup", name.group.clone()),
                ("topic", name.topic.clone()),
                ("partition", partition),
            ];
            gauge!(names::KAFKA_LAG, &known).set(behind as f64);
        }
    }

    fn tell_lanes(&mut self, snapshot: &NodeSnapshot, now: Timestamp) {
        let mut lanes: BTreeMap<&str, Lane> = BTreeMap::new();
        for tenant in &snapshot.tenants {
            let lane = lanes.entry(&tenant.label).or_default();
            lane.events += tenant.lane_events;
            lane.bytes += tenant.lane_bytes;
            let partitions = tenant.supervisor.partitions.iter();
            let oldest = partitions.filter_map(|partition| partition.oldest_received_at);
            lane.oldest = oldest.chain(lane.oldest).min();
        }
        for (tenant, lane) in &lanes {
            let tenant = (*tenant).to_owned();
            gauge!(names::LANE_EVENTS, "tenant" => tenant.clone()).set(lane.events as f64);
            gauge!(names::LANE_BYTES, "tenant" => tenant.clone()).set(lane.bytes as f64);
            gauge!(names::TENANT_LAG_SECONDS, "tenant" => tenant)
                .set(age_seconds(lane.oldest, now));
        }
        let told: BTreeSet<String> = lanes.into_keys().map(str::to_owned).collect();
        for gone in self.lanes.difference(&told) {
            gauge!(names::LANE_EVENTS, "tenant" => gone.clone()).set(0.0);
            gauge!(names::LANE_BYTES, "tenant" => gone.clone()).set(0.0);
            gauge!(names::TENANT_LAG_SECONDS, "tenant" => gone.clone()).set(0.0);
        }
        self.lanes = told;
        let (events, bytes) = snapshot.lane_max;
        gauge!(names::LANE_EVENTS_MAX).set(events as f64);
        gauge!(names::LANE_BYTES_MAX).set(bytes as f64);
    }
}

/// The lanes of the tenants of one label.
#[derive(Default)]
struct Lane {
    events: usize,
    bytes: usize,
    oldest: Option<Timestamp>,
}

/// Offsets between what is settled and the end, where that is known.
fn behind(partition: &CommitterSnapshot) -> Option<u64> {
    let end = partition.end?;
    Some(end.0.saturating_sub(partition.low_watermark.0))
}

fn tell_partition(
    source: &SourceSnapshot,
    partition: &CommitterSnapshot,
    labels: &Labels,
    now: Timestamp,
) {
    gauge!(names::UNSETTLED, labels).set(partition.tracked_events as f64);
    gauge!(names::EPOCH, labels).set(partition.epoch.0 as f64);
    let seconds = age_seconds(partition.oldest_known_at, now);
    match behind(partition) {
        Some(behind) => tell_lag(source, labels, behind, seconds),
        None => gauge!(names::LAG_SECONDS, labels).set(seconds),
    }
}

fn tell_lag(source: &SourceSnapshot, labels: &Labels, behind: u64, seconds: f64) {
    match source.offset_unit {
        OffsetUnit::Records => gauge!(names::LAG_EVENTS, labels).set(behind as f64),
        OffsetUnit::Bytes => gauge!(names::LAG_BYTES, labels).set(behind as f64),
    }
    gauge!(names::LAG_SECONDS, labels).set(seconds);
}

fn age_seconds(since: Option<Timestamp>, now: Timestamp) -> f64 {
    since.map_or(0.0, |since| {
        (now.0.saturating_sub(since.0)).max(0) as f64 / 1e6
    })
}

fn tell_permits(snapshot: &NodeSnapshot) {
    gauge!(names::NODE_EVENTS).set(snapshot.unsettled_events as f64);
    gauge!(names::NODE_BYTES).set(snapshot.unsettled_bytes as f64);
    let (events, bytes) = snapshot.unsettled_max;
    gauge!(names::NODE_EVENTS_MAX).set(events as f64);
    gauge!(names::NODE_BYTES_MAX).set(bytes as f64);
    gauge!(names::TENANTS).set(snapshot.tenants.len() as f64);
}

fn tell_memory(snapshot: &NodeSnapshot, now: Timestamp) {
    let (mut cached, mut oldest) = (Cached::default(), None);
    let tenants = snapshot.tenants.iter();
    for partition in tenants.flat_map(|tenant| &tenant.supervisor.partitions) {
        cached.entities += partition.cached.entities;
        cached.entity_bytes += partition.cached.entity_bytes;
        cached.keys += partition.cached.keys;
        oldest = oldest.into_iter().chain(partition.oldest_emitted_at).min();
    }
    gauge!(names::CACHED_ENTITIES).set(cached.entities as f64);
    gauge!(names::CACHED_ENTITY_BYTES).set(cached.entity_bytes as f64);
    gauge!(names::CACHED_KEYS).set(cached.keys as f64);
    gauge!(names::CACHED_ENTITIES_MAX).set(snapshot.memory_max.entities_max as f64);
    gauge!(names::CACHED_ENTITY_BYTES_MAX).set(snapshot.memory_max.entities_bytes_max as f64);
    gauge!(names::CACHED_KEYS_MAX).set(snapshot.memory_max.known_keys_max as f64);
    let counts = snapshot.counts();
    let open = counts.emitted.saturating_sub(counts.looped_back);
    gauge!(names::OPEN_WORK, "kind" => "loop_back").set(open as f64);
    gauge!(names::OPEN_WORK_AGE, "kind" => "loop_back").set(age_seconds(oldest, now));
}

fn tell_mailboxes(snapshot: &NodeSnapshot) {
    let committers = snapshot.sources.iter().map(|source| source.slowest_answer);
    let supervisors = snapshot.tenants.iter().map(|tenant| tenant.answer);
    let slowest =
        |waits: &mut dyn Iterator<Item = Duration>| waits.max().unwrap_or_default().as_secs_f64();
    let waits = [
        ("committer", slowest(&mut committers.into_iter())),
        ("supervisor", slowest(&mut supervisors.into_iter())),
    ];
    for (actor, wait) in waits {
        gauge!(names::MAILBOX_WAIT, "actor" => actor).set(wait);
    }
    let bounds = [
        ("committer", committer::MAILBOX_MESSAGES_MAX),
        ("supervisor", supervisor::MAILBOX_MESSAGES_MAX),
        ("partition", partition::MAILBOX_MESSAGES_MAX),
    ];
    for (actor, bound) in bounds {
        gauge!(names::MAILBOX_MAX, "actor" => actor).set(bound as f64);
    }
}
