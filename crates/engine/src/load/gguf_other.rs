//! The spec of a GGUF file that the forward pass of this workspace can't run, from the keys that all architectures have
//! (`llama.cpp/src/llama-model.cpp`). It says how large the model is, not what it computes.

use std::path::Path;

use super::fields::{Fields, MAX_COUNT, Prefixed};
use super::source::Store;
use super::spec::{Architecture, Extras, ModelSpec, Rope, RopePairing, RopeScaling};
use super::validate::MAX_LAYERS;
use super::{LoadError, Metadata};

/// Reads the spec. `heads * head_dim` is 0 for a model that keeps no keys and values.
pub(super) fn read(path: &Path, metadata: &Metadata, store: &Store) -> Result<ModelSpec, LoadError> {
    let general = Prefixed { path, prefix: "general", metadata };
    let architecture = general.text("architecture")?;
    let architecture = architecture.ok_or_else(|| general.missing("architecture", "a name"))?;
    let keys = Prefixed { path, prefix: architecture, metadata };

    let layers = keys.need_count("block_count", MAX_LAYERS)?;
    let hidden_size = keys.need_count("embedding_length", MAX_COUNT)?;
    let context_length = keys.need_count("context_length", MAX_COUNT)?;
    let heads = per_layer(&keys, "attention.head_count", layers)?;
    let kv_heads = match per_layer(&keys, "attention.head_count_kv", layers)? {
        found if found.is_empty() => heads.clone(),
        found => found,
    };
    let ffn_size = most(&per_layer(&keys, "feed_forward_length", layers)?);
    let heads = most(&heads);
    // Layers without attention count as 0, so that the sum is right.
    let kv_heads = kv_heads.iter().sum::<usize>().div_ceil(layers);
    let width = |key| per_layer(&keys, key, layers).map(|found| found.into_iter().max());
    let (key, value) = (width("attention.key_length")?, width("attention.value_length")?);
    let key = key.unwrap_or_else(|| hidden_size.checked_div(heads).unwrap_or(0));
    let head_dim = if kv_heads == 0 { 0 } else { (key + value.unwrap_or(key)).div_ceil(2) };
    Ok(ModelSpec {
        architecture: Architecture::Other,
        name: general.text("name")?.map(str::to_owned),
        vocab_size: vocab_size(&keys, store)?,
        context_length,
        hidden_size,
        layers,
        heads: heads.max(1),
        kv_heads: kv_heads.max(1),
        head_dim,
        ffn_size,
        norm_eps: 0.0,
        rope: Rope { theta: 1.0, pairing: RopePairing::Halves, width: None, scaling: RopeScaling::None },
        windows: vec![None; layers],
        qkv_bias: false,
        qk_norm: false,
        tied_embeddings: store.get("output.weight").is_none(),
        // How a token uses experts depends on the architecture.
        moe: None,
        extras: Extras::default(),
    })
}

/// A count for each layer, from one number or a list; empty if there is none. 0 is allowed.
fn per_layer(keys: &Prefixed<'_>, key: &str, layers: usize) -> Result<Vec<usize>, LoadError> {
    let name = keys.name(key);
    let Some(value) = keys.metadata.get(&name) else { return Ok(Vec::new()) };
    let numbers: Option<Vec<u64>> = match value.as_integers() {
        Some(list) => list.into_iter().map(|n| n.try_into().ok()).collect(),
        None => value.as_u64().map(|n| vec![n; layers]),
    };
    let numbers = numbers.filter(|list| list.len() == layers && list.iter().all(|&n| n <= MAX_COUNT));
    match numbers {
        Some(list) => Ok(list.into_iter().map(|n| n as usize).collect()),
        None => {
            let expected = format!("an integer from 0 to {MAX_COUNT}, or {layers} of them");
            Err(keys.bad(key, value.describe(), expected))
        }
    }
}

fn most(list: &[usize]) -> usize {
    list.iter().copied().max().unwrap_or(0)
}

/// The number of tokens that the file names, else the embedding's rows.
fn vocab_size(keys: &Prefixed<'_>, store: &Store) -> Result<usize, LoadError> {
    if let Some(tokens) = keys.metadata.strings("tokenizer.ggml.tokens").filter(|tokens| !tokens.is_empty()) {
        return match tokens.len() as u64 {
            found if found > MAX_COUNT => {
                Err(keys.bad("tokens", found, format!("at most {MAX_COUNT} tokens")))
            }
            found => Ok(found as usize),
        };
    }
    let rows = store.get("token_embd.weight").and_then(|stored| stored.shape.first().copied());
    match (keys.count("vocab_size", MAX_COUNT)?, rows.filter(|&rows| rows as u64 <= MAX_COUNT)) {
        (Some(found), _) | (None, Some(found)) => Ok(found),
        (None, None) => Err(keys.missing("vocab_size", "the number of tokens")),
    }
}
