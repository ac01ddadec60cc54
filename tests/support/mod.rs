//! What tests that need servers share: where the server is, what happens without it, databases of their
//! own, and a proxy that cuts connections. Each test binary uses its own part of it.

#![allow(dead_code, reason = "each test binary uses its own part")]

pub mod database;
pub mod proxy;

/// Prints for people, past the test harness: it keeps what a passing test prints to itself.
pub fn say(text: &str) {
    use std::io::Write as _;
    let _ = std::io::stderr().write_all(format!("{text}\n").as_bytes());
}

/// Names the development PostgreSQL; `deploy/dev/services env` prints it.
const POSTGRES_URL: &str = "TIDEGATE_TEST_POSTGRES_URL";

/// Names the pgbouncer in transaction mode in front of it.
const PGBOUNCER_URL: &str = "TIDEGATE_TEST_PGBOUNCER_URL";

/// With the value 1, a missing server fails the test instead of skipping it: CI sets it.
const REQUIRE_SERVICES: &str = "TIDEGATE_REQUIRE_SERVICES";

/// The URL of the test PostgreSQL. Without one the test says SKIPPED, loudly, and ends; in CI that is
/// a failure.
pub fn postgres_url(test: &str) -> Option<String> {
    server(test, POSTGRES_URL)
}

/// The URL of the pooler before it, with the same rule.
pub fn pgbouncer_url(test: &str) -> Option<String> {
    server(test, PGBOUNCER_URL)
}

/// What an environment variable names that the test cannot do without, with the same rule.
pub fn server(test: &str, variable: &str) -> Option<String> {
    let value = std::env::var(variable).ok().filter(|url| !url.is_empty());
    if value.is_none() {
        let required = std::env::var(REQUIRE_SERVICES).is_ok_and(|it| it == "1");
        assert!(
            !required,
            "{test} needs {variable}, and {REQUIRE_SERVICES}=1 forbids to skip it: run it by `make test`"
        );
        eprintln!("SKIPPED {test}: {variable} is not set; `make test` starts the servers");
    }
    value
}
