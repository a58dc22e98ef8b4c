//! Keeps what a hostile or changing file does to a library from ending the program.
//!
//! Two things can happen to code that reads files through `mmap`. It can panic, where a file contradicts itself. And it
//! can get a SIGBUS, where a file is cut short after it was mapped: then the missing page becomes one of zeros, the code
//! goes on, and what it found is thrown away. A `mmap` of our own has no business here: read with `pread`.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Once, OnceLock};

/// What was run did not come to a result that can be trusted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Broken;

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Off,
    On,
    /// A page was missing.
    Faulted,
}

thread_local! {
    // A constant without a destructor: the signal handler may read it.
    static STATE: Cell<State> = const { Cell::new(State::Off) };
}

/// What SIGBUS did before.
static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();

/// A page of memory, asked for before it is needed: a signal handler may not ask.
static PAGE_BYTES: AtomicUsize = AtomicUsize::new(4096);

/// The size of a page of memory.
pub(super) fn page_bytes() -> usize {
    install();
    PAGE_BYTES.load(Ordering::Relaxed)
}

/// Runs `work` on a file that is mapped into memory.
pub(super) fn run<T>(work: impl FnOnce() -> T) -> Result<T, Broken> {
    install();
    STATE.set(State::On);
    let result = catch_unwind(AssertUnwindSafe(work));
    let state = STATE.replace(State::Off);
    result.ok().filter(|_| state == State::On).ok_or(Broken)
}

/// Once, for good: a handler that is taken away again could be another thread's.
fn install() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        // SAFETY: asks for a number.
        if let Ok(size @ 1..) = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }) {
            PAGE_BYTES.store(size, Ordering::Relaxed);
        }
        // SAFETY: all zeros is a valid sigaction.
        let (mut action, mut before) = unsafe { std::mem::zeroed::<(libc::sigaction, libc::sigaction)>() };
        let handler: extern "C" fn(_, _, _) = on_sigbus;
        action.sa_sigaction = handler as *const () as libc::sighandler_t;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        // SAFETY: the handler only does what a signal handler may; reads one struct, fills in the other.
        let done = unsafe { libc::sigaction(libc::SIGBUS, &raw const action, &raw mut before) };
        if done == 0 {
            let _ = BEFORE.set(before);
        }
        // A panic here is a file's fault and no news for the terminal.
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if STATE.try_with(Cell::get).unwrap_or(State::Off) == State::Off {
                report(panic);
            }
        }));
    });
}

/// Puts a page of zeros where one is missing, on a thread that is prepared for it; else what was done before.
extern "C" fn on_sigbus(_signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    if STATE.try_with(Cell::get).unwrap_or(State::Off) != State::Off {
        // SAFETY: the kernel hands a valid siginfo to a handler with SA_SIGINFO; that of a SIGBUS has an address.
        let address = unsafe { (*info).si_addr() };
        let size = PAGE_BYTES.load(Ordering::Relaxed);
        let page = (address as usize & !(size - 1)) as *mut libc::c_void;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
        // SAFETY: replaces a page of a file's mapping that has no contents any more, so nobody's data is lost, and the
        // whole mapping is unmapped by its owner later on as before.
        let mapped = unsafe { libc::mmap(page, size, libc::PROT_READ, flags, -1, 0) };
        if mapped != libc::MAP_FAILED {
            STATE.set(State::Faulted);
            return;
        }
    }
    if let Some(before) = BEFORE.get() {
        // SAFETY: what was installed before is valid; the access is tried again when this handler returns, and ends there.
        unsafe { libc::sigaction(libc::SIGBUS, ptr::from_ref(before), ptr::null_mut()) };
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use memmap2::Mmap;

    use super::*;

    /// A result passes; a panic does not.
    #[test]
    fn panics_are_caught() {
        assert_eq!(run(|| 5), Ok(5));
        assert_eq!(run(|| panic!("a file's fault")), Err::<(), _>(Broken));
        assert_eq!(run(|| 5), Ok(5));
    }

    /// A file that is cut short after it was mapped reads as zeros, and the result does not count.
    #[test]
    fn files_may_be_cut_short() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        // SAFETY: nobody else has this file.
        let map = unsafe { Mmap::map(&file) }.unwrap();
        file.set_len(5000).unwrap();
        let mut sum = None;
        let result = run(|| sum = Some(map.iter().map(|byte| u64::from(*byte)).sum::<u64>()));
        assert_eq!((result, sum), (Err(Broken), Some(0)));
    }
}
