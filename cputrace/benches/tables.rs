//! What the unwinder's tables of files take, beside the plain way: all rows that gimli gives, in a vector. `cargo xtask
//! bench tables` runs it; each file is built five times on one thread, and the fastest counts.

#![expect(clippy::print_stdout, reason = "a program that prints a table")]

use std::error::Error;
use std::fs::File;
use std::time::{Duration, Instant};

use cputrace::unwind::Built;
use cputrace::unwind::build::build;
use gimli::{BaseAddresses, CieOrFde, EhFrame, LittleEndian, UnwindContext, UnwindSection};
use object::{Object as _, ObjectSection as _};

const ROUNDS: usize = 5;

fn main() -> Result<(), Box<dyn Error>> {
    println!("\nTables for the unwinder: each file on one thread, the fastest of {ROUNDS} rounds");
    println!(
        "{:<32} {:>10} {:>10} {:>6} {:>10} {:>9} {:>10}",
        "", "functions", "rows", "rules", "kernel kB", "ms", "gimli, ms"
    );
    // Cargo adds a word of its own.
    for path in std::env::args().skip(1).filter(|argument| !argument.starts_with("--")) {
        let (built, time) = fastest(|| Ok(build(&File::open(&path)?)?))?;
        let (_, plain) = fastest(|| gimli_rows(&path))?;
        let Built { tables, stats, .. } = built;
        let name = path.rsplit('/').next().unwrap_or(&path);
        println!(
            "{name:<32.32} {:>10} {:>10} {:>6} {:>10} {:>9.1} {:>10.1}",
            stats.functions,
            stats.merged_rows,
            stats.rules,
            tables.map_or(0, |tables| tables.bytes() / 1024),
            time.as_secs_f64() * 1e3,
            plain.as_secs_f64() * 1e3,
        );
    }
    Ok(())
}

fn fastest<T>(work: impl Fn() -> Result<T, Box<dyn Error>>) -> Result<(T, Duration), Box<dyn Error>> {
    let once = || {
        let started = Instant::now();
        work().map(|result| (result, started.elapsed()))
    };
    (1..ROUNDS).try_fold(once()?, |best, _| {
        let next = once()?;
        Ok(if next.1 < best.1 { next } else { best })
    })
}

/// Address and CFA of a row.
type Row = (u64, gimli::CfaRule<usize>);

fn gimli_rows(path: &str) -> Result<Vec<Row>, Box<dyn Error>> {
    let bytes = std::fs::read(path)?;
    let file = object::File::parse(&*bytes)?;
    let section = file.section_by_name(".eh_frame").ok_or("it has no .eh_frame")?;
    let eh_frame = EhFrame::new(section.data()?, LittleEndian);
    let bases = BaseAddresses::default().set_eh_frame(section.address());
    let mut context = UnwindContext::new();
    let mut entries = eh_frame.entries(&bases);
    let mut rows = Vec::new();
    while let Some(entry) = entries.next()? {
        let CieOrFde::Fde(partial) = entry else { continue };
        let fde = partial.parse(EhFrame::cie_from_offset)?;
        let mut table = fde.rows(&eh_frame, &bases, &mut context)?;
        while let Some(row) = table.next_row()? {
            rows.push((row.start_address(), row.cfa().clone()));
        }
    }
    Ok(rows)
}
