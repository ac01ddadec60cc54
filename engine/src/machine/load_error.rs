//! What is wrong with a definition: file, line, path, message and what to write instead. Every error of
//! a file is collected before the file is refused; nothing here knows YAML or CEL.

/// One thing that is wrong with a machine's definition.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub struct LoadError {
    /// The file as it was named to the loader.
    pub file: String,
    /// The line, counted from 1.
    pub line: u32,
    /// Where in the document: `events.order.paid[0].to`. Empty for the document itself.
    pub path: String,
    /// What was expected and what was found.
    pub message: String,
    /// What to write instead, when there is a good guess.
    pub suggestion: Option<String>,
}

impl std::fmt::Display for LoadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}: ", self.file, self.line)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)?;
        if let Some(suggestion) = &self.suggestion {
            write!(f, "; {suggestion}")?;
        }
        Ok(())
    }
}

/// Collects the errors of one file.
#[derive(Debug)]
pub(super) struct Problems {
    file: String,
    errors: Vec<LoadError>,
}

impl Problems {
    /// No problem yet.
    pub(super) fn new(file: &str) -> Self {
        Self {
            file: file.to_owned(),
            errors: Vec::new(),
        }
    }

    /// Notes an error.
    pub(super) fn push(&mut self, line: u32, path: &str, message: impl Into<String>) {
        self.push_with(line, path, message, None);
    }

    /// Notes an error with what to write instead.
    pub(super) fn push_with(
        &mut self,
        line: u32,
        path: &str,
        message: impl Into<String>,
        suggestion: Option<String>,
    ) {
        self.errors.push(LoadError {
            file: self.file.clone(),
            line,
            path: path.to_owned(),
            message: message.into(),
            suggestion,
        });
    }

    /// How much is wrong so far.
    pub(super) fn count(&self) -> usize {
        self.errors.len()
    }

    /// True while nothing is wrong.
    pub(super) fn is_empty(&self) -> bool {
        self.errors.is_empty()
    }

    /// Everything that is wrong, in order of line.
    pub(super) fn into_errors(mut self) -> Vec<LoadError> {
        self.errors.sort_by_key(|error| error.line);
        self.errors
    }
}

/// "did you mean `x`?" for the candidate nearest to a mistyped name, or `None` when none is near.
pub(super) fn did_you_mean<'c>(
    name: &str,
    candidates: impl IntoIterator<Item = &'c str>,
) -> Option<String> {
    nearest(name, candidates).map(|near| format!("did you mean `{near}`?"))
}

/// The candidate nearest to a name: at most a third of its letters differ, of short names two. Of two
/// equally near ones the one that begins alike.
pub(super) fn nearest<'c>(
    name: &str,
    candidates: impl IntoIterator<Item = &'c str>,
) -> Option<&'c str> {
    let letters = name.chars().count();
    let allowed = (letters / 3).max(if letters > 3 { 2 } else { 1 });
    candidates
        .into_iter()
        .map(|candidate| (strsim::osa_distance(name, candidate), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by(|(left_distance, left), (right_distance, right)| {
            let likeness = |candidate| strsim::jaro_winkler(name, candidate);
            left_distance
                .cmp(right_distance)
                .then_with(|| likeness(right).total_cmp(&likeness(left)))
        })
        .map(|(_, candidate)| candidate)
}

/// Names as they stand in a message: `a`, `b` and `c`.
pub(super) fn listed<'c>(names: impl IntoIterator<Item = &'c str>) -> String {
    let quoted: Vec<String> = names.into_iter().map(|name| format!("`{name}`")).collect();
    match quoted.split_last() {
        None => "nothing".to_owned(),
        Some((only, [])) => only.clone(),
        Some((last, others)) => format!("{} and {last}", others.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::{did_you_mean, listed};

    #[test]
    fn a_near_name_is_suggested_and_a_far_one_is_not() {
        let states = ["new", "placed", "paid", "shipped"];
        let near = |name| did_you_mean(name, states);
        assert_eq!(near("piad").as_deref(), Some("did you mean `paid`?"));
        assert_eq!(near("shiped").as_deref(), Some("did you mean `shipped`?"));
        assert_eq!(near("refunded"), None);
    }

    #[test]
    fn lists_read_as_a_sentence() {
        assert_eq!(listed([]), "nothing");
        assert_eq!(listed(["a"]), "`a`");
        assert_eq!(listed(["a", "b", "c"]), "`a`, `b` and `c`");
    }
}
