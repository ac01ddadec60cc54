//! The trace of a run: every call at a seam, what came of it, and when, in order. Two runs of one seed
//! are the same run exactly when their traces are.

use tidegate_engine::hash::{Hash128, hash_bytes};

/// More lines than any run needs: beyond it something goes round in circles without time passing.
pub const LINES_MAX: usize = 200_000;

/// Lines of a trace that are printed of a failed run.
const TAIL_LINES: usize = 60;

#[derive(Default)]
pub struct Trace(Vec<String>);

impl Trace {
    pub fn add(&mut self, line: String) {
        self.0.push(line);
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn hash(&self) -> Hash128 {
        hash_bytes(self.0.join("\n").as_bytes())
    }

    pub fn tail(&self) -> String {
        self.0[self.0.len().saturating_sub(TAIL_LINES)..].join("\n")
    }

    pub fn lines(&self) -> &[String] {
        &self.0
    }
}

/// The first place where two traces differ, for people.
pub fn first_difference(left: &[String], right: &[String]) -> String {
    let place = left
        .iter()
        .zip(right)
        .position(|(left, right)| left != right);
    let place = place.unwrap_or(left.len().min(right.len()));
    let line = |trace: &[String]| {
        trace
            .get(place)
            .cloned()
            .unwrap_or_else(|| "(ended)".to_owned())
    };
    format!(
        "line {place}:\n  first  {}\n  second {}",
        line(left),
        line(right)
    )
}
