//! Profiles of other tools, as recordings: what they do not say is empty, and a note says where they are from.
//!
//! [`read`] finds out what it is given. One file a format; trace.json is read where it is written, in
//! [`crate::export::trace_json`].

mod folded;
mod perf_script;
mod pprof;

use std::io::{self, Read};
use std::time::{Duration, SystemTime};

use crate::export::trace_json;
use crate::model::{Host, Ledger, Overhead, Profile, Recording, Sampling, Tier};

/// Why it cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// Too large, unpacked.
    #[error("it is larger than {} MB, unpacked", .0 >> 20)]
    TooLarge(u64),
    /// It cannot be unpacked.
    #[error("it cannot be unpacked: {0}")]
    Unpack(#[from] io::Error),
    /// It looks like a trace.json and is none.
    #[error(transparent)]
    TraceJson(#[from] trace_json::ReadError),
    /// It looks like pprof and is none.
    #[error("it is no pprof profile: {0}")]
    Pprof(String),
    /// It looks like text and is none of those known.
    #[error(
        "it is no profile that is known: {0}; known are trace.json, pprof, folded stacks and the output of perf script"
    )]
    Text(String),
}

/// Reads a trace.json, a pprof profile, folded stacks or the output of `perf script`, plain, gzipped or compressed by zstd,
/// if it is no larger than `max` bytes unpacked.
pub fn read(bytes: &[u8], max: u64) -> Result<Recording, ImportError> {
    let unpacked = unpack(bytes, max)?;
    let bytes = unpacked.as_deref().unwrap_or(bytes);
    if bytes.len() as u64 > max {
        return Err(ImportError::TooLarge(max));
    }
    let first = bytes.iter().find(|byte| !byte.is_ascii_whitespace());
    if first == Some(&b'{') {
        return Ok(trace_json::read(bytes)?);
    }
    match std::str::from_utf8(bytes) {
        // A pprof message of tiny numbers and names can be valid UTF-8, but not without control characters.
        Ok(text) if !text.chars().any(|char| char.is_control() && !"\n\r\t".contains(char)) => {
            // Of perf script, a line in two is a frame, and begins with a blank.
            let is_script = text.lines().any(|line| line.starts_with(['\t', ' ']));
            if is_script { perf_script::read(text) } else { folded::read(text) }
        }
        _ => pprof::read(bytes),
    }
}

fn unpack(bytes: &[u8], max: u64) -> Result<Option<Vec<u8>>, ImportError> {
    let reader: Box<dyn Read> = match bytes {
        [0x1f, 0x8b, ..] => Box::new(flate2::read::MultiGzDecoder::new(bytes)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Box::new(zstd::Decoder::new(bytes)?),
        _ => return Ok(None),
    };
    let mut plain = Vec::new();
    // One more byte than allowed tells that it is too large.
    reader.take(max + 1).read_to_end(&mut plain)?;
    if plain.len() as u64 > max { Err(ImportError::TooLarge(max)) } else { Ok(Some(plain)) }
}

/// A recording of which only the profile is known.
fn recording(profile: Profile, start: SystemTime, duration: Duration, from: &str) -> Recording {
    let samples = profile.samples().iter().fold(0_u64, |sum, sample| sum.saturating_add(sample.count));
    Recording {
        session_id: crate::session::session_id(start),
        start,
        duration,
        host: Host::default(),
        targets: Vec::new(),
        sampling: Sampling { tier: Tier::PerfEvent, clock: None, asked_hz: 0.0, achieved_hz: 0.0 },
        profile,
        timelines: Vec::new(),
        threads: Vec::new(),
        scheduler: None,
        ledger: Ledger { samples_kept: samples, ticks: samples, ..Ledger::default() },
        overhead: Overhead::default(),
        unwinding: None,
        pmu: None,
        event: None,
        stack_counters: None,
        spikes: Vec::new(),
        notes: vec![format!("imported from {from}: what that does not tell is missing")],
    }
}
