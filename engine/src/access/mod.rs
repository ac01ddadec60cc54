//! Who may do what: tenants as they are registered, tokens with their scopes, and leases of source
//! partitions. Owns what a token is and what admits it; knows no transport, no store and no randomness.
//!
//! A token is a secret of 256 random bits with a short public id in front. A store keeps the id, the
//! scopes and the secret's hash, never the secret. What [`StoredToken::admit`] hands out is a
//! [`Credential`]: the tenant comes from there and from nowhere else.
//!
//! A lease only says who *tries* to own a source partition. Epoch and revision of its checkpoint stay
//! the truth: two nodes that both believe in their lease fence each other, and nothing is lost.

mod lease;
mod scope;
mod secret;
mod store;
mod token;

#[cfg(test)]
mod tests;

pub use lease::{LeaseTerms, Leases};
pub use scope::{Operation, Scope, Scopes};
pub use secret::{InvalidSecret, SECRET_BYTES, SecretHash, TokenId, TokenSecret};
pub use store::{
    AccessStore, Revocation, StoredTenant, TenantCreation, TenantState, TokenCreation, TokensOf,
};
pub use token::{Credential, Denied, Forbidden, NewToken, StoredToken, Token, TokenLabel};
