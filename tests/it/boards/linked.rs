//! What boards lead to: each other, the runbook, one datasource; and that their limits are those of alerts.

use std::collections::BTreeSet;

use serde_json::json;

use super::{RULES, Rule, alerts_in, all, rules, texts, under};

/// What a person takes in at once.
const PANELS_MAX: usize = 13;

/// The sections of the runbook, as links name them.
fn sections() -> BTreeSet<String> {
    let page = include_str!("../../../docs/OPERATING.md");
    let headings = page.lines().filter(|line| line.starts_with('#'));
    let link = |line: &str| {
        let words = line.trim_start_matches('#').trim().to_lowercase();
        words.replace(' ', "-").replace(['?', '`', ','], "")
    };
    headings.map(link).collect()
}

#[test]
fn the_boards_have_fixed_ids_and_ask_the_datasource_that_was_chosen() {
    let boards = all();
    let names: Vec<&str> = boards.iter().map(|board| &*board.name).collect();
    assert_eq!(names, ["lag", "overview", "runtime", "tenants"]);
    let chosen = json!({ "type": "prometheus", "uid": "${datasource}" });
    for board in &boards {
        let (name, json) = (&board.name, &board.json);
        assert_eq!(json["uid"], format!("tidegate-{name}"));
        assert_eq!(json["title"], format!("Tidegate: {name}"));
        assert_eq!(json["tags"], json!(["tidegate"]));
        assert!(json["id"].is_null(), "{name}: an id of somebody's Grafana");
        let first = &board.variables()[0];
        let kind = (&first["name"], &first["type"], &first["query"]);
        assert_eq!(
            kind,
            (
                &"datasource".into(),
                &"datasource".into(),
                &"prometheus".into()
            )
        );
        for datasource in under(json, "datasource") {
            assert_eq!(datasource, &chosen, "{name}");
        }
        for variable in board.variables().iter().filter(|it| it["type"] == "query") {
            assert_eq!(variable["datasource"], chosen, "{name}");
            let word = format!("\"${}\"", variable["name"].as_str().unwrap());
            let used = board.queries().iter().any(|it| it.text.contains(&word));
            assert!(used, "{name}: nobody asks {word}");
        }
        for panel in board.panels() {
            let targets = panel["targets"].as_array().unwrap().iter();
            for asks in targets.chain([panel]) {
                assert_eq!(asks["datasource"], chosen, "{name}: {}", panel["title"]);
            }
        }
    }
}

#[test]
fn a_panel_has_a_place_a_title_a_unit_and_says_what_to_open() {
    for board in all() {
        let all = board.json["panels"].as_array().unwrap();
        let ids: BTreeSet<i64> = all.iter().map(|it| it["id"].as_i64().unwrap()).collect();
        assert_eq!(ids.len(), all.len(), "{}: ids", board.name);
        let mut taken = BTreeSet::new();
        for panel in all {
            let of = |key: &str| panel["gridPos"][key].as_u64().unwrap();
            assert!(of("x") + of("w") <= 24, "{}: {}", board.name, panel["id"]);
            for place in (of("y")..of("y") + of("h"))
                .flat_map(|y| (of("x")..of("x") + of("w")).map(move |x| (x, y)))
            {
                assert!(taken.insert(place), "{}: {}", board.name, panel["id"]);
            }
        }
        assert!(board.panels().count() <= PANELS_MAX, "{}", board.name);
        for panel in board.panels() {
            let place = format!("{}: {}", board.name, panel["title"]);
            assert!(!panel["title"].as_str().unwrap().is_empty(), "{place}");
            let says = panel["description"].as_str().unwrap();
            assert!(says.contains("Runbook: ["), "{place}");
            let field = &panel["fieldConfig"];
            let unit = field["defaults"]["unit"].is_string();
            let ids = under(&field["overrides"], "id");
            let columns = panel["type"] == "table" && ids.contains(&&"unit".into());
            let names = panel["title"] == "What fires";
            assert!(unit || columns || names, "{place}: no unit");
        }
    }
}

#[test]
fn every_link_of_a_board_leads_to_a_board_or_a_section_of_the_runbook() {
    let (boards, sections) = (all(), sections());
    let is_board = |uid: &str| boards.iter().any(|board| board.json["uid"] == uid);
    let runbook = concat!(
        env!("CARGO_PKG_REPOSITORY"),
        "/blob/main/docs/OPERATING.md#"
    );
    for board in &boards {
        let links = board.json["links"].as_array().unwrap();
        let to_others = links.iter().find(|it| it["type"] == "dashboards").unwrap();
        assert_eq!(to_others["tags"], board.json["tags"], "{}", board.name);
        for text in texts(&board.json) {
            for at in text.split("https://").skip(1) {
                let link = format!("https://{}", at.split(')').next().unwrap());
                let section = link.strip_prefix(runbook);
                let is_there = section.is_some_and(|it| sections.contains(it));
                assert!(is_there, "{}: {link}", board.name);
            }
            if let Some(rest) = text.strip_prefix("/d/") {
                assert!(is_board(rest.split('?').next().unwrap()), "{text}");
            }
        }
    }
    for rule in rules().iter().filter(|rule| rule.is_alert) {
        let leads_to = rule.board.as_deref().and_then(|it| it.strip_prefix("/d/"));
        assert!(leads_to.is_some_and(is_board), "{}", rule.name);
    }
}

/// What an alert compares with.
fn limits(rule: &Rule) -> Vec<f64> {
    let words: Vec<&str> = rule.asks.split_whitespace().collect();
    let compared = words
        .windows(2)
        .filter(|pair| [">", "=="].contains(&pair[0]));
    let limit = |pair: &[&str]| match (pair[0], pair[1].parse().unwrap()) {
        // Of what is counted, the first one.
        (">", 0.0) => 1.0,
        (_, limit) => limit,
    };
    compared.map(limit).collect()
}

#[test]
fn each_alert_has_a_panel_on_its_board_and_red_begins_where_the_alert_does() {
    let rules = rules();
    let mut seen = BTreeSet::new();
    for board in all() {
        for panel in board.panels() {
            let named = alerts_in(panel["description"].as_str().unwrap());
            let named: Vec<&Rule> = rules
                .iter()
                .filter(|rule| named.contains(&*rule.name))
                .collect();
            for rule in &named {
                if rule.board.as_deref() == Some(&*format!("/d/tidegate-{}", board.name)) {
                    seen.insert(rule.name.clone());
                }
            }
            let steps = under(panel, "thresholds");
            let steps = steps.into_iter().chain(under(panel, "value"));
            let steps = steps.flat_map(|it| it["steps"].as_array().into_iter().flatten());
            for limit in steps.filter_map(|step| step["value"].as_f64()) {
                let is_one = named.iter().any(|rule| limits(rule).contains(&limit));
                assert!(is_one, "{}: {}: {limit}", board.name, panel["title"]);
            }
        }
    }
    for rule in rules.iter().filter(|rule| rule.is_alert) {
        assert!(seen.contains(&rule.name), "{} is on no board", rule.name);
    }
    for named in alerts_in(RULES) {
        assert!(rules.iter().any(|rule| rule.name == named), "{named}");
    }
}

#[test]
fn what_is_provisioned_is_this_folder_and_what_is_loaded_these_rules() {
    let compose = include_str!("../../../deploy/compose.yaml");
    let provider = include_str!("../../../deploy/grafana/provisioning/dashboards/tidegate.yaml");
    let datasource = include_str!("../../../deploy/grafana/provisioning/datasources/tidegate.yaml");
    let scraper = include_str!("../../../deploy/compose/prometheus.yaml");
    let within = "/var/lib/grafana/dashboards";
    assert!(compose.contains(&format!("- ./grafana/dashboards:{within}:ro")));
    assert!(compose.contains(&format!("HOME_DASHBOARD_PATH: {within}/overview.json")));
    assert!(provider.contains(&format!("path: {within}")));
    assert!(datasource.contains("type: prometheus"));
    assert!(compose.contains("- ./prometheus:/etc/prometheus/rules:ro"));
    assert!(scraper.contains("/etc/prometheus/rules/rules.yaml"));
    for text in [compose, include_str!("../../../docs/OPERATING.md")] {
        for at in text.split("/d/tidegate-").skip(1) {
            let name = at.split(|c: char| !c.is_ascii_lowercase()).next().unwrap();
            assert!(all().iter().any(|board| board.name == name), "{name}");
        }
    }
}
