//! `doctor` and `verify` as processes: the description of the machine and its backends, and the check of a model's files.

use crate::common::{Sandbox, has_keys, strings, tiny};
use serde_json::Value;

#[test]
fn doctor_describes_the_machine_and_the_backends() {
    let sandbox = Sandbox::new();
    let document = sandbox.run(&["doctor", "--json"]).json();
    has_keys(&document, &["machine", "backends", "warnings"]);
    let machine = &document["machine"];
    has_keys(machine, &["cpu", "physical_cores", "caches", "memory_bytes", "gpus", "threads", "peaks"]);
    assert!(strings(&machine["instruction_sets"]).contains(&"scalar"), "{machine}");
    for figure in ["read_bytes_per_s", "int8_ops_per_s", "f32_ops_per_s"] {
        for by in ["one_core", "all_threads"] {
            // Even a slow core does a hundred million a second.
            assert!(machine["peaks"][figure][by].as_f64().unwrap() > 1e8, "{figure} {by}: {machine}");
        }
    }
    let backends = document["backends"].as_array().unwrap();
    let named = |name: &str| backends.iter().find(|b| b["name"] == name).unwrap_or_else(|| panic!("{name}"));
    assert_eq!((&named("native")["usable"], &named("native")["compiled_in"]), (&true.into(), &true.into()));
    assert_eq!(strings(&named("native")["formats"]), ["gguf", "safetensors", "mlx"]);
    for backend in backends {
        // If a backend can't be used, the reason is given.
        assert!(backend["usable"] == true || backend["reason"].is_string(), "{backend}");
    }
    let llama_cpp = named("llama-cpp");
    assert_eq!(llama_cpp["compiled_in"], cfg!(feature = "llama-cpp"));
    assert_eq!(llama_cpp["devices"].as_array().unwrap().is_empty(), !cfg!(feature = "llama-cpp"));

    let quick = sandbox.run(&["doctor", "--quick", "-t", "1", "--isa", "scalar"]).ok();
    assert!(
        quick.out.contains("1 thread, placed by the system") && !quick.out.contains("GB/s"),
        "{}",
        quick.out
    );
    let quick = sandbox.run(&["doctor", "--quick", "--json"]).json();
    assert_eq!(quick["machine"]["peaks"], Value::Null, "a figure that was not measured is null");
    sandbox.run(&["doctor", "--isa", "mmx"]).fails(2, &["mmx"]);
}

#[test]
fn verify_checks_files_and_compares_backends() {
    let sandbox = Sandbox::new();
    let model = tiny();
    let model = model.to_str().unwrap();
    let args = ["verify", "-m", model, "--backend", "native,native", "--positions", "100", "--answer", "8"];
    let document = sandbox.run(&[&args[..], &["--exact", "--json"]].concat()).json();
    has_keys(&document, &["model", "positions", "near_tie_nats", "bounds", "checks", "pairs"]);
    let checks = document["checks"].as_array().unwrap();
    let names: Vec<_> = checks.iter().map(|c| c["name"].as_str().unwrap()).collect();
    let logits = ["logits of reference", "logits of native", "logits of native"];
    assert_eq!(names, [&["files", "tensors", "weights", "tokenizer"][..], &logits].concat());
    assert!(checks.iter().all(|c| c["ok"] == true), "{checks:#?}");
    let positions = document["positions"].as_u64().unwrap();
    assert!((100..200).contains(&positions), "{positions}");
    let pairs = document["pairs"].as_array().unwrap();
    let who: Vec<_> =
        pairs.iter().map(|p| (p["reference"].as_str().unwrap(), p["other"].as_str().unwrap())).collect();
    assert_eq!(who, [("reference", "native"), ("reference", "native"), ("native", "native")]);
    // The same computation gives the same bits twice; f32 weights with an f16 cache are close to the reference.
    assert_eq!((&pairs[2]["top1"], &pairs[2]["max_abs_diff"]), (&1.0.into(), &0.0.into()));
    assert_eq!(pairs[2]["positions"], positions);
    assert!(pairs[0]["kl_mean"].as_f64().unwrap() < 1e-4, "{}", pairs[0]);

    // Random weights in 4 bits are far from those in 8: the broken bound is reported, with exit code 1.
    sandbox.run(&["synth", "tiny-llama", "--quant", "f32", "-o", "m"]).ok();
    let strict = ["verify", "-m", "m", "--exact", "--quantize", "q4_0", "--positions", "100"];
    let strict = [&strict[..], &["--min-top1", "0", "--max-kl", "1e-9"]].concat();
    let ran = sandbox.run(&strict).fails(1, &["mean KL divergence", "expected at most"]);
    assert!(ran.out.contains("FAILED native against reference"), "{}", ran.out);
    sandbox.run(&["verify", "-m", model, "--min-top1", "101"]).fails(2, &["--min-top1", "101"]);
    sandbox.run(&["verify", "-m", model, "--backend", "native,mock"]).fails(1, &["mock"]);
    sandbox.run(&["verify", "-m", "mock"]).ok();
}

#[test]
fn verify_finds_damage() {
    let sandbox = Sandbox::new();
    sandbox.run(&["synth", "tiny-mistral", "--quant", "f32", "-o", "m.gguf"]).ok();
    let whole = std::fs::read(sandbox.path("m.gguf")).unwrap();
    let mut damaged = whole.clone();
    let last = damaged.len() - 4;
    damaged[last..].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(sandbox.path("nan.gguf"), &damaged).unwrap();
    let ran = sandbox.run(&["verify", "-m", "nan.gguf", "--json"]).fails(1, &["weights"]);
    let document: Value = serde_json::from_str(&ran.out).unwrap();
    let weights = document["checks"].as_array().unwrap().iter().find(|c| c["name"] == "weights").unwrap();
    assert_eq!(weights["ok"], false, "{document:#}");

    std::fs::write(sandbox.path("cut.gguf"), &whole[..whole.len() / 2]).unwrap();
    sandbox.run(&["verify", "-m", "cut.gguf"]).fails(1, &["tensors"]);
}
