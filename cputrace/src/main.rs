//! The `cputrace` command: hands over to `cli` and exits with what it says.

use std::process::ExitCode;

fn main() -> ExitCode {
    cputrace::cli::run()
}
