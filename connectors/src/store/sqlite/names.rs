//! From names to the numbers of their rows, once a batch. Owns the tables of tenants, machines and stream
//! partitions; makes what is not there yet.

use std::collections::HashMap;
use std::hash::Hash;

use sqlx::SqliteConnection;
use tidegate_engine::commit::{CommitBatch, Segment};
use tidegate_engine::position::Sequence;
use tidegate_engine::state::MachineName;
use tidegate_engine::store::StoreError;
use tidegate_engine::tenant::TenantId;

use super::errors::unreadable;
use super::rows::{ManyRows, column, number, valid};

static FIND_TENANTS: ManyRows = ManyRows::new(
    "SELECT tenant_id, name FROM tenants WHERE name IN (VALUES ",
    "(?)",
    ")",
);
static ADD_TENANTS: ManyRows = ManyRows::new("INSERT INTO tenants (name) VALUES ", "(?)", "");
static FIND_MACHINES: ManyRows = ManyRows::new(
    "SELECT machine_id, name FROM machines WHERE name IN (VALUES ",
    "(?)",
    ")",
);
static ADD_MACHINES: ManyRows = ManyRows::new("INSERT INTO machines (name) VALUES ", "(?)", "");
static FIND_STREAMS: ManyRows = ManyRows::new(
    "WITH wanted (place, tenant_id, source_partition_id, stream) AS (VALUES ",
    "(?,?,?,?)",
    ") SELECT place, stream_partition_id, next_sequence
       FROM wanted CROSS JOIN stream_partitions USING (tenant_id, source_partition_id, stream)",
);
static ADD_STREAMS: ManyRows = ManyRows::new(
    "INSERT INTO stream_partitions (tenant_id, source_partition_id, stream) VALUES ",
    "(?,?,?)",
    "",
);

/// Row numbers of the names in a batch.
pub(super) struct Names {
    tenants: HashMap<TenantId, i64>,
    machines: HashMap<MachineName, i64>,
}

impl Names {
    /// Finds the tenants that a batch names and the machines of its entities, and adds those that are new.
    pub(super) async fn of(
        connection: &mut SqliteConnection,
        batch: &CommitBatch,
    ) -> Result<Self, StoreError> {
        let mut machines: Vec<MachineName> = Vec::new();
        let written = batch.entities.iter().map(|write| &write.name.machine);
        let read = batch.reads.iter().map(|read| &read.name.machine);
        for machine in written.chain(read) {
            // Few and in runs: a set would cost more than this.
            if !machines.contains(machine) {
                machines.push(machine.clone());
            }
        }
        Ok(Self {
            tenants: numbers(connection, &FIND_TENANTS, &ADD_TENANTS, &batch.tenants).await?,
            machines: numbers(connection, &FIND_MACHINES, &ADD_MACHINES, &machines).await?,
        })
    }

    /// A tenant's number. The batch's form was checked, so every tenant is there; were one not, its
    /// rows would stand under a number that no tenant has.
    pub(super) fn tenant(&self, tenant: &TenantId) -> i64 {
        self.tenants.get(tenant).copied().unwrap_or(NOBODY)
    }

    /// A machine's number.
    pub(super) fn machine(&self, machine: &MachineName) -> i64 {
        self.machines.get(machine).copied().unwrap_or(NOBODY)
    }
}

/// The number of no row: they are counted from 1.
const NOBODY: i64 = -1;

/// The numbers of `names`, after adding the missing ones.
async fn numbers<N>(
    connection: &mut SqliteConnection,
    find: &ManyRows,
    add: &ManyRows,
    names: &[N],
) -> Result<HashMap<N, i64>, StoreError>
where
    N: AsRef<str> + Clone + Eq + Hash + std::str::FromStr,
{
    let mut known = HashMap::with_capacity(names.len());
    let mut wanted = names.to_vec();
    // Once for those that are there, and once more for those that were added.
    while !wanted.is_empty() {
        let found = find
            .fetch(
                connection,
                &wanted,
                |binds, name| {
                    binds.text(name.as_ref());
                },
                |row| Ok((valid::<N>(row, 1)?, column(row, 0)?)),
            )
            .await?;
        known.extend(found);
        wanted.retain(|name| !known.contains_key(name));
        add.execute(connection, &wanted, |binds, name| {
            binds.text(name.as_ref());
        })
        .await?;
    }
    Ok(known)
}

/// A stream partition's row.
#[derive(Clone, Copy)]
pub(super) struct StreamRow {
    /// Its number.
    pub(super) id: i64,
    /// Where its log ends.
    pub(super) next_sequence: Sequence,
}

/// The stream partitions of a batch's segments, in their order; new ones are added.
pub(super) async fn streams(
    connection: &mut SqliteConnection,
    names: &Names,
    source_partition_id: i64,
    segments: &[Segment],
) -> Result<Vec<StreamRow>, StoreError> {
    let mut rows: Vec<Option<StreamRow>> = vec![None; segments.len()];
    let mut wanted: Vec<(usize, i64, &Segment)> = segments
        .iter()
        .enumerate()
        .map(|(place, segment)| {
            (
                place,
                names.tenant(&segment.stream_partition.tenant),
                segment,
            )
        })
        .collect();
    while !wanted.is_empty() {
        let found = FIND_STREAMS
            .fetch(
                connection,
                &wanted,
                |binds, (place, tenant_id, segment)| {
                    binds
                        .number(*place as u64)
                        .int(*tenant_id)
                        .int(source_partition_id)
                        .text(segment.stream_partition.stream.as_str());
                },
                |row| {
                    let stream = StreamRow {
                        id: column(row, 1)?,
                        next_sequence: Sequence(number(row, 2)?),
                    };
                    Ok((number(row, 0)? as usize, stream))
                },
            )
            .await?;
        for (place, stream) in found {
            if let Some(row) = rows.get_mut(place) {
                *row = Some(stream);
            }
        }
        wanted.retain(|(place, _, _)| rows.get(*place).is_some_and(Option::is_none));
        ADD_STREAMS
            .execute(connection, &wanted, |binds, (_, tenant_id, segment)| {
                binds
                    .int(*tenant_id)
                    .int(source_partition_id)
                    .text(segment.stream_partition.stream.as_str());
            })
            .await?;
    }
    rows.into_iter()
        .collect::<Option<_>>()
        .ok_or_else(|| unreadable("stream partition"))
}
