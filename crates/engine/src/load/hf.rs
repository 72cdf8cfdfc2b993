//! From a Hugging Face `config.json` to a [`ModelSpec`], with `transformers`' defaults where a key is absent.

use std::path::Path;

use serde_json::Value as Json;

use super::LoadError;
use super::affine::Quantization;
use super::fields::{Fields, MAX_COUNT, Object};
use super::hf_rope;
use super::source::read_small;
use super::spec::{Architecture, ModelSpec, Moe, Rope, RopePairing};
use super::validate::{MAX_EXPERTS, MAX_LAYERS, Names, derived_head_dim, validate};

/// Supported values of `model_type`, for messages.
const RUNS: &str = "llama (with SmolLM2), mistral, mixtral, qwen2, qwen3, qwen3_moe";
/// Maximum size of `config.json`; real ones have a few kilobytes.
const MAX_CONFIG_BYTES: u64 = 1 << 20;

const NAMES: Names = Names {
    heads: "num_attention_heads",
    kv_heads: "num_key_value_heads",
    head_dim: "head_dim",
    experts_used: "num_experts_per_tok",
    norm_eps: "rms_norm_eps",
    theta: "rope_theta",
};

/// `transformers`' defaults for keys missing from a `config.json`.
struct Defaults {
    architecture: Architecture,
    class: &'static str,
    /// `None`: as many as query heads.
    kv_heads: Option<usize>,
    /// `None`: the hidden size divided among the heads.
    head_dim: Option<usize>,
    norm_eps: f64,
    theta: f64,
    window: Option<usize>,
}

fn defaults(model_type: &str) -> Option<Defaults> {
    use Architecture::*;
    let (architecture, class, kv_heads) = match model_type {
        "llama" => (Llama, "LlamaForCausalLM", None),
        "mistral" => (Mistral, "MistralForCausalLM", Some(8)),
        "mixtral" => (Mixtral, "MixtralForCausalLM", Some(8)),
        "qwen2" => (Qwen2, "Qwen2ForCausalLM", Some(32)),
        "qwen3" => (Qwen3, "Qwen3ForCausalLM", Some(32)),
        "qwen3_moe" => (Qwen3Moe, "Qwen3MoeForCausalLM", Some(4)),
        _ => return None,
    };
    Some(Defaults {
        architecture,
        class,
        kv_heads,
        head_dim: (architecture == Qwen3).then_some(128),
        norm_eps: if architecture == Mixtral { 1e-5 } else { 1e-6 },
        theta: if architecture == Mixtral { 1e6 } else { 1e4 },
        window: matches!(architecture, Mistral | Qwen2 | Qwen3 | Qwen3Moe).then_some(4096),
    })
}

/// Reads the spec from a `config.json`, and MLX's quantisation if there is one. The tensors may still change whether embeddings
/// are tied.
pub(super) fn read(path: &Path) -> Result<(ModelSpec, Option<Quantization>), LoadError> {
    let bytes = read_small(path, "a configuration", MAX_CONFIG_BYTES)?;
    let object =
        serde_json::from_slice(&bytes).map_err(|error| LoadError::Json { path: path.to_owned(), error })?;
    let config = Object { path, prefix: "", object: &object };
    Ok((parse(path, &config)?, Quantization::read(&config)?))
}

impl ModelSpec {
    /// The spec described by a Hugging Face `config.json`, without weights: enough to compute what a model will need.
    ///
    /// # Errors
    /// If it can't be read or the model is not supported.
    pub fn from_config(path: &Path) -> Result<ModelSpec, LoadError> {
        read(path).map(|(spec, _)| spec)
    }
}

/// Whether the weights are quantised by MLX, according to a `config.json`.
pub(super) fn says_mlx(path: &Path) -> bool {
    let bytes = read_small(path, "a configuration", MAX_CONFIG_BYTES).unwrap_or_default();
    let config: Json = serde_json::from_slice(&bytes).unwrap_or_default();
    config["quantization"].is_object()
}

fn parse(path: &Path, config: &Object<'_>) -> Result<ModelSpec, LoadError> {
    let model_type = config.text("model_type")?.ok_or_else(|| config.missing("model_type", RUNS))?;
    let defaults = defaults(model_type).ok_or_else(|| LoadError::UnsupportedArchitecture {
        path: path.to_owned(),
        found: model_type.to_owned(),
        runs: RUNS,
    })?;
    refuse_other_functions(config, &defaults)?;

    let layers = config.need_count("num_hidden_layers", MAX_LAYERS)?;
    let hidden_size = config.need_count("hidden_size", MAX_COUNT)?;
    let heads = config.need_count(NAMES.heads, MAX_COUNT)?;
    let head_dim = match config.count(NAMES.head_dim, MAX_COUNT)?.or(defaults.head_dim) {
        Some(n) => n,
        None => derived_head_dim(config, NAMES.heads, hidden_size, heads)?,
    };
    let context_length = config.need_count("max_position_embeddings", MAX_COUNT)?;
    let (theta, scaling) = hf_rope::read(config, defaults.theta, context_length)?;
    let architecture = defaults.architecture;
    let spec = ModelSpec {
        architecture,
        name: name(config),
        vocab_size: config.need_count("vocab_size", MAX_COUNT)?,
        context_length,
        hidden_size,
        layers,
        heads,
        kv_heads: config.count(NAMES.kv_heads, MAX_COUNT)?.or(defaults.kv_heads).unwrap_or(heads),
        head_dim,
        ffn_size: config.need_count("intermediate_size", MAX_COUNT)?,
        norm_eps: config.positive(NAMES.norm_eps)?.unwrap_or(defaults.norm_eps) as f32,
        rope: Rope { theta, pairing: RopePairing::Halves, scaling },
        windows: windows(config, &defaults, layers)?,
        qkv_bias: architecture == Architecture::Qwen2,
        qk_norm: matches!(architecture, Architecture::Qwen3 | Architecture::Qwen3Moe),
        tied_embeddings: config.flag("tie_word_embeddings")?.unwrap_or(false),
        moe: moe(config, architecture)?,
    };
    validate(config, &NAMES, &spec)?;
    Ok(spec)
}

/// Rejects options that change the computation and that the forward pass lacks, and other kinds of quantisation.
fn refuse_other_functions(config: &Object<'_>, defaults: &Defaults) -> Result<(), LoadError> {
    // MLX repeats its own key `quantization` as `quantization_config`.
    let quantized = config.child("quantization_config", "quantization_config.")?;
    if let Some(quantization) = quantized.filter(|_| config.json("quantization").is_none()) {
        return Err(LoadError::UnsupportedQuantization {
            path: config.path.to_owned(),
            found: quantization.text("quant_method")?.unwrap_or("an unnamed method").to_owned(),
            instead: "use the original F32, F16 or BF16 checkpoint, or a GGUF file of it",
        });
    }
    if let Some(classes) = config.json("architectures") {
        let named = classes.as_array().and_then(|list| list.first()).and_then(Json::as_str);
        if named != Some(defaults.class) {
            let found = named.unwrap_or("something else");
            return Err(config.bad("architectures", found, format!("[{:?}]", defaults.class)));
        }
    }
    if let Some(found) = config.text("hidden_act")?.filter(|&act| act != "silu") {
        return Err(config.unsupported("hidden_act", format!("{found:?}"), "\"silu\" is run"));
    }
    for key in ["attention_bias", "mlp_bias"] {
        // Qwen2 has biases on Q, K and V and no such key.
        if config.flag(key)? == Some(true) {
            return Err(config.unsupported(key, true, "models without these biases are run"));
        }
    }
    Ok(())
}

/// A Hub name, if the file has one; not the folder of whoever trained the model.
fn name(config: &Object<'_>) -> Option<String> {
    let name = config.json("_name_or_path")?.as_str()?;
    let hub = name.split('/').count() == 2 && !name.starts_with(['/', '.', '~']);
    hub.then(|| name.to_owned())
}

fn windows(config: &Object<'_>, defaults: &Defaults, layers: usize) -> Result<Vec<Option<usize>>, LoadError> {
    let architecture = defaults.architecture;
    let window = match config.object.get("sliding_window") {
        None => defaults.window,
        Some(_) => config.count("sliding_window", MAX_COUNT)?,
    };
    match architecture {
        // `transformers` ignores the key here.
        Architecture::Llama => Ok(vec![None; layers]),
        Architecture::Mistral | Architecture::Mixtral => {
            let window = layer_types(config, layers)?.map_or(Ok(window), |types| match types.as_slice() {
                types if types.iter().all(|&slides| slides == window.is_some()) => Ok(window),
                _ => Err(config.unsupported(
                    "layer_types",
                    "a pattern at odds with sliding_window",
                    "mistral and mixtral use sliding_window in every layer",
                )),
            })?;
            Ok(vec![window; layers])
        }
        _ => {
            let slides = config.flag("use_sliding_window")?.unwrap_or(false);
            let window = window.filter(|_| slides);
            if architecture == Architecture::Qwen3Moe {
                return Ok(vec![window; layers]);
            }
            if let Some(types) = layer_types(config, layers)? {
                return Ok(types.into_iter().map(|slides| window.filter(|_| slides)).collect());
            }
            let full = match config.object.get("max_window_layers") {
                None => 28,
                // Zero is a number of layers, too.
                Some(Json::Number(n)) if n.as_u64() == Some(0) => 0,
                Some(_) => config.need_count("max_window_layers", MAX_COUNT)?,
            };
            Ok((0..layers).map(|layer| window.filter(|_| layer >= full)).collect())
        }
    }
}

/// Per layer, whether `layer_types` says it slides.
fn layer_types(config: &Object<'_>, layers: usize) -> Result<Option<Vec<bool>>, LoadError> {
    const KEY: &str = "layer_types";
    let Some(json) = config.json(KEY) else { return Ok(None) };
    let expected = format!("an array of {layers} strings, full_attention or sliding_attention");
    let list = json.as_array().filter(|list| list.len() == layers);
    let Some(list) = list else {
        let found = json.as_array().map_or("not an array".into(), |l| format!("an array of {}", l.len()));
        return Err(config.bad(KEY, found, expected));
    };
    list.iter()
        .map(|kind| match kind.as_str() {
            Some("full_attention") => Ok(false),
            Some("sliding_attention") => Ok(true),
            _ => Err(config.bad(KEY, format!("an array with {kind}"), expected.clone())),
        })
        .collect::<Result<_, _>>()
        .map(Some)
}

fn moe(config: &Object<'_>, architecture: Architecture) -> Result<Option<Moe>, LoadError> {
    let experts = || match config.count("num_local_experts", MAX_EXPERTS)? {
        Some(n) => Ok(n),
        None => config.need_count("num_experts", MAX_EXPERTS),
    };
    match architecture {
        Architecture::Mixtral => Ok(Some(Moe {
            experts: experts()?,
            used: config.need_count(NAMES.experts_used, MAX_EXPERTS)?,
            ffn_size: config.need_count("intermediate_size", MAX_COUNT)?,
            normalize: true,
        })),
        Architecture::Qwen3Moe => {
            let step = config.count("decoder_sparse_step", MAX_COUNT)?.unwrap_or(1);
            let dense =
                config.json("mlp_only_layers").is_some_and(|l| l.as_array().is_none_or(|l| !l.is_empty()));
            if step != 1 || dense {
                let key = if dense { "mlp_only_layers" } else { "decoder_sparse_step" };
                let found = config.json(key).map_or_else(String::new, Json::to_string);
                return Err(config.unsupported(key, found, "models with experts in every layer are run"));
            }
            Ok(Some(Moe {
                experts: experts()?,
                used: config.need_count(NAMES.experts_used, MAX_EXPERTS)?,
                ffn_size: config.need_count("moe_intermediate_size", MAX_COUNT)?,
                normalize: config.flag("norm_topk_prob")?.unwrap_or(false),
            }))
        }
        _ => Ok(None),
    }
}
