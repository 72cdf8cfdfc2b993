//! Outputs that are no regular files, inputs that are none, and names that would change a terminal.

use crate::common::{Sandbox, tiny};
use zonda_engine::load::Value;

/// A copy of the committed checkpoint.
fn copy_of_tiny(sandbox: &Sandbox, name: &str) -> std::path::PathBuf {
    let to = sandbox.path(name);
    std::fs::create_dir_all(&to).unwrap();
    for entry in std::fs::read_dir(tiny()).unwrap().flatten() {
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
    to
}

#[test]
fn names_in_files_do_not_reach_the_terminal_raw() {
    let sandbox = Sandbox::new();
    let model = sandbox.path("m.gguf");
    let nasty = "\u{1b}]0;owned\u{7}\u{9b}2J\u{202e}";
    let mut metadata = zonda_engine::load::Metadata::default();
    metadata.0.insert("general.architecture".into(), Value::String(format!("llama{nasty}")));
    metadata.0.insert(format!("general.{nasty}"), Value::String(nasty.into()));
    let tensor = zonda_convert::output::Planned {
        name: format!("blk{nasty}\nforged line"),
        holds: zonda_kernels::DType::F32.into(),
        shape: vec![4],
    };
    zonda_convert::gguf_writer::write_gguf(
        &model,
        &metadata,
        &[tensor],
        &mut |_, sink| sink.write(&[0; 16]),
        &mut |_, _| {},
    )
    .unwrap();
    let path = model.to_str().unwrap();
    let raw = |text: &str| text.chars().any(|c| (c.is_control() && c != '\n') || c == '\u{202e}');

    for args in [&["inspect", path, "--tensors", "--metadata"][..], &["inspect", path, "--json"]] {
        let ran = sandbox.run(args).ok();
        assert!(!raw(&ran.out) && !ran.out.contains("\nforged"), "{:?}", ran.out);
        assert!(ran.out.contains("owned"), "{:?}", ran.out);
    }
    let missing = format!("no{nasty}such/file.gguf");
    for args in [&["inspect", missing.as_str()][..], &["run", "-m", path, "hi"]] {
        let ran = sandbox.run(args).fails(1, &["error:"]);
        assert!(!raw(&ran.err), "{:?}", ran.err);
    }
}

#[test]
fn outputs_that_can_not_be_written_are_found_first() {
    let sandbox = Sandbox::new();
    std::fs::write(sandbox.path("file"), "").unwrap();
    let model = tiny();
    let model = model.to_str().unwrap();
    // The model comes after the output: it is not looked for.
    let npy = ["logits", "-m", "no-such-model", "--ids", "1", "--out", "file/x.npy"];
    sandbox.run(&npy).fails(1, &["file/x.npy", "existing folder"]);
    let bench = ["bench", "-m", "mock", "--quick", "--runs", "1", "--scenario", "short", "--out", "file"];
    let ran = sandbox.run(&bench).fails(1, &["file"]);
    assert!(!ran.err.contains("tokens in"), "nothing was measured: {ran:?}");
    let quantize = ["quantize", model, "file/q.gguf", "q8_0", "--calibrate", "no-such-text"];
    sandbox.run(&quantize).fails(1, &["file"]);
}

#[cfg(unix)]
#[test]
fn links_and_devices_are_written_through() {
    use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, symlink};
    let sandbox = Sandbox::new();
    let model = tiny();
    let model = model.to_str().unwrap();
    symlink("there.npy", sandbox.path("link.npy")).unwrap();
    for out in ["new.npy", "link.npy", "/dev/null"] {
        sandbox.run(&["logits", "-m", model, "--ids", "1,2", "--out", out]).ok();
    }
    assert!(std::fs::symlink_metadata(sandbox.path("link.npy")).unwrap().is_symlink());
    let bytes = std::fs::read(sandbox.path("new.npy")).unwrap();
    assert_eq!(std::fs::read(sandbox.path("there.npy")).unwrap(), bytes);
    assert!(std::fs::metadata("/dev/null").unwrap().file_type().is_char_device());
    // The umask decides on the mode, as it does for any program.
    std::fs::write(sandbox.path("plain"), "").unwrap();
    let mode = |name: &str| std::fs::metadata(sandbox.path(name)).unwrap().mode();
    assert_eq!(mode("new.npy"), mode("plain"));

    symlink("there.gguf", sandbox.path("link.gguf")).unwrap();
    sandbox.run(&["convert", model, "--out", "link.gguf"]).ok();
    symlink("/dev/null", sandbox.path("null.gguf")).unwrap();
    sandbox.run(&["convert", model, "--out", "null.gguf"]).ok();
    assert!(std::fs::symlink_metadata(sandbox.path("link.gguf")).unwrap().is_symlink());
    assert!(std::fs::metadata(sandbox.path("there.gguf")).unwrap().len() > 1000);
    assert!(std::fs::metadata("/dev/null").unwrap().file_type().is_char_device());
    let left = std::fs::read_dir(sandbox.path("")).unwrap().flatten();
    let left: Vec<_> = left.filter(|e| e.file_name().to_string_lossy().contains("partial")).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// Opening one to read it would wait for ever.
#[cfg(unix)]
#[test]
fn a_fifo_is_no_file_of_a_model() {
    let sandbox = Sandbox::new();
    let fifo = |path: &std::path::Path| {
        let _ = std::fs::remove_file(path);
        assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
    };
    for (name, says) in [
        ("model.safetensors.index.json", "expected a regular file"),
        ("config.json", "a folder without config.json"),
    ] {
        let model = copy_of_tiny(&sandbox, name);
        fifo(&model.join(name));
        sandbox.run(&["inspect", model.to_str().unwrap()]).fails(1, &[name, says]);
    }
    fifo(&sandbox.path("prompts.kv"));
    let prompt = "one two three four five six seven eight nine ten ".repeat(20);
    let mut command = sandbox.command();
    command.args(["run", "-m", "mock", "--max-tokens", "1", "--prompt-cache", "prompts.kv", &prompt]);
    let ran = crate::common::finish(&mut command).ok();
    assert!(ran.err.contains("expected a regular file"), "{ran:?}");
}

#[test]
fn the_number_of_threads_is_bounded() {
    let sandbox = Sandbox::new();
    let model = tiny();
    let model = model.to_str().unwrap();
    for threads in ["20000", "0", "x"] {
        let args = ["logits", "-m", model, "--ids", "1", "--out", "x.npy", "--threads", threads];
        sandbox.run(&args).fails(2, &["from 1 to 1024"]);
    }
}

/// With so little memory the system starts no thread, or not all of them, and a server that can't start them has to end, also
/// if it was to print backtraces.
#[cfg(target_os = "linux")]
#[test]
fn a_server_without_threads_ends_with_an_error() {
    for kib in [60_000, 100_000, 150_000, 300_000] {
        for backtrace in ["0", "1"] {
            ends_with_an_error(kib, backtrace);
        }
    }
}

/// Starts a server that may use this much address space.
#[cfg(target_os = "linux")]
fn ends_with_an_error(kib: u32, backtrace: &str) {
    let sandbox = Sandbox::new();
    // A program that needs less gets to the port, which is taken.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let mut command = std::process::Command::new("sh");
    let script = "ulimit -v $2; exec timeout -k 1 60 \"$0\" serve -m mock --port $1";
    command.args(["-c", script, env!("CARGO_BIN_EXE_zonda"), &port, &kib.to_string()]);
    command.env("ZONDA_HOME", sandbox.store()).env("RUST_BACKTRACE", backtrace);
    let ran = crate::common::finish(&mut command);
    assert!(![0, 101, 124, 137].contains(&ran.code), "{kib} KiB, backtrace {backtrace}: {ran:?}");
    assert!(!ran.err.contains("panicked"), "{kib} KiB, backtrace {backtrace}: {ran:?}");
}
