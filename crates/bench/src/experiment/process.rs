//! The parent's handle of a child process: starts it, sends commands, watches and stops it. Every failure is described in one
//! sentence.

use crate::experiment::protocol;
use crate::experiment::protocol::{FrameError, FromChild, ToChild};
use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// The interval at which a waiting parent checks for an interrupt.
const GLANCE: Duration = Duration::from_millis(100);
/// How long a child may take to end after the command to quit, or after it closed its pipe.
const GRACE: Duration = Duration::from_secs(10);
/// Maximum number of lines of the child's stderr kept for the reason of a failure.
const KEPT_LINES: usize = 20;
/// Longest line kept, in bytes.
const MAX_LINE: u64 = 4096;

/// How a child process is started: by default the same program with a hidden subcommand.
#[derive(Clone, Debug)]
pub struct Launcher {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Environment variables set for it.
    pub envs: Vec<(OsString, OsString)>,
}

impl Launcher {
    /// This program with the subcommand `__bench-child`.
    ///
    /// # Errors
    /// If the path of the running program is unknown.
    pub fn current_exe() -> std::io::Result<Launcher> {
        Ok(Launcher {
            program: std::env::current_exe()?,
            args: vec!["__bench-child".into()],
            envs: Vec::new(),
        })
    }
}

/// Why a child gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    /// It ended; the text says how.
    #[error("{0}")]
    Died(String),
    /// It sent nothing for too long and was stopped.
    #[error("no sign of life for {} s (timeout); the process was stopped", .0.as_secs())]
    TimedOut(Duration),
    /// Its messages do not follow the protocol; it was stopped.
    #[error("the child process does not follow the protocol: {0}")]
    Protocol(String),
    /// The user interrupted; it was stopped.
    #[error("interrupted")]
    Interrupted,
}

/// A running child. Dropping it kills it.
#[derive(Debug)]
pub struct ChildProcess {
    child: Child,
    stdin: ChildStdin,
    frames: Receiver<Result<FromChild, FrameError>>,
    errors: Errors,
    oom_kills: Option<u64>,
}

impl ChildProcess {
    /// Starts a child. Call [`ChildProcess::greet`] next.
    ///
    /// # Errors
    /// If the program can't be started.
    pub fn start(launcher: &Launcher) -> std::io::Result<ChildProcess> {
        let mut command = Command::new(&launcher.program);
        command.args(&launcher.args).envs(launcher.envs.iter().cloned());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A separate process group, so that the terminal's Ctrl-C reaches only the parent, which then stops the child.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let oom_kills = oom_kills();
        let mut child = command.spawn()?;
        let piped = "stdin, stdout and stderr are piped";
        let stdin = child.stdin.take().expect(piped);
        let mut stdout = BufReader::new(child.stdout.take().expect(piped));
        let stderr = child.stderr.take().expect(piped);
        let (send, frames) = channel();
        let forward = move || {
            loop {
                let frame = protocol::read::<FromChild>(&mut stdout);
                let last = frame.is_err();
                if send.send(frame).is_err() || last {
                    break;
                }
            }
        };
        let reading = Errors::read(stderr).and_then(|errors| {
            thread::Builder::new().name("zonda-frames".into()).spawn(forward).map(|_| errors)
        });
        match reading {
            Ok(errors) => Ok(ChildProcess { child, stdin, frames, errors, oom_kills }),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(error)
            }
        }
    }

    /// Waits for the child's greeting and checks that it uses the same version of the protocol.
    ///
    /// # Errors
    /// As [`ChildProcess::ask`].
    pub fn greet(&mut self, timeout: Duration, watch: &mut dyn Watch) -> Result<(), ChildError> {
        match self.next(timeout, watch)? {
            FromChild::Hello { protocol: protocol::VERSION } => Ok(()),
            FromChild::Hello { protocol } => Err(ChildError::Protocol(format!(
                "it speaks version {protocol}, this program version {}",
                protocol::VERSION
            ))),
            other => Err(ChildError::Protocol(format!("expected a greeting, found {other:?}"))),
        }
    }

    /// Sends a command and waits for its answer. A child that sends nothing for `timeout` is stopped.
    ///
    /// # Errors
    /// If there is no answer. The child has ended then.
    pub fn ask(
        &mut self,
        command: &ToChild,
        timeout: Duration,
        watch: &mut dyn Watch,
    ) -> Result<FromChild, ChildError> {
        if let Err(error) = protocol::write(&mut self.stdin, command) {
            return Err(match error {
                FrameError::Io(_) => ChildError::Died(self.last_words()),
                other => ChildError::Protocol(other.to_string()),
            });
        }
        self.next(timeout, watch)
    }

    /// Tells the child to end, and stops it if it doesn't.
    pub fn quit(mut self) {
        let _ = protocol::write(&mut self.stdin, &ToChild::Quit);
        match self.wait(GRACE) {
            Some(status) if status.success() => {}
            Some(status) => tracing::warn!(%status, "a child process failed after its last run"),
            None => tracing::warn!("a child process did not end when told to; it was stopped"),
        }
    }

    fn next(&mut self, timeout: Duration, watch: &mut dyn Watch) -> Result<FromChild, ChildError> {
        let mut heard = Instant::now();
        loop {
            if watch.interrupted() {
                self.kill();
                return Err(ChildError::Interrupted);
            }
            match self.frames.recv_timeout(GLANCE.min(timeout)) {
                Ok(Ok(FromChild::Progress { tokens })) => {
                    heard = Instant::now();
                    watch.tokens(tokens);
                }
                Ok(Ok(message)) => return Ok(message),
                Ok(Err(FrameError::Closed)) | Err(RecvTimeoutError::Disconnected) => {
                    return Err(ChildError::Died(self.last_words()));
                }
                Ok(Err(FrameError::Io(_))) => return Err(ChildError::Died(self.last_words())),
                Ok(Err(error)) => {
                    self.kill();
                    return Err(ChildError::Protocol(error.to_string()));
                }
                Err(RecvTimeoutError::Timeout) if heard.elapsed() >= timeout => {
                    self.kill();
                    return Err(ChildError::TimedOut(timeout));
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// How a child ended that closed its pipe unexpectedly.
    fn last_words(&mut self) -> String {
        let how = match self.wait(GRACE) {
            Some(status) => describe(status, oom_kills() > self.oom_kills),
            None => "the process closed its pipe but did not end; it was stopped".into(),
        };
        match self.errors.last() {
            Some(line) => format!("{how}: {line}"),
            None => how,
        }
    }

    /// Waits until the child ends; kills it after `grace` and returns `None`.
    fn wait(&mut self, grace: Duration) -> Option<ExitStatus> {
        let began = Instant::now();
        while began.elapsed() < grace {
            match self.child.try_wait() {
                Ok(Some(status)) => return Some(status),
                Ok(None) => thread::sleep(Duration::from_millis(2)),
                Err(_) => break,
            }
        }
        self.kill();
        None
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for ChildProcess {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            self.kill();
        }
    }
}

/// Callbacks of a waiting parent.
pub trait Watch {
    /// True if the user has interrupted.
    fn interrupted(&self) -> bool;
    /// Called with the number of tokens of the running request that have arrived.
    fn tokens(&mut self, tokens: usize);
}

/// The last lines that a child wrote to stderr.
#[derive(Debug)]
struct Errors {
    lines: Arc<Mutex<VecDeque<String>>>,
    ended: Receiver<()>,
}

impl Errors {
    fn read(from: impl Read + Send + 'static) -> std::io::Result<Errors> {
        let lines = Arc::new(Mutex::new(VecDeque::new()));
        let (send, ended) = channel::<()>();
        let kept = Arc::clone(&lines);
        let keep = move || {
            let _ended_when_dropped = send;
            let mut from = BufReader::new(from);
            let mut line = Vec::new();
            while matches!((&mut from).take(MAX_LINE).read_until(b'\n', &mut line), Ok(n) if n > 0) {
                let text = String::from_utf8_lossy(&line).trim().to_owned();
                line.clear();
                tracing::debug!(target: "zonda_bench::child", "{text}");
                // Rust's panic message is followed by a hint about backtraces, which is not the reason.
                if text.is_empty() || text.starts_with("note: ") {
                    continue;
                }
                let mut kept = kept.lock().unwrap_or_else(|e| e.into_inner());
                if kept.len() == KEPT_LINES {
                    kept.pop_front();
                }
                kept.push_back(text);
            }
        };
        thread::Builder::new().name("zonda-errors".into()).spawn(keep)?;
        Ok(Errors { lines, ended })
    }

    /// The last line that is not blank and not a note. Waits up to a second for the pipe to close.
    fn last(&self) -> Option<String> {
        let _ = self.ended.recv_timeout(Duration::from_secs(1));
        self.lines.lock().unwrap_or_else(|e| e.into_inner()).back().cloned()
    }
}

/// How many processes the kernel has killed for lack of memory; `None` if unknown.
fn oom_kills() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/vmstat").ok()?;
    text.lines().find_map(|l| l.strip_prefix("oom_kill ")?.trim().parse().ok())
}

#[cfg(unix)]
fn describe(status: ExitStatus, out_of_memory: bool) -> String {
    use std::os::unix::process::ExitStatusExt;
    use zonda_machine::signals;
    match (status.signal(), status.code()) {
        (Some(signals::KILL), _) if out_of_memory => "out of memory: the kernel killed the process".into(),
        (Some(signals::KILL), _) => "the process was killed from outside (signal 9)".into(),
        (Some(signals::INVALID_MEMORY), _) => "the process crashed (signal 11, invalid memory access)".into(),
        (Some(signals::BUS_ERROR), _) => {
            "the process crashed (signal 7, bus error; a mapped file that was cut short does this)".into()
        }
        (Some(signals::ILLEGAL_INSTRUCTION), _) => {
            "the process crashed (signal 4, an instruction this processor lacks)".into()
        }
        (Some(signals::ABORT), _) => "the process aborted (signal 6)".into(),
        (Some(signal), _) => format!("the process was ended by signal {signal}"),
        (None, Some(0)) => "the process ended before it answered".into(),
        (None, code) => format!("the process ended with exit code {}", code.unwrap_or(-1)),
    }
}

#[cfg(not(unix))]
fn describe(status: ExitStatus, _out_of_memory: bool) -> String {
    format!("the process ended: {status}")
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    #[test]
    fn an_end_is_told_in_words() {
        let told = |raw, oom| describe(ExitStatus::from_raw(raw), oom);
        assert!(told(9, true).starts_with("out of memory"));
        assert!(told(9, false).contains("killed from outside"));
        assert!(told(11, false).contains("signal 11"));
        assert!(told(6, false).contains("aborted"));
        assert!(told(15, false).contains("signal 15"));
        assert!(told(3 << 8, false).contains("exit code 3"));
        assert!(told(0, false).contains("before it answered"));
    }

    #[test]
    fn the_reason_is_the_last_line_that_says_something() {
        let text = "loading\nthread 'main' panicked at x.rs:1:1:\nno room\nnote: run with a backtrace\n\n";
        assert_eq!(Errors::read(text.as_bytes()).unwrap().last().as_deref(), Some("no room"));
        assert_eq!(Errors::read(&b""[..]).unwrap().last(), None);
    }
}
