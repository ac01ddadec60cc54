//! Values on their way into SQLite and back. Owns how a number, hash, time or name is stored; knows no
//! table. Also statements over many rows at once, since a row each costs a hand-over to the connection's
//! thread.

use std::fmt::Write as _;
use std::sync::{Arc, OnceLock};

use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{Arguments as _, AssertSqlSafe, Row as _, Sqlite, SqliteConnection};
use tidegate_engine::chain::ChainHead;
use tidegate_engine::hash::Hash128;
use tidegate_engine::store::StoreError;

use super::errors::{CODE_RANGE, store_error, unreadable};

/// Values of one statement. The first value that does not fit is kept as the error.
#[derive(Default)]
pub(super) struct Binds {
    arguments: SqliteArguments,
    fault: Option<StoreError>,
}

impl Binds {
    /// A number that may not fit: the highest bit has no place.
    pub(super) fn number(&mut self, value: u64) -> &mut Self {
        match i64::try_from(value) {
            Ok(value) => self.int(value),
            Err(_) => {
                self.fault = Some(StoreError::Refused {
                    code: CODE_RANGE.to_owned(),
                    detail: "a number is larger than 2^63 - 1".to_owned(),
                });
                self
            }
        }
    }

    pub(super) fn int(&mut self, value: i64) -> &mut Self {
        self.add(value)
    }

    pub(super) fn text(&mut self, value: &str) -> &mut Self {
        self.add(value)
    }

    /// Text that is bound without a copy.
    pub(super) fn shared_text(&mut self, value: &Arc<str>) -> &mut Self {
        self.add(Arc::clone(value))
    }

    pub(super) fn bytes(&mut self, value: &[u8]) -> &mut Self {
        self.add(value)
    }

    pub(super) fn hash(&mut self, value: Hash128) -> &mut Self {
        self.bytes(&value.to_bytes())
    }

    pub(super) fn optional<V>(
        &mut self,
        value: Option<V>,
        bind: impl FnOnce(&mut Self, V),
    ) -> &mut Self {
        match value {
            Some(value) => {
                bind(self, value);
                self
            }
            None => self.add(None::<i64>),
        }
    }

    /// So many values that are absent.
    pub(super) fn nulls(&mut self, count: usize) -> &mut Self {
        for _ in 0..count {
            self.add(None::<i64>);
        }
        self
    }

    fn add<'v, V>(&mut self, value: V) -> &mut Self
    where
        V: sqlx::Encode<'v, Sqlite> + sqlx::Type<Sqlite> + 'v,
    {
        if let Err(error) = self.arguments.add(value) {
            self.fault = Some(store_error(sqlx::Error::Encode(error)));
        }
        self
    }

    fn finish(self) -> Result<SqliteArguments, StoreError> {
        match self.fault {
            Some(fault) => Err(fault),
            None => Ok(self.arguments),
        }
    }
}

/// Runs one statement; returns the rows it changed.
pub(super) async fn execute(
    connection: &mut SqliteConnection,
    sql: &'static str,
    bind: impl FnOnce(&mut Binds),
) -> Result<u64, StoreError> {
    let mut binds = Binds::default();
    bind(&mut binds);
    let done = sqlx::query_with(sql, binds.finish()?)
        .execute(connection)
        .await
        .map_err(store_error)?;
    Ok(done.rows_affected())
}

/// Runs one statement and reads each of its rows.
pub(super) async fn fetch<'e, E, T>(
    executor: E,
    sql: &'static str,
    bind: impl FnOnce(&mut Binds),
    read: impl Fn(&SqliteRow) -> Result<T, StoreError>,
) -> Result<Vec<T>, StoreError>
where
    E: sqlx::Executor<'e, Database = Sqlite>,
{
    let mut binds = Binds::default();
    bind(&mut binds);
    let rows = sqlx::query_with(sql, binds.finish()?)
        .fetch_all(executor)
        .await
        .map_err(store_error)?;
    rows.iter().map(read).collect()
}

/// Rows that one execution takes, largest first: the more, the fewer hand-overs. Measured: 32, 128 and 512
/// rows cost SQLite's thread the same, 23 to 25 µs an event in all on a new store, so the largest need not
/// be larger. Few sizes, so that few statements are kept prepared.
const SIZES: [usize; 4] = [128, 32, 8, 1];

/// A statement over any number of rows: `head`, then `row` for each, then `tail`.
pub(super) struct ManyRows {
    head: &'static str,
    row: &'static str,
    tail: &'static str,
    sized: [OnceLock<Arc<str>>; SIZES.len()],
}

impl ManyRows {
    pub(super) const fn new(head: &'static str, row: &'static str, tail: &'static str) -> Self {
        Self {
            head,
            row,
            tail,
            sized: [const { OnceLock::new() }; SIZES.len()],
        }
    }

    /// Runs it over all rows; returns how many rows it changed in all.
    pub(super) async fn execute<R>(
        &self,
        connection: &mut SqliteConnection,
        rows: &[R],
        bind: impl Fn(&mut Binds, &R),
    ) -> Result<u64, StoreError> {
        let mut changed = 0;
        for (sql, rows) in self.pieces(rows) {
            let done = sqlx::query_with(AssertSqlSafe(sql), bound(rows, &bind)?)
                .execute(&mut *connection)
                .await
                .map_err(store_error)?;
            changed += done.rows_affected();
        }
        Ok(changed)
    }

    /// Runs it over all rows and reads what it returns, piece after piece.
    pub(super) async fn fetch<R, T>(
        &self,
        connection: &mut SqliteConnection,
        rows: &[R],
        bind: impl Fn(&mut Binds, &R),
        read: impl Fn(&SqliteRow) -> Result<T, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        let mut found = Vec::new();
        for (sql, rows) in self.pieces(rows) {
            let returned = sqlx::query_with(AssertSqlSafe(sql), bound(rows, &bind)?)
                .fetch_all(&mut *connection)
                .await
                .map_err(store_error)?;
            for row in &returned {
                found.push(read(row)?);
            }
        }
        Ok(found)
    }

    /// Cuts rows into pieces of the sizes above, each with its statement.
    fn pieces<'r, R>(&self, rows: &'r [R]) -> impl Iterator<Item = (Arc<str>, &'r [R])> {
        let mut rest = rows;
        SIZES.iter().zip(&self.sized).flat_map(move |(size, sql)| {
            let whole = rest.len() - rest.len() % size;
            let (now, later) = rest.split_at(whole);
            rest = later;
            now.chunks(*size)
                .map(move |piece| (Arc::clone(sql.get_or_init(|| self.sql(*size))), piece))
        })
    }

    fn sql(&self, rows: usize) -> Arc<str> {
        let mut sql = String::from(self.head);
        for row in 0..rows {
            let _ = write!(sql, "{}{}", if row > 0 { "," } else { "" }, self.row);
        }
        sql.push_str(self.tail);
        Arc::from(sql)
    }
}

fn bound<R>(rows: &[R], bind: impl Fn(&mut Binds, &R)) -> Result<SqliteArguments, StoreError> {
    let mut binds = Binds::default();
    for row in rows {
        bind(&mut binds, row);
    }
    binds.finish()
}

/// A column of a row.
pub(super) fn column<'r, T>(row: &'r SqliteRow, index: usize) -> Result<T, StoreError>
where
    T: sqlx::Decode<'r, Sqlite> + sqlx::Type<Sqlite>,
{
    row.try_get(index).map_err(store_error)
}

/// A number that was stored by [`Binds::number`].
pub(super) fn number(row: &SqliteRow, index: usize) -> Result<u64, StoreError> {
    u64::try_from(column::<i64>(row, index)?).map_err(|_| unreadable("number"))
}

/// A number of 32 bits.
pub(super) fn small_number(row: &SqliteRow, index: usize) -> Result<u32, StoreError> {
    u32::try_from(column::<i64>(row, index)?).map_err(|_| unreadable("number"))
}

/// A hash of 128 bits.
pub(super) fn hash(row: &SqliteRow, index: usize) -> Result<Hash128, StoreError> {
    column::<&[u8]>(row, index)?
        .try_into()
        .map(Hash128::from_bytes)
        .map_err(|_| unreadable("hash"))
}

/// A chain head.
pub(super) fn chain_head(row: &SqliteRow, index: usize) -> Result<ChainHead, StoreError> {
    ChainHead::from_slice(column(row, index)?).ok_or_else(|| unreadable("chain head"))
}

/// A value with a rule of its own.
pub(super) fn valid<T: std::str::FromStr>(row: &SqliteRow, index: usize) -> Result<T, StoreError> {
    column::<&str>(row, index)?.parse().map_err(|_| {
        unreadable(
            std::any::type_name::<T>()
                .rsplit("::")
                .next()
                .unwrap_or("value"),
        )
    })
}
