//! `zonda recommend` as a process: for a model with weights, for a `config.json` alone, and for models that don't fit.

use crate::common::{Sandbox, has_keys};
use serde_json::Value;

fn choices(document: &Value) -> &Vec<Value> {
    document["choices"].as_array().unwrap()
}

/// The only recommended choice.
fn recommended(document: &Value) -> &Value {
    let found: Vec<_> = choices(document).iter().filter(|c| c["recommended"] == true).collect();
    assert_eq!(found.len(), 1, "{document:#}");
    found[0]
}

#[test]
fn a_gguf_file_is_recommended_as_it_is() {
    let sandbox = Sandbox::new();
    sandbox.run(&["synth", "tiny-mistral", "--quant", "q8_0", "-o", "tiny.gguf"]).ok();
    let document = sandbox.run(&["recommend", "-m", "tiny.gguf", "--ctx", "64", "--json"]).json();
    has_keys(&document, &["machine", "peaks", "records", "error", "quality_order", "choices"]);
    assert_eq!((&document["records"], &document["error"]["decode"]["median"]), (&0.into(), &Value::Null));
    let best = recommended(&document);
    assert_eq!(
        (&best["quant"], &best["format"], &best["ready"]),
        (&"q8_0".into(), &"gguf".into(), &true.into())
    );
    for choice in choices(&document) {
        let bytes = |key: &str| choice[key].as_u64().unwrap();
        assert_eq!(bytes("memory_bytes"), bytes("weights_bytes") + bytes("kv_bytes"), "{choice}");
        assert!(choice["fits"] == true && choice["measured"].is_null(), "{choice}");
        let source = &choice["basis"]["decode"];
        assert_eq!(source["from"], "built_in");
        let measured = source["measured"].as_str().unwrap();
        assert!(measured.starts_with("docs/") || measured.starts_with("benchmarks/record/"), "{choice}");
        assert!(choice["shares"]["decode"].as_f64().unwrap() < 1.0, "{choice}");
        assert!(
            choice["decode_tps"].as_f64().unwrap() > 0.0 && choice["prefill_tps"].as_f64().unwrap() > 0.0
        );
    }
    let speeds: Vec<f64> = choices(&document).iter().map(|c| c["decode_tps"].as_f64().unwrap()).collect();
    assert!(speeds.is_sorted_by(|a, b| a >= b), "{speeds:?}");
    // The command that it recommends runs.
    let command = best["command"].as_str().unwrap();
    let args: Vec<&str> = command.strip_prefix("zonda ").unwrap().split(' ').collect();
    assert!(args.contains(&"64"), "{command}");
    sandbox.run(&[&args[..], &["--raw", "-n", "2", "hello"]].concat()).ok();
}

#[test]
fn folders_may_be_quantised_at_load_and_a_config_is_enough() {
    let sandbox = Sandbox::new();
    sandbox.run(&["synth", "tiny-mistral", "--quant", "f32", "-o", "folder"]).ok();
    let document = sandbox.run(&["recommend", "-m", "folder", "--json"]).json();
    let quantised: Vec<_> =
        choices(&document).iter().filter(|c| c["command"].as_str().unwrap().contains("--quantize")).collect();
    assert!(quantised.iter().any(|c| c["quant"] == "q4_0") && quantised.iter().all(|c| c["ready"] == true));
    let own =
        choices(&document).iter().find(|c| c["quant"] == "f32" && c["format"] == "safetensors").unwrap();
    assert_eq!(own["backend"], "native");

    std::fs::create_dir(sandbox.path("alone")).unwrap();
    std::fs::copy(sandbox.path("folder/config.json"), sandbox.path("alone/config.json")).unwrap();
    for given in ["alone", "alone/config.json"] {
        let document = sandbox.run(&["recommend", "-m", given, "--json"]).json();
        assert!(
            choices(&document).iter().all(|c| c["ready"] == false && c["model"] == "alone"),
            "{document:#}"
        );
        assert!(recommended(&document)["needs"].as_str().unwrap().contains("GGUF"));
        // The same shapes need the same memory, with weights or without.
        let f32 = choices(&document).iter().find(|c| c["quant"] == "f32").unwrap();
        assert_eq!(f32["weights_bytes"], own["weights_bytes"]);
    }
    let text = sandbox.run(&["recommend", "-m", "alone"]).ok().out;
    assert!(text.contains("No record of this machine") && text.contains("zonda run -m alone."), "{text}");
}

/// A name that `zonda synth` knows, and a repository whose config alone is in the Hub's own cache.
#[test]
fn a_shape_or_a_cached_config_is_enough_and_nothing_is_downloaded() {
    let sandbox = Sandbox::new();
    let document = sandbox.run(&["recommend", "-m", "mistral-7b", "--ctx", "4096", "--json"]).json();
    let q4_0 = choices(&document).iter().find(|c| c["quant"] == "q4_0").unwrap();
    assert_eq!(q4_0["kv_bytes"], 1_u64 << 29);
    assert_eq!((&q4_0["model"], &q4_0["ready"]), (&"mistral-7b".into(), &false.into()));
    // The room is the free memory of the machine and its control groups.
    let machine = &document["machine"];
    let room = machine["available_bytes"].as_u64().unwrap();
    let room = machine["cgroup_available_bytes"].as_u64().unwrap_or(room).min(room);
    for choice in choices(&document) {
        assert_eq!(choice["fits"], choice["memory_bytes"].as_u64().unwrap() <= room, "{choice}");
    }

    sandbox.run(&["synth", "tiny-mistral", "--quant", "f32", "-o", "folder"]).ok();
    let stored = sandbox.store().join("hub/org/tiny");
    std::fs::create_dir_all(&stored).unwrap();
    std::fs::copy(sandbox.path("folder/config.json"), stored.join("config.json")).unwrap();
    let document = sandbox.run(&["recommend", "-m", "org/tiny", "--json"]).json();
    assert!(choices(&document).iter().all(|c| c["model"] == "tiny" && c["ready"] == false), "{document:#}");
    assert!(recommended(&document)["command"].as_str().unwrap().contains("tiny."));
    sandbox.run(&["recommend", "-m", "org/other"]).fails(1, &["org/other", "zonda pull", "mistral-7b"]);
}

#[test]
fn models_that_do_not_fit_are_listed_but_not_recommended() {
    let sandbox = Sandbox::new();
    std::fs::create_dir(sandbox.path("huge")).unwrap();
    let config = r#"{"model_type": "llama", "hidden_size": 65536, "intermediate_size": 262144, "num_attention_heads": 512,
        "num_hidden_layers": 400, "num_key_value_heads": 64, "vocab_size": 256000, "rms_norm_eps": 1e-5,
        "max_position_embeddings": 8192, "tie_word_embeddings": false}"#;
    std::fs::write(sandbox.path("huge/config.json"), config).unwrap();
    let document = sandbox.run(&["recommend", "-m", "huge", "--json"]).json();
    for choice in choices(&document) {
        assert_eq!((&choice["fits"], &choice["recommended"]), (&false.into(), &false.into()));
        assert!(choice["why"].as_str().unwrap().contains("GiB of weights"), "{choice}");
    }
    let text = sandbox.run(&["recommend", "-m", "huge"]).ok().out;
    assert!(
        text.contains("doesn't fit: gguf in q4_0") && text.contains("Nothing can be recommended"),
        "{text}"
    );
}

/// Checks the committed record cell by cell; this needs no weights.
#[test]
fn a_record_is_compared_with_its_prediction() {
    let sandbox = Sandbox::new();
    let record = concat!(env!("CARGO_MANIFEST_DIR"), "/../../benchmarks/record/amd-epyc-zen5-2c/2026-11-24");
    let document = sandbox.run(&["recommend", "--check", record, "--json"]).json();
    let check = &document["check"];
    let cells = check["cells"].as_array().unwrap();
    assert!(cells.iter().any(|c| c["backend"] == "native") && cells.iter().all(|c| c["backend"] != "mock"));
    for cell in cells.iter().filter(|c| c["prefill"]["built_in"].is_object()) {
        let of = |key: &str| cell["prefill"]["built_in"][key].as_f64().unwrap();
        let measured = cell["prefill"]["measured"].as_f64().unwrap();
        assert!((of("tps") / measured - 1.0 - of("error")).abs() < 1e-9, "{cell}");
    }
    assert!(check["built_in"]["prefill"]["cells"].as_u64().unwrap() > 0 && check["others"].is_null());
    let text = sandbox.run(&["recommend", "--check", record]).ok().out;
    assert!(text.contains("Built-in shares: prefill off by") && text.contains("native"), "{text}");
    sandbox.run(&["recommend", "--check", "nowhere"]).fails(1, &["0 records at nowhere", "results.json"]);
    sandbox.run(&["recommend", "--check", record, "-m", "mistral-7b"]).fails(2, &["--check"]);
}

#[test]
fn mistakes_are_explained() {
    let sandbox = Sandbox::new();
    sandbox.run(&["recommend"]).fails(2, &["no model was named", "-m"]);
    sandbox.run(&["recommend", "-m", "mock"]).fails(2, &["mock"]);
    sandbox.run(&["recommend", "-m", "nowhere.gguf"]).fails(1, &["nowhere.gguf"]);
    std::fs::write(sandbox.path("config.json"), r#"{"model_type": "gpt2"}"#).unwrap();
    sandbox.run(&["recommend", "-m", "config.json"]).fails(1, &["gpt2"]);
    sandbox.run(&["synth", "tiny-mistral", "--quant", "q8_0", "-o", "tiny.gguf"]).ok();
    let given = ["recommend", "-m", "tiny.gguf", "--record", "none"];
    sandbox.run(&given).fails(1, &["no record at none", "results.json"]);
    std::fs::write(sandbox.path("bad.json"), "{}").unwrap();
    sandbox.run(&["recommend", "-m", "tiny.gguf", "--record", "bad.json"]).fails(1, &["bad.json"]);
}
