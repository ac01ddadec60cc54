//! What is noted and said of what was received, before it is routed.

use std::collections::BTreeMap;

use tidegate_engine::admission::{Content, Received};
use tidegate_engine::bus::Delivery;
use tidegate_engine::checkpoint::Receipt;
use tidegate_engine::hash::hash_bytes;
use tidegate_engine::tenant::TenantId;

use crate::ownership::Ownership;

/// Takes note of every record and leaves out what is settled already. The last record of a poll carries
/// its hash, so that a checkpoint has a record to recognise the source by.
pub(super) fn note_receipt(ownership: &Ownership, deliveries: Vec<Delivery>) -> Vec<Delivery> {
    let last = deliveries.last().map(|delivery| delivery.offset);
    let mut tracker = ownership.tracker();
    deliveries
        .into_iter()
        .filter(|delivery| {
            let fingerprint =
                (Some(delivery.offset) == last).then(|| hash_bytes(&delivery.payload));
            tracker.receive(delivery.offset, delivery.next, fingerprint) == Receipt::New
        })
        .collect()
}

/// One line: what came, by the ids by which it is found again, and nothing of its payload.
pub(super) fn trace_receipt(ownership: &Ownership, tenant: &TenantId, received: &Received) {
    let event = match &received.content {
        Content::Event { event, .. } => Some(event),
        Content::Unreadable { .. } => None,
    };
    let correlation_id = event.and_then(|event| event.correlation_id.as_ref());
    tracing::trace!(
        tenant_id = %tenant,
        event_id = event.map(|event| event.id.as_str()),
        event_type = event.map(|event| event.event_type.as_str()),
        correlation_id = correlation_id.map(|id| id.as_str()),
        partition = %ownership.source_partition,
        offset = received.offset.0,
        bytes = received.bytes,
        "received"
    );
}

/// One line a poll, however many payloads hold something.
pub(super) fn say_secrets(ownership: &Ownership, groups: &BTreeMap<TenantId, Vec<Received>>) {
    let mut of_all = groups
        .iter()
        .flat_map(|(tenant, events)| events.iter().map(move |event| (tenant, event)))
        .filter_map(|(tenant, event)| Some((tenant, event.offset, event.secrets.as_ref()?)));
    let Some((tenant_id, offset, first)) = of_all.next() else {
        return;
    };
    tracing::warn!(
        %tenant_id,
        partition = %ownership.source_partition,
        offset = offset.0,
        first_at = %first.first,
        events = 1 + of_all.count(),
        "payloads hold what looks like a secret"
    );
}
