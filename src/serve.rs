//! The node's front: the HTTP server and the slots of its sources, from start to stop.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use actix_web::web;
use tidegate_actors::Source;
use tidegate_engine::access::Leases;
use tidegate_engine::bus::{Intake, Start};
use tidegate_engine::machine::MachineSet;
use tidegate_engine::position::StreamName;
use tidegate_engine::secrets::SecretPolicy;
use tidegate_engine::store::StateStore;
use tidegate_engine::tenant::TenantBinding;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::access::Credentials;
use crate::config::{Config, Http, Publish, SourceKind};
use crate::http::{self, Api, BodyLimits, Listener, Parts, Serving, Stream, tls};
use crate::watch::Telemetry;
use crate::wiring::{Requests, SlotTerms};

/// What the front needs of the node.
pub struct Behind {
    /// The store.
    pub store: Arc<dyn StateStore>,
    /// Who may do what.
    pub credentials: Credentials,
    /// Leases of slots.
    pub leases: Arc<dyn Leases>,
    /// The active machines.
    pub machines: MachineSet,
    /// Where I/O runs.
    pub io: Handle,
    /// The name of this process, which no other has.
    pub holder: String,
    /// See [`Api::alone`].
    pub alone: bool,
}

/// A front that is not open yet.
pub struct Front {
    listener: Listener,
    api: web::Data<Api>,
    requests: Vec<Arc<Requests>>,
    leases: Arc<dyn Leases>,
    terms: SlotTerms,
    io: Handle,
    /// Told the address once requests are taken.
    opened: Box<dyn FnOnce(SocketAddr)>,
}

impl Front {
    /// The front that a configuration asks for, and the sources behind it. Reads the certificate, and opens
    /// nothing yet.
    pub fn of(
        config: &Config,
        behind: Behind,
        opened: Box<dyn FnOnce(SocketAddr)>,
    ) -> Result<Option<(Self, Vec<Source>)>, String> {
        let section = &config.http;
        let Some(address) = section.listen.clone() else {
            return Ok(None);
        };
        let mut streams: BTreeMap<StreamName, Stream> = BTreeMap::new();
        let mut sources = Vec::new();
        let mut requests = Vec::new();
        for source in &config.sources {
            let (SourceKind::Http, Some(name), Some(stream)) =
                (source.kind, &source.name, &source.stream)
            else {
                continue;
            };
            let taken = Requests::new(
                name.clone(),
                section.pending_events_max,
                section.pending_bytes_max,
            );
            let publishes_intents = source.publish == Publish::Intent;
            let to = Stream {
                intake: taken.intake(),
                mapping: source.mapping.compiled(name),
                publishes_intents,
                secrets: source.secrets.policy(),
            };
            streams.insert(stream.clone(), to);
            sources.push(Source {
                bus: taken.bus(),
                stream: stream.clone(),
                // Nobody writes to this bus but the server, which names the tenant of the token.
                tenant: TenantBinding::TrustedField,
                // The server has made CloudEvents of them.
                mapping: None,
                // And has looked at them.
                secrets: SecretPolicy::Off,
                start: Start::Earliest,
            });
            requests.push(Arc::new(taken));
        }
        let api = Api::new(Parts {
            store: behind.store,
            credentials: behind.credentials,
            streams,
            machines: behind.machines,
            mappings: config.mappings(),
            node_name: config.node.name.clone(),
            telemetry: Telemetry::install()?,
            io: behind.io.clone(),
            limits: limits(section),
            alone: behind.alone,
        });
        let front = Self {
            listener: Listener {
                address: address.replace("localhost:", "127.0.0.1:"),
                certificate: certificate(section)?,
                stop_limit: Duration::from_secs(section.answer_seconds),
            },
            api: web::Data::new(api),
            requests,
            leases: behind.leases,
            terms: SlotTerms {
                slots: section.slots,
                lease: Duration::from_secs(section.lease_seconds),
                holder: behind.holder,
            },
            io: behind.io,
            opened,
        };
        Ok(Some((front, sources)))
    }

    /// Takes requests; call inside an actix system.
    pub fn open(self) -> Result<Open, String> {
        let serving = http::start(self.api.clone(), &self.listener)?;
        let scheme = match self.listener.certificate {
            Some(_) => "https",
            None => "http",
        };
        tracing::info!(address = %format!("{scheme}://{}", serving.address), "taking requests");
        (self.opened)(serving.address);
        let (stop, stopped) = watch::channel(false);
        let keepers = self.requests.iter().flat_map(|requests| {
            let (leases, terms) = (&self.leases, &self.terms);
            let slot = requests.clone();
            let slot = slot.keep_slot(leases.clone(), terms.clone(), stopped.clone());
            let (left, store) = (requests.clone(), self.api.store.clone());
            let left = left.keep_left(store, leases.clone(), terms.clone(), stopped.clone());
            [self.io.spawn(slot), self.io.spawn(left)]
        });
        Ok(Open {
            serving,
            keepers: keepers.collect(),
            stop,
            intakes: self
                .requests
                .iter()
                .map(|requests| requests.intake())
                .collect(),
        })
    }
}

fn certificate(section: &Http) -> Result<Option<Arc<tls::Certificate>>, String> {
    match (&section.tls_certificate, &section.tls_key) {
        (Some(certificate), Some(key)) => {
            let files = tls::Files {
                certificate: certificate.clone(),
                key: key.clone(),
            };
            tls::Certificate::read(files).map(Some)
        }
        _ => Ok(None),
    }
}

fn limits(section: &Http) -> http::Limits {
    let rate = section.tenant_events_per_second;
    http::Limits {
        body: BodyLimits {
            bytes_max: section.body_bytes_max,
            ratio_max: section.body_ratio_max,
            time_max: Duration::from_secs(section.body_seconds),
        },
        bodies_bytes_max: section.bodies_bytes_max,
        answer_max: Duration::from_secs(section.answer_seconds),
        connections_max: section.connections_max,
        tenant_events_per_second: rate
            .and_then(|rate| NonZeroU32::new(u32::try_from(rate).unwrap_or(u32::MAX))),
        streams: http::StreamLimits {
            open_max: section.streams_max,
            tenant_open_max: section.tenant_streams_max,
            poll: Duration::from_millis(section.stream_poll_ms),
            slow_max: Duration::from_secs(section.stream_slow_seconds),
        },
    }
}

/// A front that takes requests.
pub struct Open {
    serving: Serving,
    keepers: Vec<JoinHandle<()>>,
    stop: watch::Sender<bool>,
    intakes: Vec<Arc<dyn Intake>>,
}

impl Open {
    /// Takes no more events: before the node drains. Everything else is answered on.
    pub fn close(&self) {
        for intake in &self.intakes {
            intake.close();
        }
    }

    /// Ends: after the node has drained. Requests are answered, slots given back.
    pub async fn stop(self, limit: Duration) {
        self.serving.stop().await;
        let _ = self.stop.send(true);
        let given_back = async {
            for keeper in self.keepers {
                let _ = keeper.await;
            }
        };
        if tokio::time::timeout(limit, given_back).await.is_err() {
            tracing::warn!("slots not given back in time; they are free when their leases end");
        }
    }
}
