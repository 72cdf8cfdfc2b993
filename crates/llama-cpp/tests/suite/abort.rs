//! An assertion of llama.cpp ends the process, and its last message names the assertion without folders.

use crate::common::options;
use std::os::unix::process::ExitStatusExt as _;
use std::process::Command;
use zonda_convert::synth::{SynthSpec, synth};
use zonda_engine::load::Model;
use zonda_llama_cpp::LlamaCpp;

#[test]
fn an_assertion_is_reported_before_the_process_aborts() {
    let this = std::env::current_exe().unwrap();
    let aborts = ["--exact", "abort::opens_a_model_of_513_layers", "--ignored", "--nocapture"];
    let output = Command::new(this).args(aborts).output().unwrap();
    assert_eq!(output.status.signal(), Some(6), "{output:?}");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("llama.cpp gave up: llama-model.cpp:"), "{text}");
}

/// llama.cpp asserts at most 512 layers.
#[test]
#[ignore = "aborts: `an_assertion_is_reported_before_the_process_aborts` runs it in a process of its own"]
fn opens_a_model_of_513_layers() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("deep.gguf");
    let deep = SynthSpec::find("tiny-llama").unwrap().with_layers(513).unwrap();
    synth(&deep, "q4_0".parse().unwrap(), &path, 1, &mut |_, _| {}).unwrap();
    let model = Model::open(&path).unwrap();
    let _ = LlamaCpp::open(&model, &options(&model));
}
