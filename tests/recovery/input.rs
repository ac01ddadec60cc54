//! The input of a recovery test, and the truth about it: a short model in plain SQL over the same files,
//! which shares no code with the engine.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use sqlx::{PgConnection, Row};

const TENANTS: usize = 3;
/// Accounts that every file deposits to, and accounts of one file only.
const SHARED_ACCOUNTS: usize = 20;
const OWN_ACCOUNTS: usize = 30;

/// How much there is.
pub struct Shape {
    /// Source partitions: one a file.
    pub files: usize,
    /// Lines of each.
    pub events_a_file: usize,
    /// Of 100 lines, how many stand somewhere before.
    pub repeated_percent: u32,
}

/// Writes three files, of whose lines a tenth is repeated.
pub fn write(directory: &Path, events: usize, seed: u64) -> Vec<PathBuf> {
    let shape = Shape {
        files: 3,
        events_a_file: events,
        repeated_percent: 10,
    };
    write_shaped(directory, &shape, seed)
}

/// Writes the files: some deposits twice (in the same or another file), some of nothing, some unreadable.
pub fn write_shaped(directory: &Path, shape: &Shape, seed: u64) -> Vec<PathBuf> {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut files: Vec<String> = vec![String::new(); shape.files];
    let mut earlier: Vec<String> = Vec::new();
    for number in 0..shape.events_a_file * shape.files {
        let file = number % shape.files;
        let line = match random.random_range(0..100) {
            drawn if drawn < shape.repeated_percent && !earlier.is_empty() => {
                earlier[random.random_range(0..earlier.len())].clone()
            }
            99 => format!("{{\"no\": \"event {number}\""),
            _ => deposit(&mut random, number, file),
        };
        if earlier.len() < 5_000 && line.contains("\"shared-") {
            earlier.push(line.clone());
        }
        writeln!(files[file], "{line}").unwrap();
    }
    let write_file = |(number, text): (usize, &String)| {
        let path = directory.join(format!("deposits-{number}.ndjson"));
        std::fs::write(&path, text).unwrap();
        path
    };
    files.iter().enumerate().map(write_file).collect()
}

fn deposit(random: &mut SmallRng, number: usize, file: usize) -> String {
    let tenant = random.random_range(0..TENANTS);
    // Only shared accounts are deposited to twice, so that the last deposit of an own one is certain.
    let account = match random.random_range(0..2) {
        0 => format!("shared-{}", random.random_range(0..SHARED_ACCOUNTS)),
        _ => format!("own-{file}-{}", random.random_range(0..OWN_ACCOUNTS)),
    };
    let cents = if random.random_range(0..20) == 0 {
        0
    } else {
        random.random_range(1..1_000)
    };
    format!(
        "{{\"specversion\":\"1.0\",\"id\":\"e{number}\",\"source\":\"/bank/{tenant}\",\"type\":\"deposited\",\
         \"tenantid\":\"bank{tenant}\",\"subject\":\"{account}\",\"data\":{{\"cents\":{cents}}}}}"
    )
}

/// Compares what the engine's tables hold with what plain SQL makes of the files. Returns the events
/// that took effect.
pub async fn compare(admin: &mut PgConnection, files: &[PathBuf]) -> i64 {
    sqlx::raw_sql("drop table if exists public.input; create table public.input (file int, line int, text text)")
        .execute(&mut *admin)
        .await
        .unwrap();
    for (number, path) in files.iter().enumerate() {
        let text = std::fs::read_to_string(path).unwrap();
        sqlx::query(
            "insert into public.input select $1, t.ordinality, t.line
               from unnest(string_to_array($2, E'\\n')) with ordinality as t(line, ordinality) where t.line <> ''",
        )
        .bind(number as i32)
        .bind(text)
        .execute(&mut *admin)
        .await
        .unwrap();
    }
    let rows = sqlx::query(include_str!("truth.sql"))
        .fetch_all(&mut *admin)
        .await
        .unwrap();
    let wrong: Vec<String> = rows
        .iter()
        .filter(|row| !row.get::<bool, _>("equal"))
        .map(|row| row.get::<String, _>("shown"))
        .collect();
    assert!(
        wrong.is_empty(),
        "{} accounts differ (tenant account expected found):\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    assert!(!rows.is_empty(), "the comparison saw no account");
    let totals = sqlx::query(include_str!("totals.sql"))
        .fetch_all(&mut *admin)
        .await
        .unwrap();
    assert_eq!(totals.len(), files.len() + 3);
    for total in totals {
        let of = |column: &str| total.get::<Option<i64>, _>(column);
        let what = total.get::<String, _>("what");
        assert_eq!(of("found"), of("expected"), "{what}");
    }
    rows.iter().map(|row| row.get::<i64, _>("deposits")).sum()
}
