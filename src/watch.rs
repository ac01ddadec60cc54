//! What a node's snapshot looks like as metrics. The hot path counts nothing for it: the figures are those
//! of the checkpoints and the actors, read a few times a second.

use std::time::Duration;

use metrics::{counter, gauge};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use metrics_util::MetricKindMask;
use tidegate_actors::{NodeSnapshot, SourceStatus};
use tidegate_engine::checkpoint::Counts;

use crate::names;

/// Tenants with a series of their own; the rest are one, `_other`.
pub const TENANTS_SHOWN_MAX: usize = 50;

/// Upper bounds of histograms of seconds.
const SECONDS: [f64; 12] = [
    0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
];

/// A series that nothing has touched for so long is dropped: its partition is elsewhere.
const IDLE: Duration = Duration::from_secs(600);

/// Metrics of this process, in Prometheus' text format.
#[derive(Clone)]
pub struct Telemetry(PrometheusHandle);

impl Telemetry {
    /// Collects from now on. A process has one; a second one reads the same.
    pub fn install() -> Result<Self, String> {
        static INSTALLED: std::sync::OnceLock<PrometheusHandle> = std::sync::OnceLock::new();
        if let Some(handle) = INSTALLED.get() {
            return Ok(Self(handle.clone()));
        }
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)
            .map_err(|error| error.to_string())?
            .idle_timeout(MetricKindMask::ALL, Some(IDLE))
            .build_recorder();
        let handle = recorder.handle();
        // Somebody who embeds the node may have a recorder of their own: then that one has everything.
        let _ = metrics::set_global_recorder(recorder);
        Ok(Self(INSTALLED.get_or_init(|| handle).clone()))
    }

    /// The text.
    pub fn render(&self) -> String {
        self.0.run_upkeep();
        self.0.render()
    }
}

/// Tells what the node shows.
pub fn tell(snapshot: &NodeSnapshot) {
    gauge!(names::NODE_EVENTS).set(snapshot.unsettled_events as f64);
    gauge!(names::NODE_BYTES).set(snapshot.unsettled_bytes as f64);
    gauge!(names::TENANTS).set(snapshot.tenants.len() as f64);
    for source in &snapshot.sources {
        let name = source.source.as_str().to_owned();
        let is_up = !matches!(source.status, SourceStatus::Failed { .. });
        gauge!(names::SOURCE_UP, "source" => name.clone()).set(f64::from(u8::from(is_up)));
        for partition in &source.partitions {
            let number = partition.source_partition.partition.to_string();
            let labels = [("source", name.clone()), ("partition", number)];
            gauge!(names::UNSETTLED, &labels).set(partition.tracked_events as f64);
            gauge!(names::EPOCH, &labels).set(partition.epoch.0 as f64);
            counter!(names::COMMITS, &labels).absolute(partition.commits);
            counter!(names::SURPRISES, &labels).absolute(partition.surprises);
            for (outcome, count) in outcomes(&partition.counts) {
                let [source, partition] = labels.clone();
                let labels = [source, partition, ("outcome", outcome.to_owned())];
                counter!(names::EVENTS, &labels).absolute(count);
            }
        }
    }
    for (tenant, events) in lanes(snapshot) {
        gauge!(names::LANE_EVENTS, "tenant" => tenant).set(events as f64);
    }
}

/// The fullest lanes, and what the others hold together.
fn lanes(snapshot: &NodeSnapshot) -> Vec<(String, usize)> {
    let mut lanes: Vec<(String, usize)> = snapshot
        .tenants
        .iter()
        .map(|it| (it.supervisor.tenant.to_string(), it.lane_events))
        .filter(|(_, events)| *events > 0)
        .collect();
    lanes.sort_by(|left, right| right.1.cmp(&left.1).then_with(|| left.0.cmp(&right.0)));
    let rest = lanes.split_off(lanes.len().min(TENANTS_SHOWN_MAX));
    lanes.push((
        "_other".to_owned(),
        rest.into_iter().map(|(_, events)| events).sum(),
    ));
    lanes
}

fn outcomes(counts: &Counts) -> [(&'static str, u64); 9] {
    [
        ("admitted", counts.admitted),
        ("duplicate", counts.duplicates),
        ("conflict", counts.conflicts),
        ("unreadable", counts.unreadable),
        ("applied", counts.applied),
        ("rejected", counts.rejected),
        ("ignored", counts.ignored),
        ("dead", counts.dead),
        ("unhandled", counts.unhandled),
    ]
}
