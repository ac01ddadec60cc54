//! The batch that a person's decision becomes: reads from the store what the decision needs, and hands it
//! to the rules. Writes nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidegate_engine::admission::{self, Binding, Content, Received};
use tidegate_engine::bus::Delivery;
use tidegate_engine::commit::{EntityName, StoredEntity, Surprises};
use tidegate_engine::dead_letter::DeadLetterSource;
use tidegate_engine::follow_up::{self, Desk, FollowUp, Pointed};
use tidegate_engine::hash::Hash128;
use tidegate_engine::headers::Headers;
use tidegate_engine::limits::DELIVERY_BYTES_MAX;
use tidegate_engine::machine::{DeadReason, Fault, MachineSet};
use tidegate_engine::mapping::Mapping;
use tidegate_engine::partition::{
    Allowance, Head, Heads, Part, Partition, PartitionLimits, Prepared,
};
use tidegate_engine::position::{
    Offset, RecordPosition, SourceInstance, SourceName, SourcePartition, StreamName,
    StreamPartition,
};
use tidegate_engine::record::{Effect, RecordBody};
use tidegate_engine::secrets::SecretPolicy;
use tidegate_engine::state::{EntityKey, MachineName};
use tidegate_engine::store::{StateStore, StoreError, StreamHead};
use tidegate_engine::tenant::{TenantBinding, TenantId, TenantsAsked};
use tidegate_engine::transition;
use tidegate_engine::verify::stored_record;

use super::Decision;

/// A decision about one letter on its way to a batch.
pub struct Draft<'d> {
    /// Where what it needs is read.
    pub store: &'d dyn StateStore,
    /// The active machines.
    pub machines: &'d MachineSet,
    /// How records of the configured sources become events.
    pub mappings: &'d BTreeMap<SourceName, Arc<Mapping>>,
    /// Who decides, when, and under which claim.
    pub desk: &'d Desk<'d>,
    /// The letter.
    pub letter: Hash128,
    /// What stood in the way of the last attempt.
    pub surprises: &'d Surprises,
}

impl Draft<'_> {
    /// The batch that `decision` about a letter from `source` comes to.
    pub async fn make(
        &self,
        source: &DeadLetterSource,
        reason: DeadReason,
        decision: &Decision,
    ) -> Result<FollowUp, Unmade> {
        match (source, decision) {
            (
                DeadLetterSource::Record {
                    position, machine, ..
                },
                decision,
            ) => self.of_record(position, machine, decision).await,
            (DeadLetterSource::Raw { .. }, Decision::Discard) => {
                Ok(follow_up::discard_raw(self.desk, self.letter))
            }
            (DeadLetterSource::Raw { .. }, Decision::Retry { .. })
                if reason == DeadReason::Conflict =>
            {
                let why = "it holds other content under a key that was admitted before, and would be \
                           refused again; discard it, or have its producer send it under a new key";
                Err(Unmade::Impossible(why.to_owned()))
            }
            (
                DeadLetterSource::Raw {
                    source_partition,
                    offset,
                    payload,
                },
                Decision::Retry { stream },
            ) => {
                let raw = Raw {
                    source_partition,
                    offset: *offset,
                    payload,
                    stream: stream.as_ref(),
                    // An emitted event, or one whose record the store refused: kept as a stored event is.
                    is_stored_form: offset.is_none() || reason == DeadReason::Store,
                };
                self.of_raw(&raw).await
            }
        }
    }

    async fn of_record(
        &self,
        position: &RecordPosition,
        machine: &MachineName,
        decision: &Decision,
    ) -> Result<FollowUp, Unmade> {
        let gone = || {
            let why =
                format!("the event at {position} is not in the log any more; discard the letter");
            Unmade::Impossible(why)
        };
        let record = stored_record(self.store, self.desk.tenant, position).await?;
        let record = match (record, decision) {
            (Some(record), _) => record,
            // Retention dropped the event: nothing is left to point to, and the letter must not stay
            // open for ever.
            (None, Decision::Discard) => {
                return Ok(follow_up::discard_raw(self.desk, self.letter));
            }
            (None, Decision::Retry { .. }) => return Err(gone()),
        };
        let RecordBody::Event(event) = &record.body else {
            return Err(gone());
        };
        let pointed = Pointed {
            position,
            event,
            admitted_at: record.admitted_at,
        };
        let head = self
            .head(&self.desk.stream_partition(&position.stream))
            .await?;
        let Decision::Retry { .. } = decision else {
            let dead = dead_effect(&record.effects, machine).ok_or_else(gone)?;
            return Ok(follow_up::discard(
                self.desk,
                self.letter,
                &pointed,
                dead,
                head,
            ));
        };
        let Some(machine) = self.machines.get(machine) else {
            let why =
                format!("machine `{machine}` is not active; activate it, or discard the letter");
            return Err(Unmade::Impossible(why));
        };
        let key = transition::key_of(machine.as_ref(), &pointed.context());
        let entity = match &key {
            Ok(key) => {
                self.entity(self.desk.tenant, &machine.definition().machine, key)
                    .await?
            }
            Err(_) => None,
        };
        let machine = machine.as_ref();
        let entity = entity.as_ref();
        Ok(follow_up::retry(
            self.desk,
            self.letter,
            &pointed,
            machine,
            key,
            entity,
            head,
        ))
    }

    /// Reads the bytes again; what is an event now is admitted like any other.
    async fn of_raw(&self, raw: &Raw<'_>) -> Result<FollowUp, Unmade> {
        // Where the tenant was not known, the source is one whose events are believed.
        let tenant = if self.desk.tenant.is_unassigned() {
            TenantBinding::TrustedField
        } else {
            TenantBinding::Fixed(self.desk.tenant.clone())
        };
        // Where it stood, for a mapping that takes that for its id.
        let offset = raw.offset.unwrap_or_else(|| self.desk.offset());
        let delivery = Delivery {
            offset,
            next: offset.next(),
            payload: raw.payload.clone(),
            headers: Headers::NONE,
            recorded_at: None,
        };
        let mapping = match raw.is_stored_form {
            true => None,
            false => self.mappings.get(&raw.source_partition.source).cloned(),
        };
        if mapping
            .as_ref()
            .is_some_and(|mapping| mapping.uses_headers())
        {
            // Without them it might become another event than the one that was sent.
            let why = format!(
                "the mapping of `{}` looks at headers, and only the payload was kept; discard it, and \
                 have its producer send it again",
                raw.source_partition.source
            );
            return Err(Unmade::Impossible(why));
        }
        // The stream is only known when the event is.
        let any = StreamName::new(follow_up::OPERATOR)
            .map_err(|error| Unmade::Impossible(error.to_string()))?;
        let instance = match &mapping {
            Some(mapping) if mapping.uses_position() => self.instance(raw).await?,
            _ => None,
        };
        let (tenant, mut received) = admission::read_at(
            instance.as_ref(),
            &delivery,
            &Binding {
                stream: any,
                tenant,
                mapping,
                // The bytes were kept as the source's policy lets them be.
                secrets: SecretPolicy::Off,
            },
        );
        received.offset = self.desk.offset();
        if let Content::Unreadable { fault, .. } = &received.content {
            let fault = Fault {
                reason: DeadReason::Unreadable,
                detail: format!("{}: {}", fault.field, fault.reason),
            };
            return Ok(follow_up::in_vain(self.desk, self.letter, fault));
        }
        if self.desk.tenant.is_unassigned() {
            self.check_registered(&tenant).await?;
        }
        let stream_partition = StreamPartition {
            stream: self.stream_of(raw, &tenant).await?,
            tenant,
            source_partition: follow_up::operator(),
        };
        let part = self.part(stream_partition, received).await?;
        Ok(follow_up::admit(self.desk, self.letter, part))
    }

    /// Which instance of its source a letter came from: a source partition in which anything was ever
    /// committed stays of one.
    async fn instance(&self, raw: &Raw<'_>) -> Result<Option<SourceInstance>, Unmade> {
        let checkpoint = self.store.checkpoint(raw.source_partition).await?;
        let found = raw.offset.and(checkpoint);
        Ok(found.map(|checkpoint| SourceInstance {
            source_partition: raw.source_partition.clone(),
            incarnation: checkpoint.incarnation,
        }))
    }

    /// A retry creates no tenant, whatever its source may: who decides about a letter can.
    async fn check_registered(&self, tenant: &TenantId) -> Result<(), Unmade> {
        let asked = TenantsAsked {
            names: vec![tenant.clone()],
            create: None,
        };
        let standings = self.store.tenant_standings(asked).await?;
        let refused = standings.first().and_then(|it| it.refusal(tenant));
        match refused {
            Some(refusal) => Err(Unmade::Impossible(refusal.reason)),
            None => Ok(()),
        }
    }

    /// Takes the event through admission and its machines, in a partition of its own.
    async fn part(
        &self,
        stream_partition: StreamPartition,
        received: Received,
    ) -> Result<Part, Unmade> {
        let tenant = stream_partition.tenant.clone();
        let limits = PartitionLimits::default();
        let heads = self.heads(&stream_partition).await?;
        let heads = Heads::among(&heads, &stream_partition);
        let mut partition: Partition<()> =
            Partition::new(stream_partition, self.machines.clone(), heads, limits);
        partition.reset(self.surprises);
        partition.offer(received, (), self.desk.at);
        let wanted = partition.wanted(usize::MAX);
        if !wanted.is_empty() {
            let found = self.store.load_entities(&tenant, wanted.clone()).await?;
            partition.loaded(&wanted, found);
        }
        let allowance = Allowance {
            events_max: 1,
            bytes_max: DELIVERY_BYTES_MAX,
            written_bytes_max: usize::MAX,
            before: None,
        };
        match partition.prepare(allowance) {
            Prepared::Part(part) => Ok(*part),
            Prepared::Waiting | Prepared::Empty => Err(Unmade::Impossible(
                "the entities that it concerns were not loaded".to_owned(),
            )),
        }
    }

    async fn stream_of(&self, raw: &Raw<'_>, tenant: &TenantId) -> Result<StreamName, Unmade> {
        if let Some(stream) = raw.stream {
            if stream.is_internal() {
                let why = "stream `internal` is that of emitted events; name another one";
                return Err(Unmade::Impossible(why.to_owned()));
            }
            return Ok(stream.clone());
        }
        let mut heads = self
            .store
            .stream_heads(tenant, raw.source_partition)
            .await?;
        heads.retain(|head| !head.stream_partition.stream.is_internal());
        match heads.as_slice() {
            [only] => Ok(only.stream_partition.stream.clone()),
            _ => Err(Unmade::Impossible(format!(
                "it can be read now, and nothing says which stream `{}` is; name it with --stream",
                raw.source_partition.source
            ))),
        }
    }

    async fn head(&self, stream_partition: &StreamPartition) -> Result<Head, StoreError> {
        let heads = self.heads(stream_partition).await?;
        Ok(Heads::among(&heads, stream_partition).source)
    }

    async fn heads(
        &self,
        stream_partition: &StreamPartition,
    ) -> Result<Vec<StreamHead>, StoreError> {
        let StreamPartition {
            tenant,
            source_partition,
            ..
        } = stream_partition;
        self.store.stream_heads(tenant, source_partition).await
    }

    async fn entity(
        &self,
        tenant: &TenantId,
        machine: &MachineName,
        key: &EntityKey,
    ) -> Result<Option<StoredEntity>, StoreError> {
        let name = EntityName {
            tenant: tenant.clone(),
            machine: machine.clone(),
            key: key.clone(),
        };
        let found = self.store.load_entities(tenant, vec![name]).await?;
        Ok(found.into_iter().next())
    }
}

/// A delivery that is offered again.
struct Raw<'r> {
    source_partition: &'r SourcePartition,
    offset: Option<Offset>,
    payload: &'r bytes::Bytes,
    stream: Option<&'r StreamName>,
    /// It is an event as logs have it, whatever its source's records look like.
    is_stored_form: bool,
}

/// Why no batch was made.
pub enum Unmade {
    /// It cannot be done to this letter; says why and what can.
    Impossible(String),
    /// The store failed.
    Store(StoreError),
}

impl From<StoreError> for Unmade {
    fn from(error: StoreError) -> Self {
        Unmade::Store(error)
    }
}

fn dead_effect<'e>(effects: &'e [Effect], machine: &MachineName) -> Option<&'e Effect> {
    effects.iter().find(|effect| effect.machine == *machine)
}
