//! `tidegate doctor`: a good installation, and each of the ways in which one is not.

use serde_json::Value;
use sqlx::{AssertSqlSafe, Executor as _};
use tidegate::runtime::SystemClock;
use tidegate_engine::clock::Clock as _;

use super::postgres::Served;
use super::{Desk, Said};

/// What it says about something, with the worst first.
#[track_caller]
fn about(said: &Said, about: &str) -> (String, String) {
    let rows: Vec<Value> = said.lines();
    let of = |result: &str| {
        rows.iter()
            .find(|row| row["about"] == about && row["result"] == result)
    };
    let row = of("fail").or_else(|| of("warn")).or_else(|| of("ok"));
    let row = row.unwrap_or_else(|| panic!("nothing about {about}: {}", said.out));
    let text = |key: &str| row[key].as_str().unwrap().to_owned();
    (text("result"), text("says"))
}

#[test]
fn an_embedded_installation_is_looked_at_before_and_after_its_first_start() {
    let desk = Desk::with_orders();
    desk.write("node.yaml", "machines: { paths: [order.yaml] }\n");
    let before = desk.run("doctor -c node.yaml -o json").ended_with(0);
    assert!(about(&before, "database").1.contains("not there yet"));
    assert_eq!(about(&before, "disk").0, "ok");
    assert!(!desk.path("tidegate.db").exists(), "it changes nothing");
    desk.run("ingest orders.ndjson --tenant acme -c node.yaml")
        .ended_with(0);
    let after = desk.run("doctor -c node.yaml -o json").ended_with(0);
    assert!(about(&after, "database").1.contains("journal_mode wal"));
    let (result, says) = about(&after, "machines");
    assert_eq!((&*result, &*says), ("ok", "`order` version 1 is active"));
    // A definition that may not follow the active one, in a table for people.
    let order = std::fs::read_to_string(desk.path("order.yaml")).unwrap();
    desk.write("order.yaml", &order.replace("already paid", "paid before"));
    let changed = desk.run("doctor -c node.yaml").ended_with(1);
    assert!(changed.out.contains("fail    machines"), "{}", changed.out);
    assert!(changed.out.contains("version 1"), "{}", changed.out);
    assert!(changed.err.contains("1 thing to mend"), "{}", changed.err);
    desk.write("order.yaml", "machine: [");
    let broken = desk.run("doctor -c node.yaml -o json").ended_with(1);
    assert!(about(&broken, "machines").1.contains("order.yaml:"));
    desk.write("node.yaml", "machines: { pahts: [order.yaml] }\n");
    let unread = desk.run("doctor -c node.yaml").ended_with(2);
    assert!(unread.err.contains("pahts"), "{}", unread.err);
}

#[test]
fn what_run_would_refuse_doctor_tells_before() {
    let desk = Desk::with_orders();
    // Enough for `ingest`, which names its files itself.
    for (arguments, says) in [
        ("doctor -o json", "`run` needs a configuration"),
        ("doctor -c node.yaml -o json", "nothing to do"),
    ] {
        desk.write("node.yaml", "machines: { paths: [order.yaml] }\n");
        let said = desk.run(arguments).ended_with(0);
        assert!(said.out.contains(says), "{}", said.out);
        assert!(said.err.contains("`run` cannot"), "{}", said.err);
    }
    let sources = "sources: [{ name: api, kind: http, stream: orders }]\n";
    desk.write("node.yaml", sources);
    let said = desk.run("doctor -c node.yaml -o json").ended_with(1);
    assert!(said.out.contains("`http.listen` is not configured"));
    // Before there is a store, and with one in which nothing is active.
    desk.write(
        "node.yaml",
        &format!("http: {{ listen: '127.0.0.1:0' }}\n{sources}"),
    );
    for is_there in [false, true] {
        if is_there {
            desk.run("tenants create acme -c node.yaml").ended_with(0);
        }
        let said = desk.run("doctor -c node.yaml -o json").ended_with(1);
        let (result, says) = about(&said, "machines");
        assert_eq!(result, "fail");
        let refused = desk.run("run -c node.yaml").ended_with(2);
        assert!(refused.err.contains(&says), "{says}: {}", refused.err);
    }
}

#[test]
fn a_certificate_is_looked_at_with_its_key_and_its_end() {
    let desk = Desk::new();
    desk.write(
        "node.yaml",
        "http: { listen: '0.0.0.0:8443', tls_certificate: tls.crt, tls_key: tls.key }\n\
         machines: { paths: [order.yaml] }\n",
    );
    let certify = |days: i64| {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let today = SystemClock.now().0 / 86_400_000_000;
        let (year, month, day) = civil(today + days);
        params.not_after = rcgen::date_time_ymd(year, month, day);
        desk.write("tls.crt", &params.self_signed(&key).unwrap().pem());
        desk.write("tls.key", &key.serialize_pem());
    };
    for (days, code, result, says) in [
        (400, 0, "ok", "days left"),
        (10, 0, "warn", "renew it"),
        (-2, 1, "fail", "has expired"),
    ] {
        certify(days);
        let said = desk.run("doctor -c node.yaml -o json").ended_with(code);
        let found = about(&said, "tls");
        assert!(
            found.0 == result && found.1.contains(says),
            "{days}: {found:?}"
        );
    }
    let other = rcgen::KeyPair::generate().unwrap().serialize_pem();
    desk.write("tls.key", &other);
    let said = desk.run("doctor -c node.yaml -o json").ended_with(1);
    assert!(about(&said, "tls").1.contains("not the certificate's key"));
}

/// The day so many days after 1970-01-01.
fn civil(days: i64) -> (i32, u8, u8) {
    let moment = tidegate_engine::clock::Timestamp(days * 86_400_000_000).to_rfc3339();
    let mut parts = moment.split(['-', 'T']);
    let mut next = || parts.next().unwrap().to_owned();
    (
        next().parse().unwrap(),
        next().parse().unwrap(),
        next().parse().unwrap(),
    )
}

#[test]
fn r19_a_postgres_is_looked_at_and_each_thing_that_is_wrong_is_told_with_what_to_type() {
    let test = "r19_a_postgres_is_looked_at_and_each_thing_that_is_wrong_is_told_with_what_to_type";
    let Some(served) = Served::new(test) else {
        return;
    };
    // Neither role nor schema is there yet.
    let nothing = served.run("doctor -o json").ended_with(1);
    assert_eq!(about(&nothing, "connection").0, "fail");
    served.migrate();
    let doctor = || served.run("doctor -o json");
    let new = doctor().ended_with(0);
    for thing in [
        "transport",
        "connection",
        "server",
        "clock",
        "login",
        "rights",
        "schema",
    ] {
        assert_eq!(about(&new, thing).0, "ok", "{thing}: {}", new.out);
    }
    assert!(
        about(&new, "machines")
            .1
            .contains("the next start activates it")
    );
    served
        .run("ingest orders.ndjson --tenant-from-event-unsafe --create-tenants")
        .ended_with(0);
    assert_eq!(about(&doctor().ended_with(0), "machines").0, "ok");

    for (breaks, mends, thing, result, says) in breakages(&served) {
        served.as_admin(&breaks);
        let said = doctor();
        let found = about(&said, thing);
        assert!(
            found.0 == result && found.1.contains(says),
            "{breaks}: {}",
            said.out
        );
        said.ended_with(i32::from(result == "fail"));
        served.as_admin(&mends);
    }
    doctor().ended_with(0);
    let as_superuser = served
        .command("doctor -o json")
        .env("ENGINE_URL", served.database.admin_url())
        .output();
    let said = Said::from(as_superuser.unwrap()).ended_with(1);
    assert!(about(&said, "login").1.contains("is a superuser"));
    let away = served
        .command("doctor -o json")
        .env("ENGINE_URL", "postgres://u:hunter2@127.0.0.1:1/t")
        .output();
    let said = Said::from(away.unwrap()).ended_with(1);
    assert!(
        about(&said, "connection")
            .1
            .contains("is the server running")
    );
    assert!(!said.out.contains("hunter2") && !said.err.contains("hunter2"));
}

/// Statements that break something, and mend it; what is told then about what, and how bad it is.
type Breakage = (String, String, &'static str, &'static str, &'static str);

fn breakages(served: &Served) -> Vec<Breakage> {
    let (engine, database) = (served.engine(), served.database.name().to_owned());
    let owner = engine.replace("_engine", "_owner");
    vec![
        (
            format!("alter database {database} set synchronous_commit = off"),
            format!("alter database {database} reset synchronous_commit"),
            "server",
            "warn",
            "set it to on",
        ),
        (
            format!("alter role {engine} reset statement_timeout"),
            format!("alter role {engine} set statement_timeout = '30s'"),
            "server",
            "warn",
            "statement_timeout is not set",
        ),
        (
            format!("alter role {engine} connection limit 3"),
            format!("alter role {engine} connection limit -1"),
            "connections",
            "fail",
            "connection limit",
        ),
        (
            format!("alter role {engine} bypassrls"),
            format!("alter role {engine} nobypassrls"),
            "login",
            "fail",
            "bypasses row-level security",
        ),
        (
            format!("grant {owner} to {engine}"),
            format!("revoke {owner} from {engine}"),
            "login",
            "fail",
            "owns the tables",
        ),
        (
            format!("grant insert on tidegate.segments to {engine}"),
            format!("revoke insert on tidegate.segments from {engine}"),
            "rights",
            "fail",
            "revoke what was granted",
        ),
        (
            "insert into tidegate.migrations select 99, 'later', checksum, 99 from tidegate.migrations limit 1".to_owned(),
            "delete from tidegate.migrations where number = 99".to_owned(),
            "schema",
            "fail",
            "run a newer binary",
        ),
        ]
}

impl Served {
    fn as_admin(&self, sql: &str) {
        self.runtime().block_on(async {
            let sql = AssertSqlSafe(sql.to_owned());
            self.database.admin().await.execute(sql).await.unwrap();
        });
    }
}
