//! The `tidegate` binary: everything is in the library, so that tests share it.

use std::process::ExitCode;

/// Events are made on one thread and freed on another, which the system's allocator pays for dearly.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    tidegate::cli::main()
}
