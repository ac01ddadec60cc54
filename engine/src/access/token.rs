//! Tokens as they are stored, and what admits the one who presents a secret.

use crate::clock::Timestamp;
use crate::error::InvalidValue;
use crate::event::CausedBy;
use crate::store::StoreError;
use crate::tenant::TenantId;

use super::scope::{Operation, Scope, Scopes};
use super::secret::{InvalidSecret, SecretHash, TokenId, TokenSecret};
use super::store::TenantState;

crate::text_type!(
    /// What a token is for, in its owner's words. Two valid tokens of one tenant may share a label: the
    /// old one and the one that replaces it.
    TokenLabel, "token label", crate::text::name_rule
);

/// A token without its secret and without its hash: what lists show.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Token {
    /// Its public name.
    pub id: TokenId,
    /// Whose it is; `None` for one of the whole installation, which operators have.
    pub tenant: Option<TenantId>,
    /// What it is good for.
    pub scopes: Scopes,
    /// What it is for.
    pub label: TokenLabel,
    /// When it was made.
    pub created_at: Timestamp,
    /// From when on it is refused; `None` for never.
    pub expires_at: Option<Timestamp>,
    /// Since when it is refused.
    pub revoked_at: Option<Timestamp>,
}

impl Token {
    /// Neither expired nor revoked.
    pub fn is_valid(&self, now: Timestamp) -> bool {
        self.revoked_at.is_none() && !self.is_expired(now)
    }

    /// Its time is over.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|end| end <= now)
    }
}

/// A token that is to be stored, checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewToken {
    token: Token,
    hash: SecretHash,
}

impl NewToken {
    /// Checks what every store relies on: a scope at least, a tenant for whoever publishes, and an end
    /// behind the beginning. `id` and `revoked_at` of `token` are set from the secret and to nothing.
    pub fn new(token: Token, secret: &TokenSecret) -> Result<Self, InvalidValue> {
        if token.scopes.is_empty() {
            return Err(InvalidValue::new("scopes", "one at least", ""));
        }
        if let (None, Some(scope)) = (&token.tenant, token.scopes.publishing()) {
            return Err(InvalidValue::new(
                "scopes",
                "a tenant for a token that publishes, since events take theirs from it",
                scope.as_str(),
            ));
        }
        if token.tenant.as_ref().is_some_and(TenantId::is_unassigned) {
            return Err(InvalidValue::new(
                "tenant",
                "a tenant's own name; names beginning with `_` are reserved",
                crate::tenant::UNASSIGNED,
            ));
        }
        if let Some(end) = token.expires_at.filter(|end| *end <= token.created_at) {
            return Err(InvalidValue::new(
                "expiry",
                "a moment in the future",
                &end.to_rfc3339(),
            ));
        }
        Ok(Self {
            token: Token {
                id: secret.id(),
                revoked_at: None,
                ..token
            },
            hash: secret.hash(),
        })
    }

    /// The token.
    pub fn token(&self) -> &Token {
        &self.token
    }

    /// The hash of its secret.
    pub fn hash(&self) -> &SecretHash {
        &self.hash
    }
}

/// A token as a look-up by its id finds it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredToken {
    /// The token.
    pub token: Token,
    /// The hash of its secret.
    pub hash: SecretHash,
    /// Whether its tenant is open; `None` for a token of the installation.
    pub tenant_state: Option<TenantState>,
}

impl StoredToken {
    /// Whoever presents `secret` at `now` is admitted, or why not. The hash is compared before anything
    /// else is said: without the secret nobody learns whether a token is expired or revoked.
    pub fn admit(&self, secret: &TokenSecret, now: Timestamp) -> Result<Credential, Denied> {
        if secret.id() != self.token.id {
            return Err(Denied::Unknown);
        }
        if !self.hash.is_of(secret) {
            return Err(Denied::WrongSecret);
        }
        if self.token.revoked_at.is_some() {
            return Err(Denied::Revoked);
        }
        if self.token.is_expired(now) {
            return Err(Denied::Expired);
        }
        Ok(Credential {
            token: self.token.id,
            tenant: self.token.tenant.clone(),
            scopes: self.token.scopes,
            tenant_state: self.tenant_state,
        })
    }
}

/// Why nobody is admitted. For logs and metrics: a client is told the same whatever it was, except that
/// [`Denied::Unanswered`] is no answer yet.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Denied {
    /// The text is no token.
    #[error(transparent)]
    Unreadable(#[from] InvalidSecret),
    /// No token has this id.
    #[error("no token has this id")]
    Unknown,
    /// The id is a token's, the secret is not.
    #[error("the secret is not that of the token with this id")]
    WrongSecret,
    /// Its time is over.
    #[error("the token is expired")]
    Expired,
    /// Somebody revoked it.
    #[error("the token is revoked")]
    Revoked,
    /// The store could not be asked: nobody is admitted, and the client may try again.
    #[error("the token could not be looked up: {0}")]
    Unanswered(StoreError),
}

impl Denied {
    /// One word for a metric's label.
    pub fn reason(&self) -> &'static str {
        match self {
            Denied::Unreadable(InvalidSecret::Form) => "unreadable",
            Denied::Unreadable(InvalidSecret::Weak) => "weak",
            Denied::Unknown => "unknown",
            Denied::WrongSecret => "wrong_secret",
            Denied::Expired => "expired",
            Denied::Revoked => "revoked",
            Denied::Unanswered(_) => "unanswered",
        }
    }

    /// True when the same secret may be admitted a moment later.
    pub fn is_transient(&self) -> bool {
        matches!(self, Denied::Unanswered(_))
    }
}

/// Why somebody who was admitted may not do this.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Forbidden {
    /// The token lacks the scope.
    #[error("the token has no scope `{0}`")]
    Scope(Scope),
    /// The token is another tenant's.
    #[error("the token is of another tenant")]
    OtherTenant,
    /// The tenant is closed: it takes no new events.
    #[error("the tenant is closed and takes no new events")]
    TenantClosed,
}

/// Somebody who was admitted: whose they are, and what they may do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Credential {
    /// By which token.
    pub token: TokenId,
    /// Of which tenant; `None` for the whole installation.
    pub tenant: Option<TenantId>,
    /// What for.
    pub scopes: Scopes,
    /// Whether that tenant is open, as the token was looked up.
    pub tenant_state: Option<TenantState>,
}

impl Credential {
    /// Whether this credential may do that; of its tenant's openness only publishing asks.
    pub fn may(&self, operation: Operation) -> Result<(), Forbidden> {
        let scope = operation.needs();
        if !self.scopes.contains(scope) {
            return Err(Forbidden::Scope(scope));
        }
        if scope.publishes() && self.tenant_state == Some(TenantState::Closed) {
            return Err(Forbidden::TenantClosed);
        }
        Ok(())
    }

    /// Whether it reaches that tenant: its own, or any for one of the installation.
    pub fn reaches(&self, tenant: &TenantId) -> Result<(), Forbidden> {
        match &self.tenant {
            Some(own) if own != tenant => Err(Forbidden::OtherTenant),
            _ => Ok(()),
        }
    }

    /// What is stamped as `causedby` on what it does: `token:<token id>`.
    pub fn caused_by(&self) -> Result<CausedBy, InvalidValue> {
        CausedBy::new(&format!("token:{}", self.token))
    }
}
