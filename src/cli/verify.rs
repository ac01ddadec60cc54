//! `tidegate verify`: runs the verification with a progress bar, and says what it found.

use std::sync::Arc;

use serde_json::{Value, json};
use tidegate_engine::machine::Processor;
use tidegate_engine::store::StateStore;
use tidegate_engine::verify::{VerifyOptions, VerifyReport, verify};

use super::exit::{Exit, Failure};
use super::look::known_tenant;
use super::output::Output;
use crate::machines;
use crate::progress::Bar;

/// Verifies a store and writes the report.
pub async fn run(
    store: &dyn StateStore,
    own: &[Arc<dyn Processor>],
    options: &VerifyOptions,
    bar: &Bar,
    output: &mut Output,
) -> Result<Exit, Failure> {
    for tenant in &options.tenants {
        known_tenant(store, tenant).await?;
    }
    let report = report(store, own, options, bar).await?;
    output.fields(&[
        ("tenants", json!(report.tenants)),
        ("stream_partitions", json!(report.stream_partitions)),
        ("segments", json!(report.segments)),
        ("records", json!(report.records)),
        ("effects_replayed", json!(report.effects_replayed)),
        ("entities_equal", json!(report.entities)),
        (
            "entities_beyond_retention",
            json!(report.entities_beyond_retention),
        ),
        ("moved_on", json!(report.moved_on)),
        ("differences", json!(report.differences.len())),
    ])?;
    if report.is_clean() {
        crate::say!("verified: chains, sequences, versions, replayed state and counts hold");
        return Ok(Exit::Done);
    }
    let rows: Vec<Vec<Value>> = report
        .differences
        .iter()
        .map(|difference| {
            vec![
                json!(difference.checked_for.as_str()),
                json!(difference.place.to_string()),
                json!(difference.expected),
                json!(difference.found),
            ]
        })
        .collect();
    output.rows(&["check", "where", "expected", "found"], &rows)?;
    if let Some(first) = report.differences.first() {
        crate::say!("the first difference: {first}");
    }
    Ok(Exit::Differs)
}

/// Verifies a store with the definitions that it keeps, and this binary's `own` machines.
pub async fn report(
    store: &dyn StateStore,
    own: &[Arc<dyn Processor>],
    options: &VerifyOptions,
    bar: &Bar,
) -> Result<VerifyReport, Failure> {
    let machines = machines::by_hash(store, own).await?;
    let report = verify(store, &machines, options, &mut |progress| {
        bar.set(progress.records_done, progress.records_total);
    })
    .await?;
    bar.finish();
    Ok(report)
}
