//! The AccessStore seam: the register of tenants, and tokens by their ids.

use crate::clock::Timestamp;
use crate::store::StoreError;
use crate::tenant::TenantId;

use super::secret::TokenId;
use super::token::{NewToken, StoredToken, Token};

/// Whether a tenant takes new events.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum TenantState {
    /// It does.
    Open,
    /// It does not. What it has stays, and is read as before.
    Closed,
}

impl TenantState {
    /// As it is stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            TenantState::Open => "open",
            TenantState::Closed => "closed",
        }
    }

    /// The state that was stored as this text.
    pub fn from_word(word: &str) -> Option<Self> {
        [TenantState::Open, TenantState::Closed]
            .into_iter()
            .find(|state| state.as_str() == word)
    }
}

/// A tenant as it is registered. A source that names tenants itself registers them by their first commit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredTenant {
    /// Its name.
    pub id: TenantId,
    /// Whether it takes new events.
    pub state: TenantState,
    /// Since when it is known.
    pub created_at: Timestamp,
}

/// What came of creating a tenant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TenantCreation {
    /// It is new.
    Created,
    /// It was there, and is as it was.
    Exists(StoredTenant),
}

/// What came of creating a token.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TokenCreation {
    /// It is stored.
    Created,
    /// Its tenant does not exist: nothing was stored.
    NoTenant,
    /// Its id is another token's (64 random bits fell twice): nothing was stored, draw again.
    IdTaken,
    /// As many tokens of this tenant and label are valid as may be: nothing was stored. The oldest first,
    /// which is the one to revoke.
    TooMany(Vec<TokenId>),
}

/// What came of revoking a token.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Revocation {
    /// It is revoked by this call.
    Revoked,
    /// It was revoked before, at that time, which stays.
    Already(Timestamp),
    /// No token has this id.
    Unknown,
}

/// Whose tokens are wanted.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum TokensOf {
    /// All there are.
    #[default]
    Everybody,
    /// Those of the whole installation.
    Installation,
    /// Those of one tenant.
    Tenant(TenantId),
}

/// Where tenants and tokens are registered. Creating, closing and revoking are administrators' calls:
/// a store with roles refuses them to a node's own login.
#[async_trait::async_trait]
pub trait AccessStore: Send + Sync + 'static {
    // --- tenants ------------------------------------------------------------------------------

    /// Registers a tenant, open.
    async fn create_tenant(
        &self,
        tenant: &TenantId,
        at: Timestamp,
    ) -> Result<TenantCreation, StoreError>;

    /// A tenant as it is registered.
    async fn tenant(&self, tenant: &TenantId) -> Result<Option<StoredTenant>, StoreError>;

    /// Tenants in order of name, behind `after`, at most `max`.
    async fn list_tenants(
        &self,
        after: Option<&TenantId>,
        max: u32,
    ) -> Result<Vec<StoredTenant>, StoreError>;

    /// Closes a tenant, and returns it as it was before; `None` when there is none. Closing a closed one
    /// changes nothing.
    async fn close_tenant(
        &self,
        tenant: &TenantId,
        at: Timestamp,
    ) -> Result<Option<StoredTenant>, StoreError>;

    // --- tokens -------------------------------------------------------------------------------

    /// Stores a token, if its tenant exists and fewer than [`VALID_TOKENS_MAX`](crate::limits::VALID_TOKENS_MAX) with its tenant and label
    /// are valid at the moment that it begins.
    async fn create_token(&self, token: NewToken) -> Result<TokenCreation, StoreError>;

    /// Tokens in order of id, behind `after`, at most `max`; expired and revoked ones too.
    async fn tokens(
        &self,
        of: &TokensOf,
        after: Option<TokenId>,
        max: u32,
    ) -> Result<Vec<Token>, StoreError>;

    /// One token with its hash: what a server asks for each secret that is presented.
    async fn token(&self, id: TokenId) -> Result<Option<StoredToken>, StoreError>;

    /// Revokes a token, for ever.
    async fn revoke_token(&self, id: TokenId, at: Timestamp) -> Result<Revocation, StoreError>;
}
