//! Targets for files: models, tokenizers, stored prompts and records.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use zonda_bench::record::results::Record;
use zonda_engine::load::{Model, ModelSpec};
use zonda_engine::mock::{Mock, MockOptions};
use zonda_engine::prompt_cache::{CacheLocation, PromptCacheConfig};
use zonda_engine::tokenize::{ChatTemplate, Encode, Tokenizer};
use zonda_engine::{Engine, EngineConfig, Extras, Prompt, Request, TextProcessor};

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

fn open(path: &Path) {
    let Ok(model) = Model::open(path) else { return };
    let _ = (model.check(), model.fingerprint(), model.weight_bytes(), model.parameters());
    for tensor in model.tensors() {
        let _ = format!("{tensor:?}");
    }
    if let Ok(Some(tokenizer)) = Tokenizer::for_model(&model) {
        encode(&tokenizer);
        let _ = ChatTemplate::for_model(&model, &tokenizer);
    }
}

/// A GGUF file: header, metadata, tensors, vocabulary, template.
pub fn gguf(data: &[u8]) {
    open(&file("model.gguf", data));
}

/// The weights of a folder whose config.json is valid.
pub fn safetensors(data: &[u8]) {
    let config = include_bytes!("../../testdata/hf/llama/config.json");
    open(&folder("safetensors", &[("config.json", config), ("model.safetensors", data)]));
}

/// A config.json.
pub fn config(data: &[u8]) {
    let _ = ModelSpec::from_config(&file("config.json", data));
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
    let engine = Engine::start_with(open, Some(TextProcessor::mock()), EngineConfig::default(), extras);
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
