//! Arbitrary bytes as the weights of a tiny Llama.
#![no_main]

use libfuzzer_sys::fuzz_target;

mod read_all;

const CONFIG: &str = r#"{"model_type": "llama", "hidden_size": 4, "intermediate_size": 2, "num_hidden_layers": 1,
    "num_attention_heads": 2, "vocab_size": 3, "max_position_embeddings": 8}"#;

fuzz_target!(|bytes: &[u8]| {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("config.json"), CONFIG).expect("a file");
    std::fs::write(folder.path().join("model.safetensors"), bytes).expect("a file");
    read_all::read_all(folder.path());
});
