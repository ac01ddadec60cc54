//! Reads a whole store through its seam: to see that nothing was written, and to verify logs record by
//! record. Public, since recovery and simulation tests ask the same questions.

use tidegate_engine::chain::ChainHead;
use tidegate_engine::checkpoint::Checkpoint;
use tidegate_engine::commit::{Segment, StoredEntity};
use tidegate_engine::position::{Sequence, StreamPartition};
use tidegate_engine::record::{Record, split_segment};
use tidegate_engine::store::{
    ChainAnchor, DeadLetterFilter, StateStore, StoredDeadLetter, StoredDefinition, StoredOpenWork,
    StreamHead,
};
use tidegate_engine::tenant::TenantId;

/// Rows of one page: small, so that paging is always part of it.
const PAGE_ROWS: u32 = 100;

/// Everything that a store shows of one tenant.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct TenantDump {
    /// Heads of its logs.
    pub heads: Vec<StreamHead>,
    /// Where logs begin that retention has cut.
    pub anchors: Vec<ChainAnchor>,
    /// Its logs.
    pub segments: Vec<Segment>,
    /// Its entities.
    pub entities: Vec<StoredEntity>,
    /// Its dead letters.
    pub dead_letters: Vec<StoredDeadLetter>,
    /// Its open work, by source partition.
    pub open_work: Vec<StoredOpenWork>,
}

/// Everything that a store shows. Dedupe marks cannot be read; a batch that meets them can.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Dump {
    /// Every checkpoint.
    pub checkpoints: Vec<Checkpoint>,
    /// Every definition.
    pub definitions: Vec<StoredDefinition>,
    /// Every tenant with what it has.
    pub tenants: Vec<(TenantId, TenantDump)>,
}

/// Reads everything.
pub async fn dump(store: &dyn StateStore) -> Dump {
    let checkpoints = store.checkpoints().await.unwrap();
    let mut tenants = Vec::new();
    for tenant in store.tenants().await.unwrap() {
        let of_tenant = dump_tenant(store, &tenant, &checkpoints).await;
        tenants.push((tenant, of_tenant));
    }
    Dump {
        checkpoints,
        definitions: store.definitions().await.unwrap(),
        tenants,
    }
}

async fn dump_tenant(
    store: &dyn StateStore,
    tenant: &TenantId,
    checkpoints: &[Checkpoint],
) -> TenantDump {
    let mut of_tenant = TenantDump {
        heads: store.stream_partitions(tenant).await.unwrap(),
        entities: entities(store, tenant).await,
        dead_letters: dead_letters(store, tenant).await,
        ..TenantDump::default()
    };
    for head in &of_tenant.heads {
        let place = &head.stream_partition;
        of_tenant
            .anchors
            .extend(store.chain_anchor(place).await.unwrap());
        of_tenant.segments.extend(segments(store, place).await);
    }
    for checkpoint in checkpoints {
        let work = store
            .open_work(tenant, &checkpoint.source_partition, None, u32::MAX >> 1)
            .await
            .unwrap();
        of_tenant.open_work.extend(work);
    }
    of_tenant
}

/// A tenant's entities, page by page.
pub async fn entities(store: &dyn StateStore, tenant: &TenantId) -> Vec<StoredEntity> {
    let mut all: Vec<StoredEntity> = Vec::new();
    loop {
        let after = all
            .last()
            .map(|last| (last.name.machine.clone(), last.name.key.clone()));
        let page = store.entities(tenant, after, PAGE_ROWS).await.unwrap();
        let full = page.len() == PAGE_ROWS as usize;
        all.extend(page);
        if !full {
            return all;
        }
    }
}

/// A tenant's dead letters, page by page.
pub async fn dead_letters(store: &dyn StateStore, tenant: &TenantId) -> Vec<StoredDeadLetter> {
    let mut all: Vec<StoredDeadLetter> = Vec::new();
    loop {
        let filter = DeadLetterFilter {
            state: None,
            after: all.last().map(|last| last.letter.id),
        };
        let page = store.dead_letters(tenant, filter, PAGE_ROWS).await.unwrap();
        let full = page.len() == PAGE_ROWS as usize;
        all.extend(page);
        if !full {
            return all;
        }
    }
}

/// The log of a stream partition, page by page.
pub async fn segments(store: &dyn StateStore, place: &StreamPartition) -> Vec<Segment> {
    let mut all: Vec<Segment> = Vec::new();
    loop {
        let from = all.last().map_or(Sequence(0), end_of);
        let page = store.segments(place, from, PAGE_ROWS).await.unwrap();
        let full = page.len() == PAGE_ROWS as usize;
        all.extend(page);
        if !full {
            return all;
        }
    }
}

/// The sequence behind a segment.
pub fn end_of(segment: &Segment) -> Sequence {
    Sequence(segment.first_sequence.0 + u64::from(segment.count))
}

/// Reads a log and verifies it: it begins at its anchor or at 0, sequences are gapless, every leaf
/// fits its bytes, every segment's head is the fold, and it ends at the head that the store gives.
pub async fn verified_log(store: &dyn StateStore, head: &StreamHead) -> Vec<Record> {
    let place = &head.stream_partition;
    let anchor = store.chain_anchor(place).await.unwrap();
    let (mut next, mut chain) = anchor.map_or((Sequence(0), ChainHead::default()), |anchor| {
        (anchor.next_sequence, anchor.chain_head)
    });
    let mut records = Vec::new();
    for segment in segments(store, place).await {
        assert_eq!(segment.stream_partition, *place, "a segment of another log");
        assert_eq!(segment.first_sequence, next, "a gap in {place}");
        for text in split_segment(&segment.body).unwrap() {
            let (record, leaf) = Record::read(text.get()).unwrap();
            assert_eq!(record.sequence, next, "a record out of sequence in {place}");
            chain = chain.fold(leaf);
            next = next.next();
            records.push(record);
        }
        assert_eq!(end_of(&segment), next, "the count of a segment of {place}");
        assert_eq!(
            segment.chain_head, chain,
            "the head of a segment of {place}"
        );
    }
    assert_eq!(head.next_sequence, next, "the end of {place}");
    assert_eq!(head.chain_head, chain, "the chain's end of {place}");
    records
}

/// Every record of a tenant, each log verified.
pub async fn verified_records(store: &dyn StateStore, tenant: &TenantId) -> Vec<Record> {
    let mut records = Vec::new();
    for head in store.stream_partitions(tenant).await.unwrap() {
        records.extend(verified_log(store, &head).await);
    }
    records
}
