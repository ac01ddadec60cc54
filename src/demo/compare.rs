//! What SQL says about the demo's database, against the books of what was generated. Asks the database
//! file itself, on a connection of its own: not the engine, and not the store that wrote it.

use std::collections::BTreeMap;
use std::path::Path;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, Row as _, SqliteConnection};

use super::generate::{Books, FileBooks, STATUSES, TENANTS};

/// One figure, of all or of one tenant or file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Figure {
    /// What is counted.
    pub what: &'static str,
    /// Of whom.
    pub of: String,
    /// What was generated.
    pub expected: u64,
    /// What the database says.
    pub found: u64,
}

/// The figures of one check by name: of tenants, or of files.
type Found = BTreeMap<String, u64>;

/// Asks the database, and sets every answer beside the books.
pub async fn compare(database: &Path, books: &[FileBooks]) -> Result<Vec<Figure>, sqlx::Error> {
    let mut sql = SqliteConnectOptions::new()
        .filename(database)
        .read_only(true)
        // What is asked here is meant to read everything.
        .disable_statement_logging()
        .connect()
        .await?;
    let mut figures = tenant_figures(&mut sql, books).await?;
    figures.extend(file_figures(&mut sql, books).await?);
    sql.close().await?;
    Ok(figures)
}

/// What belongs to a tenant.
async fn tenant_figures(
    sql: &mut SqliteConnection,
    books: &[FileBooks],
) -> Result<Vec<Figure>, sqlx::Error> {
    let mut figures = Vec::new();
    let mut by_tenant = |what, found: Found, of: &dyn Fn(&Books) -> u64| {
        let mut found = found;
        for (index, (name, _)) in TENANTS.iter().enumerate() {
            let of_tenant = books.iter().filter_map(|file| file.tenants.get(index));
            figures.push(Figure {
                what,
                of: (*name).to_owned(),
                expected: of_tenant.map(of).sum(),
                found: found.remove(*name).unwrap_or(0),
            });
        }
        // Whatever else the database has must not be there.
        figures.extend(found.into_iter().map(|(of, found)| Figure {
            what,
            of,
            expected: 0,
            found,
        }));
    };

    let events = "select tenant, count(*) from events where stream <> 'internal' group by tenant";
    by_tenant("events in the log", ask(sql, events).await?, &|b| {
        b.admitted
    });
    let outcome = "select tenant, count(*) from events, json_each(events.effects) e \
                   where e.value ->> '$.outcome' = ? group by tenant";
    let applied = ask_for(sql, outcome, "applied").await?;
    by_tenant("applied", applied, &|b| b.applied);
    let rejected = ask_for(sql, outcome, "rejected").await?;
    by_tenant("rejected", rejected, &|b| b.rejected);
    let letters = "select tenant, count(*) from open_dead_letters where reason = ? group by tenant";
    let dead = ask_for(sql, letters, "expression").await?;
    by_tenant("dead, kept for a person", dead, &|b| b.dead);
    let conflicts = ask_for(sql, letters, "conflict").await?;
    by_tenant("conflicts kept", conflicts, &|b| b.conflicts);
    let orders = "select tenant, count(*) from state_order where status = ? group by tenant";
    for (index, status) in STATUSES.iter().enumerate() {
        let found = ask_for(sql, orders, status).await?;
        let what = match *status {
            "placed" => "orders placed",
            "paid" => "orders paid",
            "shipped" => "orders shipped",
            _ => "orders cancelled",
        };
        by_tenant(what, found, &|b| b.orders.get(index).copied().unwrap_or(0));
    }
    let paid = "select tenant, sum(paid_cents) from state_order group by tenant";
    by_tenant("cents paid", ask(sql, paid).await?, &|b| b.paid_cents);
    let emitted = "select tenant, count(*) from events where stream = 'internal' group by tenant";
    by_tenant("emitted events taken up", ask(sql, emitted).await?, &|b| {
        b.emitted
    });

    Ok(figures)
}

/// What has no tenant, or is only counted: by file.
async fn file_figures(
    sql: &mut SqliteConnection,
    books: &[FileBooks],
) -> Result<Vec<Figure>, sqlx::Error> {
    let mut figures = Vec::new();
    let duplicates = "select partition, sum(duplicates) from source_partitions group by partition";
    let mut duplicates = ask(sql, duplicates).await?;
    let unreadable = "select bus_partition, count(*) from open_dead_letters \
                      where reason = 'unreadable' group by bus_partition";
    let mut unreadable = ask(sql, unreadable).await?;
    for (number, file) in books.iter().enumerate() {
        let of_file = |what, expected, found: &mut Found| Figure {
            what,
            of: format!("file {number}"),
            expected,
            found: found.remove(&number.to_string()).unwrap_or(0),
        };
        let expected = file.tenants.iter().map(|b| b.duplicates).sum();
        figures.push(of_file("duplicates dropped", expected, &mut duplicates));
        figures.push(of_file("unreadable kept", file.unreadable, &mut unreadable));
    }
    Ok(figures)
}

async fn ask(sql: &mut SqliteConnection, query: &'static str) -> Result<Found, sqlx::Error> {
    rows(sqlx::query(query).fetch_all(sql).await?)
}

async fn ask_for(
    sql: &mut SqliteConnection,
    query: &'static str,
    value: &str,
) -> Result<Found, sqlx::Error> {
    rows(sqlx::query(query).bind(value).fetch_all(sql).await?)
}

fn rows(rows: Vec<sqlx::sqlite::SqliteRow>) -> Result<Found, sqlx::Error> {
    rows.iter()
        .map(|row| {
            let name = match row.try_get::<String, _>(0) {
                Ok(name) => name,
                Err(_) => row.try_get::<i64, _>(0)?.to_string(),
            };
            let count: i64 = row.try_get(1)?;
            Ok((name, u64::try_from(count).unwrap_or(0)))
        })
        .collect()
}

/// True when every figure is as generated; what differs is said on standard error.
pub fn all_right(figures: &[Figure]) -> bool {
    let mut all_right = true;
    for figure in figures {
        if figure.expected != figure.found {
            all_right = false;
            crate::say!(
                "{}, {}: generated {}, found {}",
                figure.what,
                figure.of,
                figure.expected,
                figure.found
            );
        }
    }
    all_right
}

/// One line of the table: the figure over all tenants or files, and whether each of them is right.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Summed {
    /// What is counted.
    pub what: &'static str,
    /// What was generated.
    pub expected: u64,
    /// What the database says.
    pub found: u64,
    /// Every part is right, not only their sum.
    pub right: bool,
}

/// Sums the figures by what they count, in the order in which they were asked for.
pub fn sum(figures: &[Figure]) -> Vec<Summed> {
    let mut sums: Vec<Summed> = Vec::new();
    for figure in figures {
        let right = figure.expected == figure.found;
        match sums.iter_mut().find(|sum| sum.what == figure.what) {
            Some(sum) => {
                sum.expected += figure.expected;
                sum.found += figure.found;
                sum.right &= right;
            }
            None => sums.push(Summed {
                what: figure.what,
                expected: figure.expected,
                found: figure.found,
                right,
            }),
        }
    }
    sums
}
