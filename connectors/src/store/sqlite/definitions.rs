//! Stored definitions of machines, and for each active one the view `state_<machine>` that people query.

use std::fmt::Write as _;

use sqlx::{AssertSqlSafe, Executor as _, SqliteConnection, SqlitePool};
use tidegate_engine::clock::Timestamp;
use tidegate_engine::hash::Hash128;
use tidegate_engine::store::{NewDefinition, StoreError, StoredDefinition};

use super::errors::{store_error, unreadable};
use super::rows::{column, execute, fetch, hash, number, valid};
use super::writer::{End, Writer};
use crate::store::batch_form::{CODE_DEFINITION, higher_is_stored};

/// Columns that every view has; a field of such a name is shown as `field_<name>`.
const COLUMNS: [&str; 7] = [
    "tenant",
    "key",
    "status",
    "version",
    "created_at",
    "changed_at",
    "data",
];

/// A field's name that no column can have.
const CODE_FIELD: &str = "field";

/// Every stored definition, by machine and version.
pub(super) async fn definitions(readers: &SqlitePool) -> Result<Vec<StoredDefinition>, StoreError> {
    fetch(
        readers,
        "SELECT m.name, d.version, d.hash, d.text, a.version IS NOT NULL
           FROM machines m
           JOIN machine_definitions d USING (machine_id)
           LEFT JOIN active_definitions a USING (machine_id, version)
          ORDER BY m.name, d.version",
        |_| {},
        |row| {
            Ok(StoredDefinition {
                machine: valid(row, 0)?,
                version: number(row, 1)?,
                hash: hash(row, 2)?,
                text: column(row, 3)?,
                active: column(row, 4)?,
            })
        },
    )
    .await
}

/// Stores a definition if it is new, makes it the active one of its machine, and its view.
pub(super) async fn activate(
    writer: &Writer,
    definition: NewDefinition,
    at: Timestamp,
) -> Result<(), StoreError> {
    writer
        .transaction(move |connection| {
            Box::pin(async move {
                let machine_id = machine_id(connection, &definition).await?;
                store(connection, machine_id, &definition, at).await?;
                execute(
                    connection,
                    "INSERT INTO active_definitions (machine_id, version, activated_at)
                     VALUES (?1, ?2, ?3)
                     ON CONFLICT (machine_id) DO UPDATE
                        SET version = excluded.version, activated_at = excluded.activated_at
                      WHERE version <> excluded.version",
                    |binds| {
                        binds.int(machine_id).number(definition.version).int(at.0);
                    },
                )
                .await?;
                let view = view_of(machine_id, &definition)?;
                connection
                    .execute(AssertSqlSafe(view))
                    .await
                    .map_err(store_error)?;
                Ok(End::Commit(()))
            })
        })
        .await
}

async fn machine_id(
    connection: &mut SqliteConnection,
    definition: &NewDefinition,
) -> Result<i64, StoreError> {
    let name = definition.machine.as_str();
    execute(
        connection,
        "INSERT INTO machines (name) VALUES (?1) ON CONFLICT DO NOTHING",
        |binds| {
            binds.text(name);
        },
    )
    .await?;
    let found: Vec<i64> = fetch(
        connection,
        "SELECT machine_id FROM machines WHERE name = ?1",
        |binds| {
            binds.text(name);
        },
        |row| column(row, 0),
    )
    .await?;
    found.first().copied().ok_or_else(|| unreadable("machine"))
}

/// Adds the definition, unless this version stands there already with the same text. What another process
/// stored since the engine looked is refused: another text, and any version below a stored one.
async fn store(
    connection: &mut SqliteConnection,
    machine_id: i64,
    definition: &NewDefinition,
    at: Timestamp,
) -> Result<(), StoreError> {
    let stored: Vec<(Hash128, u64)> = fetch(
        &mut *connection,
        "SELECT hash, version FROM machine_definitions
          WHERE machine_id = ?1 AND version >= ?2
          ORDER BY version DESC",
        |binds| {
            binds.int(machine_id).number(definition.version);
        },
        |row| Ok((hash(row, 0)?, number(row, 1)?)),
    )
    .await?;
    if let Some((_, higher)) = stored
        .first()
        .filter(|(_, stored)| *stored > definition.version)
    {
        return Err(StoreError::Unexpected {
            code: CODE_DEFINITION.to_owned(),
            detail: higher_is_stored(&definition.machine, definition.version, *higher),
        });
    }
    match stored.first().map(|(hash, _)| hash) {
        Some(stored) if *stored == definition.hash => Ok(()),
        Some(_) => Err(StoreError::Unexpected {
            code: CODE_DEFINITION.to_owned(),
            detail: format!(
                "version {} of machine `{}` is stored with another text",
                definition.version, definition.machine
            ),
        }),
        None => execute(
            connection,
            "INSERT INTO machine_definitions (machine_id, version, hash, text, created_at)
             VALUES (?1, ?2, ?3, ?4, ?5)",
            |binds| {
                binds
                    .int(machine_id)
                    .number(definition.version)
                    .hash(definition.hash)
                    .shared_text(&definition.text)
                    .int(at.0);
            },
        )
        .await
        .map(drop),
    }
}

/// The statements that make a machine's view. A view has no parameters, so names are quoted into it.
fn view_of(machine_id: i64, definition: &NewDefinition) -> Result<String, StoreError> {
    let view = quoted('"', &format!("state_{}", definition.machine));
    let mut columns = String::new();
    for (field, kind) in &definition.fields {
        if field.is_empty() || field.chars().any(char::is_control) {
            return Err(StoreError::Refused {
                code: CODE_FIELD.to_owned(),
                detail: format!(
                    "a field of machine `{}` has an empty name or control characters in it",
                    definition.machine
                ),
            });
        }
        let taken = COLUMNS.iter().any(|name| name.eq_ignore_ascii_case(field));
        let column = if taken {
            format!("field_{field}")
        } else {
            field.clone()
        };
        let _ = write!(
            columns,
            ",\n       {} AS {}",
            value_of(field, kind),
            quoted('"', &column)
        );
    }
    Ok(format!(
        "DROP VIEW IF EXISTS {view};
         CREATE VIEW {view} AS
         SELECT t.name AS tenant, e.key, e.status, e.version,
                strftime('%Y-%m-%dT%H:%M:%fZ', e.created_at / 1e6, 'unixepoch') AS created_at,
                strftime('%Y-%m-%dT%H:%M:%fZ', e.changed_at / 1e6, 'unixepoch') AS changed_at,
                e.data{columns}
           FROM entities e JOIN tenants t ON t.tenant_id = e.tenant_id
          WHERE e.machine_id = {machine_id}"
    ))
}

/// The expression that reads a field: lists and maps as JSON text, everything else as SQLite's own kind.
fn value_of(field: &str, kind: &str) -> String {
    let plain = field
        .chars()
        .all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | ' '));
    if !plain {
        // A path cannot name every key; a search by its text can.
        let key = quoted('\'', field);
        return format!("(SELECT f.value FROM json_each(e.data) f WHERE f.key = {key})");
    }
    let operator = if matches!(kind, "list" | "map") {
        "->"
    } else {
        "->>"
    };
    format!(
        "e.data {operator} {}",
        quoted('\'', &format!("$.\"{field}\""))
    )
}

/// Text between quotes of SQL, with the quotes inside doubled.
fn quoted(quote: char, text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push(quote);
    for character in text.chars() {
        if character == quote {
            out.push(quote);
        }
        out.push(character);
    }
    out.push(quote);
    out
}
