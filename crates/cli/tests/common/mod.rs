//! Runs the `zonda` executable with its own model store and settings.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// A folder for one test: the store and the files that the test creates.
pub struct Sandbox {
    dir: TempDir,
}

/// The result of a run.
#[derive(Debug)]
#[allow(dead_code)] // each test binary uses its part
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

#[allow(dead_code)]
impl Ran {
    /// Standard output as JSON: one document and nothing else.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        assert_eq!(self.code, 0, "{self:?}");
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    #[track_caller]
    pub fn ok(self) -> Ran {
        assert_eq!(self.code, 0, "{self:?}");
        self
    }

    /// Asserts that the run failed with this exit code and that standard error contains all these texts.
    #[track_caller]
    pub fn fails(self, code: i32, says: &[&str]) -> Ran {
        assert_eq!(self.code, code, "{self:?}");
        for text in says {
            assert!(self.err.contains(text), "expected {text:?} in {self:?}");
        }
        assert!(!self.err.contains("panicked"), "{self:?}");
        self
    }
}

#[allow(dead_code)] // each test binary uses its part
impl Sandbox {
    pub fn new() -> Sandbox {
        Sandbox { dir: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn store(&self) -> PathBuf {
        self.path("store")
    }

    /// The command, in this folder, without the user's own settings.
    pub fn command(&self) -> Command {
        self.command_of(Path::new(env!("CARGO_BIN_EXE_zonda")))
    }

    /// As [`Sandbox::command`], of another program.
    pub fn command_of(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        for name in
            ["HF_TOKEN", "HF_HUB_CACHE", "HF_ENDPOINT", "NO_COLOR", "http_proxy", "HTTP_PROXY", "ALL_PROXY"]
        {
            command.env_remove(name);
        }
        command
            .current_dir(self.dir.path())
            .env("ZONDA_HOME", self.store())
            .env("HF_HOME", self.path("hf"))
            .env("ZONDA_OFFLINE", "1")
            .env("NO_PROXY", "127.0.0.1")
            .stdin(Stdio::null());
        command
    }

    #[track_caller]
    pub fn run<S: AsRef<std::ffi::OsStr>>(&self, args: &[S]) -> Ran {
        finish(self.command().args(args))
    }

    #[track_caller]
    pub fn run_with_input<S: AsRef<std::ffi::OsStr>>(&self, args: &[S], input: &[u8]) -> Ran {
        let mut command = self.command();
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        ran(child.wait_with_output().unwrap())
    }
}

#[track_caller]
pub fn finish(command: &mut Command) -> Ran {
    ran(command.output().unwrap())
}

pub fn ran(output: std::process::Output) -> Ran {
    Ran {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).expect("standard output is UTF-8"),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A running `zonda serve`. Dropping it kills it.
#[allow(dead_code)]
pub struct Served {
    child: std::process::Child,
    log: PathBuf,
    pub url: String,
    pub models: Vec<String>,
}

#[allow(dead_code)]
impl Served {
    /// Starts it on a free port and waits until its models are loaded.
    #[track_caller]
    pub fn start(sandbox: &Sandbox, args: &[&str]) -> Served {
        Served::start_with(sandbox, args, |_| {})
    }

    #[track_caller]
    pub fn start_with(sandbox: &Sandbox, args: &[&str], change: impl FnOnce(&mut Command)) -> Served {
        Served::start_command(sandbox, sandbox.command(), args, change)
    }

    /// As [`Served::start_with`], with a command of [`Sandbox::command_of`].
    #[track_caller]
    pub fn start_command(
        sandbox: &Sandbox,
        mut command: Command,
        args: &[&str],
        change: impl FnOnce(&mut Command),
    ) -> Served {
        command.env_remove("ZONDA_API_KEY").args(["serve", "--port", "0", "--json"]).args(args);
        change(&mut command);
        let log = std::fs::File::create(sandbox.path("serve.log")).unwrap();
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let document = serde_json::Deserializer::from_reader(child.stdout.take().unwrap())
            .into_iter::<serde_json::Value>()
            .next();
        let Some(Ok(document)) = document else {
            let _ = child.kill();
            panic!("it did not start: {}", std::fs::read_to_string(sandbox.path("serve.log")).unwrap());
        };
        let models = document["models"].as_array().unwrap().iter();
        Served {
            child,
            log: sandbox.path("serve.log"),
            url: document["url"].as_str().unwrap().to_owned(),
            models: models.map(|m| m.as_str().unwrap().to_owned()).collect(),
        }
    }

    /// The process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends SIGTERM and waits for the process to end with exit code 0. Returns the log.
    #[cfg(unix)]
    #[track_caller]
    pub fn end(mut self) -> String {
        let told = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap();
        assert!(told.success());
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Kills it, since this platform has no signal that asks a process to end. Returns the log.
    #[cfg(not(unix))]
    #[track_caller]
    pub fn end(mut self) -> String {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        std::fs::read_to_string(&self.log).unwrap()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A committed checkpoint without a tokenizer: 160 tokens, 2 layers.
#[allow(dead_code)]
pub fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/hf/llama")
}

#[allow(dead_code)]
pub fn keys(value: &serde_json::Value) -> Vec<&str> {
    value.as_object().unwrap_or_else(|| panic!("{value}")).keys().map(String::as_str).collect()
}

#[allow(dead_code)]
#[track_caller]
pub fn has_keys(value: &serde_json::Value, expected: &[&str]) {
    let found = keys(value);
    for key in expected {
        assert!(found.contains(key), "no {key:?} in {found:?}");
    }
}

#[allow(dead_code)]
pub fn strings(value: &serde_json::Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(|v| v.as_str().unwrap()).collect()
}
