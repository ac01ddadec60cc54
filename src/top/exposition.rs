//! Prometheus' text format, read back: what `/metrics` of a node says. Takes what the format allows and
//! leaves out lines that it does not; what it takes is bounded by the text's length.

use std::collections::BTreeMap;

/// One value.
#[derive(Clone, PartialEq, Debug)]
pub struct Sample {
    /// Its name; for a histogram with `_bucket`, `_sum` or `_count` behind it.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The value.
    pub value: f64,
}

impl Sample {
    /// A label, empty when it is not there.
    pub fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }
}

/// The metrics of one moment.
#[derive(Clone, PartialEq, Default, Debug)]
pub struct Exposition {
    /// The values, in their order.
    pub samples: Vec<Sample>,
    /// The type of each family: `counter`, `gauge`, `histogram`.
    pub types: BTreeMap<String, String>,
    /// What is said of each family.
    pub help: BTreeMap<String, String>,
    /// Lines that could not be read.
    pub unreadable: usize,
}

impl Exposition {
    /// Reads the text.
    pub fn read(text: &str) -> Self {
        let mut all = Self::default();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            if let Some(comment) = line.strip_prefix('#') {
                all.comment(comment.trim_start());
            } else if let Some(sample) = sample(line) {
                all.samples.push(sample);
            } else {
                all.unreadable += 1;
            }
        }
        all
    }

    fn comment(&mut self, comment: &str) {
        let (what, rest) = comment.split_once(' ').unwrap_or((comment, ""));
        let (name, said) = rest.split_once(' ').unwrap_or((rest, ""));
        let kept = match what {
            "TYPE" => &mut self.types,
            "HELP" => &mut self.help,
            _ => return,
        };
        kept.insert(name.to_owned(), said.to_owned());
    }

    /// The values of a name.
    pub fn of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Sample> {
        self.samples
            .iter()
            .filter(move |sample| sample.name == name)
    }

    /// The values of a name, added up by what `key` makes of their labels.
    pub fn sums<K: Ord>(&self, name: &str, key: impl Fn(&Sample) -> K) -> BTreeMap<K, f64> {
        let mut sums = BTreeMap::new();
        for sample in self.of(name) {
            *sums.entry(key(sample)).or_default() += sample.value;
        }
        sums
    }

    /// All values of a name, added up.
    pub fn sum(&self, name: &str) -> f64 {
        self.of(name).map(|sample| sample.value).sum()
    }

    /// The family of a sample: its name, without what a histogram puts behind it.
    pub fn family<'s>(&self, name: &'s str) -> &'s str {
        ["_bucket", "_sum", "_count"]
            .iter()
            .filter_map(|suffix| name.strip_suffix(suffix))
            .find(|family| self.types.get(*family).is_some_and(|it| it == "histogram"))
            .unwrap_or(name)
    }
}

fn sample(line: &str) -> Option<Sample> {
    let name_ends = line.find(['{', ' '])?;
    let (name, rest) = line.split_at_checked(name_ends)?;
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (BTreeMap::new(), rest),
    };
    // A moment may stand behind the value.
    let value = rest.split_whitespace().next()?.parse().ok()?;
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    (!name.is_empty() && name.chars().all(is_name)).then(|| Sample {
        name: name.to_owned(),
        labels,
        value,
    })
}

/// Labels up to the closing brace, and what stands behind it.
fn labels(mut rest: &str) -> Option<(BTreeMap<String, String>, &str)> {
    let mut labels = BTreeMap::new();
    loop {
        rest = rest.trim_start_matches([',', ' ']);
        if let Some(behind) = rest.strip_prefix('}') {
            return Some((labels, behind));
        }
        let (name, value) = rest.split_once("=\"")?;
        let mut text = String::new();
        let mut characters = value.char_indices();
        let end = loop {
            match characters.next()? {
                (at, '"') => break at + 1,
                (_, '\\') => match characters.next()?.1 {
                    'n' => text.push('\n'),
                    other => text.push(other),
                },
                (_, other) => text.push(other),
            }
        };
        labels.insert(name.trim().to_owned(), text);
        rest = value.get(end..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::Exposition;

    #[test]
    fn what_prometheus_writes_is_read_and_what_nobody_writes_is_left_out() {
        let text = "# HELP a_seconds Time: of \"a\"\n# TYPE a_seconds histogram\n\
                    a_seconds_bucket{source=\"s, \\\"1\\\"}\",le=\"+Inf\"} 3\n\
                    a_seconds_sum{source=\"s\"} 0.5\na_seconds_count 3 1700000000\n\n\
                    # a remark\nb{} NaN\nno value\n{x=\"1\"} 1\nb{x=1} 2\nb{x=\"1 2\n";
        let read = Exposition::read(text);
        assert_eq!(read.types["a_seconds"], "histogram");
        assert_eq!(read.help["a_seconds"], "Time: of \"a\"");
        assert_eq!(read.samples.len(), 4, "{read:?}");
        assert_eq!(read.unreadable, 4);
        assert_eq!(read.samples[0].label("source"), "s, \"1\"}");
        assert_eq!(read.sum("a_seconds_count"), 3.0);
        assert_eq!(read.family("a_seconds_bucket"), "a_seconds");
        assert_eq!(read.family("b"), "b");
        let by_le = read.sums("a_seconds_bucket", |sample| sample.label("le").to_owned());
        assert_eq!(by_le["+Inf"], 3.0);
    }
}
