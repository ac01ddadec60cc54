//! Runs the cases of a suite, one after the other, and prints each with its result. A failed case does
//! not stop the others; any failure fails the whole.

use std::io::Write as _;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;

/// A case that takes longer hangs: the longest one, on the slowest store, takes a minute.
const CASE_SECONDS_MAX: u64 = 600;

/// One promise of a seam.
pub struct Case<S> {
    /// The promise.
    pub name: &'static str,
    /// Why the subject cannot be asked for it, if it cannot.
    pub skip: fn(&S) -> Option<&'static str>,
    /// Checks it, and panics where it is broken.
    pub run: fn(S) -> LocalBoxFuture<'static, ()>,
}

/// Lists cases by their functions; `if name` names the function that says why one is skipped.
macro_rules! cases {
    ($($module:ident :: $case:ident $(if $skip:ident)?),* $(,)?) => {
        vec![$($crate::contract::Case {
            name: stringify!($case),
            skip: $crate::contract::runner::cases!(@skip $($skip)?),
            run: |subject| Box::pin($module::$case(subject)),
        }),*]
    };
    (@skip) => { |_| None };
    (@skip $skip:ident) => { $skip };
}
pub(crate) use cases;

/// Runs every case on a fresh subject. `TIDEGATE_CONTRACT_CASE` names one case, or a part of its name,
/// when only that is wanted.
pub(crate) async fn run_all<S>(suite: &str, cases: Vec<Case<S>>, make: impl AsyncFn() -> S) {
    let wanted = std::env::var("TIDEGATE_CONTRACT_CASE").unwrap_or_default();
    let mut failed = Vec::new();
    for case in cases.iter().filter(|case| case.name.contains(&wanted)) {
        let subject = make().await;
        if let Some(reason) = (case.skip)(&subject) {
            // Past the test harness, which keeps what a passing test prints to itself.
            let said = format!("{suite}: {} ... not asked: {reason}\n", case.name);
            let _ = std::io::stderr().write_all(said.as_bytes());
            continue;
        }
        let begun = tokio::time::Instant::now();
        let checked = AssertUnwindSafe((case.run)(subject)).catch_unwind();
        let limit = Duration::from_secs(CASE_SECONDS_MAX);
        let fault = match tokio::time::timeout(limit, checked).await {
            Ok(Ok(())) => None,
            Ok(Err(panic)) => Some(message(panic.as_ref())),
            Err(_) => Some(format!("no end after {CASE_SECONDS_MAX} s")),
        };
        let spent_ms = begun.elapsed().as_millis();
        match fault {
            None => println!("{suite}: {} ... ok ({spent_ms} ms)", case.name),
            Some(fault) => {
                println!("{suite}: {} ... FAILED: {fault}", case.name);
                failed.push(case.name);
            }
        }
    }
    assert!(failed.is_empty(), "{suite}: broken promises: {failed:?}");
}

fn message(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "panicked without words".to_owned())
}
