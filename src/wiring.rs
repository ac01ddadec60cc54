//! Opens sources. The only module of the node that names concrete buses, and it hands out none:
//! everything else knows the `EventBus` seam. The concrete stores are named in [`crate::stores`].

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tidegate_connectors::bus::file::{FileBus, FileInput};
use tidegate_connectors::bus::http::{HttpBus, HttpIntake, IntakeLimits};
use tidegate_engine::access::Leases;
use tidegate_engine::bus::{BusError, EventBus, Intake};
use tidegate_engine::position::{SourceName, SourcePartition};
use tidegate_engine::store::StoreError;
use tokio::sync::watch;
use tokio::time::Instant;

/// Files that are read as one source.
#[derive(Clone)]
pub struct Files(Arc<FileBus>);

/// How far files are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FilesProgress {
    /// Bytes below the acknowledged low watermarks.
    pub acknowledged_bytes: u64,
    /// Bytes in all; `None` while one of them is a stream that has not ended.
    pub total_bytes: Option<u64>,
}

impl Files {
    /// Opens them in this order, which numbers their source partitions. `-` is standard input.
    pub async fn open(name: SourceName, paths: &[PathBuf]) -> Result<Self, BusError> {
        let inputs = paths.iter().map(|path| input(path)).collect();
        Ok(Self(Arc::new(FileBus::open(name, inputs).await?)))
    }

    /// Their bus behind its seam.
    pub fn bus(&self) -> Arc<dyn EventBus> {
        self.0.clone()
    }

    /// How far all of them are.
    pub fn progress(&self) -> FilesProgress {
        let files = self.0.progress();
        FilesProgress {
            acknowledged_bytes: files.iter().map(|file| file.acknowledged_bytes).sum(),
            total_bytes: files.iter().map(|file| file.total_bytes).sum(),
        }
    }
}

fn input(path: &Path) -> FileInput {
    if path.as_os_str() == "-" {
        FileInput::StandardInput
    } else {
        FileInput::Path(path.to_owned())
    }
}

/// A source that requests hand events to.
pub struct Requests {
    source: SourceName,
    bus: Arc<HttpBus>,
    intake: HttpIntake,
}

/// How a source of requests gets the slot that its events are numbered in.
#[derive(Clone, Debug)]
pub struct SlotTerms {
    /// Slots of the source, over all processes.
    pub slots: u32,
    /// How long a slot stays with a process that says nothing any more.
    pub lease: Duration,
    /// The name of this process, which no other has.
    pub holder: String,
}

impl Requests {
    /// A source without a slot yet: [`Requests::keep_slot`] gets one.
    pub fn new(source: SourceName, pending_events_max: usize, pending_bytes_max: usize) -> Self {
        let limits = IntakeLimits {
            events_max: pending_events_max,
            bytes_max: pending_bytes_max,
        };
        let bus = Arc::new(HttpBus::new(source.clone(), limits));
        let intake = bus.intake();
        Self {
            source,
            bus,
            intake,
        }
    }

    /// Its bus behind its seam.
    pub fn bus(&self) -> Arc<dyn EventBus> {
        self.bus.clone()
    }

    /// Its way in.
    pub fn intake(&self) -> Arc<dyn Intake> {
        Arc::new(self.intake.clone())
    }

    /// Leases a slot and keeps it, until `stopped` says so; then it is given back. Without one, another is
    /// looked for. The lease says who tries, so that processes do not fence each other; epoch and revision
    /// stay the truth.
    pub async fn keep_slot(
        self: Arc<Self>,
        leases: Arc<dyn Leases>,
        terms: SlotTerms,
        mut stopped: watch::Receiver<bool>,
    ) {
        let mut slot = None;
        let pause = terms.lease / 4;
        while !*stopped.borrow_and_update() {
            slot = match slot {
                None => self.look_for_a_slot(&leases, &terms).await,
                Some(held) => self.hold(&leases, &terms, held).await,
            };
            let wait = match slot {
                None => pause.min(Duration::from_millis(500)),
                Some(_) => pause,
            };
            tokio::select! {
                biased;
                changed = stopped.changed() => if changed.is_err() { break },
                () = tokio::time::sleep(wait) => {}
            }
        }
        if let Some(Slot { partition, .. }) = slot {
            self.intake.lose(partition);
            let place = self.place(partition);
            if let Err(error) = leases.release(&place, &terms.holder).await {
                tracing::warn!(slot = %place, %error, "slot not given back; it is free when its lease ends");
            }
        }
    }

    async fn look_for_a_slot(&self, leases: &Arc<dyn Leases>, terms: &SlotTerms) -> Option<Slot> {
        for partition in 0..terms.slots {
            let asked = Instant::now();
            let place = self.place(partition);
            match leases.acquire(&place, &terms.holder, terms.lease).await {
                Ok(false) => {}
                Ok(true) => {
                    tracing::info!(slot = %place, "slot leased");
                    self.intake.assign(partition);
                    return Some(Slot { partition, asked });
                }
                Err(error) => {
                    tracing::warn!(%error, "no slot was had, trying again");
                    return None;
                }
            }
        }
        tracing::warn!(source = %self.source, slots = terms.slots, "every slot is somebody's: no event is taken yet");
        None
    }

    /// The slot, as long as its lease is ours for sure.
    async fn hold(&self, leases: &Arc<dyn Leases>, terms: &SlotTerms, held: Slot) -> Option<Slot> {
        let asked = Instant::now();
        let place = self.place(held.partition);
        // The lease runs from before we asked; a quarter of it is left for what is under way.
        let until = held.asked + terms.lease * 3 / 4;
        let (store, holder, lease) = (leases.clone(), terms.holder.clone(), terms.lease);
        let at = place.clone();
        // A task of its own: when nobody waits any more, it ends its question all the same.
        let asking = tokio::spawn(async move { store.renew(&at, &holder, lease).await });
        let renewed = match tokio::time::timeout_at(until, asking).await {
            Ok(Ok(renewed)) => renewed,
            Ok(Err(_)) | Err(_) => Err(StoreError::Unavailable {
                detail: "the lease's renewal had no answer in time".to_owned(),
            }),
        };
        match renewed {
            Ok(true) => Some(Slot { asked, ..held }),
            Err(error) if Instant::now() < until => {
                tracing::warn!(slot = %place, %error, "lease not renewed, trying again");
                Some(held)
            }
            Ok(false) | Err(_) => {
                tracing::warn!(slot = %place, "slot lost: looking for another");
                self.intake.lose(held.partition);
                None
            }
        }
    }

    fn place(&self, partition: u32) -> SourcePartition {
        SourcePartition {
            source: self.source.clone(),
            partition,
        }
    }
}

/// A leased slot, and when its lease was asked for last.
struct Slot {
    partition: u32,
    asked: Instant,
}
