//! Where the code of an object can be read: what `process` found, as `symbolize` wants it.
//!
//! Asked after the recording. It looks for debug information on this machine, then where the environment says.

use std::cell::RefCell;
use std::fs::File;
use std::sync::Arc;

use crate::model::{BuildId, MappingKind, UnknownReason};
use crate::process::Object;
use crate::process::debug_file::{self, DebugFile};
use crate::process::debuginfod::{Debuginfod, Settings};
use crate::process::jit::{PerfMap, PerfMapError};
use crate::symbolize::Code;

/// Finds the code of the objects of a recording.
pub struct CodeFinder<'a> {
    /// Servers that are asked for debug information that this machine does not have.
    servers: RefCell<Option<Debuginfod>>,
    notes: RefCell<Vec<String>>,
    stopped: &'a dyn Fn() -> bool,
}

impl<'a> CodeFinder<'a> {
    /// Reads the environment for servers. When `stopped` turns true no server is waited for.
    pub fn new(stopped: &'a dyn Fn() -> bool) -> Self {
        let servers = Settings::from_environment(&|name| std::env::var(name).ok());
        Self { servers: RefCell::new(servers.map(Debuginfod::new)), notes: RefCell::default(), stopped }
    }

    /// Where the code of an object can be read.
    pub fn find(&self, object: &Object) -> Code {
        match (object.kind, &object.file) {
            (MappingKind::Kernel, _) => Code::Kernel,
            // What is known of the file by its build id is still true, but not what it has now.
            (MappingKind::File, Some((_, facts))) if object.is_overwritten() => {
                let debug = facts.build_id.as_ref().and_then(|build_id| self.fetch(build_id));
                debug.map_or(Code::Missing(UnknownReason::FileGone), |debug| Code::Elf {
                    file: Arc::new(debug),
                    debug: None,
                    package: None,
                })
            }
            (MappingKind::File | MappingKind::Vdso, Some((file, facts))) => {
                let build_id = facts.build_id.as_ref();
                let debug = match debug_file::find(file, &object.path, object.pid, build_id) {
                    DebugFile::Inside => None,
                    DebugFile::Separate(debug) => Some(debug),
                    DebugFile::Missing => {
                        build_id.filter(|_| object.kind == MappingKind::File).and_then(|build_id| self.fetch(build_id))
                    }
                };
                let package = debug_file::find_package(&object.path, object.pid);
                Code::Elf { file: file.clone(), debug, package }
            }
            (MappingKind::File | MappingKind::Vdso, None) => Code::Missing(UnknownReason::FileGone),
            (MappingKind::Anonymous, _) => match object.perf_map.as_deref().map(PerfMap::open) {
                Some(Ok(file)) => Code::PerfMap { file },
                Some(Err(error)) => {
                    if error != PerfMapError::Missing {
                        self.notes.borrow_mut().push(format!("code without names in process {}: {error}", object.pid));
                    }
                    Code::Missing(UnknownReason::NoJitInfo)
                }
                None => Code::Missing(UnknownReason::NoJitInfo),
            },
            (MappingKind::Unmapped, _) if object.is_process_gone() => Code::Missing(UnknownReason::ProcessGone),
            (MappingKind::Unmapped | MappingKind::Label, _) => Code::Missing(UnknownReason::Unmapped),
        }
    }

    /// What went wrong, in sentences.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = self.notes.take();
        notes.extend(self.servers.borrow().iter().flat_map(Debuginfod::notes));
        notes
    }

    /// Debug information from the network.
    fn fetch(&self, build_id: &BuildId) -> Option<File> {
        self.servers.borrow_mut().as_mut()?.find(build_id, self.stopped)
    }
}
