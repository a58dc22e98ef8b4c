//! The bundled sample workload, built with and without frame pointers.

use std::path::PathBuf;

use crate::system::{command, root, run, target};

/// How a build keeps its frames.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Frames {
    /// With frame pointers.
    Pointers,
    /// Without, as distributions build their programs.
    NoPointers,
}

/// Builds the workload; its path.
pub(crate) fn build(frames: Frames) -> anyhow::Result<PathBuf> {
    let (name, flag) = match frames {
        Frames::Pointers => ("sample_app_fp", "-fno-omit-frame-pointer"),
        Frames::NoPointers => ("sample_app", "-fomit-frame-pointer"),
    };
    let folder = target().join("workload");
    std::fs::create_dir_all(&folder)?;
    let program = folder.join(name);
    let source = root().join("workload/sample_app.c");
    run(command("cc").args(["-O2", "-g", "-pthread", flag, "-o"]).arg(&program).arg(source))?;
    Ok(program)
}
