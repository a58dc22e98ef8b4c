//! cputrace's development commands, one file each.
fn main() {}
