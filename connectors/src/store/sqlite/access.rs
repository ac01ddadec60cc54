//! The register of tenants and of tokens. There are no roles here: whoever may write the file may make
//! tokens, and triggers alone keep one from being changed.

use std::time::Duration;

use sqlx::sqlite::SqliteRow;
use sqlx::{SqliteConnection, SqlitePool};
use tidegate_engine::access::{
    AccessStore, Leases, NewToken, Revocation, SecretHash, StoredTenant, StoredToken,
    TenantCreation, TenantState, Token, TokenCreation, TokenId, TokensOf,
};
use tidegate_engine::clock::Timestamp;
use tidegate_engine::limits::VALID_TOKENS_MAX;
use tidegate_engine::position::SourcePartition;
use tidegate_engine::store::StoreError;
use tidegate_engine::tenant::TenantId;

use super::SqliteStore;
use super::errors::unreadable;
use super::rows::{column, execute, fetch, valid};
use super::writer::{End, Writer};

/// Before every id and every name.
const FIRST: &str = "";

/// Registers a tenant.
async fn create_tenant(
    writer: &Writer,
    tenant: &TenantId,
    at: Timestamp,
) -> Result<TenantCreation, StoreError> {
    let tenant = tenant.clone();
    writer
        .transaction(move |connection| {
            Box::pin(async move {
                if let Some(stored) = find_tenant(&mut *connection, &tenant).await? {
                    return Ok(End::RollBack(TenantCreation::Exists(stored)));
                }
                execute(
                    connection,
                    "INSERT INTO tenants (name, created_at) VALUES (?1, ?2)",
                    |binds| {
                        binds.text(tenant.as_str()).int(at.0);
                    },
                )
                .await?;
                Ok(End::Commit(TenantCreation::Created))
            })
        })
        .await
}

/// A tenant as it is registered.
pub(super) async fn find_tenant<'e, E>(
    executor: E,
    tenant: &TenantId,
) -> Result<Option<StoredTenant>, StoreError>
where
    E: sqlx::Executor<'e, Database = sqlx::Sqlite>,
{
    let found = fetch(
        executor,
        "SELECT name, state, created_at FROM tenants WHERE name = ?1",
        |binds| {
            binds.text(tenant.as_str());
        },
        tenant_of,
    )
    .await?;
    Ok(found.into_iter().next())
}

/// Tenants in order of name.
async fn list_tenants(
    readers: &SqlitePool,
    after: Option<&TenantId>,
    max: u32,
) -> Result<Vec<StoredTenant>, StoreError> {
    fetch(
        readers,
        "SELECT name, state, created_at FROM tenants WHERE name > ?1 ORDER BY name LIMIT ?2",
        |binds| {
            let after = after.map_or(FIRST, TenantId::as_str);
            binds.text(after).int(i64::from(max));
        },
        tenant_of,
    )
    .await
}

/// Closes a tenant; returns it as it was.
async fn close_tenant(
    writer: &Writer,
    tenant: &TenantId,
) -> Result<Option<StoredTenant>, StoreError> {
    let tenant = tenant.clone();
    writer
        .transaction(move |connection| {
            Box::pin(async move {
                let before = find_tenant(&mut *connection, &tenant).await?;
                execute(
                    connection,
                    "UPDATE tenants SET state = 'closed' WHERE name = ?1",
                    |binds| {
                        binds.text(tenant.as_str());
                    },
                )
                .await?;
                Ok(End::Commit(before))
            })
        })
        .await
}

/// Stores a token, or says why not.
async fn create_token(writer: &Writer, new: NewToken) -> Result<TokenCreation, StoreError> {
    writer
        .transaction(move |connection| {
            Box::pin(async move {
                match why_not(connection, new.token()).await? {
                    Some(refusal) => Ok(End::RollBack(refusal)),
                    None => {
                        insert_token(connection, &new).await?;
                        Ok(End::Commit(TokenCreation::Created))
                    }
                }
            })
        })
        .await
}

async fn why_not(
    connection: &mut SqliteConnection,
    token: &Token,
) -> Result<Option<TokenCreation>, StoreError> {
    if let Some(tenant) = &token.tenant
        && find_tenant(&mut *connection, tenant).await?.is_none()
    {
        return Ok(Some(TokenCreation::NoTenant));
    }
    let taken: Vec<()> = fetch(
        &mut *connection,
        "SELECT 1 FROM tokens WHERE token_id = ?1",
        |binds| {
            binds.text(&token.id.to_string());
        },
        |_| Ok(()),
    )
    .await?;
    if !taken.is_empty() {
        return Ok(Some(TokenCreation::IdTaken));
    }
    let ids: Vec<TokenId> = fetch(
        &mut *connection,
        "SELECT token_id FROM tokens
          WHERE tenant_id IS (SELECT t.tenant_id FROM tenants t WHERE t.name = ?1) AND label = ?2
            AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > ?3)
          ORDER BY created_at, token_id",
        |binds| {
            binds
                .optional(token.tenant.as_ref(), |binds, tenant| {
                    binds.text(tenant.as_str());
                })
                .text(token.label.as_str())
                .int(token.created_at.0);
        },
        |row| valid(row, 0),
    )
    .await?;
    Ok((ids.len() >= VALID_TOKENS_MAX).then_some(TokenCreation::TooMany(ids)))
}

async fn insert_token(connection: &mut SqliteConnection, new: &NewToken) -> Result<(), StoreError> {
    let token = new.token();
    execute(
        connection,
        "INSERT INTO tokens (token_id, tenant_id, label, scopes, hash, created_at, expires_at)
         VALUES (?1, (SELECT t.tenant_id FROM tenants t WHERE t.name = ?2), ?3, ?4, ?5, ?6, ?7)",
        |binds| {
            binds
                .text(&token.id.to_string())
                .optional(token.tenant.as_ref(), |binds, tenant| {
                    binds.text(tenant.as_str());
                })
                .text(token.label.as_str())
                .text(&token.scopes.to_string())
                .bytes(new.hash().as_bytes())
                .int(token.created_at.0)
                .optional(token.expires_at, |binds, end| {
                    binds.int(end.0);
                });
        },
    )
    .await
    .map(drop)
}

/// Tokens in order of id.
async fn tokens(
    readers: &SqlitePool,
    of: &TokensOf,
    after: Option<TokenId>,
    max: u32,
) -> Result<Vec<Token>, StoreError> {
    let (everybody, tenant) = match of {
        TokensOf::Everybody => (true, None),
        TokensOf::Installation => (false, None),
        TokensOf::Tenant(tenant) => (false, Some(tenant)),
    };
    fetch(
        readers,
        "SELECT k.token_id, t.name, k.label, k.scopes, k.created_at, k.expires_at, k.revoked_at
           FROM tokens k LEFT JOIN tenants t USING (tenant_id)
          WHERE k.token_id > ?1 AND (?2 OR t.name IS ?3)
          ORDER BY k.token_id LIMIT ?4",
        |binds| {
            binds
                .text(&after.map_or_else(|| FIRST.to_owned(), |id| id.to_string()))
                .int(i64::from(everybody))
                .optional(tenant, |binds, tenant| {
                    binds.text(tenant.as_str());
                })
                .int(i64::from(max));
        },
        token_of,
    )
    .await
}

/// One token with its hash.
async fn token(readers: &SqlitePool, id: TokenId) -> Result<Option<StoredToken>, StoreError> {
    let found = fetch(
        readers,
        "SELECT k.token_id, t.name, k.label, k.scopes, k.created_at, k.expires_at, k.revoked_at,
                k.hash, t.state
           FROM tokens k LEFT JOIN tenants t USING (tenant_id)
          WHERE k.token_id = ?1",
        |binds| {
            binds.text(&id.to_string());
        },
        |row| {
            let state: Option<&str> = column(row, 8)?;
            Ok(StoredToken {
                token: token_of(row)?,
                hash: SecretHash::from_slice(column(row, 7)?)
                    .ok_or_else(|| unreadable("hash of a token"))?,
                tenant_state: state.map(state_of).transpose()?,
            })
        },
    )
    .await?;
    Ok(found.into_iter().next())
}

/// Revokes a token.
async fn revoke_token(
    writer: &Writer,
    id: TokenId,
    at: Timestamp,
) -> Result<Revocation, StoreError> {
    writer
        .transaction(move |connection| {
            Box::pin(async move {
                let found: Vec<Option<i64>> = fetch(
                    &mut *connection,
                    "SELECT revoked_at FROM tokens WHERE token_id = ?1",
                    |binds| {
                        binds.text(&id.to_string());
                    },
                    |row| column(row, 0),
                )
                .await?;
                match found.first() {
                    None => return Ok(End::RollBack(Revocation::Unknown)),
                    Some(Some(before)) => {
                        let already = Revocation::Already(Timestamp(*before));
                        return Ok(End::RollBack(already));
                    }
                    Some(None) => {}
                }
                execute(
                    connection,
                    "UPDATE tokens SET revoked_at = ?2 WHERE token_id = ?1",
                    |binds| {
                        binds.text(&id.to_string()).int(at.0);
                    },
                )
                .await?;
                Ok(End::Commit(Revocation::Revoked))
            })
        })
        .await
}

/// Columns: name, state, created.
fn tenant_of(row: &SqliteRow) -> Result<StoredTenant, StoreError> {
    Ok(StoredTenant {
        id: valid(row, 0)?,
        state: state_of(column(row, 1)?)?,
        created_at: Timestamp(column(row, 2)?),
    })
}

fn state_of(word: &str) -> Result<TenantState, StoreError> {
    TenantState::from_word(word).ok_or_else(|| unreadable("state of a tenant"))
}

/// Columns: id, tenant, label, scopes, created, expires, revoked.
fn token_of(row: &SqliteRow) -> Result<Token, StoreError> {
    let tenant: Option<&str> = column(row, 1)?;
    Ok(Token {
        id: valid(row, 0)?,
        tenant: tenant
            .map(|name| TenantId::new(name).map_err(|_| unreadable("tenant")))
            .transpose()?,
        label: valid(row, 2)?,
        scopes: valid(row, 3)?,
        created_at: Timestamp(column(row, 4)?),
        expires_at: column::<Option<i64>>(row, 5)?.map(Timestamp),
        revoked_at: column::<Option<i64>>(row, 6)?.map(Timestamp),
    })
}

#[async_trait::async_trait]
impl AccessStore for SqliteStore {
    async fn create_tenant(
        &self,
        tenant: &TenantId,
        at: Timestamp,
    ) -> Result<TenantCreation, StoreError> {
        create_tenant(&self.writer, tenant, at).await
    }

    async fn tenant(&self, tenant: &TenantId) -> Result<Option<StoredTenant>, StoreError> {
        find_tenant(&self.readers, tenant).await
    }

    async fn list_tenants(
        &self,
        after: Option<&TenantId>,
        max: u32,
    ) -> Result<Vec<StoredTenant>, StoreError> {
        list_tenants(&self.readers, after, max).await
    }

    async fn close_tenant(
        &self,
        tenant: &TenantId,
        _at: Timestamp,
    ) -> Result<Option<StoredTenant>, StoreError> {
        close_tenant(&self.writer, tenant).await
    }

    async fn create_token(&self, token: NewToken) -> Result<TokenCreation, StoreError> {
        create_token(&self.writer, token).await
    }

    async fn tokens(
        &self,
        of: &TokensOf,
        after: Option<TokenId>,
        max: u32,
    ) -> Result<Vec<Token>, StoreError> {
        tokens(&self.readers, of, after, max).await
    }

    async fn token(&self, id: TokenId) -> Result<Option<StoredToken>, StoreError> {
        token(&self.readers, id).await
    }

    async fn revoke_token(&self, id: TokenId, at: Timestamp) -> Result<Revocation, StoreError> {
        revoke_token(&self.writer, id, at).await
    }
}

#[async_trait::async_trait]
impl Leases for SqliteStore {
    async fn acquire(
        &self,
        source_partition: &SourcePartition,
        holder: &str,
        ttl: Duration,
    ) -> Result<bool, StoreError> {
        self.leases.acquire(source_partition, holder, ttl)
    }

    async fn renew(
        &self,
        source_partition: &SourcePartition,
        holder: &str,
        ttl: Duration,
    ) -> Result<bool, StoreError> {
        self.leases.renew(source_partition, holder, ttl)
    }

    async fn release(
        &self,
        source_partition: &SourcePartition,
        holder: &str,
    ) -> Result<(), StoreError> {
        self.leases.release(source_partition, holder);
        Ok(())
    }
}
