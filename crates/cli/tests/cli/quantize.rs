//! `zonda quantize` as a process: every type, with and without a calibration text, and its refusals.

use crate::common::{Sandbox, has_keys, tiny};
use serde_json::Value;

const TYPES: [&str; 6] = ["q8_0", "q4_0", "q4_1", "q4_k_m", "q5_k_m", "q6_k"];

fn tensor<'a>(document: &'a Value, name: &str) -> &'a Value {
    let all = document["tensors"].as_array().unwrap();
    all.iter().find(|t| t["name"] == name).unwrap_or_else(|| panic!("no {name}"))
}

#[test]
fn every_type_is_written_and_runs() {
    let sandbox = Sandbox::new();
    sandbox.run(&["synth", "tiny-mistral", "-o", "f32.gguf"]).ok();
    for kind in TYPES {
        let ran = sandbox.run(&["quantize", "f32.gguf", "q.gguf", kind, "--json"]);
        assert!(ran.err.contains("blk.0.attn_q.weight"), "a table: {}", ran.err);
        let document = ran.json();
        has_keys(&document, &["path", "bytes", "bits_per_weight", "tensors"]);
        let bytes = std::fs::metadata(sandbox.path("q.gguf")).unwrap().len();
        assert_eq!(document["bytes"], bytes, "{kind}");
        let error = tensor(&document, "blk.0.attn_q.weight")["relative_error"].as_f64().unwrap();
        assert!(error > 0.0 && error < 0.1, "{kind}: {error}");
        assert_eq!(tensor(&document, "blk.0.attn_norm.weight")["relative_error"], 0.0);
        let run = ["run", "-m", "q.gguf", "--raw", "-n", "3", "--ignore-eos", "--json", "a"];
        assert_eq!(sandbox.run(&run).json()["completion_tokens"], 3, "{kind}");
    }
    let threads = |n: &str, out: &str| {
        sandbox.run(&["quantize", "f32.gguf", out, "q4_k_m", "-t", n, "-q"]).ok();
        std::fs::read(sandbox.path(out)).unwrap()
    };
    assert_eq!(threads("1", "one.gguf"), threads("3", "three.gguf"));
}

#[test]
fn calibration_reduces_weighted_errors() {
    let sandbox = Sandbox::new();
    for arch in ["tiny-mistral", "tiny-mixtral"] {
        sandbox.run(&["synth", arch, "-o", "f32.gguf"]).ok();
        std::fs::write(sandbox.path("text.txt"), "a warm wind over the sea and the town by it ".repeat(40))
            .unwrap();
        let args = ["quantize", "f32.gguf", "q.gguf", "q4_0", "--json", "--calibrate", "text.txt"];
        let told = sandbox.run(&args).json();
        let without = sandbox.run(&args[..5]).json();
        let down =
            if arch == "tiny-mixtral" { "blk.0.ffn_down_exps.weight" } else { "blk.0.ffn_down.weight" };
        for name in ["blk.0.attn_q.weight", "blk.0.attn_output.weight", down] {
            let (told, without) = (tensor(&told, name), tensor(&without, name));
            let weighted = told["weighted_error"].as_f64().unwrap();
            assert!(
                weighted < without["relative_error"].as_f64().unwrap(),
                "{arch}, {name}: {told} {without}"
            );
            assert_eq!(without["weighted_error"], Value::Null);
        }
        assert_eq!(tensor(&told, "token_embd.weight")["weighted_error"], Value::Null);
    }
}

#[test]
fn rows_that_do_not_divide_get_another_type_and_it_is_reported() {
    let sandbox = Sandbox::new();
    let ran = sandbox.run(&["quantize", tiny().to_str().unwrap(), "q.gguf", "q4_k_m", "--json"]);
    assert!(ran.err.contains("instead of q4_k"), "{}", ran.err);
    let document = ran.json();
    let q = tensor(&document, "blk.0.attn_q.weight");
    assert_eq!((&q["type"], &q["wanted"]), (&"q5_0".into(), &"q4_k".into()));
}

#[test]
fn impossible_requests_are_refused() {
    let sandbox = Sandbox::new();
    sandbox.run(&["synth", "tiny-mistral", "-o", "f32.gguf"]).ok();
    sandbox.run(&["quantize", "f32.gguf", "q.gguf", "q9"]).fails(2, &["q9", "q4_k_m"]);
    sandbox.run(&["quantize", "f32.gguf", "q.gguf", "f16"]).fails(2, &["f16", "convert"]);
    sandbox.run(&["quantize", "f32.gguf", "folder", "q4_0"]).fails(2, &[".gguf"]);
    sandbox.run(&["quantize", "f32.gguf", "f32.gguf", "q4_0"]).fails(2, &["overwritten"]);
    sandbox.run(&["quantize", "mock", "q.gguf", "q4_0"]).fails(2, &["mock"]);
    sandbox.run(&["quantize", "absent.gguf", "q.gguf", "q4_0"]).fails(1, &["absent.gguf"]);
    sandbox
        .run(&["quantize", "f32.gguf", "q.gguf", "q4_0", "--calibrate", "none.txt"])
        .fails(1, &["none.txt"]);
    std::fs::write(sandbox.path("empty.txt"), "").unwrap();
    sandbox
        .run(&["quantize", "f32.gguf", "q.gguf", "q4_0", "--calibrate", "empty.txt"])
        .fails(1, &["empty.txt"]);
    assert!(!sandbox.path("q.gguf").exists());

    sandbox.run(&["quantize", "f32.gguf", "q8.gguf", "q8_0"]).ok();
    sandbox.run(&["quantize", "q8.gguf", "q4.gguf", "q4_0"]).fails(1, &["already", "--allow-requantize"]);
    sandbox.run(&["quantize", "q8.gguf", "q4.gguf", "q4_0", "--allow-requantize"]).ok();
    let again =
        sandbox.run(&["quantize", "q8.gguf", "same.gguf", "q8_0", "--allow-requantize", "--json"]).json();
    assert_eq!(tensor(&again, "blk.0.attn_q.weight")["relative_error"], 0.0, "copied as it is");
}
