//! Messages for people on standard error: `say!`, which `eprintln!` is not. That one panics when nobody
//! reads any more (`tidegate … 2>&1 | head -1`), and a message must not end the work.

/// Writes a line to standard error, for whoever reads it.
#[macro_export]
macro_rules! say {
    ($($message:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($message)*);
    }};
}

/// `1 event`, `1,234 events`.
pub fn counted(count: u64, thing: &str) -> String {
    let ending = if count == 1 { "" } else { "s" };
    format!("{} {thing}{ending}", crate::cli::output::grouped(count))
}
