//! What an error of Postgres means for the caller. Owns the list of SQLSTATEs; never passes on values,
//! hints or connection strings.

use rustls::CertificateError;
use tidegate_engine::store::StoreError;

use crate::store::batch_form::CODE_DEAD_LETTER_NOT_OPEN;

/// What was under way when the error came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum During {
    /// Nothing that writes, or what may be done twice: a read, a claim, upkeep.
    Read,
    /// A statement that commits a batch: a lost connection leaves its outcome unknown.
    Commit,
}

/// Values that the database refuses, and an update of a dead letter that is not open. Only these may
/// condemn an event.
const REFUSED: [&str; 5] = [
    "22001",
    "22003",
    "22P02",
    "54000",
    CODE_DEAD_LETTER_NOT_OPEN,
];

/// The transaction is known to be gone, and another one can succeed: serialization, deadlock, lock or
/// statement timeout, not yet accepting connections, read-only after a failover, idle in transaction.
const RETRY: [&str; 7] = [
    "40001", "40P01", "55P03", "57014", "57P03", "25006", "25P03",
];

/// The session ended, by an administrator or a crash. The server may say so after it committed and
/// before it replied, so around a commit the outcome is unknown.
const SESSION_ENDED: [&str; 4] = ["57P01", "57P02", "57P04", "57P05"];

/// What a connection has prepared gives another result since the schema was changed: nothing ran. Prepared
/// anew it does; see [`is_stale_plan`].
const STALE_PLAN: &str = "0A000";

/// True when the connection has to forget what it has prepared.
pub(super) fn is_stale_plan(error: &sqlx::Error) -> bool {
    let database = error.as_database_error();
    database.is_some_and(|it| it.code().as_deref() == Some(STALE_PLAN))
}

/// Upkeep would lose what is younger than `tidegate.settings` allows. Its message holds no values of users.
const CODE_LOSS_REFUSED: &str = "TG010";

/// Maps an error of the driver.
pub(super) fn store_error(error: sqlx::Error, during: During) -> StoreError {
    match error {
        sqlx::Error::Database(database) => {
            let code = database.code().unwrap_or_default().into_owned();
            database_error(&code, database.message(), during)
        }
        // No connection was had: nothing was sent.
        sqlx::Error::PoolTimedOut => StoreError::Unavailable {
            detail:
                "no connection in time: all of them are in use, or the server cannot be reached"
                    .to_owned(),
        },
        sqlx::Error::PoolClosed => StoreError::Unavailable {
            detail: error.to_string(),
        },
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::BeginFailed => lost(error.to_string(), during),
        // Decoding, columns, arguments: a mistake of ours, never the event's.
        other => StoreError::Unexpected {
            code: "client".to_owned(),
            detail: other.to_string(),
        },
    }
}

/// What is wrong with the server's certificate, or with what it is compared with, and what to do: waiting
/// does not mend it. `None` when the error is another.
pub(super) fn tls_refusal(error: &sqlx::Error) -> Option<String> {
    match error {
        // The handshake is read and written through the socket's own errors.
        sqlx::Error::Io(error) => {
            let inner = error.get_ref()?.downcast_ref::<rustls::Error>()?;
            match inner {
                rustls::Error::InvalidCertificate(found) => Some(certificate_refusal(found)),
                other => Some(format!("no TLS with it: {other}")),
            }
        }
        sqlx::Error::Tls(error) => Some(format!(
            "no TLS with it: {error}; look at `sslmode` and `sslrootcert` of the address"
        )),
        _ => None,
    }
}

fn certificate_refusal(found: &CertificateError) -> String {
    match found {
        CertificateError::UnknownIssuer => {
            "its certificate is of no authority that is trusted here: name the file of its CA as \
             `sslrootcert=FILE` in the address"
                .to_owned()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "its certificate is for another host name: connect under the name that stands in it, or have \
             it issued for this one"
                .to_owned()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "its certificate has expired: renew it, or set this machine's clock".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "its certificate is not valid yet: set this machine's clock, or the certificate's dates"
                .to_owned()
        }
        other => format!("its certificate is refused: {other}"),
    }
}

/// Maps what the server said.
fn database_error(code: &str, message: &str, during: During) -> StoreError {
    let class = code.get(..2).unwrap_or_default();
    if REFUSED.contains(&code) {
        return StoreError::Refused {
            code: code.to_owned(),
            detail: without_values(message),
        };
    }
    if RETRY.contains(&code) || class == "53" || code == STALE_PLAN {
        return StoreError::Unavailable {
            detail: format!("{code}: {}", without_values(message)),
        };
    }
    // 08: a pooler says so when its server connection broke, whatever the server did before.
    if SESSION_ENDED.contains(&code) || class == "08" {
        return lost(format!("{code}: {}", without_values(message)), during);
    }
    match code {
        // A prepared statement that is not there, or is there already: a pooler hands out
        // connections by transaction.
        "26000" | "42P05" => StoreError::NotReady(
            "a transaction pooler stands between this node and Postgres: set `pooler: transaction` \
             for this store"
                .to_owned(),
        ),
        // Who it is, and where: no password, a wrong one, no such role or database, no right to connect.
        "28000" | "28P01" | "3D000" => StoreError::NotReady(format!(
            "cannot log in: {}. Where it is not there yet, `tidegate migrate` makes the engine's role and an \
             administrator gives it a password",
            without_values(message)
        )),
        // What upkeep was asked to lose is more than this database allows.
        CODE_LOSS_REFUSED => StoreError::NotReady(message.to_owned()),
        // No schema, no table, no function: not migrated.
        "3F000" | "42P01" | "42883" => StoreError::NotReady(format!(
            "{}: run `tidegate migrate` with an administrator's connection",
            without_values(message)
        )),
        _ => StoreError::Unexpected {
            code: code.to_owned(),
            detail: without_values(message),
        },
    }
}

fn lost(detail: String, during: During) -> StoreError {
    match during {
        During::Read => StoreError::Unavailable { detail },
        During::Commit => StoreError::OutcomeUnknown { detail },
    }
}

/// The message up to its first quoted value or colon: Postgres quotes data in some messages
/// (`invalid input syntax for type uuid: "…"`), names of its objects in others.
fn without_values(message: &str) -> String {
    match message.split_once(": \"") {
        Some((head, _)) => head.to_owned(),
        None => message.to_owned(),
    }
}

/// A row that cannot be what we wrote.
pub(super) fn corrupt(what: &str) -> StoreError {
    StoreError::Unexpected {
        code: "corrupt".to_owned(),
        detail: format!("{what} in the database is not what this store writes"),
    }
}

#[cfg(test)]
mod tests {
    use super::{During, database_error};
    use tidegate_engine::store::StoreError;

    fn name(code: &str, during: During) -> &'static str {
        match database_error(code, "it failed", during) {
            StoreError::Unavailable { .. } => "unavailable",
            StoreError::OutcomeUnknown { .. } => "unknown",
            StoreError::Refused { .. } => "refused",
            StoreError::Unexpected { .. } => "unexpected",
            StoreError::NotReady(_) => "not ready",
        }
    }

    #[test]
    fn only_an_allow_list_condemns_an_event() {
        for (code, expected) in [
            ("22001", "refused"),
            ("22003", "refused"),
            ("22P02", "refused"),
            ("54000", "refused"),
            ("TG003", "refused"),
            ("40001", "unavailable"),
            ("40P01", "unavailable"),
            ("55P03", "unavailable"),
            ("57014", "unavailable"),
            ("57P03", "unavailable"),
            ("53300", "unavailable"),
            ("53100", "unavailable"),
            // The server may have committed before it said so.
            ("57P01", "unknown"),
            ("57P02", "unknown"),
            ("08P01", "unknown"),
            ("08006", "unknown"),
            // A missing partition looks like a data error (a check violation) and is none.
            ("23514", "unexpected"),
            ("23502", "unexpected"),
            ("42501", "unexpected"),
            ("XX000", "unexpected"),
            ("22021", "unexpected"),
            ("TG002", "unexpected"),
            ("28P01", "not ready"),
            ("3D000", "not ready"),
            ("26000", "not ready"),
            ("42P01", "not ready"),
            ("", "unexpected"),
        ] {
            assert_eq!(name(code, During::Commit), expected, "{code}");
        }
        assert_eq!(name("57P01", During::Read), "unavailable");
    }

    #[test]
    fn a_refusal_does_not_repeat_values() {
        let error = database_error(
            "22P02",
            "invalid input syntax for type uuid: \"secret\"",
            During::Commit,
        );
        assert!(!error.to_string().contains("secret"));
    }
}
