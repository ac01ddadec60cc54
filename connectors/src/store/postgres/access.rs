//! The register of tenants, tokens and leases. Works with the engine's login, which looks up and leases,
//! and with an administrator's, which creates, closes and revokes.

use std::sync::Arc;
use std::time::Duration;

use sqlx::Postgres;
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use tidegate_engine::access::{
    AccessStore, LeaseTerms, Leases, NewToken, Revocation, SecretHash, StoredTenant, StoredToken,
    TenantCreation, TenantState, Token, TokenCreation, TokenId, TokensOf,
};
use tidegate_engine::clock::Timestamp;
use tidegate_engine::limits::VALID_TOKENS_MAX;
use tidegate_engine::position::SourcePartition;
use tidegate_engine::store::StoreError;
use tidegate_engine::tenant::TenantId;

use super::encode::Moment;
use super::error::{During, corrupt};
use super::options::PostgresOptions;
use super::ownership::column;
use super::session::{Session, owned};
use super::startup;

/// "Insufficient privilege".
const MAY_NOT: &str = "42501";

/// Before every id and every name.
const FIRST: &str = "";

/// What `tidegate.list_tokens` takes for the tokens of the installation; no tenant's name.
const INSTALLATION: &str = "*";

/// Until the look-up of one token must be answered: a request waits for it, and few of them run at once.
const TOKEN_TIME_MAX: Duration = Duration::from_millis(2_500);

type Question = Query<'static, Postgres, PgArguments>;

/// The register in a Postgres database. Cheap to clone.
#[derive(Clone)]
pub struct PostgresAccess {
    session: Arc<Session>,
    /// Who is logged in, for the message when that one may not.
    login: Arc<str>,
}

impl PostgresAccess {
    /// Connects with any login, an administrator's most often, and checks that the schema is there.
    /// `setting` is the configuration key that the address came from.
    pub async fn connect(options: &PostgresOptions, setting: &str) -> Result<Self, StoreError> {
        startup::check_schema_alone(options, setting).await?;
        Ok(Self::over(
            Arc::new(Session::new(options)?),
            options.login()?,
        ))
    }

    pub(super) fn over(session: Arc<Session>, login: Arc<str>) -> Self {
        Self { session, login }
    }

    /// Closes the connections; calls in flight end first.
    pub async fn close(&self) {
        self.session.close().await;
    }

    /// Runs one statement to its end, whoever goes away.
    async fn ask(&self, question: Question) -> Result<Vec<PgRow>, StoreError> {
        self.ask_within(self.session.answer_timeout(), question)
            .await
    }

    async fn ask_within(
        &self,
        limit: Duration,
        question: Question,
    ) -> Result<Vec<PgRow>, StoreError> {
        let session = Arc::clone(&self.session);
        let asked = async move { session.fetch_within(limit, question, During::Read).await };
        let answer = owned(asked).await;
        answer.map_err(|error| match error {
            StoreError::Unexpected { code, detail } if code == MAY_NOT => {
                StoreError::NotReady(format!(
                    "the login `{}` may not do this ({detail}): name one that is a member of the role \
                     `tidegate_admin` (with `store.postgres.role_prefix`, of that prefix) as \
                     `store.postgres.migrate_url`",
                    self.login
                ))
            }
            other => other,
        })
    }

    /// A statement that answers with one bool.
    async fn ask_whether(&self, question: Question) -> Result<bool, StoreError> {
        let rows = self.ask(question).await?;
        let row = rows.first().ok_or_else(|| corrupt("an answer"))?;
        column(row, "answer")
    }
}

fn lease(sql: &'static str, source_partition: &SourcePartition, holder: &str) -> Question {
    sqlx::query(sql)
        .bind(source_partition.source.as_str().to_owned())
        .bind(i64::from(source_partition.partition))
        .bind(holder.to_owned())
}

fn millis(terms: LeaseTerms) -> i32 {
    // An hour at most, which the terms were checked for.
    i32::try_from(terms.ttl_ms).unwrap_or(i32::MAX)
}

#[async_trait::async_trait]
impl Leases for PostgresAccess {
    async fn acquire(
        &self,
        source_partition: &SourcePartition,
        holder: &str,
        ttl: Duration,
    ) -> Result<bool, StoreError> {
        let terms = LeaseTerms::check(holder, ttl)?;
        let sql = "select tidegate.lease_acquire($1, $2, $3, $4) as answer";
        let question = lease(sql, source_partition, holder).bind(millis(terms));
        self.ask_whether(question).await
    }

    async fn renew(
        &self,
        source_partition: &SourcePartition,
        holder: &str,
        ttl: Duration,
    ) -> Result<bool, StoreError> {
        let terms = LeaseTerms::check(holder, ttl)?;
        let sql = "select tidegate.lease_renew($1, $2, $3, $4) as answer";
        let question = lease(sql, source_partition, holder).bind(millis(terms));
        self.ask_whether(question).await
    }

    async fn release(
        &self,
        source_partition: &SourcePartition,
        holder: &str,
    ) -> Result<(), StoreError> {
        let sql = "select tidegate.lease_release($1, $2, $3) as answer";
        self.ask_whether(lease(sql, source_partition, holder))
            .await
            .map(drop)
    }
}

#[async_trait::async_trait]
impl AccessStore for PostgresAccess {
    async fn create_tenant(
        &self,
        tenant: &TenantId,
        at: Timestamp,
    ) -> Result<TenantCreation, StoreError> {
        let question =
            sqlx::query("select created, state, created_at from tidegate.create_tenant($1, $2)")
                .bind(tenant.as_str().to_owned())
                .bind(Moment(at));
        let rows = self.ask(question).await?;
        let row = rows.first().ok_or_else(|| corrupt("a tenant"))?;
        if column(row, "created")? {
            return Ok(TenantCreation::Created);
        }
        Ok(TenantCreation::Exists(tenant_of(row, tenant.clone())?))
    }

    async fn tenant(&self, tenant: &TenantId) -> Result<Option<StoredTenant>, StoreError> {
        let question =
            sqlx::query("select state, created_at from tidegate.tenants where name = $1")
                .bind(tenant.as_str().to_owned());
        let rows = self.ask(question).await?;
        let row = rows.first();
        row.map(|row| tenant_of(row, tenant.clone())).transpose()
    }

    async fn list_tenants(
        &self,
        after: Option<&TenantId>,
        max: u32,
    ) -> Result<Vec<StoredTenant>, StoreError> {
        let question = sqlx::query(
            "select name, state, created_at from tidegate.tenants \
             where name > $1 order by name limit $2",
        )
        .bind(after.map_or(FIRST, TenantId::as_str).to_owned())
        .bind(i64::from(max));
        let rows = self.ask(question).await?;
        rows.iter()
            .map(|row| tenant_of(row, named(column(row, "name")?)?))
            .collect()
    }

    async fn close_tenant(
        &self,
        tenant: &TenantId,
        at: Timestamp,
    ) -> Result<Option<StoredTenant>, StoreError> {
        let question = sqlx::query("select state, created_at from tidegate.close_tenant($1, $2)")
            .bind(tenant.as_str().to_owned())
            .bind(Moment(at));
        let rows = self.ask(question).await?;
        let row = rows.first();
        row.map(|row| tenant_of(row, tenant.clone())).transpose()
    }

    async fn create_token(&self, new: NewToken) -> Result<TokenCreation, StoreError> {
        let token = new.token();
        let question = sqlx::query(
            "select outcome, valid from tidegate.create_token($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(token.id.to_string())
        .bind(token.tenant.as_ref().map(|name| name.as_str().to_owned()))
        .bind(token.label.as_str().to_owned())
        .bind(token.scopes.to_string())
        .bind(new.hash().as_bytes().to_vec())
        .bind(Moment(token.created_at))
        .bind(token.expires_at.map(Moment))
        .bind(i32::try_from(VALID_TOKENS_MAX).unwrap_or(i32::MAX));
        let rows = self.ask(question).await?;
        let row = rows.first().ok_or_else(|| corrupt("an answer"))?;
        match column(row, "outcome")? {
            "created" => Ok(TokenCreation::Created),
            "no_tenant" => Ok(TokenCreation::NoTenant),
            "id_taken" => Ok(TokenCreation::IdTaken),
            "too_many" => {
                let valid: Vec<String> = column(row, "valid")?;
                let ids = valid.iter().map(|id| id.parse());
                ids.collect::<Result<_, _>>()
                    .map(TokenCreation::TooMany)
                    .map_err(|_| corrupt("a token's id"))
            }
            _ => Err(corrupt("an outcome")),
        }
    }

    async fn tokens(
        &self,
        of: &TokensOf,
        after: Option<TokenId>,
        max: u32,
    ) -> Result<Vec<Token>, StoreError> {
        let tenant = match of {
            TokensOf::Everybody => None,
            TokensOf::Installation => Some(INSTALLATION.to_owned()),
            TokensOf::Tenant(tenant) => Some(tenant.as_str().to_owned()),
        };
        let question = sqlx::query("select * from tidegate.list_tokens($1, $2, $3)")
            .bind(tenant)
            .bind(after.map_or_else(|| FIRST.to_owned(), |id| id.to_string()))
            .bind(i32::try_from(max).unwrap_or(i32::MAX));
        let rows = self.ask(question).await?;
        rows.iter().map(token_of).collect()
    }

    async fn token(&self, id: TokenId) -> Result<Option<StoredToken>, StoreError> {
        let question = sqlx::query("select * from tidegate.token($1)").bind(id.to_string());
        let rows = self.ask_within(TOKEN_TIME_MAX, question).await?;
        rows.first()
            .map(|row| {
                let state: Option<&str> = column(row, "tenant_state")?;
                Ok(StoredToken {
                    token: token_of(row)?,
                    hash: SecretHash::from_slice(column(row, "hash")?)
                        .ok_or_else(|| corrupt("the hash of a token"))?,
                    tenant_state: state.map(state_of).transpose()?,
                })
            })
            .transpose()
    }

    async fn revoke_token(&self, id: TokenId, at: Timestamp) -> Result<Revocation, StoreError> {
        let question = sqlx::query("select before from tidegate.revoke_token($1, $2)")
            .bind(id.to_string())
            .bind(Moment(at));
        let rows = self.ask(question).await?;
        let Some(row) = rows.first() else {
            return Ok(Revocation::Unknown);
        };
        let before: Option<Moment> = column(row, "before")?;
        Ok(before.map_or(Revocation::Revoked, |before| Revocation::Already(before.0)))
    }
}

fn named(name: &str) -> Result<TenantId, StoreError> {
    TenantId::new(name).map_err(|_| corrupt("a tenant's name"))
}

fn state_of(word: &str) -> Result<TenantState, StoreError> {
    TenantState::from_word(word).ok_or_else(|| corrupt("a tenant's state"))
}

/// Columns `state` and `created_at`.
fn tenant_of(row: &PgRow, id: TenantId) -> Result<StoredTenant, StoreError> {
    Ok(StoredTenant {
        id,
        state: state_of(column(row, "state")?)?,
        created_at: column::<Moment>(row, "created_at")?.0,
    })
}

/// What lists show of a token.
fn token_of(row: &PgRow) -> Result<Token, StoreError> {
    let valid = |what| move |_| corrupt(what);
    let tenant: Option<&str> = column(row, "tenant")?;
    let moment = |name| Ok(column::<Option<Moment>>(row, name)?.map(|it| it.0));
    Ok(Token {
        id: column::<&str>(row, "token_id")?
            .parse()
            .map_err(valid("a token's id"))?,
        tenant: tenant.map(named).transpose()?,
        label: column::<&str>(row, "label")?
            .parse()
            .map_err(valid("a token's label"))?,
        scopes: column::<&str>(row, "scopes")?
            .parse()
            .map_err(valid("a token's scopes"))?,
        created_at: column::<Moment>(row, "created_at")?.0,
        expires_at: moment("expires_at")?,
        revoked_at: moment("revoked_at")?,
    })
}
