//! Prints what becomes of files' unwind information: `cargo run --release --example unwind_tables -- FILE…`
#![expect(clippy::print_stdout, reason = "it is what it is for")]

use std::fs::File;
use std::time::Instant;

use cputrace::unwind::build;

fn main() {
    println!("     ms      kB  functions       rows     merged  rules    bad  overlaps  unknown   gap kB  fp  file");
    for path in std::env::args().skip(1) {
        let started = Instant::now();
        let built = match File::open(&path).map_err(build::BuildError::Io).and_then(|file| build::build(&file)) {
            Ok(built) => built,
            Err(error) => {
                println!("{path}: {error}");
                continue;
            }
        };
        let ms = started.elapsed().as_secs_f64() * 1e3;
        let stats = built.stats;
        println!(
            "{ms:7.1} {:7} {:10} {:10} {:10} {:6} {:6} {:9} {:8} {:8}  {}  {path}",
            built.tables.map_or(0, |tables| tables.bytes()) / 1024,
            stats.functions,
            stats.rows,
            stats.merged_rows,
            stats.rules,
            stats.bad_entries,
            stats.overlaps,
            stats.unknown_rows,
            stats.gap_bytes / 1024,
            if built.keeps_frame_pointers { "yes" } else { " no" },
        );
    }
}
