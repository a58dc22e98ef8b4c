//! Any bytes as an ELF file: an error or tables, never a panic, and in bounded time and memory.
#![no_main]

use cputrace::unwind::build::build_image;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|image: &[u8]| {
    let Ok(built) = build_image(image) else { return };
    let Some(tables) = built.tables else { return };
    // Memory for them is bounded by what the file has, however its headers spread that.
    assert!(tables.length as usize <= image.len() + (65 << 20));
    for offset in (0..tables.length).step_by(61) {
        let _ = tables.rule(tables.base + u64::from(offset));
    }
});
