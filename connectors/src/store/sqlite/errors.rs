//! What an error of SQLite means for the caller. Owns the list of result codes; never passes on values.

use tidegate_engine::store::StoreError;

/// A number larger than the eight signed bytes of a column.
pub(super) const CODE_RANGE: &str = "SQLITE_RANGE";

/// A stored value that no version of this program writes.
const CODE_STORED: &str = "stored";

// Primary result codes (https://www.sqlite.org/rescode.html); extended ones hold them in their low byte.
const NO_MEMORY: i32 = 7;
const READ_ONLY: i32 = 8;
const BUSY: i32 = 5;
const LOCKED: i32 = 6;
const INTERRUPTED: i32 = 9;
const IO: i32 = 10;
const FULL: i32 = 13;
const CANNOT_OPEN: i32 = 14;
const TOO_BIG: i32 = 18;

/// Maps an error of a statement that is not COMMIT: the transaction is rolled back, nothing was written.
pub(super) fn store_error(error: sqlx::Error) -> StoreError {
    // All readers are in use: nothing was asked yet, and a later call finds one.
    if matches!(error, sqlx::Error::PoolTimedOut) {
        return StoreError::Unavailable {
            detail: "all connections that read are in use".to_owned(),
        };
    }
    let detail = error.to_string();
    match primary_code(&error) {
        // Somebody's shell holds the write lock, or the machine is short of something: later it can work.
        Some(BUSY | LOCKED | NO_MEMORY | INTERRUPTED | IO | FULL) => {
            StoreError::Unavailable { detail }
        }
        Some(READ_ONLY | CANNOT_OPEN) => StoreError::NotReady(format!(
            "the database file cannot be written: {detail}; check its and its directory's permissions"
        )),
        Some(TOO_BIG) => StoreError::Refused {
            code: TOO_BIG.to_string(),
            detail,
        },
        Some(code) => StoreError::Unexpected {
            code: code.to_string(),
            detail,
        },
        None => StoreError::Unexpected {
            code: "client".to_owned(),
            detail,
        },
    }
}

/// Maps an error of COMMIT itself. Except when it never began, its frames may be in the write-ahead log
/// already and take effect when the file is opened again.
pub(super) fn commit_error(error: sqlx::Error) -> StoreError {
    match primary_code(&error) {
        Some(BUSY) => store_error(error),
        _ => StoreError::OutcomeUnknown {
            detail: error.to_string(),
        },
    }
}

/// A stored value that this program cannot read: named, never shown.
pub(super) fn unreadable(what: &str) -> StoreError {
    StoreError::Unexpected {
        code: CODE_STORED.to_owned(),
        detail: format!("the stored {what} is none: was the file written by something else?"),
    }
}

/// A value of ours that has no stored form: its bounds are checked before, so nothing should get here.
pub(super) fn unwritable(what: &str, error: &impl std::fmt::Display) -> StoreError {
    StoreError::Unexpected {
        code: "client".to_owned(),
        detail: format!("the {what} cannot be stored: {error}"),
    }
}

fn primary_code(error: &sqlx::Error) -> Option<i32> {
    let code: i32 = error.as_database_error()?.code()?.parse().ok()?;
    Some(code & 0xff)
}
