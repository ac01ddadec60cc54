//! The `tidegate` binary: everything is in the library, so that tests share it.

use std::process::ExitCode;

fn main() -> ExitCode {
    tidegate::cli::main()
}
