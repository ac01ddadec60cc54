//! What an operator may set for a Postgres store, with its defaults.

use std::net::IpAddr;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgSslMode};
use tidegate_engine::store::StoreError;

/// What stands between this process and the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Pooler {
    /// Nothing, or a pooler that keeps prepared statements apart (pgbouncer from 1.21 on with
    /// `max_prepared_statements`): one round trip a commit.
    #[default]
    None,
    /// A pooler in transaction mode that does not know prepared statements: every statement is
    /// prepared anew inside an explicit transaction, four round trips a commit.
    Transaction,
}

/// How to reach a Postgres store.
#[derive(Clone)]
pub struct PostgresOptions {
    /// The connection string of the engine's role.
    pub url: String,
    /// Connections at most. One for each commit worker, and a few for claims and reads.
    pub connections_max: u32,
    /// How long a call waits for a connection.
    pub acquire_timeout: Duration,
    /// How long a statement waits for the server's answer. Then its connection is closed: one that a
    /// firewall forgot never answers, and would be handed out again and again. Above the server's
    /// `statement_timeout`, so that the server speaks first.
    pub answer_timeout: Duration,
    /// What stands between.
    pub pooler: Pooler,
    /// Bytes that the filter of the older dedupe table may take. When the table holds more keys than
    /// fit at ten bits a key, every key is asked for in the database: slower, and as right.
    pub dedupe_filter_bytes_max: usize,
    /// Names of tenants, machines and stream partitions whose numbers are kept, of each kind at most.
    /// About 100 bytes each; what is not kept is asked for with the commit that needs it.
    pub names_max: usize,
    /// Upkeep goes on with the index of event and correlation ids. It is off the hot path, and still
    /// costs the server about as much for each event as the rest of its commit.
    pub index_events: bool,
    /// Shown in `pg_stat_activity`.
    pub application_name: String,
}

impl PostgresOptions {
    /// The defaults, for one connection string.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            connections_max: 8,
            acquire_timeout: Duration::from_secs(10),
            answer_timeout: Duration::from_secs(45),
            pooler: Pooler::None,
            // 64 MiB: about 50 million keys.
            dedupe_filter_bytes_max: 64 * 1024 * 1024,
            // Ten thousand tenants with a few streams fit many times.
            names_max: 200_000,
            index_events: true,
            application_name: "tidegate".to_owned(),
        }
    }

    /// Where it leads, for people: never a login, a password or a parameter.
    pub(super) fn address(&self) -> String {
        connect_options(&self.url).map_or_else(
            |_| "an address that cannot be read".to_owned(),
            |options| {
                format!(
                    "{}:{}, database `{}`",
                    options.get_host(),
                    options.get_port(),
                    options.get_database().unwrap_or("of the login's name")
                )
            },
        )
    }

    /// Who logs in, for people.
    pub(super) fn login(&self) -> Result<std::sync::Arc<str>, StoreError> {
        Ok(connect_options(&self.url)?.get_username().into())
    }

    pub(super) fn connect_options(&self) -> Result<PgConnectOptions, StoreError> {
        Ok(connect_options(&self.url)?.application_name(&self.application_name))
    }
}

/// What to say of an address over which others may read along, or answer in the server's place.
pub(super) fn exposed(options: &PgConnectOptions, setting: &str) -> Option<String> {
    let mode = match options.get_ssl_mode() {
        PgSslMode::Disable => "disable",
        PgSslMode::Allow => "allow",
        PgSslMode::Prefer => "prefer",
        PgSslMode::Require | PgSslMode::VerifyCa | PgSslMode::VerifyFull => return None,
    };
    let host = options.get_host();
    let reachable = options.get_socket().is_none() && !is_this_machine(host);
    reachable.then(|| {
        format!(
            "the connection to {host} may go without TLS (sslmode={mode}): add `sslmode=verify-full` to \
             `{setting}`"
        )
    })
}

fn is_this_machine(host: &str) -> bool {
    // An address of version 6 stands in brackets in a URL.
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || address
            .parse()
            .is_ok_and(|address: IpAddr| address.is_loopback())
}

/// Reads a connection string. The error names no part of it: it may hold a password.
pub(super) fn connect_options(url: &str) -> Result<PgConnectOptions, StoreError> {
    url.parse::<PgConnectOptions>().map_err(|_| {
        StoreError::NotReady(
            "the connection string cannot be read; expected postgres://user@host:port/database"
                .to_owned(),
        )
    })
}

impl std::fmt::Debug for PostgresOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostgresOptions")
            .field("url", &"(not shown)")
            .field("connections_max", &self.connections_max)
            .field("acquire_timeout", &self.acquire_timeout)
            .field("pooler", &self.pooler)
            .field("dedupe_filter_bytes_max", &self.dedupe_filter_bytes_max)
            .field("names_max", &self.names_max)
            .field("index_events", &self.index_events)
            .field("application_name", &self.application_name)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::{connect_options, exposed};

    #[test]
    fn r51_an_address_over_a_network_without_tls_is_warned_of() {
        let cases = [
            (
                "postgres://u:hunter2@db.example.com/t?sslmode=disable",
                true,
            ),
            ("postgres://u:hunter2@db.example.com/t?sslmode=allow", true),
            ("postgres://u:hunter2@db.example.com/t?sslmode=prefer", true),
            ("postgres://u:hunter2@10.0.0.7:6432/t?sslmode=prefer", true),
            ("postgres://u:hunter2@[fd00::7]/t?sslmode=prefer", true),
            ("postgres://u@db.example.com/t?sslmode=require", false),
            ("postgres://u@db.example.com/t?sslmode=verify-ca", false),
            ("postgres://u@db.example.com/t?sslmode=verify-full", false),
            ("postgres://u@localhost/t?sslmode=disable", false),
            ("postgres://u@127.0.0.2/t?sslmode=disable", false),
            ("postgres://u@[::1]/t?sslmode=disable", false),
            ("postgres:///t?host=/run/postgresql&sslmode=disable", false),
        ];
        for (url, expected) in cases {
            let options = connect_options(url).unwrap();
            let said = exposed(&options, "store.postgres.url");
            assert_eq!(said.is_some(), expected, "{url}: {said:?}");
            assert!(!said.is_some_and(|said| said.contains("hunter2")), "{url}");
        }
    }
}
