//! Tenants and tokens by the commands, on an embedded store and on Postgres.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Output, Stdio};

use clap::CommandFactory as _;
use serde_json::{Value, json};
use tidegate::cli::args::Cli;
use tidegate_engine::access::TokenSecret;

use super::postgres::Served;
use super::{Desk, Said};

/// A command line's words, in which a name may hold nothing but itself.
type Run<'r> = &'r dyn Fn(&str) -> Said;

/// What both stores do alike; gives a secret that was shown, for whoever looks for it.
fn tenants_and_tokens_are_managed(run: Run<'_>) -> String {
    tenants_are_created(run);
    let shown = tokens_are_created(run);
    tokens_are_revoked(run, &shown);
    tenants_are_closed(run);
    shown
}

fn tenants_are_created(run: Run<'_>) {
    let acme = run("tenants create acme -o json").ended_with(0);
    let row = &acme.lines()[0];
    assert_eq!(
        (&row["tenant"], &row["state"]),
        (&json!("acme"), &json!("open"))
    );
    let again = run("tenants create acme -o json").ended_with(0);
    assert_eq!(again.lines()[0]["created_at"], row["created_at"]);
    assert!(again.err.contains("was there already"), "{}", again.err);
    run("tenants create bolt").ended_with(0);
    let listed = run("tenants list -o json").ended_with(0).lines();
    let names: Vec<&Value> = listed.iter().map(|it| &it["tenant"]).collect();
    assert_eq!(names, [&json!("acme"), &json!("bolt")]);
    let unknown = run("tenants show carl").ended_with(4);
    assert!(
        unknown.err.contains("there are acme, bolt"),
        "{}",
        unknown.err
    );
}

fn tokens_are_created(run: Run<'_>) -> String {
    let refused = run("tokens create --tenant carl --scope read").ended_with(4);
    let next = "`tidegate tenants create carl`";
    assert!(refused.err.contains(next), "{}", refused.err);
    let made =
        run("tokens create --tenant acme --scope publish:fact,read --expires-in 90d -o json");
    let token = made.ended_with(0).lines().remove(0);
    let shown = token["token"].as_str().unwrap().to_owned();
    let secret = TokenSecret::parse(&shown).unwrap();
    let id = secret.id().to_string();
    assert_eq!(token["id"], json!(id));
    assert_eq!(token["scopes"], json!("publish:fact,read"));
    assert!(token["expires_at"].is_string() && token["state"] == json!("valid"));

    // A second one for the rotation, and no third.
    let second = run("tokens create --tenant acme --scope read --scope operate -o json");
    let second = second.ended_with(0).lines().remove(0);
    assert_eq!(second["scopes"], json!("read,operate"));
    let third = run("tokens create --tenant acme --scope read").ended_with(2);
    let oldest = format!("`tidegate tokens revoke {id}`");
    assert!(third.err.contains(&oldest), "{}", third.err);
    run("tokens create --tenant acme --scope read --label reports --out kept").ended_with(0);
    run("tokens create --installation --scope observe,admin").ended_with(0);

    let listed = run("tokens list -o json").ended_with(0);
    assert_eq!(listed.lines().len(), 4);
    assert!(!listed.out.contains(&shown[20..]));
    let of_all = run("tokens list --installation -o json")
        .ended_with(0)
        .lines();
    assert_eq!(of_all.len(), 1);
    assert_eq!(of_all[0]["tenant"], Value::Null);
    let of_bolt = run("tokens list --tenant bolt -o json").ended_with(0);
    assert_eq!(of_bolt.lines(), Vec::<Value>::new());
    shown
}

fn tokens_are_revoked(run: Run<'_>, shown: &str) {
    let id = TokenSecret::parse(shown).unwrap().id().to_string();
    run(&format!("tokens revoke {id}")).ended_with(0);
    let again = run(&format!("tokens revoke {id}")).ended_with(0);
    assert!(again.err.contains("revoked already"), "{}", again.err);
    run("tokens revoke 0123456789abcdef").ended_with(4);
    // Whoever gives the whole token does not read it back.
    let whole = run(&format!("tokens revoke {shown}")).ended_with(2);
    assert!(whole.err.contains("the id alone"), "{}", whole.err);
    assert!(!whole.err.contains(&shown[20..]), "{}", whole.err);
    let listed = run("tokens list --tenant acme -o json")
        .ended_with(0)
        .lines();
    let states: Vec<&Value> = listed
        .iter()
        .filter(|it| it["id"] == json!(id))
        .map(|it| &it["state"])
        .collect();
    assert_eq!(states, [&json!("revoked")]);
    run("tokens create --tenant acme --scope read").ended_with(0);
}

fn tenants_are_closed(run: Run<'_>) {
    run("tenants close bolt").ended_with(0);
    let closed = run("tenants show bolt -o json").ended_with(0).lines();
    assert_eq!(closed[0]["state"], json!("closed"));
    let reopened = run("tenants create bolt").ended_with(2);
    assert!(reopened.err.contains("is closed"), "{}", reopened.err);
    run("tenants close carl").ended_with(4);
}

#[test]
fn tenants_and_tokens_are_managed_on_an_embedded_store() {
    let desk = Desk::new();
    // Nothing is begun by looking.
    let absent = desk
        .run("tokens create --tenant acme --scope read")
        .ended_with(3);
    assert!(
        absent.err.contains("tidegate tenants create"),
        "{}",
        absent.err
    );
    let shown = tenants_and_tokens_are_managed(&|line| desk.run(line));
    // R31: the database holds no secret, as text or as bytes.
    let whole = std::fs::read(desk.path("tidegate.db")).unwrap();
    let text = &shown.as_bytes()[20..];
    assert!(!whole.windows(text.len()).any(|window| window == text));
    // A registered tenant is none that has anything: nothing else notices.
    desk.run("verify").ended_with(0);
}

#[test]
fn tenants_and_tokens_are_managed_on_postgres() {
    let Some(served) = Served::new("tenants_and_tokens_are_managed_on_postgres") else {
        return;
    };
    served.migrate();
    tenants_and_tokens_are_managed(&|line| served.run(line));
    // A node's own login may look, and is told who may do more.
    let as_engine = |line: &str| -> Said {
        let output: Output = served
            .command(line)
            .env("ADMIN_URL", served.database.engine_url())
            .output()
            .unwrap();
        output.into()
    };
    for line in ["tenants list", "tenants show acme", "tokens list"] {
        as_engine(line).ended_with(0);
    }
    let refused = as_engine("tenants create dora").ended_with(3);
    let login = format!("login `{}` may not do this", served.engine());
    assert!(refused.err.contains(&login), "{}", refused.err);
    assert!(
        refused.err.contains("`store.postgres.migrate_url`"),
        "{}",
        refused.err
    );
    assert_eq!(served.run("tenants show dora").code, 4);
}

#[test]
fn r31_a_token_goes_to_a_new_file_of_its_owner_alone_or_nowhere() {
    let desk = Desk::new();
    desk.run("tenants create acme").ended_with(0);
    let create = "tokens create --tenant acme --scope publish:intent --log-level trace";
    let made = desk
        .run(&format!("{create} --out acme.token"))
        .ended_with(0);
    let kept = std::fs::read_to_string(desk.path("acme.token")).unwrap();
    let secret = TokenSecret::parse(kept.trim_end()).unwrap();
    let hidden = &kept.trim_end()[20..];
    assert!(!made.out.contains(hidden) && !made.err.contains(hidden));
    assert!(made.out.contains(&secret.id().to_string()), "{}", made.out);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(desk.path("acme.token"))
            .unwrap()
            .permissions();
        assert_eq!(mode.mode() & 0o777, 0o600);
    }
    // Never over what is there, and nothing stays of a token that was not stored.
    let again = desk
        .run(&format!("{create} --out acme.token"))
        .ended_with(2);
    assert!(again.err.contains("acme.token exists"), "{}", again.err);
    let unchanged = std::fs::read_to_string(desk.path("acme.token")).unwrap();
    assert_eq!(unchanged, kept);
    desk.run(&format!("{create} --out nowhere/acme.token"))
        .ended_with(2);
    desk.run(&format!("{create} --out second.token"))
        .ended_with(0);
    desk.run(&format!("{create} --out third.token"))
        .ended_with(2);
    assert!(!desk.path("third.token").exists());
    let listed = desk.run("tokens list -o json").ended_with(0).lines();
    assert_eq!(listed.len(), 2);
    // Shown, it is on standard output alone, also at the finest level of logs.
    let label = "--label other -o json";
    let made = desk.run(&format!("{create} {label}")).ended_with(0);
    let token = made.lines().remove(0);
    let shown = token["token"].as_str().unwrap();
    assert!(!made.err.contains(&shown[20..]), "{}", made.err);
    assert_eq!(made.out.matches(&shown[20..]).count(), 1);
}

#[test]
fn a_token_that_makes_no_sense_is_refused_with_what_to_write() {
    let desk = Desk::new();
    desk.run("tenants create acme").ended_with(0);
    for (line, words) in [
        ("--tenant acme", "--scope"),
        ("--scope read", "--tenant"),
        (
            "--tenant acme --installation --scope read",
            "cannot be used with",
        ),
        (
            "--tenant acme --scope write",
            "publish:intent, publish:fact, read",
        ),
        ("--tenant acme --scope read --expires-in 90", "90d"),
        ("--tenant acme --scope read --expires-in 0d", "90d"),
        (
            "--tenant acme --scope read --expires-in 99999999999999w",
            "90d",
        ),
        ("--tenant acme --scope read --label Shop!", "token label"),
        (
            "--installation --scope publish:fact",
            "events take theirs from it",
        ),
        ("--tenant _unassigned --scope read", "reserved"),
    ] {
        let refused = desk.run(&format!("tokens create {line}")).ended_with(2);
        assert!(refused.err.contains(words), "{line}: {}", refused.err);
    }
    desk.run("tenants create _unassigned").ended_with(2);
    desk.run("tenants create Acme").ended_with(2);
    let listed = desk.run("tokens list -o json").ended_with(0);
    assert_eq!(listed.out, "");
}

#[test]
fn an_embedded_store_that_a_node_has_open_says_so_and_what_to_do() {
    let desk = Desk::new();
    desk.run("tenants create acme").ended_with(0);
    // A node that reads what never ends.
    let line = "ingest - --source live --tenant acme --machines order.yaml --log-level info";
    let mut node: Command = desk.command(line);
    node.stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut node = node.spawn().unwrap();
    // What it logs of its store, it logs once it has it.
    let mut logged = BufReader::new(node.stderr.take().unwrap()).lines();
    assert!(logged.any(|line| line.unwrap().contains("machine activated")));
    let refused = desk
        .run("tokens create --tenant acme --scope read")
        .ended_with(3);
    let words = "open in another process";
    assert!(refused.err.contains(words), "{}", refused.err);
    assert!(refused.err.contains("stop that one"), "{}", refused.err);
    drop(node.stdin.take());
    node.wait().unwrap();
    desk.run("tokens create --tenant acme --scope read --label after")
        .ended_with(0);
}

/// Every flag of a command and of those below it that takes a value: the command, the flag, its value's name.
fn flags(command: &clap::Command, found: &mut Vec<(String, String, String)>) {
    for argument in command.get_arguments() {
        if !argument.get_action().takes_values() {
            continue;
        }
        let value = argument.get_value_names().unwrap_or_default();
        let value = value.first().map(ToString::to_string);
        found.push((
            command.get_name().to_owned(),
            argument.get_id().to_string(),
            value.unwrap_or_default(),
        ));
    }
    command.get_subcommands().for_each(|it| flags(it, found));
}

#[test]
fn r13_no_flag_takes_a_secret_but_the_name_of_a_file_that_holds_it() {
    let mut found = Vec::new();
    flags(&Cli::command(), &mut found);
    assert!(found.len() > 40, "{}", found.len());
    let mut of_secrets = 0;
    for (command, flag, value) in found {
        let is_secret = [
            "token",
            "secret",
            "password",
            "credential",
            "key_file",
            "tls_key",
        ]
        .iter()
        .any(|word| flag.contains(word));
        if is_secret {
            of_secrets += 1;
            assert_eq!(value, "FILE", "`{command}`: {flag}");
        }
        // A server's address may hold a password: it stands in the configuration, which fills it in.
        let is_store = ["store", "database", "dsn"].contains(&&*flag);
        assert!(
            !is_store || ["FILE", "PATH"].contains(&&*value),
            "`{command}`: {flag}"
        );
    }
    assert!(of_secrets > 0, "no flag is looked at");
}
