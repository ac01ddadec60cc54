//! The house rules: what a reviewer should never have to look for. They read the tree and what
//! cargo says of it, and need no server.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod crates;
mod documents;
mod seams;
mod source;
mod tree;

/// Fails with every violation at once, each on a line that says where and what to do.
#[track_caller]
fn assert_none(rule: &str, violations: &[String]) {
    assert!(
        violations.is_empty(),
        "{rule}:\n  {}\n",
        violations.join("\n  ")
    );
}
