//! What a file may say of tenants.

use serde_json::{Value, json};

use super::{Desk, event};

#[test]
fn r01_a_line_without_a_tenant_is_kept_as_unreadable_and_moves_nothing() {
    let desk = Desk::new();
    let placed = event("sound", "order.placed", 1, &json!({"total_cents": 5}));
    let mut text = placed.clone();
    let nobodys = [
        "",
        r#""tenantid":null,"#,
        r#""tenantid":"","#,
        r#""tenantid":7,"#,
    ];
    for (number, tenant) in nobodys.iter().enumerate() {
        let id = format!("nobodys-{number}");
        let named = event(&id, "order.paid", 1, &json!({"amount_cents": 5}));
        let line = named.replacen(r#""tenantid":"acme","#, tenant, 1);
        // Serde orders by name, so the tenant stands between two others.
        assert_ne!(line, named);
        text.push_str(&line);
    }
    desk.write("orders.ndjson", &text);
    let line = "ingest orders.ndjson --tenant-from-event-unsafe --create-tenants --machines order.yaml -o json";
    let counts = &desk.run(line).ended_with(0).lines()[0];
    let of = |what: &str| counts[what].as_u64().unwrap();
    assert_eq!(
        (of("received"), of("admitted"), of("unreadable")),
        (5, 1, 4)
    );
    assert_eq!(of("applied"), 1);

    let letters = desk.run("dead-letters list -o json").ended_with(0).lines();
    assert_eq!(letters.len(), 4);
    for letter in &letters {
        assert_eq!(letter["reason"], json!("unreadable"), "{letter}");
        assert_eq!(letter["tenant"], json!("_unassigned"), "{letter}");
        assert!(letter.to_string().contains("tenantid: "), "{letter}");
        // Nobody can give it a tenant afterwards.
        let id = letter["id"].as_str().unwrap();
        desk.run(&format!("dead-letters retry {id} --tenant _unassigned"))
            .ended_with(1);
        desk.run(&format!("dead-letters retry {id} --tenant acme"))
            .ended_with(4);
    }
    // The one event that has a tenant is all there is.
    let tail = desk
        .run("events tail --tenant acme -n 9 -o json")
        .ended_with(0);
    let ids: Vec<Value> = tail
        .lines()
        .iter()
        .map(|line| line["record"]["event"]["id"].clone())
        .collect();
    assert_eq!(ids, [json!("sound")]);
    desk.run("verify").ended_with(0);
}
