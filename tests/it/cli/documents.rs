//! What the pages say about the command line is what it does.

use std::path::Path;

use super::{Desk, Said};

#[test]
fn the_page_about_the_command_line_lists_what_there_is() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/cli.md");
    let page = std::fs::read_to_string(page).unwrap();
    let help = Desk::new().run("--help").ended_with(0).out;
    let (_, codes) = help.split_once("Exit codes:\n").unwrap();
    for line in codes.lines() {
        let (code, meaning) = line.trim().split_once("  ").unwrap();
        let row = format!("| {code} | {meaning} |");
        assert!(page.contains(&row), "docs/cli.md has no line `{row}`");
    }
    let (_, commands) = help.split_once("Commands:\n").unwrap();
    for line in commands.lines().take_while(|line| !line.is_empty()) {
        let command = line.split_whitespace().next().unwrap();
        let heading = format!("## `tidegate {command}`");
        assert!(page.contains(&heading), "docs/cli.md has no `{heading}`");
    }
}

/// The fenced blocks of a section, by language.
fn blocks<'p>(page: &'p str, heading: &str, language: &str) -> Vec<&'p str> {
    let (_, section) = page.split_once(heading).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let fence = format!("```{language}\n");
    let after = section.split(fence.as_str()).skip(1);
    after
        .map(|rest| rest.split("```").next().unwrap())
        .collect()
}

/// Runs what a page tells to run, beside `files`, and compares what it ends with.
fn walked(walk: &str, ending: &str, files: &[(&str, &str)]) -> Said {
    let desk = Desk::new();
    for (name, text) in files {
        desk.write(name, text);
    }
    let binary = Path::new(env!("CARGO_BIN_EXE_tidegate")).parent().unwrap();
    let path = std::env::var("PATH").unwrap_or_default();
    let said: Said = desk
        .shell(walk)
        .env("PATH", format!("{}:{path}", binary.display()))
        .output()
        .unwrap()
        .into();
    let said = said.ended_with(0);
    assert!(said.out.ends_with(ending), "{}", said.out);
    said
}

#[test]
fn the_first_machine_of_the_readme_runs_as_it_stands() {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = std::fs::read_to_string(readme).unwrap();
    let of = |language| blocks(&readme, "## A first machine\n", language);
    let ([machine], [walk], [ending]) = (&of("yaml")[..], &of("sh")[..], &of("text")[..]) else {
        panic!("README.md: expected one definition, one walk and what it ends with");
    };
    let said = walked(walk, ending, &[("account.yaml", machine)]);
    assert!(said.err.contains("1 test, 0 failed"), "{}", said.err);
}

#[test]
fn the_first_mapping_of_its_page_runs_as_it_stands() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/mapping.md");
    let page = std::fs::read_to_string(page).unwrap();
    let of = |language| blocks(&page, "# Mapping\n", language);
    let ([config], [walk], [ending]) = (&of("yaml")[..], &of("sh")[..], &of("text")[..]) else {
        panic!("docs/mapping.md: expected one configuration, one walk and what it ends with");
    };
    let said = walked(walk, ending, &[("node.yaml", config)]);
    assert!(said.err.contains("3 records, 0 refused"), "{}", said.err);
}

/// A block of a page as the whole file that it is a part of.
fn whole(block: &str) -> String {
    let indented = |by: &str| {
        let lines = block.lines().map(|line| format!("{by}{line}\n"));
        lines.collect::<String>()
    };
    match block.split(':').next().unwrap() {
        "set" => format!(
            "apiVersion: tidegate/v1\nkind: Machine\nmachine: part\nversion: 1\nkey: event.subject\n\
             initial: new\nstates: [new]\ndata:\n  price_cents: {{ type: int, initial: 0 }}\nevents:\n  \
             priced:\n    - from: [new]\n{}",
            indented("      ")
        ),
        "    mapping" => format!(
            "sources:\n  - name: shop\n    paths: [shop.ndjson]\n    stream: orders\n    tenant: acme\n{block}"
        ),
        "sources" if block.contains("kind: http") => {
            format!("http: {{ listen: '127.0.0.1:0' }}\n{block}")
        }
        _ => block.to_owned(),
    }
}

#[test]
fn every_definition_and_configuration_of_a_page_is_taken_as_it_stands() {
    let desk = Desk::with_orders();
    std::fs::create_dir(desk.path("machines")).unwrap();
    std::fs::copy(desk.path("order.yaml"), desk.path("machines/order.yaml")).unwrap();
    desk.write("password", "secret");
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    let mut tried = 0;
    for entry in std::fs::read_dir(docs).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "md") {
            continue;
        }
        let page = std::fs::read_to_string(&path).unwrap();
        for rest in page.split("```yaml\n").skip(1) {
            let block = rest.split("```").next().unwrap();
            let file = whole(block);
            let command = match file.starts_with("apiVersion:") {
                true => "test block.yaml",
                false => "validate -c block.yaml",
            };
            desk.write("block.yaml", &in_place(&file));
            let ended = desk.command(command).env("PGPASSWORD", "secret").output();
            let said = Said::from(ended.unwrap());
            assert_eq!(said.code, 0, "{}:\n{block}\n{}", path.display(), said.err);
            tried += 1;
        }
    }
    assert!(tried >= 8, "{tried} blocks");
}

/// Secrets that stand in files, where this test has one.
fn in_place(file: &str) -> String {
    let mut parts = file.split("${file:/run/secrets/");
    let first = parts.next().unwrap().to_owned();
    parts.fold(first, |text, rest| {
        let (_, after) = rest.split_once('}').unwrap();
        format!("{text}${{file:password}}{after}")
    })
}
