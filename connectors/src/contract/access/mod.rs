//! What every `AccessStore` and its `Leases` promise. Call [`run_all`] with a name and a function that
//! makes an empty subject; every case gets one of its own.

mod leases;
mod standings;
mod tenants;
mod tokens;

use std::any::Any;
use std::sync::Arc;

use tidegate_engine::access::{
    AccessStore, Leases, NewToken, Token, TokenId, TokenLabel, TokenSecret,
};
use tidegate_engine::clock::Timestamp;
use tidegate_engine::hash::hash_fields;
use tidegate_engine::store::StateStore;
use tidegate_engine::tenant::TenantId;

use super::Case;
use super::runner::{self, cases};

/// An empty register that nothing else uses.
pub struct AccessUnderTest {
    /// As an administrator reaches it.
    pub admin: Arc<dyn AccessStore>,
    /// As a node reaches it, which only looks up.
    pub node: Arc<dyn AccessStore>,
    /// As a node reaches leases.
    pub leases: Arc<dyn Leases>,
    /// The store that commits beside it.
    pub store: Arc<dyn StateStore>,
    /// What has to live as long.
    pub keep: Box<dyn Any>,
}

/// Runs the suite; panics when a promise is broken, after all of it was run.
pub async fn run_all(name: &str, make: impl AsyncFn() -> AccessUnderTest) {
    runner::run_all(&format!("access contract, {name}"), cases(), make).await;
}

/// The suite.
pub fn cases() -> Vec<Case<AccessUnderTest>> {
    cases![
        tenants::a_tenant_is_created_once_and_listed_in_order,
        tenants::a_closed_tenant_stays_closed_and_keeps_its_time,
        tenants::a_tenant_is_registered_by_its_first_commit_and_stored_by_no_other_means,
        standings::r02_who_only_asks_registers_nobody,
        standings::r02_a_source_registers_whom_it_names_once_and_nobody_else,
        standings::sources_register_no_more_than_they_may_and_administrators_do,
        standings::of_sixteen_that_register_a_tenant_at_once_one_does,
        standings::sixteen_that_register_others_at_once_stay_within_the_bound,
        tokens::a_token_is_looked_up_with_its_hash_and_its_tenants_state,
        tokens::a_token_of_the_installation_has_no_tenant,
        tokens::a_token_needs_its_tenant,
        tokens::tokens_are_paged_in_order_of_id,
        tokens::r31_of_one_label_two_are_valid_and_the_oldest_is_named,
        tokens::a_revoked_token_stays_revoked,
        tokens::an_id_is_given_once,
        tokens::sixteen_creators_of_one_label_make_two,
        leases::of_sixteen_that_acquire_a_lease_one_has_it,
        leases::a_lease_that_ran_out_goes_to_another_and_its_old_holder_cannot_renew,
        leases::a_renewed_lease_outlives_its_first_end,
        leases::a_released_lease_is_free_at_once_and_nobody_releases_anothers,
        leases::leases_of_source_partitions_are_apart,
        leases::terms_out_of_bounds_are_refused,
    ]
}

const NOW: Timestamp = Timestamp(1_800_000_000_000_000);

fn tenant(name: &str) -> TenantId {
    TenantId::new(name).unwrap()
}

/// A secret as a generator might draw it, with that id.
fn secret(id: u64) -> TokenSecret {
    let half = |which: &[u8]| hash_fields("contract", &[&id.to_le_bytes(), which]).to_bytes();
    let bytes = [half(b"first"), half(b"second")].concat();
    TokenSecret::new(TokenId::from_random(id), bytes.try_into().unwrap()).unwrap()
}

/// A token that reads, and never ends.
fn token(of: Option<&str>, label: &str, created_at: Timestamp) -> Token {
    Token {
        id: TokenId::from_random(0),
        tenant: of.map(tenant),
        scopes: "read,operate".parse().unwrap(),
        label: TokenLabel::new(label).unwrap(),
        created_at,
        expires_at: None,
        revoked_at: None,
    }
}

fn new(id: u64, token: Token) -> NewToken {
    NewToken::new(token, &secret(id)).unwrap()
}
