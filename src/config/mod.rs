//! The configuration: one YAML file, parsed first and filled from the environment and from files
//! afterwards. Owns every key, its default and its documentation; opens nothing.

pub mod checks;
mod fill;
pub mod kafka;
mod macros;
pub mod mapping;
pub mod problem;
pub mod reference;
pub mod sections;
pub mod setting;

use std::io::Read as _;
use std::path::Path;

use tidegate_engine::yaml;

pub use kafka::Kafka;
pub use mapping::Mapping;
pub use problem::{Problem, Problems};
pub use sections::{
    Config, Dedupe, Http, Limits, Log, LogFormat, LogLevel, LogStream, Machines, Node, PoolerKind,
    PostgresSection, Publish, Retention, Secrets, Source, SourceKind, SqliteSection, StartAt,
    Store, StoreKind, Telemetry, UnknownTenants,
};
pub use setting::Secret;

use fill::Outside;
use reference::Reference;
use setting::{Section, Setting};

/// What stands at the top of the reference.
const REFERENCE_HEAD: &str = "\
# Every key of Tidegate's configuration with its default. An empty file means exactly this one.
#
# A string may hold ${env:NAME}, ${env:NAME:-default} and ${file:PATH}; a literal ${ is written $${.
# They are filled in after the file was parsed, so no value can change its structure. Secrets come in
# this way only: a password that stands in this file is refused. Unknown keys are refused.
# Relative paths are relative to the directory that the file is in.
# Keys whose name contains `unsafe` give a protection up; each one in force is logged at start.

";

impl Config {
    /// Reads a configuration file, with the process's environment and files.
    pub fn load(path: &Path) -> Result<Self, Problems> {
        let file = path.display().to_string();
        match read_text(path) {
            Ok(text) => {
                let mut config = Self::parse(&text, &file, &fill::Process)?;
                config.resolve(path.parent().unwrap_or(Path::new("")));
                Ok(config)
            }
            Err(error) => {
                let mut problems = Problems::new(&file);
                problems.add(1, "", format!("cannot be read: {error}"));
                Err(problems)
            }
        }
    }

    /// Reads a configuration. All that is wrong with it is returned at once.
    pub fn parse(text: &str, file: &str, outside: &dyn Outside) -> Result<Self, Problems> {
        let mut problems = Problems::new(file);
        let node = match yaml::read(text) {
            Ok(node) => node,
            Err(error) => {
                problems.add(error.line, "", format!("not YAML: {}", error.message));
                return Err(problems);
            }
        };
        let tree = fill::fill(node, "", outside, &mut problems);
        let config = Config::read(&tree, "", &mut problems);
        match config {
            Some(config) if problems.list.is_empty() => Ok(config),
            _ => Err(problems),
        }
    }

    /// Takes relative paths as relative to the directory that the file is in, not to wherever the
    /// command was started.
    fn resolve(&mut self, directory: &Path) {
        let sources = self
            .sources
            .iter_mut()
            .flat_map(|source| source.paths.iter_mut().chain(source.kafka.files()));
        let tls = [&mut self.http.tls_certificate, &mut self.http.tls_key];
        let paths = [&mut self.store.sqlite.path]
            .into_iter()
            .chain(tls.into_iter().flatten())
            .chain(&mut self.machines.paths)
            .chain(sources);
        for path in paths.filter(|path| path.is_relative()) {
            *path = directory.join(&*path);
        }
    }

    /// The reference: every key with its documentation and default.
    pub fn reference() -> String {
        let mut reference = Reference::default();
        Config::default().write_keys(&mut reference);
        format!("{REFERENCE_HEAD}{}", reference.into_text())
    }
}

/// A file's text. What is larger than any that is read as YAML, or has no end, is refused and not read.
pub fn read_text(path: &Path) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path)?;
    file.take(yaml::YAML_BYTES_MAX as u64 + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() > yaml::YAML_BYTES_MAX {
        let most = yaml::YAML_BYTES_MAX;
        let message = format!("it has more than the {most} bytes that are read");
        return Err(std::io::Error::new(
            std::io::ErrorKind::FileTooLarge,
            message,
        ));
    }
    String::from_utf8(bytes)
        .map_err(|_| std::io::Error::new(std::io::ErrorKind::InvalidData, "it is not UTF-8"))
}

#[cfg(test)]
mod tests;
