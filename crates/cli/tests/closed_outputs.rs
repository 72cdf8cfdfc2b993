//! Commands whose output nobody reads: a closed standard output ends a command quietly; a closed or full standard error ends
//! none.

#![cfg(unix)]

#[path = "common/mod.rs"]
mod sandbox;

use sandbox::Sandbox;
use std::process::Stdio;

#[test]
fn a_closed_standard_output_ends_a_command_quietly() {
    let sandbox = Sandbox::new();
    let commands: &[&[&str]] = &[
        &["run", "-m", "mock", "hi", "--seed", "1"],
        &["run", "-m", "mock", "hi", "--json"],
        &["tokenize", "-m", "mock", "a warm wind"],
        &["list"],
        &["synth", "--list"],
        &["completions", "bash"],
        &["--help"],
    ];
    for args in commands {
        // The reading end is closed before the command starts.
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = sandbox.command().args(*args).stdout(writer).output().unwrap();
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(!err.contains("panicked") && !err.contains("error:"), "{args:?}: {err}");
        assert_eq!(output.status.code(), Some(0), "{args:?}: {err}");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_standard_error_does_not_end_a_command() {
    let sandbox = Sandbox::new();
    let full = || std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let commands: &[(&[&str], i32)] = &[
        (&["run", "-m", "mock", "hi", "--seed", "1"], 0),
        (&["-vv", "run", "-m", "mock", "hi", "--seed", "1"], 0),
        // The full context causes a warning in the log.
        (&["run", "-m", "mock", "hi", "--ctx", "64", "--ignore-eos"], 0),
        (&["run", "-m", "no/such/file.gguf", "hi"], 1),
        (&["run", "-m", "mock"], 0),
        (&["synth", "tiny-llama", "-o", "tiny.gguf"], 0),
        (&["bench", "-m", "mock", "--scenario", "none"], 2),
        (&["nonsense"], 2),
    ];
    for (args, code) in commands {
        let output = sandbox.command().args(*args).stderr(full()).output().unwrap();
        assert_eq!(output.status.code(), Some(*code), "{args:?}");
    }
}

#[test]
fn a_closed_standard_error_does_not_end_a_command() {
    let sandbox = Sandbox::new();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = sandbox.command();
    command.args(["-vv", "run", "-m", "mock", "hi", "--seed", "1"]).stderr(writer).stdout(Stdio::piped());
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(!output.stdout.is_empty());
}
