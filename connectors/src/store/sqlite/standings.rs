//! How tenants stand that events name. Owns the registering of those that are missing, by their source.

use sqlx::{SqliteConnection, SqlitePool};
use tidegate_engine::access::TenantState;
use tidegate_engine::store::StoreError;
use tidegate_engine::tenant::{CreateTenants, TenantId, TenantStanding, TenantsAsked};

use super::access::find_tenant;
use super::rows::{column, execute, fetch};
use super::writer::{End, Writer};

/// One answer a name, in their order. Names that are all known, the rule, do not wait for the writer.
pub(super) async fn of(
    writer: &Writer,
    readers: &SqlitePool,
    asked: TenantsAsked,
) -> Result<Vec<TenantStanding>, StoreError> {
    let mut standings = Vec::with_capacity(asked.names.len());
    for name in &asked.names {
        let found = find_tenant(readers, name).await?;
        standings.push(found.map_or(TenantStanding::Unknown, |it| known(it.state)));
    }
    let Some(create) = asked.create else {
        return Ok(standings);
    };
    if !standings.contains(&TenantStanding::Unknown) {
        return Ok(standings);
    }
    writer
        .transaction(move |connection| {
            Box::pin(async move {
                let mut room = room(connection, &create).await?;
                let mut standings = Vec::with_capacity(asked.names.len());
                for name in &asked.names {
                    standings.push(register(connection, name, &create, &mut room).await?);
                }
                Ok(End::Commit(standings))
            })
        })
        .await
}

fn known(state: TenantState) -> TenantStanding {
    match state {
        TenantState::Open => TenantStanding::Open,
        TenantState::Closed => TenantStanding::Closed,
    }
}

/// How many more tenants sources may register.
async fn room(
    connection: &mut SqliteConnection,
    create: &CreateTenants,
) -> Result<i64, StoreError> {
    let counted = fetch(
        connection,
        "SELECT count(*) FROM tenants WHERE created_by_source IS NOT NULL",
        |_| {},
        |row| column::<i64>(row, 0),
    )
    .await?;
    let created = counted.first().copied().unwrap_or(0);
    Ok(i64::from(create.created_max) - created)
}

async fn register(
    connection: &mut SqliteConnection,
    name: &TenantId,
    create: &CreateTenants,
    room: &mut i64,
) -> Result<TenantStanding, StoreError> {
    if let Some(stored) = find_tenant(&mut *connection, name).await? {
        return Ok(known(stored.state));
    }
    if *room <= 0 {
        return Ok(TenantStanding::TooMany);
    }
    *room -= 1;
    execute(
        connection,
        "INSERT INTO tenants (name, created_at, created_by_source) VALUES (?1, ?2, ?3)",
        |binds| {
            binds
                .text(name.as_str())
                .int(create.at.0)
                .text(create.source.as_str());
        },
    )
    .await?;
    Ok(TenantStanding::Created)
}
