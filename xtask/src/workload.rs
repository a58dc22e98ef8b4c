//! The programs under `workload/`, built with and without frame pointers.

use std::path::PathBuf;

use crate::system::{command, root, run, target};

/// How a build keeps its frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Frames {
    /// With frame pointers.
    Pointers,
    /// Without, as distributions build their programs.
    NoPointers,
}

/// Builds the sample workload, which says itself what it did; its path.
pub(crate) fn build(frames: Frames) -> anyhow::Result<PathBuf> {
    build_program("sample_app", frames)
}

/// Builds the program that the bench slows down; its path.
pub(crate) fn build_pinned(frames: Frames) -> anyhow::Result<PathBuf> {
    build_program("pinned", frames)
}

/// Builds the two processes that the bench has switched between; their path.
pub(crate) fn build_pingpong() -> anyhow::Result<PathBuf> {
    build_program("pingpong", Frames::NoPointers)
}

fn build_program(name: &str, frames: Frames) -> anyhow::Result<PathBuf> {
    let (ending, flag) = match frames {
        Frames::Pointers => ("_fp", "-fno-omit-frame-pointer"),
        Frames::NoPointers => ("", "-fomit-frame-pointer"),
    };
    let folder = target().join("workload");
    std::fs::create_dir_all(&folder)?;
    let program = folder.join(format!("{name}{ending}"));
    let source = root().join(format!("workload/{name}.c"));
    run(command("cc").args(["-O2", "-g", "-pthread", flag, "-o"]).arg(&program).arg(source))?;
    Ok(program)
}
