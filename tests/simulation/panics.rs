//! Panics, and whose they are. A panic that the world caused is said by nobody; one of the product is a
//! finding, even where supervision made up for it; one of the simulation's own code is a mistake here.

use std::cell::RefCell;
use std::sync::Once;

use crate::check::{Check, Violation};
use crate::{control, ledger};

/// Where the product's code stands, as the compiler names its files.
const PRODUCT: [&str; 4] = ["engine/src/", "actors/src/", "connectors/src/", "src/"];

thread_local! {
    /// Panics of this thread, which runs one seed at a time.
    static SEEN: RefCell<Vec<Violation>> = const { RefCell::new(Vec::new()) };
    static SILENT: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Begins to notice panics, in every thread.
pub fn watch() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let said = panic.payload_as_str().unwrap_or_default();
            if said == control::PANIC || said == ledger::PANIC {
                return;
            }
            let place = panic.location().map(ToString::to_string);
            let place = place.unwrap_or_default();
            let is_product = PRODUCT.iter().any(|folder| place.starts_with(folder));
            let check = if is_product {
                Check::Panic
            } else {
                Check::Simulation
            };
            let what = format!("{place}: {said}");
            SEEN.with_borrow_mut(|seen| seen.push(Violation { check, what }));
            if !SILENT.get() {
                usual(panic);
            }
        }));
    });
}

/// The panics of this thread since it was last asked.
pub fn take() -> Vec<Violation> {
    SEEN.take()
}

/// Prints no panic of this thread: a planted bug makes many.
pub fn silence(on: bool) {
    SILENT.set(on);
}
