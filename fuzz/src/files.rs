//! Targets for files: models, tokenizers, stored prompts and records.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use zonda_bench::record::results::Record;
use zonda_engine::load::{Model, first_non_finite};
use zonda_engine::mock::{Mock, MockOptions};
use zonda_engine::prompt_cache::{CacheLocation, PromptCacheConfig};
use zonda_engine::tokenize::{ChatTemplate, Encode, Tokenizer};
use zonda_engine::{Engine, EngineConfig, Extras, Prompt, Request};

/// Texts that reach special tokens, merges, bytes and characters of several bytes.
const TEXTS: [&str; 3] = ["", "Hello, wörld! <|im_end|> 1234\n\n  x", "日本語 🦀\u{0}\u{7f}é"];

thread_local! {
    static FOLDER: OnceCell<TempDir> = const { OnceCell::new() };
}

/// A path in a folder of this thread.
fn path(name: &str) -> PathBuf {
    FOLDER.with(|folder| {
        folder.get_or_init(|| tempfile::tempdir().expect("a temporary folder")).path().join(name)
    })
}

/// A file of this name with this content.
fn file(name: &str, data: &[u8]) -> PathBuf {
    let path = path(name);
    std::fs::write(&path, data).expect("a temporary file");
    path
}

/// A folder that holds only these files.
fn folder(name: &str, files: &[(&str, &[u8])]) -> PathBuf {
    let path = path(name);
    std::fs::create_dir_all(&path).expect("a temporary folder");
    for (name, data) in files {
        std::fs::write(path.join(name), data).expect("a temporary file");
    }
    path
}

fn encode(tokenizer: &Tokenizer) {
    for text in TEXTS {
        for parse_special in [false, true] {
            if let Ok(ids) = tokenizer.encode(text, Encode { add_bos: true, parse_special }) {
                let _ = tokenizer.decode(&ids, false);
            }
        }
    }
}

/// Opens a model and reads all of it, its tokenizer and template included. Damaged files must give errors whose messages can be
/// formatted.
fn open(path: &Path) {
    let result = Model::open(path).and_then(|model| {
        let _ = (model.tensors(), model.parameters(), model.types(), model.type_label(), model.fingerprint());
        let _ = model.memory(model.spec.context_length, 2);
        if let Ok(Some(tokenizer)) = Tokenizer::for_model(&model) {
            encode(&tokenizer);
            let _ = ChatTemplate::for_model(&model, &tokenizer);
        }
        for role in model.spec.roles() {
            let tensor = model.tensor(role)?;
            first_non_finite(&tensor);
            tensor.to_f32();
        }
        Ok(())
    });
    if let Err(error) = result {
        assert!(!error.to_string().is_empty());
    }
}

/// A GGUF file: header, metadata, tensors, vocabulary, template.
pub fn gguf(data: &[u8]) {
    open(&file("model.gguf", data));
}

/// The configuration of a tiny Llama.
const CONFIG: &[u8] =
    br#"{"model_type": "llama", "hidden_size": 4, "intermediate_size": 2, "num_hidden_layers": 1,
    "num_attention_heads": 2, "vocab_size": 3, "max_position_embeddings": 8}"#;

/// The weights of a tiny Llama.
pub fn safetensors(data: &[u8]) {
    open(&folder("safetensors", &[("config.json", CONFIG), ("model.safetensors", data)]));
}

/// An empty SafeTensors file: a header of two bytes, `{}`.
const EMPTY: &[u8] = b"\x02\0\0\0\0\0\0\0{}";

/// The config.json of a folder without weights.
pub fn config(data: &[u8]) {
    open(&folder("config", &[("config.json", data), ("model.safetensors", EMPTY)]));
}

/// Hugging Face's tokenizer.json.
pub fn tokenizer_json(data: &[u8]) {
    if let Ok(tokenizer) = Tokenizer::from_file(&file("tokenizer.json", data)) {
        encode(&tokenizer);
    }
}

/// Mistral's tekken.json.
pub fn tekken(data: &[u8]) {
    if let Ok(tokenizer) = Tokenizer::from_file(&file("tekken.json", data)) {
        encode(&tokenizer);
    }
}

/// A SentencePiece model.
pub fn sentencepiece(data: &[u8]) {
    if let Ok(tokenizer) = Tokenizer::from_file(&file("tokenizer.model", data)) {
        encode(&tokenizer);
    }
}

/// A stored prompt, which an engine reads at its start and when a request begins.
pub fn prompt_cache(data: &[u8]) {
    let location = CacheLocation::File(file("prompt.kv", data));
    let prompts = Some(PromptCacheConfig { location, model: "fuzz".to_owned() });
    let open = || Ok(Box::new(Mock::new(MockOptions::default())) as _);
    let extras = Extras { prompts, ..Extras::default() };
    let engine = Engine::start_with(open, None, EngineConfig::default(), extras);
    let request = Request::new(Prompt::Tokens((1..100).collect()), 1);
    if let Ok(engine) = engine
        && let Ok(generation) = engine.submit(request)
    {
        let _ = generation.wait();
    }
}

/// A results.json of the bench.
pub fn results(data: &[u8]) {
    let Ok(record) = serde_json::from_slice::<Record>(data) else { return };
    let _ = zonda_bench::report::json::to_string(&record);
}
