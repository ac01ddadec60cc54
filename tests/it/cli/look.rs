//! `tidegate events` and `verify`: what is stored is shown as it is, and what was changed is found.

use std::process::Stdio;

use serde_json::json;

use super::{Desk, Said};

#[test]
fn what_is_stored_is_shown_to_people_and_programs() {
    let desk = Desk::with_orders();
    desk.run("ingest orders.ndjson --tenant-from-event-unsafe --create-tenants --machines order.yaml --source shop")
        .ended_with(0);
    let tail = desk
        .run("events tail --tenant acme --stream events -n 3 -o json")
        .ended_with(0);
    let last = &tail.lines()[2];
    assert_eq!(last["position"], json!("events:shop/0:31"));
    assert_eq!(last["record"]["event"]["correlationid"], json!("visit-90"));
    assert_eq!(tail.lines().len(), 3);
    // What machines emitted is an event like any other, in a log of its own, with its cause.
    let all = desk.run("events tail --tenant acme -n 3 -o json");
    let emitted = &all.ended_with(0).lines()[2];
    assert_eq!(emitted["position"], json!("internal:shop/0:9"));
    let cause = emitted["record"]["cause"].as_str().unwrap();
    assert!(cause.starts_with("events:shop/0:"), "{cause}");
    let table = desk.run("events tail --tenant acme -n 2").ended_with(0);
    assert!(table.out.starts_with("POSITION"), "{}", table.out);
    assert_eq!(table.out.lines().count(), 3);
    assert!(!table.out.contains('\u{1b}'), "colours only on a terminal");
    // A reader that goes away early is no error.
    let mut child = desk
        .command("events tail --tenant acme -n 30")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert_eq!(
        Said::from(child.wait_with_output().unwrap())
            .ended_with(0)
            .err,
        ""
    );
}

#[test]
fn r20_what_was_changed_behind_our_back_is_found_and_named() {
    let desk = Desk::with_orders();
    desk.run("ingest orders.ndjson --tenant-from-event-unsafe --create-tenants --machines order.yaml --source shop")
        .ended_with(0);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        use sqlx::{ConnectOptions as _, Connection as _};
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(desk.path("tidegate.db"));
        let mut sql = options.connect().await.unwrap();
        sqlx::raw_sql("update entities set data = '{\"paid_cents\":0,\"total_cents\":1000}' where key = 'o-4'")
            .execute(&mut sql)
            .await
            .unwrap();
        sql.close().await.unwrap();
    });
    let said = desk.run("verify -o json").ended_with(1);
    let place = "tenant acme, order `o-4`, version 2";
    assert!(
        said.err
            .contains(&format!("the first difference: {place}: entity")),
        "{}",
        said.err
    );
    assert_eq!(said.lines()[1]["where"], json!(place));
}
