//! What one round is made of: its files, its tenants, and what has to be in the store afterwards. Owns
//! the expectation and how it is held against a store; the events are the generator's or the cases'.

use std::io;
use std::path::{Path, PathBuf};

use tidegate_engine::checkpoint::Counts;
use tidegate_engine::position::SourceName;
use tidegate_engine::store::{DeadLetterFilter, StateStore, StoreError};
use tidegate_engine::tenant::TenantId;

use crate::demo::compare::Figure;
use crate::demo::generate::{self, FileBooks, TENANTS, Tenant};

/// Rows read from the store at once.
const PAGE: u32 = 10_000;

/// The seed of the generated orders: every round, on every machine, has the same load.
const SEED: u64 = 1;

/// A round's events, and what must come of them.
pub struct Load {
    /// The files.
    pub paths: Vec<PathBuf>,
    /// Their bytes.
    pub bytes: u64,
    /// What is in the store for this round alone: each round has tenants of its own.
    pub tenants: Vec<TenantBooks>,
    /// What its checkpoints have counted.
    pub counts: Counts,
}

/// What must be stored for one tenant.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TenantBooks {
    /// Its name.
    pub name: String,
    /// Events in its logs.
    pub records: u64,
    /// Its entities.
    pub entities: u64,
    /// The sum of their versions: how often an entity was moved.
    pub versions: u64,
    /// Its open dead letters.
    pub dead_letters: u64,
    /// What was paid for all its orders, where they are the generator's.
    pub paid_cents: Option<u64>,
}

/// The names of a round's files.
pub fn paths(directory: &Path, count: usize) -> Vec<PathBuf> {
    (0..count)
        .map(|number| directory.join(format!("events-{number}.ndjson")))
        .collect()
}

/// The tenants of a round, with the shares of the demo's over and over.
pub fn tenants(run: &str, round: u32, count: u32) -> Vec<Tenant> {
    let shares = TENANTS.iter().map(|(_, share)| *share).cycle();
    (0..count)
        .zip(shares)
        .map(|(number, share)| Tenant {
            name: format!("{}{run}-{round}-{number}", super::TENANT_PREFIX),
            share,
        })
        .collect()
}

impl Load {
    /// The demo's orders, in so many files.
    pub fn orders(
        directory: &Path,
        events: u64,
        tenants: &[Tenant],
        files: usize,
    ) -> io::Result<Self> {
        let paths = paths(directory, files);
        let books = generate::files(&paths, events, SEED, tenants)?;
        let mut counts = Counts::default();
        for file in &books {
            counts.unreadable += file.unreadable;
            for tenant in &file.tenants {
                counts.admitted += tenant.admitted;
                counts.duplicates += tenant.duplicates;
                counts.conflicts += tenant.conflicts;
                counts.applied += tenant.applied;
                counts.rejected += tenant.rejected;
                counts.dead += tenant.dead;
                // Nothing listens to what the machine emits.
                counts.emitted += tenant.emitted;
                counts.looped_back += tenant.emitted;
                counts.unhandled += tenant.emitted;
            }
        }
        let of_tenant = |(index, tenant): (usize, &Tenant)| order_books(tenant, index, &books);
        Ok(Self {
            bytes: bytes(&paths)?,
            paths,
            tenants: tenants.iter().enumerate().map(of_tenant).collect(),
            counts,
        })
    }

    /// Lines in the files.
    pub fn events(&self) -> u64 {
        self.counts.received()
    }

    /// What the store says of this round, beside what must be there.
    pub async fn figures(
        &self,
        store: &dyn StateStore,
        source: &SourceName,
    ) -> Result<Vec<Figure>, StoreError> {
        let mut counted = Counts::default();
        for checkpoint in store.checkpoints().await? {
            if checkpoint.source_partition.source == *source {
                counted.add(&checkpoint.progress.counts);
            }
        }
        let mut figures = counts(&self.counts, &counted);
        for tenant in &self.tenants {
            figures.extend(tenant.figures(store).await?);
        }
        Ok(figures)
    }
}

/// The sum of the files' sizes.
pub fn bytes(paths: &[PathBuf]) -> io::Result<u64> {
    paths
        .iter()
        .map(|path| std::fs::metadata(path).map(|file| file.len()))
        .sum()
}

fn order_books(tenant: &Tenant, index: usize, books: &[FileBooks]) -> TenantBooks {
    let mut sum = TenantBooks {
        name: tenant.name.clone(),
        ..TenantBooks::default()
    };
    let mut paid_cents = 0;
    for of_file in books.iter().filter_map(|file| file.tenants.get(index)) {
        sum.records += of_file.admitted + of_file.emitted;
        sum.entities += of_file.orders.iter().sum::<u64>();
        sum.versions += of_file.applied;
        sum.dead_letters += of_file.dead + of_file.conflicts;
        paid_cents += of_file.paid_cents;
    }
    sum.paid_cents = Some(paid_cents);
    sum
}

fn counts(expected: &Counts, found: &Counts) -> Vec<Figure> {
    type Count = fn(&Counts) -> u64;
    let of: [(&'static str, Count); 11] = [
        ("admitted", |c| c.admitted),
        ("duplicates", |c| c.duplicates),
        ("conflicts", |c| c.conflicts),
        ("unreadable", |c| c.unreadable),
        ("applied", |c| c.applied),
        ("rejected", |c| c.rejected),
        ("ignored", |c| c.ignored),
        ("dead", |c| c.dead),
        ("unhandled", |c| c.unhandled),
        ("emitted", |c| c.emitted),
        ("looped_back", |c| c.looped_back),
    ];
    of.into_iter()
        .map(|(what, count)| Figure {
            what,
            of: "the checkpoints".to_owned(),
            expected: count(expected),
            found: count(found),
        })
        .collect()
}

impl TenantBooks {
    async fn figures(&self, store: &dyn StateStore) -> Result<Vec<Figure>, StoreError> {
        let Ok(tenant) = TenantId::new(&self.name) else {
            return Ok(Vec::new());
        };
        let mut found = TenantBooks {
            paid_cents: self.paid_cents.map(|_| 0),
            ..TenantBooks::default()
        };
        for head in store.stream_partitions(&tenant).await? {
            found.records += head.next_sequence.0;
        }
        found.add_entities(store, &tenant).await?;
        found.add_letters(store, &tenant).await?;
        let figure = |what, expected, found| Figure {
            what,
            of: self.name.clone(),
            expected,
            found,
        };
        let mut figures = vec![
            figure("events in the log", self.records, found.records),
            figure("entities", self.entities, found.entities),
            figure("versions of entities", self.versions, found.versions),
            figure("dead letters", self.dead_letters, found.dead_letters),
        ];
        if let (Some(expected), Some(found)) = (self.paid_cents, found.paid_cents) {
            figures.push(figure("cents paid", expected, found));
        }
        Ok(figures)
    }

    async fn add_entities(
        &mut self,
        store: &dyn StateStore,
        tenant: &TenantId,
    ) -> Result<(), StoreError> {
        let mut after = None;
        loop {
            let page = store.entities(tenant, after.take(), PAGE).await?;
            for entity in &page {
                self.entities += 1;
                self.versions += entity.version.0;
                if let Some(sum) = &mut self.paid_cents {
                    *sum += paid_cents(&entity.data);
                }
            }
            match page.last() {
                Some(last) => after = Some((last.name.machine.clone(), last.name.key.clone())),
                None => return Ok(()),
            }
        }
    }

    async fn add_letters(
        &mut self,
        store: &dyn StateStore,
        tenant: &TenantId,
    ) -> Result<(), StoreError> {
        let mut filter = DeadLetterFilter::default();
        loop {
            let page = store.dead_letters(tenant, filter, PAGE).await?;
            self.dead_letters += page.len() as u64;
            let Some(last) = page.last() else {
                return Ok(());
            };
            filter = DeadLetterFilter {
                after: Some(last.letter.id),
                ..DeadLetterFilter::default()
            };
        }
    }
}

fn paid_cents(data: &str) -> u64 {
    serde_json::from_str::<serde_json::Value>(data)
        .ok()
        .and_then(|data| data.get("paid_cents")?.as_u64())
        .unwrap_or(0)
}
