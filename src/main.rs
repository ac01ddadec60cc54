//! The `tidegate` binary: everything is in the library, so that tests share it.

use std::process::ExitCode;

/// Events are made on one thread and freed on another, which most allocators pay for dearly (ADR 0012).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    tidegate::cli::main()
}
