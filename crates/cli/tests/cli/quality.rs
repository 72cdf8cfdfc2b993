//! `zonda perplexity` as a process.

use crate::common::{Sandbox, has_keys};
use std::path::PathBuf;
use zonda_testkit::models;

fn testdata(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testdata").join(name)
}

/// The windows of `testdata/llama_cpp/perplexity.json`: llama.cpp's own figures for the same file, text and tokens.
#[test]
fn perplexity_matches_llama_cpp() {
    let Some(model) = models::find("smollm2-135m-instruct-q4_1.gguf") else { return };
    let sandbox = Sandbox::new();
    let text = testdata("text/mixed.txt");
    let golden = std::fs::read(testdata("llama_cpp/perplexity.json")).unwrap();
    let golden: serde_json::Value = serde_json::from_slice(&golden).unwrap();
    let args = ["perplexity", "-m", model.to_str().unwrap(), "-f", text.to_str().unwrap(), "--chunks", "16"];
    let ran = sandbox.run(&[&args[..], &["--json"]].concat());
    assert!(ran.err.contains("16/16"), "{ran:?}");
    let found = ran.json();
    has_keys(&found, &["ppl", "stderr", "tokens", "backend", "model"]);
    assert_eq!(found["tokens"], golden["q4_1"]["count"]);
    for key in ["ppl", "stderr"] {
        let (ours, theirs) = (found[key].as_f64().unwrap(), golden["q4_1"][key].as_f64().unwrap());
        println!("{key} {ours:.4}; llama.cpp {theirs:.4}");
        assert!((ours / theirs - 1.0).abs() < 0.01, "{key} {ours}, llama.cpp has {theirs}");
    }
}

#[test]
fn perplexity_is_refused_where_it_is_undefined() {
    let sandbox = Sandbox::new();
    std::fs::write(sandbox.path("t.txt"), "the warm wind ".repeat(40)).unwrap();
    let run = |more: &[&str]| sandbox.run(&[&["perplexity", "-m", "mock"], more].concat());
    let found = run(&["-f", "t.txt", "--ctx", "16", "--json"]).json();
    assert_eq!(found["tokens"], 7 * found["windows"].as_u64().unwrap());
    let piped = sandbox.run_with_input(
        &["perplexity", "-m", "mock", "-f", "-", "--ctx", "16", "--json"],
        "the warm wind ".repeat(40).as_bytes(),
    );
    assert_eq!(piped.json()["ppl"], found["ppl"]);
    run(&["-f", "t.txt"]).fails(1, &["t.txt", "a window is 512", "smaller --ctx"]);
    run(&["-f", "t.txt", "--ctx", "3"]).fails(2, &["at least 4"]);
    run(&["-f", "none.txt"]).fails(1, &["none.txt"]);
    run(&[]).fails(2, &["--file"]);
    std::fs::write(sandbox.path("bad.txt"), b"abc\xff").unwrap();
    run(&["-f", "bad.txt"]).fails(1, &["bad.txt", "UTF-8", "byte 3"]);
}
