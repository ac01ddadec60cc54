//! Lets the product verify the same store, and compares: it must neither call intact what is broken here
//! nor find what is not there. What only the broker's records tell (such as a key that was admitted
//! twice) is beyond it.

use std::sync::Arc;

use tidegate_engine::machine::Processor;
use tidegate_engine::store::StateStore as _;
use tidegate_engine::verify::{MachinesByHash, VerifyOptions, verify};

use super::{Findings, ROWS_MAX, tenants};
use crate::check::Check;
use crate::ledger;
use crate::stage::Stage;

/// What may be held is one in so many entities of the largest tenant, so that `verify` needs more than
/// one pass, and not hundreds.
const PASSES_WANTED: usize = 3;

/// Adds a finding when the two disagree.
pub async fn agree(stage: &Stage, findings: &mut Findings) {
    let by_hash = |machine: &Arc<dyn Processor>| (machine.definition().hash, machine.clone());
    let machines: MachinesByHash = ledger::machines().iter().map(by_hash).collect();
    let mut entities = 0;
    for tenant in tenants(stage).await {
        let of_tenant = stage.store.entities(&tenant, None, ROWS_MAX).await;
        entities = entities.max(of_tenant.unwrap().len());
    }
    let options = VerifyOptions {
        held_max: entities / PASSES_WANTED,
        ..VerifyOptions::default()
    };
    let report = match verify(&stage.store, &machines, &options, &mut |_| {}).await {
        Ok(report) => report,
        Err(error) => return findings.wrong(Check::Verify, format!("it failed: {error}")),
    };
    let is_seen_by_both =
        |check: Check| matches!(check, Check::Log | Check::Replay | Check::Entities);
    let ours = findings.wrong.iter().find(|wrong| is_seen_by_both(wrong.0));
    let disagreement = match (ours, report.differences.first()) {
        (Some((check, what)), None) => {
            format!("it calls intact where {check:?} is broken: {what}")
        }
        (None, Some(theirs)) if findings.wrong.is_empty() => {
            format!("it finds what is not there: {theirs:?}")
        }
        _ if report.moved_on > 0 => "something moved on at rest".to_owned(),
        _ if report.is_clean() && report.records != findings.records.len() as u64 => {
            format!("it read {} records", report.records)
        }
        _ => return,
    };
    findings.wrong(Check::Verify, disagreement);
}
