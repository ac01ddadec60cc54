//! The `tidegate` binary: everything is in the library, so that tests share it.

fn main() {}
