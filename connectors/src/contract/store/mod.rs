//! What every `StateStore` promises. Call [`run_all`] with a name and a function that makes an empty
//! store; every case gets a store of its own.

mod atomicity;
mod dedupe;
mod definitions;
mod disturbed;
mod entities;
mod event_index;
mod extremes;
mod letters;
mod log;
pub mod outside;
mod ownership;
mod races;
pub mod reading;
mod retention;
mod surprises;
mod tenants;
mod topics;
mod work;

use std::any::Any;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use tidegate_engine::clock::Timestamp;
use tidegate_engine::commit::{CommitBatch, CommitReply};
use tidegate_engine::store::{StateStore, StoreError, Upkeep};

use self::disturbed::{pages, roles, shared};
use self::outside::Outside;
use super::Case;
use super::runner::{self, cases};

/// Opens the same data again.
pub type Reopen = Arc<dyn Fn() -> BoxFuture<'static, Arc<dyn StateStore>> + Send + Sync>;

/// An empty store that nothing else uses.
pub struct StoreUnderTest {
    /// The store.
    pub store: Arc<dyn StateStore>,
    /// Opens the same data again: beside `store` where several processes may write, and after the
    /// last clone of `store` was dropped where they may not.
    pub reopen: Reopen,
    /// What the world around does to it.
    pub outside: Outside,
    /// What has to live as long as the store: a directory, a database that is dropped at the end.
    pub keep: Box<dyn Any>,
}

impl StoreUnderTest {
    /// A store with nothing to keep.
    pub fn new(store: Arc<dyn StateStore>, reopen: Reopen, outside: Outside) -> Self {
        Self {
            store,
            reopen,
            outside,
            keep: Box::new(()),
        }
    }

    /// A second engine's connection to the same data: another process's where that may be.
    async fn second(&self) -> Arc<dyn StateStore> {
        if self.store.capabilities().concurrent_writers {
            (self.reopen)().await
        } else {
            println!(
                "  capability `concurrent_writers`: one process, so both engines share its store"
            );
            Arc::clone(&self.store)
        }
    }
}

/// Runs the suite; panics when a promise is broken, after all of it was run.
pub async fn run_all(name: &str, make: impl AsyncFn() -> StoreUnderTest) {
    runner::run_all(&format!("store contract, {name}"), cases(), make).await;
}

/// The suite.
#[allow(clippy::too_many_lines, reason = "a list")]
pub fn cases() -> Vec<Case<StoreUnderTest>> {
    cases![
        ownership::a_first_claim_makes_the_checkpoint_at_the_given_start,
        ownership::a_claim_raises_the_epoch_and_keeps_everything_else,
        ownership::until_the_first_commit_a_claim_takes_over_the_incarnation,
        ownership::checkpoints_come_in_order_of_source_partition,
        ownership::an_old_epoch_is_fenced_and_writes_nothing,
        ownership::another_revision_is_fenced_and_writes_nothing,
        ownership::a_source_partition_that_nobody_claimed_is_fenced,
        ownership::of_two_claimers_only_the_later_one_commits,
        ownership::racing_claimers_get_different_epochs,
        ownership::a_checkpoint_is_read_back_as_it_was_written,
        topics::topics_keep_their_numbers_and_their_growth,
        topics::whoever_finds_topics_at_once_gives_each_one_number,
        atomicity::everything_of_a_batch_is_visible_together,
        atomicity::r25_a_batch_over_several_streams_is_written_whole_or_not_at_all,
        atomicity::a_batch_without_events_moves_only_the_checkpoint,
        atomicity::a_batch_out_of_form_is_an_unexpected_error,
        surprises::a_known_key_is_found_at_every_place_with_its_conflict_hash,
        surprises::a_known_key_of_the_older_table_is_found_at_every_place,
        surprises::an_entity_of_another_version_is_returned_as_it_is,
        surprises::an_entity_that_is_new_to_the_batch_alone_is_returned,
        surprises::an_entity_that_is_not_there_is_returned_as_absent,
        surprises::every_mixture_of_surprises_is_returned_whole,
        surprises::what_is_only_looked_at_has_to_be_as_it_was_seen,
        surprises::the_fence_comes_before_surprises,
        disturbed::an_unknown_commit_has_either_outcome_and_the_checkpoint_tells_which,
        disturbed::a_row_that_somebody_holds_is_named_at_every_place_and_the_rest_goes_on if shared,
        disturbed::r08_no_role_changes_what_is_stored_in_any_partition if roles,
        disturbed::an_empty_store_filled_over_one_connection_does_not_get_slower if pages,
        dedupe::a_key_lives_between_one_and_two_windows,
        dedupe::one_key_of_two_tenants_is_two_keys,
        dedupe::rotation_keeps_the_younger_table_and_its_conflict_hashes,
        entities::new_rows_are_numbered_in_the_order_of_the_batch,
        entities::an_entity_keeps_its_row_and_gets_what_was_written,
        entities::a_row_of_another_tenant_is_never_written,
        entities::entities_are_paged_in_order_of_bytes,
        entities::entities_are_counted_by_status_over_all_tenants,
        entities::r07_no_state_changes_without_its_record,
        log::segments_are_paged_from_any_sequence,
        log::a_segment_that_leaves_a_gap_or_overlaps_is_refused,
        retention::retention_of_an_idle_stream_leaves_an_anchor_that_the_next_event_goes_on_from,
        retention::retention_keeps_what_is_younger,
        retention::a_clock_that_stepped_back_leaves_no_hole_behind_retention,
        retention::retention_holds_what_an_open_dead_letter_points_to,
        event_index::the_index_of_events_follows_the_log,
        log::heads_are_the_same_after_a_restart if durable,
        log::r36_sequences_are_gapless_and_chains_hold_after_a_storm,
        log::r47_every_event_has_its_outcome_and_the_counts_add_up,
        letters::a_dead_letter_written_twice_is_kept_once,
        letters::an_update_moves_an_open_dead_letter_and_counts_attempts,
        letters::an_update_of_a_dead_letter_that_is_not_open_is_refused_with_its_batch,
        letters::dead_letters_are_paged_and_filtered,
        letters::the_bytes_of_an_unreadable_delivery_come_back_as_they_were,
        work::open_work_comes_in_the_order_of_its_commits_and_in_pages,
        work::work_is_deleted_by_the_commit_that_does_it_and_that_commit_may_make_more,
        work::work_that_is_not_there_fails_the_batch_that_did_it_whole,
        work::work_stays_when_its_batch_is_surprised_or_fenced,
        work::whose_work_is_open_is_told_in_order_and_in_pages,
        definitions::one_definition_of_a_machine_is_active,
        definitions::a_stored_version_never_gets_another_text,
        tenants::r38_a_row_of_a_tenant_that_is_not_named_is_refused,
        tenants::no_read_returns_a_row_of_another_tenant,
        tenants::tenants_with_hostile_names_are_kept_apart,
        extremes::r04_text_comes_back_byte_for_byte,
        extremes::the_largest_entity_is_stored,
        extremes::a_batch_at_its_limits_is_committed,
        extremes::r26_a_batch_beyond_a_limit_is_refused_whole,
        extremes::numbers_at_their_edges_are_stored_exactly_or_refused,
        races::r24_one_writer_wins_each_version,
        races::r43_two_engines_race_equal_keys_with_one_effect_each,
        races::sixteen_writers_of_equal_keys_have_one_effect_each_while_dedupe_rotates,
        races::three_source_partitions_share_an_entity_and_all_get_on,
    ]
}

fn durable(subject: &StoreUnderTest) -> Option<&'static str> {
    (!subject.store.capabilities().durable)
        .then_some("capability `durable`: this store does not survive the end of its process")
}

/// The time at which a case begins.
#[allow(
    clippy::disallowed_methods,
    reason = "a server's partitions are prepared for the time that it is; no seed replays a server"
)]
fn begin() -> Timestamp {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    Timestamp(i64::try_from(since.as_micros()).unwrap())
}

/// So many days later.
fn days(from: Timestamp, days: i64) -> Timestamp {
    Timestamp(from.0 + days * 24 * 3_600 * 1_000_000)
}

/// Upkeep that neither rotates nor drops anything, within the years that cases span.
fn upkeep_at(now: Timestamp) -> Upkeep {
    Upkeep {
        now,
        dedupe_window_micros: days(Timestamp(0), 36_500).0,
        retention_micros: None,
    }
}

/// Rotates the dedupe tables, whatever their age; `now` moves on by the two microseconds it takes.
async fn rotate(store: &dyn StateStore, now: &mut Timestamp) {
    let mut rotated = false;
    // The first upkeep of a store may only begin to count.
    while !rotated {
        now.0 += 1;
        let upkeep = Upkeep {
            dedupe_window_micros: 0,
            ..upkeep_at(*now)
        };
        rotated = patiently(|| store.upkeep(upkeep)).await.rotated;
    }
}

/// Calls until the store is not busy any more; anything but `Unavailable` is a broken promise.
async fn patiently<T, F>(mut call: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<T, StoreError>>,
{
    const TRIES_MAX: u32 = 2_000;
    for _ in 0..TRIES_MAX {
        match call().await {
            Ok(reply) => return reply,
            Err(StoreError::Unavailable { .. }) => {
                tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            }
            Err(error) => panic!("expected success or `Unavailable`, found: {error}"),
        }
    }
    panic!("the store was not available {TRIES_MAX} times in a row")
}

/// Commits and expects success; rows of the new entities.
async fn committed(
    store: &dyn StateStore,
    writer: &mut super::batch::Writer,
    entries: &[super::batch::Entry],
) -> Vec<tidegate_engine::commit::EntityRow> {
    match writer.commit(store, entries).await {
        Ok(CommitReply::Committed { new_rows }) => new_rows,
        other => panic!("expected a commit, found {other:?}"),
    }
}

/// Hands a batch over as it is.
async fn submit(store: &dyn StateStore, batch: &CommitBatch) -> Result<CommitReply, StoreError> {
    store.commit(Arc::new(batch.clone())).await
}
