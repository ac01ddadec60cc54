//! Tells operators of dead letters once they are durable: one line each, with the ids by which the event
//! and its letter are found again, and never a value of its payload.

use tidegate_engine::partition::{Notice, NoticedEvent};
use tidegate_engine::position::SourcePartition;

/// Lines of one commit. A stream of nothing but poison must not fill the disk with its log; the letters
/// themselves are all in the store.
const NOTICES_TOLD_MAX: usize = 20;

pub(super) fn tell(partition: &SourcePartition, notices: &[Notice]) {
    for notice in notices.iter().take(NOTICES_TOLD_MAX) {
        let event = notice.event.as_ref();
        let correlation_id = event.and_then(|event| event.correlation_id.as_ref());
        tracing::warn!(
            tenant_id = %notice.tenant,
            event_id = event.map(|NoticedEvent { id, .. }| id.as_str()),
            event_type = event.map(|event| event.event_type.as_str()),
            correlation_id = correlation_id.map(|id| id.as_str()),
            machine = notice.machine.as_ref().map(|machine| machine.as_str()),
            %partition,
            dead_letter = %notice.id,
            reason = notice.reason.as_str(),
            cause = notice.cause,
            "a dead letter is kept"
        );
    }
    let more = notices.len().saturating_sub(NOTICES_TOLD_MAX);
    if more > 0 {
        tracing::warn!(%partition, more, "more dead letters are kept in the same commit: see `tidegate dead-letters list`");
    }
}
