//! Whether the tenants that events name take events. Asked of the store before anything is routed, for
//! sources that believe what events say; while the store is away the source waits, and refuses nobody.

use std::collections::BTreeMap;
use std::time::Duration;

use tidegate_engine::admission::{self, Received};
use tidegate_engine::bus::Delivery;
use tidegate_engine::error::ErrorKind;
use tidegate_engine::store::StoreError;
use tidegate_engine::tenant::{
    CreateTenants, TenantBinding, TenantId, TenantStanding, TenantsAsked, UnknownTenants,
};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::claim::Claimed;
use super::{Command, SourceTask, until};
use crate::ownership::{Ownership, Standing};
use crate::store_calls::StoreCalls;

/// How long the store is believed that a tenant is open: a question a poll would cost every batch a round
/// trip. As long as a server believes what it knows of a token, so that closing a tenant takes the same time
/// everywhere.
const BELIEVED_FOR: Duration = Duration::from_secs(5);

/// Tenants that are believed at once; what is more is asked for again.
const BELIEVED_MAX: usize = 10_000;

/// Tenants that the store knew as open, and until when that is believed. That one is unknown, closed or too
/// many is never believed: whoever creates it is not made to wait.
#[derive(Debug, Default)]
pub(crate) struct Believed {
    until: BTreeMap<TenantId, Instant>,
}

impl Believed {
    fn knows(&self, tenant: &TenantId, now: Instant) -> bool {
        self.until.get(tenant).is_some_and(|until| now < *until)
    }

    fn learn(&mut self, tenant: TenantId, now: Instant) {
        if self.until.len() >= BELIEVED_MAX {
            self.until.retain(|_, until| now < *until);
        }
        if self.until.len() < BELIEVED_MAX {
            self.until.insert(tenant, now + BELIEVED_FOR);
        }
    }
}

type Groups = BTreeMap<TenantId, Vec<Received>>;

impl SourceTask {
    /// The same events, those that no tenant takes kept as unreadable under the reserved one. `None` when
    /// the partition is not ours any more or the node stops: then nothing was decided.
    pub(super) async fn registered(
        &mut self,
        ownership: &Ownership,
        mut groups: Groups,
        deliveries: &[Delivery],
        claims: &mpsc::Sender<Claimed>,
    ) -> Option<Groups> {
        let TenantBinding::RegisteredField(unknown) = self.source.tenant else {
            return Some(groups);
        };
        let now = Instant::now();
        let is_asked = |name: &&TenantId| !name.is_unassigned() && !self.believed.knows(name, now);
        let names: Vec<TenantId> = groups.keys().filter(is_asked).cloned().collect();
        if names.is_empty() {
            return Some(groups);
        }
        let asked = TenantsAsked {
            create: self.create(unknown),
            names: names.clone(),
        };
        let standings = self.standings(ownership, asked, claims).await?;
        let (now, mut created) = (Instant::now(), 0);
        let mut refused = Vec::new();
        for (name, standing) in names.into_iter().zip(standings) {
            if standing == TenantStanding::Created {
                created += 1;
                let source = self.source.bus.source();
                tracing::info!(tenant_id = %name, %source, "tenant created by its first event");
            }
            match standing.refusal(&name) {
                None => self.believed.learn(name, now),
                Some(fault) => {
                    let events = groups.remove(&name).unwrap_or_default();
                    refused.push((name, standing, fault, events));
                }
            }
        }
        self.meters.tenants_created(created);
        if let Some((tenant_id, standing, ..)) = refused.first() {
            tracing::warn!(
                %tenant_id,
                standing = standing.as_str(),
                tenants = refused.len(),
                partition = %ownership.source_partition,
                "events name tenants that take none; they are kept as dead letters"
            );
        }
        let binding = self.source.binding(ownership.source_partition.partition);
        let mut kept = Vec::new();
        for (_, _, fault, events) in refused {
            for event in events {
                // Events and deliveries are of one poll, in order of offset.
                let place = deliveries.binary_search_by_key(&event.offset, |it| it.offset);
                let Some(delivery) = place.ok().and_then(|place| deliveries.get(place)) else {
                    ownership.end(Standing::Broken {
                        reason: format!("the event at {} has no delivery", event.offset.0),
                    });
                    return None;
                };
                kept.push(admission::refuse(event, delivery, &binding, fault.clone()));
            }
        }
        if !kept.is_empty() {
            let unassigned = groups.entry(TenantId::unassigned()).or_default();
            unassigned.extend(kept);
            unassigned.sort_by_key(|event| event.offset);
        }
        Some(groups)
    }

    fn create(&self, unknown: UnknownTenants) -> Option<CreateTenants> {
        match unknown {
            UnknownTenants::DeadLetter => None,
            UnknownTenants::Create { created_max } => Some(CreateTenants {
                source: self.source.bus.source().clone(),
                created_max,
                at: self.context.seams.clock.now(),
            }),
        }
    }

    /// Asks until there is an answer, and looks after the rest of the source meanwhile.
    async fn standings(
        &mut self,
        ownership: &Ownership,
        asked: TenantsAsked,
        claims: &mpsc::Sender<Claimed>,
    ) -> Option<Vec<TenantStanding>> {
        let mut answer = std::pin::pin!(self.ask(asked));
        let mut commands = self.commands.clone();
        let answered = loop {
            tokio::select! {
                biased;
                _ = commands.wait_for(|command| *command == Command::Stop) => return None,
                answered = &mut answer => break answered,
                () = until(self.due()) => {}
            }
            self.look_after(claims).await;
            if !ownership.is_owned() {
                return None;
            }
        };
        match answered {
            Ok(standings) => ownership.is_owned().then_some(standings),
            Err(error) => {
                ownership.end(Standing::Broken {
                    reason: format!("its tenants cannot be looked up: {error}"),
                });
                None
            }
        }
    }

    fn ask(
        &self,
        asked: TenantsAsked,
    ) -> impl Future<Output = Result<Vec<TenantStanding>, StoreError>> + use<> {
        let context = self.context.clone();
        let source = self.source.bus.source().clone();
        async move {
            let calls = StoreCalls::of(&context);
            let mut attempt = 0;
            loop {
                match calls.tenant_standings(asked.clone()).await {
                    Err(error) if error.kind() == ErrorKind::Transient => {
                        attempt += 1;
                        tracing::warn!(%source, %error, "nobody can say whose tenants exist; asked again");
                        let jitter = context.seams.ids.next_u64();
                        tokio::time::sleep(context.options.back_off.wait(attempt, jitter)).await;
                    }
                    answered => return answered,
                }
            }
        }
    }
}
