//! GGUF files that the forward pass lacks something for open for backends with a forward pass of their own.

use crate::build;
use std::path::{Path, PathBuf};
use zonda_engine::load::{Architecture, LoadError, Metadata, Model, TensorRole, Value};
use zonda_testkit::foreign::{RECURRENT, TRANSFORMERS, bare, foreign};
use zonda_testkit::rules::tiny;

fn like(dir: &Path) -> Model {
    tiny("tiny-llama", "f32".parse().unwrap(), dir)
}

fn refused(path: &Path) -> String {
    Model::open(path).unwrap_err().to_string()
}

#[test]
fn an_unknown_architecture_opens_with_its_sizes_and_why_it_is_unsupported() {
    let dir = tempfile::tempdir().unwrap();
    let like = like(dir.path());
    for architecture in TRANSFORMERS.iter().chain(&RECURRENT) {
        let path = foreign(architecture, &like.metadata, dir.path());
        let why = refused(&path);
        let model = Model::open_any(&path).unwrap();
        assert_eq!(model.unsupported(), Some(why.as_str()));
        let spec = &model.spec;
        assert_eq!((spec.architecture, spec.vocab_size), (Architecture::Other, like.spec.vocab_size));
        assert_eq!((spec.layers, spec.hidden_size, spec.context_length), (2, 64, 512));
        // Keys and values of f16: falcon has one KV head of 16, starcoder2 two, and the others four.
        let kv_bytes = match *architecture {
            "falcon" => 2 * 2 * 16 * 2,
            "starcoder2" => 2 * 2 * 2 * 16 * 2,
            "gpt2" | "stablelm" => 2 * 2 * 4 * 16 * 2,
            _ => 0,
        };
        assert_eq!(spec.kv_bytes_per_token(2), kv_bytes, "{architecture}");
        assert!(model.parameters() > 60_000 && model.weight_bytes() > 240_000, "{architecture}");
        // Nothing takes its tensors for those of another architecture.
        assert!(matches!(model.check(), Err(LoadError::OtherForward { .. })));
        assert_eq!(model.tensor(TensorRole::TokenEmbedding).unwrap_err().to_string(), why);
    }
}

/// A file of an architecture that is run, with an option that is not.
#[test]
fn an_option_that_is_not_run_opens_too() {
    let dir = tempfile::tempdir().unwrap();
    let like = like(dir.path());
    assert_eq!(Model::open_any(&like.path).unwrap().unsupported(), None);
    let path = changed("llama", &like.metadata, dir.path(), "attention.clamp_kqv", Value::F32(8.0));
    assert!(refused(&path).contains("clamp_kqv"));
    assert!(Model::open_any(&path).unwrap().unsupported().unwrap().contains("clamp_kqv"));
}

/// [`bare`] with a changed key under the architecture's prefix.
fn changed(architecture: &str, tokenizer: &Metadata, dir: &Path, key: &str, value: Value) -> PathBuf {
    let mut metadata = tokenizer.clone();
    metadata.0.insert(format!("{architecture}.{key}"), value);
    bare(architecture, &metadata, dir)
}

#[test]
fn layers_may_differ_in_their_heads() {
    let dir = tempfile::tempdir().unwrap();
    let like = like(dir.path());
    let heads = Value::Ints(vec![0, 2]);
    let path = changed("jamba", &like.metadata, dir.path(), "attention.head_count_kv", heads);
    // One layer of two with two KV heads of 16
    assert_eq!(Model::open_any(&path).unwrap().spec.kv_bytes_per_token(2), 2 * 2 * 16 * 2);
}

#[test]
fn malformed_sizes_are_errors_that_name_the_key() {
    let dir = tempfile::tempdir().unwrap();
    let like = like(dir.path());
    for (key, value) in [
        ("block_count", Value::U32(0)),
        ("block_count", Value::U32(1 << 20)),
        ("embedding_length", Value::U64(u64::MAX)),
        ("context_length", Value::String("long".into())),
        ("attention.head_count_kv", Value::Ints(vec![1, 2, 3])),
        ("attention.head_count_kv", Value::Ints(vec![1, -2])),
        ("attention.key_length", Value::U64(u64::MAX)),
        ("feed_forward_length", Value::Array(vec![Value::F32(1.0), Value::F32(2.0)])),
    ] {
        let path = changed("falcon", &like.metadata, dir.path(), key, value.clone());
        let error = Model::open_any(&path).unwrap_err().to_string();
        assert!(error.contains(&format!("falcon.{key} is")), "{value:?}: {error}");
    }
}

/// The count is that of the file's tensors, whatever their types: the spec says nothing of experts and other tensors.
#[test]
fn parameters_are_those_of_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let parameters = |g: &build::Gguf| Model::open_any(&g.write(dir.path(), "m.gguf")).unwrap().parameters();
    let file = build::tiny("falcon");
    // 4 rows of two blocks in IQ4_NL, of 18 bytes each
    let with_another = file.clone().filled("blk.0.extra.weight", &[4, 64], 20, vec![0; 4 * 2 * 18]);
    assert_eq!(parameters(&with_another), parameters(&file) + 4 * 64);
}
