//! `tidegate tenants` and `tidegate tokens`: who has events here, and who may do what.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tidegate_engine::access::{
    AccessStore, NewToken, Revocation, Scopes, StoredTenant, TenantCreation, TenantState, Token,
    TokenCreation, TokenId, TokenSecret, TokensOf,
};
use tidegate_engine::clock::{Clock as _, Timestamp};
use tidegate_engine::error::ErrorKind;
use tidegate_engine::store::StoreError;
use tidegate_engine::tenant::TenantId;

use super::access_args::{NewTokenArgs, Tenants, Tokens, TokensFilter};
use super::args::Global;
use super::exit::{Exit, Failure};
use super::output::Output;
use super::session;
use crate::access::draw_secret;
use crate::config::LogLevel;
use crate::runtime::SystemClock;
use crate::stores::{self, WhenAbsent};

/// Rows that are read at once.
const PAGE: u32 = 500;

/// Tenants that are named when one is not known.
const NAMED_MAX: u32 = 20;

const TENANT_COLUMNS: [&str; 3] = ["tenant", "state", "created_at"];

const TOKEN_COLUMNS: [&str; 8] = [
    "id",
    "tenant",
    "label",
    "scopes",
    "state",
    "created_at",
    "expires_at",
    "revoked_at",
];

/// `tidegate tenants`
pub fn tenants(global: &Global, wanted: &Tenants, output: &mut Output) -> Result<Exit, Failure> {
    let when_absent = match wanted {
        Tenants::Create { .. } => WhenAbsent::Create,
        _ => WhenAbsent::Refuse,
    };
    with_register(global, when_absent, async |register| match wanted {
        Tenants::Create { name } => create_tenant(register, name, output).await,
        Tenants::List => list_tenants(register, output).await,
        Tenants::Show { name } => {
            let tenant = known(register, name).await?;
            show_tenant(&tenant, output)
        }
        Tenants::Close { name } => close_tenant(register, name, output).await,
    })
}

/// `tidegate tokens`
pub fn tokens(global: &Global, wanted: &Tokens, output: &mut Output) -> Result<Exit, Failure> {
    with_register(global, WhenAbsent::Refuse, async |register| match wanted {
        Tokens::Create(new) => create_token(register, new, output).await,
        Tokens::List(filter) => list_tokens(register, filter, output).await,
        Tokens::Revoke { id } => revoke_token(register, id.parse()?, output).await,
    })
}

/// Opens the register as an administrator, and closes it behind the command.
fn with_register(
    global: &Global,
    when_absent: WhenAbsent,
    command: impl AsyncFnOnce(&dyn AccessStore) -> Result<Exit, Failure>,
) -> Result<Exit, Failure> {
    let config = session::config(global)?;
    session::logs(global, &config, LogLevel::Warn)?;
    session::runtime()?.block_on(async {
        let opened = stores::open_register(&config.store, when_absent).await?;
        let exit = command(opened.register()).await;
        opened.close().await?;
        exit
    })
}

async fn create_tenant(
    register: &dyn AccessStore,
    name: &TenantId,
    output: &mut Output,
) -> Result<Exit, Failure> {
    not_reserved(name)?;
    match register.create_tenant(name, SystemClock.now()).await? {
        TenantCreation::Created => {}
        TenantCreation::Exists(stored) if stored.state == TenantState::Closed => {
            return Err(Failure::usage(format!(
                "tenant `{name}` is closed, and a closed tenant is not opened again: take another name"
            )));
        }
        TenantCreation::Exists(_) => crate::say!("tenant `{name}` was there already"),
    }
    let tenant = known(register, name).await?;
    show_tenant(&tenant, output)
}

fn not_reserved(name: &TenantId) -> Result<(), Failure> {
    if name.is_unassigned() {
        return Err(Failure::usage(format!(
            "`{name}` is reserved for deliveries whose tenant could not be read"
        )));
    }
    Ok(())
}

/// The tenant, or an error that names those that there are.
async fn known(register: &dyn AccessStore, name: &TenantId) -> Result<StoredTenant, Failure> {
    match register.tenant(name).await? {
        Some(tenant) => Ok(tenant),
        None => Err(unknown_tenant(register, name).await?),
    }
}

async fn unknown_tenant(register: &dyn AccessStore, name: &TenantId) -> Result<Failure, Failure> {
    let first = register.list_tenants(None, NAMED_MAX).await?;
    let names: Vec<&str> = first.iter().map(|tenant| tenant.id.as_str()).collect();
    let there_are = match names.len() {
        0 => "there are none yet".to_owned(),
        count if count == NAMED_MAX as usize => format!("the first are {}", names.join(", ")),
        _ => format!("there are {}", names.join(", ")),
    };
    Ok(Failure::not_found(format!(
        "there is no tenant `{name}` ({there_are}); `tidegate tenants create {name}` makes it"
    )))
}

async fn list_tenants(register: &dyn AccessStore, output: &mut Output) -> Result<Exit, Failure> {
    let mut after = None;
    loop {
        let page = register.list_tenants(after.as_ref(), PAGE).await?;
        let rows: Vec<Vec<Value>> = page.iter().map(|it| tenant_row(it).to_vec()).collect();
        if after.is_none() {
            output.rows(&TENANT_COLUMNS, &rows)?;
        } else {
            output.more_rows(&TENANT_COLUMNS, &rows)?;
        }
        match page.last() {
            Some(last) if page.len() == PAGE as usize => after = Some(last.id.clone()),
            _ => return Ok(Exit::Done),
        }
    }
}

async fn close_tenant(
    register: &dyn AccessStore,
    name: &TenantId,
    output: &mut Output,
) -> Result<Exit, Failure> {
    not_reserved(name)?;
    match register.close_tenant(name, SystemClock.now()).await? {
        None => return Err(unknown_tenant(register, name).await?),
        Some(before) if before.state == TenantState::Closed => {
            crate::say!("tenant `{name}` was closed already");
        }
        Some(_) => {}
    }
    let tenant = known(register, name).await?;
    show_tenant(&tenant, output)
}

fn show_tenant(tenant: &StoredTenant, output: &mut Output) -> Result<Exit, Failure> {
    let fields: Vec<(&str, Value)> = TENANT_COLUMNS.into_iter().zip(tenant_row(tenant)).collect();
    output.fields(&fields)?;
    Ok(Exit::Done)
}

fn tenant_row(tenant: &StoredTenant) -> [Value; 3] {
    [
        json!(tenant.id.as_str()),
        json!(tenant.state.as_str()),
        json!(tenant.created_at.to_rfc3339()),
    ]
}

async fn create_token(
    register: &dyn AccessStore,
    wanted: &NewTokenArgs,
    output: &mut Output,
) -> Result<Exit, Failure> {
    if let Some(tenant) = &wanted.tenant {
        not_reserved(tenant)?;
        known(register, tenant).await?;
    }
    let secret = draw_secret().map_err(|error| {
        let message = format!("the system gives no random bytes: {error}");
        Failure::new(Exit::Unavailable, message)
    })?;
    let now = SystemClock.now();
    let new = NewToken::new(
        Token {
            id: secret.id(),
            tenant: wanted.tenant.clone(),
            scopes: wanted
                .scope
                .iter()
                .flat_map(|it| it.iter())
                .collect::<Scopes>(),
            label: wanted.label.clone(),
            created_at: now,
            expires_at: wanted
                .expires_in
                .map(|it| Timestamp(now.0.saturating_add(it.0))),
            revoked_at: None,
        },
        &secret,
    )?;
    let token = new.token().clone();
    // Before the token counts: what nobody could read would have to be revoked.
    let file = match &wanted.out {
        Some(path) => Some(SecretFile::write(path, &secret)?),
        None => None,
    };
    let creation = register.create_token(new).await;
    match creation.map_err(|error| perhaps_stored(error, token.id))? {
        TokenCreation::Created => {}
        TokenCreation::NoTenant => {
            let named = wanted
                .tenant
                .as_ref()
                .map(TenantId::as_str)
                .unwrap_or_default();
            return Err(Failure::not_found(format!(
                "there is no tenant `{named}`; `tidegate tenants create {named}` makes it"
            )));
        }
        TokenCreation::IdTaken => {
            let message = "the id that was drawn is another token's: run the command again";
            return Err(Failure::new(Exit::Unavailable, message));
        }
        TokenCreation::TooMany(valid) => return Err(too_many(&token, &valid)),
    }
    let mut fields: Vec<(&str, Value)> = Vec::new();
    match file {
        Some(file) => {
            crate::say!("the token is in {}, and nowhere else", file.path.display());
            file.stays();
        }
        None => {
            crate::say!("the token is shown this once, and kept nowhere");
            fields.push(("token", json!(secret.expose())));
        }
    }
    fields.extend(TOKEN_COLUMNS.into_iter().zip(token_row(&token, now)));
    let shown = output.fields(&fields);
    shown.inspect_err(|_| unseen(secret.id()))?;
    Ok(Exit::Done)
}

/// A token that is valid, and whose secret could not be shown to anybody.
fn unseen(id: TokenId) {
    crate::say!(
        "the token {id} is made, and nobody was shown its secret: `tidegate tokens revoke {id}`"
    );
}

/// A store that went away meanwhile may have stored a token whose secret nobody has now.
fn perhaps_stored(error: StoreError, id: TokenId) -> Failure {
    let in_doubt = error.kind() == ErrorKind::Transient;
    let mut failure = Failure::from(error);
    if in_doubt {
        failure.message.push_str(&format!(
            "; if `tidegate tokens list` shows {id}, revoke it: nobody has its secret"
        ));
    }
    failure
}

fn too_many(token: &Token, valid: &[TokenId]) -> Failure {
    let of = match &token.tenant {
        Some(tenant) => format!("tenant `{tenant}`"),
        None => "the installation".to_owned(),
    };
    let ids: Vec<String> = valid.iter().map(TokenId::to_string).collect();
    let oldest = ids.first().map(String::as_str).unwrap_or_default();
    Failure::usage(format!(
        "{of} has {} valid tokens with the label `{}` ({}), which is as many as a rotation needs: revoke \
         the oldest with `tidegate tokens revoke {oldest}`, or give this one another --label",
        ids.len(),
        token.label,
        ids.join(", ")
    ))
}

async fn list_tokens(
    register: &dyn AccessStore,
    wanted: &TokensFilter,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let of = match &wanted.tenant {
        Some(tenant) => {
            known(register, tenant).await?;
            TokensOf::Tenant(tenant.clone())
        }
        None if wanted.installation => TokensOf::Installation,
        None => TokensOf::Everybody,
    };
    let now = SystemClock.now();
    let mut after = None;
    loop {
        let page = register.tokens(&of, after, PAGE).await?;
        let rows: Vec<Vec<Value>> = page
            .iter()
            .map(|token| token_row(token, now).to_vec())
            .collect();
        if after.is_none() {
            output.rows(&TOKEN_COLUMNS, &rows)?;
        } else {
            output.more_rows(&TOKEN_COLUMNS, &rows)?;
        }
        match page.last() {
            Some(last) if page.len() == PAGE as usize => after = Some(last.id),
            _ => return Ok(Exit::Done),
        }
    }
}

fn token_row(token: &Token, now: Timestamp) -> [Value; 8] {
    let moment = |at: Option<Timestamp>| json!(at.map(Timestamp::to_rfc3339));
    let state = match token {
        token if token.revoked_at.is_some() => "revoked",
        token if token.is_expired(now) => "expired",
        _ => "valid",
    };
    [
        json!(token.id.to_string()),
        json!(token.tenant.as_ref().map(TenantId::as_str)),
        json!(token.label.as_str()),
        json!(token.scopes.to_string()),
        json!(state),
        moment(Some(token.created_at)),
        moment(token.expires_at),
        moment(token.revoked_at),
    ]
}

async fn revoke_token(
    register: &dyn AccessStore,
    id: TokenId,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let now = SystemClock.now();
    let revoked_at = match register.revoke_token(id, now).await? {
        Revocation::Revoked => {
            crate::say!("token {id} is revoked; servers know within 5 seconds");
            now
        }
        Revocation::Already(before) => {
            crate::say!("token {id} was revoked already");
            before
        }
        Revocation::Unknown => {
            return Err(Failure::not_found(format!(
                "no token has the id {id}; `tidegate tokens list` shows those that there are"
            )));
        }
    };
    output.fields(&[
        ("id", json!(id.to_string())),
        ("state", json!("revoked")),
        ("revoked_at", json!(revoked_at.to_rfc3339())),
    ])?;
    Ok(Exit::Done)
}

/// A file that holds a token's secret, and goes away again unless the token was stored.
struct SecretFile {
    path: PathBuf,
    stays: bool,
}

impl SecretFile {
    /// Makes the file, for its owner alone; one that is there is never written over.
    fn write(path: &Path, secret: &TokenSecret) -> Result<Self, Failure> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        {
            use std::os::unix::fs::OpenOptionsExt as _;
            options.mode(0o600);
        }
        let refused = |error: std::io::Error| {
            let shown = path.display();
            Failure::usage(match error.kind() {
                std::io::ErrorKind::AlreadyExists => {
                    format!("--out: {shown} exists; a token is never written over what is there")
                }
                _ => format!("--out: {shown} cannot be written: {error}"),
            })
        };
        let mut file: File = options.open(path).map_err(refused)?;
        let made = Self {
            path: path.to_owned(),
            stays: false,
        };
        writeln!(file, "{}", secret.expose())
            .and_then(|()| file.sync_all())
            .map_err(refused)?;
        Ok(made)
    }

    fn stays(mut self) {
        self.stays = true;
    }
}

impl Drop for SecretFile {
    fn drop(&mut self) {
        if !self.stays {
            // The secret of a token that does not exist harms nobody; it would only mislead.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
