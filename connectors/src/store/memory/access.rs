//! Tenants and tokens of the memory store: the shortest text that says what the seam means. No fault hook
//! disturbs these calls; nothing that they decide is part of a commit.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::Duration;

use tidegate_engine::access::{
    AccessStore, Leases, NewToken, Revocation, StoredTenant, StoredToken, TenantCreation,
    TenantState, Token, TokenCreation, TokenId, TokensOf,
};
use tidegate_engine::clock::Timestamp;
use tidegate_engine::limits::VALID_TOKENS_MAX;
use tidegate_engine::position::{SourceName, SourcePartition};
use tidegate_engine::store::StoreError;
use tidegate_engine::tenant::{CreateTenants, TenantId, TenantStanding, TenantsAsked};

use super::MemoryStore;

/// The register of tenants and of tokens.
#[derive(Debug, Default)]
pub(super) struct AccessTables {
    tenants: BTreeMap<TenantId, StoredTenant>,
    /// Those that a source registered.
    created_by_source: BTreeMap<TenantId, SourceName>,
    tokens: BTreeMap<TokenId, NewToken>,
    revoked: BTreeMap<TokenId, Timestamp>,
}

impl AccessTables {
    /// A tenant that a commit names is registered by it.
    pub(super) fn register(&mut self, tenant: &TenantId, at: Timestamp) {
        if !self.tenants.contains_key(tenant) {
            let stored = StoredTenant {
                id: tenant.clone(),
                state: TenantState::Open,
                created_at: at,
            };
            self.tenants.insert(tenant.clone(), stored);
        }
    }

    fn create_tenant(&mut self, tenant: &TenantId, at: Timestamp) -> TenantCreation {
        match self.tenants.get(tenant) {
            Some(stored) => TenantCreation::Exists(stored.clone()),
            None => {
                self.register(tenant, at);
                TenantCreation::Created
            }
        }
    }

    pub(super) fn standings(&mut self, asked: &TenantsAsked) -> Vec<TenantStanding> {
        let standing = |name| self.standing(name, asked.create.as_ref());
        asked.names.iter().map(standing).collect()
    }

    fn standing(&mut self, name: &TenantId, create: Option<&CreateTenants>) -> TenantStanding {
        if let Some(stored) = self.tenants.get(name) {
            return match stored.state {
                TenantState::Open => TenantStanding::Open,
                TenantState::Closed => TenantStanding::Closed,
            };
        }
        let Some(create) = create else {
            return TenantStanding::Unknown;
        };
        if self.created_by_source.len() >= create.created_max as usize {
            return TenantStanding::TooMany;
        }
        self.register(name, create.at);
        self.created_by_source
            .insert(name.clone(), create.source.clone());
        TenantStanding::Created
    }

    fn close_tenant(&mut self, tenant: &TenantId) -> Option<StoredTenant> {
        let stored = self.tenants.get_mut(tenant)?;
        let before = stored.clone();
        stored.state = TenantState::Closed;
        Some(before)
    }

    fn create_token(&mut self, new: NewToken) -> TokenCreation {
        let token = new.token();
        if let Some(tenant) = &token.tenant
            && !self.tenants.contains_key(tenant)
        {
            return TokenCreation::NoTenant;
        }
        if self.tokens.contains_key(&token.id) {
            return TokenCreation::IdTaken;
        }
        let mut valid: Vec<Token> = self
            .tokens
            .values()
            .map(|stored| self.shown(stored))
            .filter(|it| it.tenant == token.tenant && it.label == token.label)
            .filter(|it| it.is_valid(token.created_at))
            .collect();
        if valid.len() >= VALID_TOKENS_MAX {
            valid.sort_by_key(|it| (it.created_at, it.id));
            return TokenCreation::TooMany(valid.iter().map(|it| it.id).collect());
        }
        self.tokens.insert(token.id, new);
        TokenCreation::Created
    }

    fn tokens(&self, of: &TokensOf, after: Option<TokenId>, max: u32) -> Vec<Token> {
        let behind = (
            after.map_or(Bound::Unbounded, Bound::Excluded),
            Bound::Unbounded,
        );
        self.tokens
            .range(behind)
            .map(|(_, stored)| self.shown(stored))
            .filter(|token| match of {
                TokensOf::Everybody => true,
                TokensOf::Installation => token.tenant.is_none(),
                TokensOf::Tenant(tenant) => token.tenant.as_ref() == Some(tenant),
            })
            .take(max as usize)
            .collect()
    }

    fn token(&self, id: TokenId) -> Option<StoredToken> {
        let stored = self.tokens.get(&id)?;
        let token = self.shown(stored);
        let of = token.tenant.as_ref().and_then(|it| self.tenants.get(it));
        Some(StoredToken {
            tenant_state: of.map(|it| it.state),
            hash: *stored.hash(),
            token,
        })
    }

    fn revoke_token(&mut self, id: TokenId, at: Timestamp) -> Revocation {
        if !self.tokens.contains_key(&id) {
            return Revocation::Unknown;
        }
        match self.revoked.get(&id) {
            Some(before) => Revocation::Already(*before),
            None => {
                self.revoked.insert(id, at);
                Revocation::Revoked
            }
        }
    }

    fn shown(&self, stored: &NewToken) -> Token {
        Token {
            revoked_at: self.revoked.get(&stored.token().id).copied(),
            ..stored.token().clone()
        }
    }
}

impl MemoryStore {
    fn access<T>(&self, act: impl FnOnce(&mut AccessTables) -> T) -> Result<T, StoreError> {
        Ok(act(&mut self.lock().tables.access))
    }
}

#[async_trait::async_trait]
impl AccessStore for MemoryStore {
    async fn create_tenant(
        &self,
        tenant: &TenantId,
        at: Timestamp,
    ) -> Result<TenantCreation, StoreError> {
        self.access(|tables| tables.create_tenant(tenant, at))
    }

    async fn tenant(&self, tenant: &TenantId) -> Result<Option<StoredTenant>, StoreError> {
        self.access(|tables| tables.tenants.get(tenant).cloned())
    }

    async fn list_tenants(
        &self,
        after: Option<&TenantId>,
        max: u32,
    ) -> Result<Vec<StoredTenant>, StoreError> {
        let behind = (
            after.map_or(Bound::Unbounded, Bound::Excluded),
            Bound::Unbounded,
        );
        self.access(|tables| {
            let tenants = tables.tenants.range::<TenantId, _>(behind);
            tenants
                .map(|(_, stored)| stored.clone())
                .take(max as usize)
                .collect()
        })
    }

    async fn close_tenant(
        &self,
        tenant: &TenantId,
        _at: Timestamp,
    ) -> Result<Option<StoredTenant>, StoreError> {
        self.access(|tables| tables.close_tenant(tenant))
    }

    async fn create_token(&self, token: NewToken) -> Result<TokenCreation, StoreError> {
        self.access(|tables| tables.create_token(token))
    }

    async fn tokens(
        &self,
        of: &TokensOf,
        after: Option<TokenId>,
        max: u32,
    ) -> Result<Vec<Token>, StoreError> {
        self.access(|tables| tables.tokens(of, after, max))
    }

    async fn token(&self, id: TokenId) -> Result<Option<StoredToken>, StoreError> {
        self.access(|tables| tables.token(id))
    }

    async fn revoke_token(&self, id: TokenId, at: Timestamp) -> Result<Revocation, StoreError> {
        self.access(|tables| tables.revoke_token(id, at))
    }
}

#[async_trait::async_trait]
impl Leases for MemoryStore {
    async fn acquire(
        &self,
        source_partition: &SourcePartition,
        holder: &str,
        ttl: Duration,
    ) -> Result<bool, StoreError> {
        self.lock().leases.acquire(source_partition, holder, ttl)
    }

    async fn renew(
        &self,
        source_partition: &SourcePartition,
        holder: &str,
        ttl: Duration,
    ) -> Result<bool, StoreError> {
        self.lock().leases.renew(source_partition, holder, ttl)
    }

    async fn release(
        &self,
        source_partition: &SourcePartition,
        holder: &str,
    ) -> Result<(), StoreError> {
        self.lock().leases.release(source_partition, holder);
        Ok(())
    }
}
