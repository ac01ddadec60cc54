//! What one event is and does, in the few words that a case needs.

use std::sync::Arc;

use bytes::Bytes;
use tidegate_engine::clock::Timestamp;
use tidegate_engine::commit::{EntityRow, OpenWork, OpenWorkKind};
use tidegate_engine::event::{
    CausationId, CausedBy, CorrelationId, Event, EventData, EventId, EventSource, EventType,
    IdempotencyKey, Subject, write_json_string,
};
use tidegate_engine::hash::{Hash128, hash_fields};
use tidegate_engine::position::{RecordPosition, StreamName, Version};
use tidegate_engine::record::Outcome;
use tidegate_engine::state::{EntityKey, MachineName, Status};
use tidegate_engine::tenant::TenantId;

use super::tenant;

/// What one event does to one machine's entity.
#[derive(Clone, Debug)]
pub struct EntryEffect {
    /// The machine.
    pub machine: MachineName,
    /// The entity.
    pub key: EntityKey,
    /// What happens; only `Applied` moves the entity.
    pub outcome: Outcome,
    /// The entity's row, when it exists.
    pub row: Option<EntityRow>,
    /// The version that it has before.
    pub expected: Version,
    /// The store is to compare it also when it does not move.
    pub read: bool,
    /// The status that it gets.
    pub status: Status,
    /// The canonical data that it gets.
    pub data: Arc<str>,
}

/// One event that is admitted, and what it does.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its tenant.
    pub tenant: TenantId,
    /// Its stream.
    pub stream: StreamName,
    /// Its explicit idempotency key, which is its id and subject too.
    pub key: String,
    /// Its correlation.
    pub correlation: String,
    /// Its payload: JSON text.
    pub data: String,
    /// Its effects, in order of machine.
    pub effects: Vec<EntryEffect>,
    /// How many events its machines emit.
    pub emits: u32,
}

impl Entry {
    /// An event of stream `orders` that no machine listens to.
    pub fn new(tenant_name: &str, key: &str) -> Self {
        Self {
            tenant: tenant(tenant_name),
            stream: StreamName::new("orders").unwrap(),
            key: key.to_owned(),
            correlation: key.to_owned(),
            data: "{\"amount_cents\":100}".to_owned(),
            effects: Vec::new(),
            emits: 0,
        }
    }

    /// With that payload.
    #[must_use]
    pub fn data(mut self, json: &str) -> Self {
        self.data = json.to_owned();
        self
    }

    /// Of that correlation.
    #[must_use]
    pub fn correlation(mut self, text: &str) -> Self {
        self.correlation = text.to_owned();
        self
    }

    /// In that stream.
    #[must_use]
    pub fn stream(mut self, name: &str) -> Self {
        self.stream = StreamName::new(name).unwrap();
        self
    }

    /// Moves an entity of machine `order` that does not exist yet.
    #[must_use]
    pub fn creates(self, entity_key: &str) -> Self {
        self.moves(entity_key, None, Version(0))
    }

    /// Moves an entity of machine `order` on from a version.
    #[must_use]
    pub fn moves(self, entity_key: &str, row: Option<EntityRow>, expected: Version) -> Self {
        let data = format!("{{\"key\":\"{}\",\"moves\":{}}}", self.key, expected.0 + 1);
        self.effect(EntryEffect {
            machine: MachineName::new("order").unwrap(),
            key: EntityKey::new(entity_key).unwrap(),
            outcome: Outcome::Applied,
            row,
            expected,
            read: true,
            status: Status::new("placed").unwrap(),
            data: Arc::from(data),
        })
    }

    /// Is offered to machine `order` with another outcome than moving the entity.
    #[must_use]
    pub fn ends(self, entity_key: &str, outcome: Outcome) -> Self {
        self.effect(EntryEffect {
            machine: MachineName::new("order").unwrap(),
            key: EntityKey::new(entity_key).unwrap(),
            outcome,
            row: None,
            expected: Version(0),
            read: false,
            status: Status::new("placed").unwrap(),
            data: Arc::from("{}"),
        })
    }

    /// Is refused by machine `order`, which saw the entity at that version.
    #[must_use]
    pub fn refused(self, entity_key: &str, row: Option<EntityRow>, expected: Version) -> Self {
        self.effect(EntryEffect {
            machine: MachineName::new("order").unwrap(),
            key: EntityKey::new(entity_key).unwrap(),
            outcome: Outcome::Rejected,
            row,
            expected,
            read: true,
            status: Status::new("placed").unwrap(),
            data: Arc::from("{}"),
        })
    }

    /// Has that effect.
    #[must_use]
    pub fn effect(mut self, effect: EntryEffect) -> Self {
        self.effects.push(effect);
        self
    }

    /// Emits so many events.
    #[must_use]
    pub fn emits(mut self, events: u32) -> Self {
        self.emits = events;
        self
    }

    /// The event itself.
    pub fn event(&self) -> Event {
        Event {
            tenant: self.tenant.clone(),
            id: EventId::new(&self.key).unwrap(),
            source: EventSource::new("/contract").unwrap(),
            event_type: EventType::new("order.placed").unwrap(),
            subject: Some(Subject::new(&self.key).unwrap()),
            time: None,
            data_content_type: None,
            data_schema: None,
            correlation_id: Some(CorrelationId::new(&self.correlation).unwrap()),
            causation_id: Some(CausationId::new(&self.key).unwrap()),
            idempotency_key: Some(IdempotencyKey::new(&self.key).unwrap()),
            caused_by: Some(CausedBy::new("contract").unwrap()),
            extensions: Vec::new(),
            data: EventData::Json(Bytes::copy_from_slice(self.data.as_bytes())),
        }
    }

    /// The key under which it is admitted once.
    pub fn key_hash(&self) -> Hash128 {
        self.event().idempotency_hash()
    }

    /// What must be equal under its key.
    pub fn conflict_hash(&self) -> Hash128 {
        self.event().conflict_hash()
    }

    /// One of the events that it emits, as open work.
    pub(super) fn open_work(&self, index: u32, cause: RecordPosition, due: Timestamp) -> OpenWork {
        let id = hash_fields(
            "tidegate.contract.emitted",
            &[
                self.tenant.as_str().as_bytes(),
                self.key.as_bytes(),
                &index.to_le_bytes(),
            ],
        );
        let mut event = format!("{{\"id\":\"{id}\",\"cause\":");
        write_json_string(&mut event, &self.key);
        event.push('}');
        OpenWork {
            tenant: self.tenant.clone(),
            number: index,
            id,
            kind: OpenWorkKind::LoopBack,
            due,
            cause,
            event_type: EventType::new("order.ready").unwrap(),
            event: Bytes::from(event),
        }
    }
}
