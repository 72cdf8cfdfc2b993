//! Speculation from the command line: the same text with and without it, its figures, and its refusals.

use crate::common::{Sandbox, has_keys};
use serde_json::Value;

const PROMPT: &str = "the wind and the sea and the wind and the";

fn run(sandbox: &Sandbox, more: &[&str]) -> Value {
    let fixed = ["run", "-m", "m.gguf", "--raw", "-n", "40", "--ignore-eos", "--json", PROMPT];
    sandbox.run(&[&fixed[..], more].concat()).json()
}

#[test]
fn run_and_bench_speculate_and_report_acceptance() {
    let sandbox = Sandbox::new();
    sandbox.run(&["synth", "tiny-mistral", "--quant", "q8_0", "-o", "m.gguf"]).ok();
    sandbox.run(&["convert", "m.gguf", "-o", "draft.gguf", "--layers", "1"]).ok();
    let layers = |model: &str| sandbox.run(&["inspect", model, "--json"]).json()["spec"]["layers"].clone();
    assert!(layers("draft.gguf") == 1 && layers("m.gguf").as_u64() > Some(1));

    // Whether drafts pay depends on the machine, so the test forces them.
    let always = ["--draft-min", "3"];
    for sampling in [&["--temp", "0"][..], &["--temp", "1.5", "--seed", "3"]] {
        let off = run(&sandbox, sampling);
        assert_eq!((&off["drafted_tokens"], &off["acceptance"]), (&0.into(), &Value::Null));
        for how in [&["--speculate", "ngram"][..], &["--draft", "draft.gguf"], &["--draft", "m.gguf"]] {
            let on = run(&sandbox, &[sampling, how, &always].concat());
            has_keys(&on, &["drafted_tokens", "accepted_tokens", "acceptance"]);
            assert_eq!(on["tokens"], off["tokens"], "{how:?} {sampling:?}");
        }
    }
    // A model is its own best draft.
    let own =
        run(&sandbox, &["--temp", "0", "--speculate", "draft", "--draft", "m.gguf", "--draft-min", "3"]);
    assert_eq!(own["accepted_tokens"], own["drafted_tokens"]);
    assert!(own["accepted_tokens"].as_u64() > Some(20), "{own}");

    let bench =
        ["bench", "-m", "m.gguf", "--backend", "native", "--quick", "--scenario", "short", "--runs", "1"];
    let more = ["--speculate", "off,ngram", "--draft-min", "2", "--out", "out", "--json"];
    let record = sandbox.run(&[&bench[..], &more].concat()).json();
    let rows = record["rows"].as_array().unwrap();
    let row = |model: &str| rows.iter().find(|r| r["model"] == model).unwrap();
    assert_eq!(row("m")["drafted_tokens"], Value::Null);
    assert!(row("m+ngram")["drafted_tokens"].is_u64());
    assert_eq!(row("m")["ids"], row("m+ngram")["ids"]);
    let csv = std::fs::read_to_string(sandbox.path("out/results.csv")).unwrap();
    assert!(csv.lines().next().unwrap().contains("order,speculate,drafted,accepted,acceptance,"), "{csv}");
    assert!(csv.contains(",off,,,") && csv.contains(",ngram,"), "{csv}");
}

#[test]
fn impossible_combinations_are_refused() {
    let sandbox = Sandbox::new();
    sandbox.run(&["synth", "tiny-mistral", "--quant", "f32", "-o", "m.gguf"]).ok();
    let refused = |more: &[&str], code, says: &[&str]| {
        sandbox.run(&[&["run", "-m", "m.gguf", "hi"], more].concat()).fails(code, says);
    };
    refused(&["--speculate", "draft"], 2, &["--draft MODEL"]);
    refused(&["--speculate", "often"], 2, &["ngram", "draft"]);
    refused(&["--draft-max", "0", "--speculate", "ngram"], 2, &["1..=63"]);
    refused(&["--draft", "nowhere.gguf"], 1, &["nowhere.gguf"]);
    sandbox.run(&["convert", "m.gguf", "-o", "x.gguf", "--layers", "99"]).fails(2, &["--layers is 99"]);
    // The mock always has its own tokenizer; the engine's tests cover mismatched tokenizers.
    sandbox.run(&["run", "-m", "mock", "--draft", "mock", "-n", "5", "hi"]).ok();
}
