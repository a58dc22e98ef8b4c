//! A command that is held before its first instruction until the recording has attached to it.

use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::thread::JoinHandle;

/// Why a command does not run.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// No such program.
    #[error("{0}: command not found")]
    NotFound(String),
    /// It cannot be executed.
    #[error("{0}: cannot be executed: {1}")]
    NotExecutable(String, #[source] io::Error),
    /// No process for it.
    #[error("a process for the command could not be started: {0}")]
    Spawn(#[source] io::Error),
}

impl CommandError {
    /// The exit code that a shell gives for it.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NotFound(_) => 127,
            Self::NotExecutable(..) | Self::Spawn(_) => 126,
        }
    }
}

/// A started process that waits before it executes its command.
#[derive(Debug)]
pub struct HeldCommand {
    name: String,
    pid: u32,
    gate: Option<PipeWriter>,
    state: State,
}

#[derive(Debug)]
enum State {
    /// `Command::spawn` returns only once the command was executed, or could not be: it waits on a thread.
    Starting(Option<JoinHandle<io::Result<Child>>>),
    Running(Child),
    Ended(Option<ExitStatus>),
}

impl HeldCommand {
    /// Starts a process that waits for [`Self::release`].
    pub fn start(command: &[String]) -> Result<Self, CommandError> {
        let (name, arguments) = command.split_first().ok_or_else(|| CommandError::NotFound(String::new()))?;
        let (gate_reader, gate) = io::pipe().map_err(CommandError::Spawn)?;
        let (mut pid_reader, pid_writer) = io::pipe().map_err(CommandError::Spawn)?;
        let mut command = Command::new(name);
        command.args(arguments);
        // SAFETY: between fork and exec only `getpid`, `write` and `read` run, which are async-signal-safe.
        unsafe { command.pre_exec(move || hold(&gate_reader, &pid_writer)) };
        // The writing end of the gate is open in the child too: it is closed by its `exec`, and the child itself
        // only reads one byte.
        let spawned = std::thread::spawn(move || command.spawn());
        let mut pid = [0; 4];
        if let Err(error) = pid_reader.read_exact(&mut pid) {
            // No process was made: the thread knows why.
            let reason = spawned.join().ok().and_then(Result::err);
            return Err(CommandError::Spawn(reason.unwrap_or(error)));
        }
        let pid = u32::from_ne_bytes(pid);
        Ok(Self { name: name.clone(), pid, gate: Some(gate), state: State::Starting(Some(spawned)) })
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Lets it execute its command.
    pub fn release(&mut self) -> Result<(), CommandError> {
        if let Some(mut gate) = self.gate.take() {
            // A process that was killed meanwhile reads nothing.
            let _ = gate.write_all(&[1]);
        }
        let State::Starting(spawned) = &mut self.state else { return Ok(()) };
        let spawned = spawned.take().map(JoinHandle::join);
        match spawned {
            Some(Ok(Ok(child))) => {
                self.state = State::Running(child);
                Ok(())
            }
            Some(Ok(Err(error))) => {
                self.state = State::Ended(None);
                Err(match error.kind() {
                    io::ErrorKind::NotFound => CommandError::NotFound(self.name.clone()),
                    _ => CommandError::NotExecutable(self.name.clone(), error),
                })
            }
            _ => {
                self.state = State::Ended(None);
                Err(CommandError::Spawn(io::Error::other("its thread ended")))
            }
        }
    }

    /// How it ended, if it did.
    pub fn try_wait(&mut self) -> Option<ExitStatus> {
        if let State::Running(child) = &mut self.state
            && let Ok(Some(status)) = child.try_wait()
        {
            self.state = State::Ended(Some(status));
        }
        match self.state {
            State::Ended(status) => status,
            _ => None,
        }
    }

    /// Asks it to end (SIGTERM).
    pub fn terminate(&self) {
        if let State::Running(_) = self.state {
            // SAFETY: a signal to a child that nobody has waited for: the number is still its own.
            unsafe { libc::kill(self.pid.cast_signed(), libc::SIGTERM) };
        }
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> Option<ExitStatus> {
        if let State::Running(child) = &mut self.state {
            self.state = State::Ended(child.wait().ok());
        }
        self.try_wait()
    }
}

impl Drop for HeldCommand {
    /// One that was never released ends without having run.
    fn drop(&mut self) {
        drop(self.gate.take());
        if let State::Starting(Some(_)) = self.state {
            // SAFETY: a signal to a child that nobody has waited for: the number is still its own.
            unsafe { libc::kill(self.pid.cast_signed(), libc::SIGKILL) };
        }
    }
}

/// In the child: tells its pid and waits for the gate.
fn hold(gate: &PipeReader, pid: &PipeWriter) -> io::Result<()> {
    let own = std::process::id().to_ne_bytes();
    // SAFETY: plain system calls on open file descriptors and a buffer of ours.
    unsafe {
        libc::write(pid.as_raw_fd(), own.as_ptr().cast(), own.len());
        let mut byte = 0_u8;
        while libc::read(gate.as_raw_fd(), (&raw mut byte).cast(), 1) < 0 {
            if *libc::__errno_location() != libc::EINTR {
                return Err(io::Error::last_os_error());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::os::unix::process::ExitStatusExt;

    use super::*;

    fn command(words: &[&str]) -> HeldCommand {
        HeldCommand::start(&words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>()).unwrap()
    }

    /// The command does nothing before it is released, and its exit status comes back.
    #[test]
    fn holds_and_releases() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut held = command(&["sh", "-c", &format!("echo $$ > {}; exit 7", file.path().display())]);
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert_eq!(std::fs::read_to_string(file.path()).unwrap(), "", "held");
        held.release().unwrap();
        assert_eq!(held.wait().unwrap().code(), Some(7));
        assert_eq!(std::fs::read_to_string(file.path()).unwrap().trim(), held.pid().to_string(), "the same process");
    }

    /// What cannot be executed says so as a shell does.
    #[test]
    fn reports_failures() {
        let error = command(&["/no/such/program"]).release().unwrap_err();
        assert_eq!((error.exit_code(), error.to_string().as_str()), (127, "/no/such/program: command not found"));
        let error = command(&["/etc/passwd"]).release().unwrap_err();
        assert_eq!(error.exit_code(), 126);
    }

    /// A held command that is dropped never runs; a signal's number comes back.
    #[test]
    fn drops_and_signals() {
        let held = command(&["sleep", "1000"]);
        let pid = held.pid();
        drop(held);
        while crate::process::target::is_alive(pid) {
            std::thread::yield_now();
        }
        let mut killed = command(&["sh", "-c", "kill -9 $$"]);
        killed.release().unwrap();
        assert_eq!(killed.wait().unwrap().signal(), Some(9));
    }
}
