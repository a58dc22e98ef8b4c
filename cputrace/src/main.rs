//! The `cputrace` command.
fn main() {}
