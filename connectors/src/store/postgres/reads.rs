//! Reads for people and `verify`: plain selects under row-level security, each in a transaction that
//! names its tenant first.

use sqlx::Postgres;
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use tidegate_engine::commit::{EntityName, EntityRow, Segment, StoredEntity};
use tidegate_engine::position::{RecordPosition, Sequence, StreamName, StreamPartition};
use tidegate_engine::state::{EntityKey, MachineName, Status};
use tidegate_engine::store::{ChainAnchor, EventLookup, StoreError, StreamHead};
use tidegate_engine::tenant::TenantId;

use super::Inner;
use super::commit::int8;
use super::encode::Moment;
use super::error::{During, corrupt};
use super::ownership::{chain_head_of, column, counter, head_of, source_partition_of};
use super::reply::version_of;

impl Inner {
    /// Rows that one tenant may see; none when the database does not know the tenant. The statement's
    /// first parameter is the tenant's number.
    pub(super) async fn read_as(
        &self,
        tenant: &TenantId,
        build: impl FnOnce(i32) -> Query<'static, Postgres, PgArguments>,
    ) -> Result<Vec<PgRow>, StoreError> {
        match self.names.known_tenant(&self.session, tenant).await? {
            Some(number) => self.session.fetch_as(number, build(number)).await,
            None => Ok(Vec::new()),
        }
    }

    pub(super) async fn tenants(&self) -> Result<Vec<TenantId>, StoreError> {
        let query = sqlx::query("select name from tidegate.stored_tenants()");
        let rows = self.session.fetch(query, During::Read).await?;
        rows.iter()
            .map(|row| TenantId::new(column(row, "name")?).map_err(|_| corrupt("a tenant's name")))
            .collect()
    }

    pub(super) async fn stream_partitions(
        &self,
        tenant: &TenantId,
    ) -> Result<Vec<StreamHead>, StoreError> {
        let rows = self
            .read_as(tenant, |number| {
                sqlx::query(
                    "select p.stream, s.source, s.partition, p.next_sequence, p.chain_head \
                     from tidegate.stream_partitions p \
                     join tidegate.source_partitions s \
                       on s.source_partition_id = p.source_partition_id \
                     where p.tenant_id = $1 and p.next_sequence > 0 \
                     order by p.stream, s.source, s.partition",
                )
                .bind(number)
            })
            .await?;
        rows.iter()
            .map(|row| head_of(row, tenant, source_partition_of(row)?))
            .collect()
    }

    pub(super) async fn chain_anchor(
        &self,
        stream_partition: &StreamPartition,
    ) -> Result<Option<ChainAnchor>, StoreError> {
        let name = stream_partition.clone();
        let rows = self
            .read_as(&stream_partition.tenant, |number| {
                sqlx::query(
                    "select a.next_sequence, a.chain_head \
                     from tidegate.chain_anchors a \
                     join tidegate.stream_partitions p \
                       on p.tenant_id = a.tenant_id \
                          and p.stream_partition_id = a.stream_partition_id \
                     join tidegate.source_partitions s \
                       on s.source_partition_id = p.source_partition_id \
                     where a.tenant_id = $1 and p.stream = $2 and s.source = $3 \
                       and s.partition = $4",
                )
                .bind(number)
                .bind(name.stream.as_str().to_owned())
                .bind(name.source_partition.source.as_str().to_owned())
                .bind(i64::from(name.source_partition.partition))
            })
            .await?;
        rows.first()
            .map(|row| {
                Ok(ChainAnchor {
                    stream_partition: stream_partition.clone(),
                    next_sequence: Sequence(counter(row, "next_sequence")?),
                    chain_head: chain_head_of(row)?,
                })
            })
            .transpose()
    }

    pub(super) async fn segments(
        &self,
        stream_partition: &StreamPartition,
        from: Sequence,
        limit: u32,
    ) -> Result<Vec<Segment>, StoreError> {
        let from = int8(from.0)?;
        let name = stream_partition.clone();
        let rows = self
            .read_as(&stream_partition.tenant, |number| {
                // The one that contains `from` is the last that begins at or before it.
                sqlx::query(
                    "with p as materialized ( \
                         select p.stream_partition_id as id from tidegate.stream_partitions p \
                         join tidegate.source_partitions s \
                           on s.source_partition_id = p.source_partition_id \
                         where p.tenant_id = $1 and p.stream = $2 and s.source = $3 \
                           and s.partition = $4), \
                     f as materialized ( \
                         select coalesce(max(g.first_sequence), 0) as sequence from p \
                         join tidegate.segments g \
                           on g.tenant_id = $1 and g.stream_partition_id = p.id \
                              and g.first_sequence <= $5) \
                     select g.first_sequence, g.event_count, g.first_at, g.last_at, \
                            g.chain_head, g.body \
                     from p join tidegate.segments g \
                       on g.tenant_id = $1 and g.stream_partition_id = p.id \
                     where g.first_sequence >= (select f.sequence from f) \
                       and g.first_sequence + g.event_count > $5 \
                     order by g.first_sequence limit $6",
                )
                .bind(number)
                .bind(name.stream.as_str().to_owned())
                .bind(name.source_partition.source.as_str().to_owned())
                .bind(i64::from(name.source_partition.partition))
                .bind(from)
                .bind(i64::from(limit))
            })
            .await?;
        rows.iter()
            .map(|row| segment_of(row, stream_partition))
            .collect()
    }

    pub(super) async fn event_positions(
        &self,
        tenant: &TenantId,
        wanted: &EventLookup,
        after: Option<&RecordPosition>,
        limit: u32,
    ) -> Result<Vec<RecordPosition>, StoreError> {
        // One statement for each index, so that each is planned for it.
        macro_rules! by {
            ($column:literal) => {
                concat!(
                    "select p.stream, s.source, s.partition, x.sequence \
                     from tidegate.event_index x \
                     join tidegate.stream_partitions p \
                       on p.tenant_id = x.tenant_id \
                          and p.stream_partition_id = x.stream_partition_id \
                     join tidegate.source_partitions s \
                       on s.source_partition_id = p.source_partition_id \
                     where x.tenant_id = $1 and x.",
                    $column,
                    " = $2 and ($4::text is null \
                       or (p.stream, s.source, s.partition, x.sequence) > ($4, $5, $6, $7)) \
                     order by p.stream, s.source, s.partition, x.sequence limit $3"
                )
            };
        }
        let (sql, text) = match wanted {
            EventLookup::Id(id) => (by!("event_id"), id.as_str().to_owned()),
            EventLookup::Correlation(id) => (by!("correlation_id"), id.as_str().to_owned()),
        };
        let rows = self
            .read_as(tenant, |number| {
                sqlx::query(sql)
                    .bind(number)
                    .bind(text)
                    .bind(i64::from(limit))
                    .bind(after.map(|it| it.stream.as_str().to_owned()))
                    .bind(after.map(|it| it.source_partition.source.as_str().to_owned()))
                    .bind(after.map(|it| i64::from(it.source_partition.partition)))
                    // Behind the last that there can be stands nothing.
                    .bind(after.map(|it| i64::try_from(it.sequence.0).unwrap_or(i64::MAX)))
            })
            .await?;
        rows.iter()
            .map(|row| {
                Ok(RecordPosition {
                    stream: StreamName::new(column(row, "stream")?)
                        .map_err(|_| corrupt("a stream"))?,
                    source_partition: source_partition_of(row)?,
                    sequence: Sequence(counter(row, "sequence")?),
                })
            })
            .collect()
    }

    pub(super) async fn entities(
        &self,
        tenant: &TenantId,
        after: Option<(MachineName, EntityKey)>,
        limit: u32,
    ) -> Result<Vec<StoredEntity>, StoreError> {
        let (machine, key) = match &after {
            Some((machine, key)) => (machine.as_str().to_owned(), key.as_str().to_owned()),
            None => (String::new(), String::new()),
        };
        let rows = self
            .read_as(tenant, |number| {
                sqlx::query(
                    "select m.name as machine, e.key, e.entity_id, e.version, e.status, e.data \
                     from tidegate.machines m \
                     cross join lateral ( \
                         select e.key, e.entity_id, e.version, e.status, e.data \
                         from tidegate.entities e \
                         where e.tenant_id = $1 and e.machine_id = m.machine_id \
                           and e.key > case when m.name = $2 then $3 else '' end \
                         order by e.key limit $4) e \
                     where m.name >= $2 \
                     order by m.name, e.key limit $4",
                )
                .bind(number)
                .bind(machine)
                .bind(key)
                .bind(i64::from(limit))
            })
            .await?;
        rows.iter()
            .map(|row| {
                Ok(StoredEntity {
                    name: EntityName {
                        tenant: tenant.clone(),
                        machine: MachineName::new(column(row, "machine")?)
                            .map_err(|_| corrupt("a machine's name"))?,
                        key: EntityKey::new(column(row, "key")?).map_err(|_| corrupt("a key"))?,
                    },
                    row: EntityRow(column(row, "entity_id")?),
                    version: version_of(column(row, "version")?)?,
                    status: Status::new(column(row, "status")?).map_err(|_| corrupt("a status"))?,
                    data: column::<&str>(row, "data")?.into(),
                })
            })
            .collect()
    }
}

fn segment_of(row: &PgRow, stream_partition: &StreamPartition) -> Result<Segment, StoreError> {
    Ok(Segment {
        stream_partition: stream_partition.clone(),
        first_sequence: Sequence(counter(row, "first_sequence")?),
        count: u32::try_from(column::<i32>(row, "event_count")?)
            .map_err(|_| corrupt("a segment's count"))?,
        first_at: column::<Moment>(row, "first_at")?.0,
        last_at: column::<Moment>(row, "last_at")?.0,
        chain_head: chain_head_of(row)?,
        body: column::<&str>(row, "body")?.into(),
    })
}
