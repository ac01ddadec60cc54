//! `tidegate validate` and `tidegate test`: definitions and configuration looked at without a store.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};
use tidegate_engine::machine::{CompiledMachine, Processor as _, warnings};
use tidegate_engine::yaml::{self, Yaml};

use super::exit::{Exit, Failure};
use super::output::{Format, Output};
use crate::config::Config;
use crate::machines;
use crate::say::counted;

/// One thing that is wrong, or likely so.
struct Finding {
    file: String,
    line: Option<u32>,
    path: String,
    message: String,
    is_error: bool,
}

/// `tidegate validate`
pub fn validate(
    files: &[PathBuf],
    config: Option<&Path>,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let (mut findings, mut machines, mut seen) = (Vec::new(), Vec::new(), 0_u64);
    for path in named(files, config)? {
        seen += 1;
        if is_machine(&path)? {
            match load(&path)? {
                Ok(machine) => machines.push(machine),
                Err(errors) => findings.extend(errors),
            }
        } else {
            findings.extend(config_findings(&path));
        }
    }
    let mut files: HashMap<&str, &str> = HashMap::new();
    for machine in &machines {
        let name = machine.definition().machine.as_str();
        if let Some(first) = files.insert(name, machine.file()) {
            findings.push(Finding {
                file: machine.file().to_owned(),
                line: None,
                path: "machine".to_owned(),
                message: format!("`{name}` stands in {first} too; each machine has one definition"),
                is_error: true,
            });
        }
    }
    for warning in warnings(machines.iter().map(Arc::as_ref)) {
        findings.push(Finding {
            file: warning.file,
            line: None,
            path: String::new(),
            message: warning.message,
            is_error: false,
        });
    }
    let errors = findings.iter().filter(|finding| finding.is_error).count();
    report(&findings, output)?;
    crate::say!(
        "{}, {}, {}",
        counted(seen, "file"),
        counted(errors as u64, "error"),
        counted((findings.len() - errors) as u64, "warning")
    );
    // What was looked at cannot be used: the same code as where it is used.
    Ok(if errors == 0 { Exit::Done } else { Exit::Usage })
}

/// `tidegate test`
pub fn test(
    files: &[PathBuf],
    config: Option<&Path>,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let mut tests = Tests::default();
    for path in named(files, config)? {
        // A configuration has no tests; its machines were named with it.
        if !is_machine(&path)? {
            continue;
        }
        match load(&path)? {
            Ok(machine) => tests.run(&machine, output)?,
            Err(findings) => {
                report(&findings, output)?;
                let message = format!("{} cannot be tested before it is valid", path.display());
                return Err(Failure::usage(message));
            }
        }
    }
    if tests.machines == 0 {
        return Err(Failure::usage(
            "there is no machine's definition among these files: one begins with `apiVersion: tidegate/v1`",
        ));
    }
    if output.format() == Format::Json {
        let headings = ["machine", "file", "line", "name", "holds", "differences"];
        output.rows(&headings, &tests.rows)?;
    }
    for file in &tests.untested {
        crate::say!("{file}: has no `tests`");
    }
    crate::say!("{}, {} failed", counted(tests.run, "test"), tests.failed);
    Ok(if tests.failed == 0 {
        Exit::Done
    } else {
        Exit::Differs
    })
}

/// Faults name the definition as `order@3:21`; who tests a file looks for the line in it.
fn in_its_file(machine: &CompiledMachine, difference: &str) -> String {
    let definition = machine.definition();
    let place = format!("{}@{}:", definition.machine, definition.version);
    difference.replace(&place, &format!("{}:", machine.file()))
}

/// The tests of some machines.
#[derive(Default)]
struct Tests {
    machines: u64,
    /// Files of machines that have none.
    untested: Vec<String>,
    run: u64,
    failed: u64,
    /// What is written at the end, as JSON.
    rows: Vec<Vec<Value>>,
}

impl Tests {
    /// Runs those of one machine; a table is written as they go.
    fn run(&mut self, machine: &CompiledMachine, output: &mut Output) -> std::io::Result<()> {
        self.machines += 1;
        if machine.cases().is_empty() {
            self.untested.push(machine.file().to_owned());
        }
        for case in machine.cases() {
            let result = case.run(machine);
            self.run += 1;
            self.failed += u64::from(!result.holds());
            let differences: Vec<String> = result
                .differences
                .iter()
                .map(|difference| in_its_file(machine, &difference.to_string()))
                .collect();
            match output.format() {
                Format::Json => self.rows.push(vec![
                    json!(machine.definition().machine.as_str()),
                    json!(machine.file()),
                    json!(result.line),
                    json!(result.name),
                    json!(result.holds()),
                    json!(differences),
                ]),
                Format::Table => {
                    let mut text = format!(
                        "{}  {}:{}: {}\n",
                        if result.holds() { "ok    " } else { "FAILED" },
                        machine.file(),
                        result.line,
                        result.name
                    );
                    for difference in differences {
                        text.push_str(&format!("        {difference}\n"));
                    }
                    output.text(&text)?;
                }
            }
        }
        Ok(())
    }
}

/// The files to look at: those named, else the configuration with the machines that it names.
fn named(files: &[PathBuf], config: Option<&Path>) -> Result<Vec<PathBuf>, Failure> {
    if !files.is_empty() {
        let found = machines::files(files).map_err(failure)?;
        return if found.is_empty() {
            Err(Failure::usage(none_there(files)))
        } else {
            Ok(found)
        };
    }
    let Some(config) = config else {
        return Err(Failure::usage(
            "nothing to look at: name files, or a configuration with -c",
        ));
    };
    let mut found = vec![config.to_owned()];
    // When the configuration itself cannot be read, that is what will be reported.
    if let Ok(config) = Config::load(config) {
        found.extend(machines::files(&config.machines.paths).map_err(failure)?);
    }
    Ok(found)
}

/// That directories were named and nothing is in them.
pub fn none_there(paths: &[PathBuf]) -> String {
    let paths: Vec<String> = paths
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    format!("no *.yaml or *.yml file in {}", paths.join(", "))
}

fn failure(error: machines::MachinesError) -> Failure {
    Failure::usage(error.to_string())
}

/// A machine says so at its top; everything else is taken for a configuration.
fn is_machine(path: &Path) -> Result<bool, Failure> {
    let text = crate::config::read_text(path)
        .map_err(|error| Failure::usage(format!("{} cannot be read: {error}", path.display())))?;
    let keys = ["apiVersion", "kind", "machine"];
    Ok(match yaml::read(&text) {
        Ok(node) => match node.value {
            Yaml::Map(entries) => entries.iter().any(|(key, _)| keys.contains(&&*key.text)),
            _ => false,
        },
        // What is no YAML is reported either way; its text tells how.
        Err(_) => text
            .lines()
            .any(|line| keys.iter().any(|key| line.starts_with(&format!("{key}:")))),
    })
}

fn load(path: &Path) -> Result<Result<Arc<CompiledMachine>, Vec<Finding>>, Failure> {
    let loaded = machines::load_file(path).map_err(failure)?;
    Ok(loaded.map_err(|errors| {
        errors
            .into_iter()
            .map(|error| Finding {
                message: match &error.suggestion {
                    Some(suggestion) => format!("{}; {suggestion}", error.message),
                    None => error.message.clone(),
                },
                file: error.file,
                line: Some(error.line),
                path: error.path,
                is_error: true,
            })
            .collect()
    }))
}

fn config_findings(path: &Path) -> Vec<Finding> {
    let Err(problems) = Config::load(path) else {
        return Vec::new();
    };
    let file = problems.file.clone();
    let mut list = problems.list;
    list.sort_by_key(|problem| problem.line);
    list.into_iter()
        .map(|problem| Finding {
            file: file.clone(),
            line: Some(problem.line),
            path: problem.path,
            message: problem.message,
            is_error: true,
        })
        .collect()
}

fn report(findings: &[Finding], output: &mut Output) -> std::io::Result<()> {
    if output.format() == Format::Json {
        let headings = ["file", "line", "path", "message", "level"];
        let rows: Vec<Vec<Value>> = findings
            .iter()
            .map(|finding| {
                vec![
                    json!(finding.file),
                    json!(finding.line),
                    json!(finding.path),
                    json!(finding.message),
                    json!(if finding.is_error { "error" } else { "warning" }),
                ]
            })
            .collect();
        return output.rows(&headings, &rows);
    }
    let mut text = String::new();
    for finding in findings {
        text.push_str(&finding.file);
        if let Some(line) = finding.line {
            text.push_str(&format!(":{line}"));
        }
        text.push_str(": ");
        if !finding.is_error {
            text.push_str("warning: ");
        }
        if !finding.path.is_empty() {
            text.push_str(&format!("{}: ", finding.path));
        }
        text.push_str(&finding.message);
        text.push('\n');
    }
    output.text(&text)
}
