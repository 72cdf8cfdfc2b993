//! From a Hugging Face `config.json` to a [`ModelSpec`], with `transformers`' defaults where a key is absent.

use std::path::Path;

use serde_json::Value as Json;

use super::LoadError;
use super::affine::Quantization;
use super::fields::{Fields, MAX_COUNT, Object};
use super::float8::Float8;
use super::hf_extras::{self, Shapes, TextPart};
use super::moe::{Moe, SharedExpert};
use super::source::read_small;
use super::spec::{Architecture, ModelSpec};
use super::validate::{MAX_EXPERTS, MAX_LAYERS, Names, derived_head_dim, validate};
use super::{hf_mla, hf_moe};

/// Supported values of `model_type`, for messages.
const RUNS: &str = "llama (with SmolLM2), mistral, mixtral, qwen2, qwen3, qwen2_moe, qwen3_moe, ministral3, gemma2, gemma3 and \
                    gemma3_text, granite, granitemoe, granitemoeshared, granitemoehybrid (of attention layers), smollm3, \
                    olmo2, olmo3, cohere2, phi3, glm, glm4, glm4_moe, deepseek_v2, deepseek_v3, gpt_oss, llama4 and llama4_text, mistral3 (with \
                    mistral4)";
/// Maximum size of `config.json`; real ones have a few kilobytes.
const MAX_CONFIG_BYTES: u64 = 1 << 20;

const NAMES: Names = Names {
    heads: "num_attention_heads",
    kv_heads: "num_key_value_heads",
    head_dim: "head_dim",
    experts_used: "num_experts_per_tok",
    groups: "n_group",
    groups_used: "topk_group",
    norm_eps: "rms_norm_eps",
    theta: "rope_theta",
};

/// `transformers`' defaults for keys missing from a `config.json`.
struct Defaults {
    architecture: Architecture,
    /// `None`: the file must have it.
    vocab: Option<usize>,
    context: Option<usize>,
    heads: Option<usize>,
    /// `None`: as many as query heads.
    kv_heads: Option<usize>,
    /// `None`: the hidden size divided among the heads.
    head_dim: Option<usize>,
    norm_eps: f64,
    theta: f64,
    window: Option<usize>,
    /// Every n-th layer has no window.
    full_every: usize,
    tied: bool,
}

fn defaults(model_type: &str) -> Option<Defaults> {
    use Architecture::*;
    let architecture = Architecture::of_model_type(model_type)?;
    let windowed = matches!(
        architecture,
        Mistral | Qwen2 | Qwen3 | Qwen2Moe | Qwen3Moe | Gemma2 | Gemma3 | Olmo3 | Cohere2 | GptOss | Llama4
    );
    let gemma3 = architecture == Gemma3;
    Some(Defaults {
        architecture,
        vocab: gemma3.then_some(262_208),
        context: matches!(architecture, Gemma3 | Glm | Glm4).then_some(131_072),
        heads: gemma3.then_some(8),
        kv_heads: match architecture {
            Mistral | Mixtral | Ministral3 | GptOss | Llama4 => Some(8),
            Qwen2 | Qwen3 => Some(32),
            Qwen2Moe => Some(16),
            Qwen3Moe | Gemma2 | Gemma3 | SmolLm3 => Some(4),
            Glm | Glm4 => Some(2),
            DeepSeekV2 | DeepSeekV3 | Mistral4 => Some(1),
            Glm4Moe => Some(8),
            Llama | Olmo2 | Olmo3 | Cohere2 | Phi3 | Other => None,
            Granite | GraniteMoe | GraniteMoeShared | GraniteMoeHybrid => None,
        },
        head_dim: match architecture {
            Qwen3 | Ministral3 | Glm | Glm4 | Llama4 => Some(128),
            Gemma2 | Gemma3 => Some(256),
            GptOss => Some(64),
            _ => None,
        },
        norm_eps: match architecture {
            Mixtral | Ministral3 | Olmo2 | Olmo3 | Cohere2 | Phi3 | Glm4Moe | GptOss | Llama4 => 1e-5,
            Glm | Glm4 => 1.5625e-7,
            _ => 1e-6,
        },
        theta: match architecture {
            Mixtral | Gemma3 | Ministral3 => 1e6,
            SmolLm3 => 2e6,
            Olmo3 | Llama4 => 5e5,
            GptOss => 1.5e5,
            _ => 1e4,
        },
        window: windowed.then_some(match architecture {
            GptOss => 128,
            Llama4 => 8192,
            _ => 4096,
        }),
        full_every: match architecture {
            Gemma2 | GptOss => 2,
            Gemma3 => 6,
            _ => 4,
        },
        tied: matches!(architecture, Gemma2 | Gemma3 | SmolLm3 | Cohere2),
    })
}

/// What a `config.json` says.
#[derive(Clone)]
pub(super) struct Config {
    /// The tensors may still change whether embeddings are tied.
    pub spec: ModelSpec,
    /// MLX's.
    pub quantization: Option<Quantization>,
    /// Of one-byte floats.
    pub float8: Option<Float8>,
}

/// Reads a `config.json`.
pub(super) fn read(path: &Path) -> Result<Config, LoadError> {
    let bytes = read_small(path, "a configuration", MAX_CONFIG_BYTES)?;
    let object =
        serde_json::from_slice(&bytes).map_err(|error| LoadError::Json { path: path.to_owned(), error })?;
    let config = Object { path, prefix: "", object: &object };
    let float8 = float8(&config)?;
    let spec = match hf_extras::text_part(&config)? {
        None => parse(path, &config, None)?,
        Some(part) => {
            let tied = config.flag("tie_word_embeddings")?;
            let mut spec = parse(path, &part.config, Some(&part))?;
            let own = part.config.flag("tie_word_embeddings")?;
            spec.tied_embeddings = own.or(tied).unwrap_or(spec.tied_embeddings);
            check_class(&config, part.class)?;
            spec
        }
    };
    Ok(Config { spec, quantization: Quantization::read(&config)?, float8 })
}

impl ModelSpec {
    /// The spec described by a Hugging Face `config.json`, without weights: enough to compute the model's cost and
    /// memory.
    ///
    /// # Errors
    /// If it can't be read or the model is not supported.
    pub fn from_config(path: &Path) -> Result<ModelSpec, LoadError> {
        read(path).map(|config| config.spec)
    }
}

/// Whether the weights are quantised by MLX, according to a `config.json`.
pub(super) fn says_mlx(path: &Path) -> bool {
    let bytes = read_small(path, "a configuration", MAX_CONFIG_BYTES).unwrap_or_default();
    let config: Json = serde_json::from_slice(&bytes).unwrap_or_default();
    config["quantization"].is_object()
}

/// `part`: set for the text part of a model with several parts.
pub(super) fn parse(
    path: &Path,
    config: &Object<'_>,
    part: Option<&TextPart<'_>>,
) -> Result<ModelSpec, LoadError> {
    let model_type = config.text("model_type")?.or(part.map(|part| part.model_type));
    let model_type = model_type.ok_or_else(|| config.missing("model_type", RUNS))?;
    let defaults = defaults(model_type).ok_or_else(|| LoadError::UnsupportedArchitecture {
        path: path.to_owned(),
        found: model_type.to_owned(),
        runs: RUNS,
    })?;
    if part.is_none() {
        check_class(config, defaults.architecture.class())?;
    }
    refuse_other_functions(config, &defaults)?;
    let names = Names {
        norm_eps: if defaults.architecture == Architecture::Cohere2 {
            "layer_norm_eps"
        } else {
            NAMES.norm_eps
        },
        ..NAMES
    };
    let need = |key: &str, default: Option<usize>| match default {
        Some(n) => Ok(config.count(key, MAX_COUNT)?.unwrap_or(n)),
        None => config.need_count(key, MAX_COUNT),
    };

    let layers = config.need_count("num_hidden_layers", MAX_LAYERS)?;
    let hidden_size = config.need_count("hidden_size", MAX_COUNT)?;
    let heads = need(NAMES.heads, defaults.heads)?;
    let mla = hf_mla::read(config, defaults.architecture)?;
    // `transformers` derives these from the others where they are null, whatever the default is
    let given = |key: &str, default: Option<usize>| match config.object.get(key) {
        None => Ok(default),
        Some(_) => config.count(key, MAX_COUNT),
    };
    let head_dim = match (&mla, given(NAMES.head_dim, defaults.head_dim)?) {
        (Some(mla), _) => mla.key(),
        (None, Some(n)) => n,
        (None, None) => derived_head_dim(config, NAMES.heads, hidden_size, heads)?,
    };
    let context_length = need("max_position_embeddings", defaults.context)?;
    let architecture = defaults.architecture;
    let (rope, window_rope) =
        hf_extras::ropes(config, architecture, mla.as_ref(), defaults.theta, (context_length, head_dim))?;
    let windows = windows(config, &defaults, layers)?;
    let shapes = Shapes { hidden: hidden_size, head_dim, windows: &windows };
    let mut extras = hf_extras::read(config, architecture, &shapes, window_rope)?;
    let mut kv_heads = given(NAMES.kv_heads, defaults.kv_heads)?.unwrap_or(heads);
    if let Some(mla) = mla {
        extras.attention_scale = Some(hf_mla::score_scale(config, &mla, &rope.scaling)?);
        extras.mla = Some(mla);
        kv_heads = 1;
    }
    let glm = architecture == Architecture::Glm4Moe;
    let spec = ModelSpec {
        architecture,
        name: name(config),
        vocab_size: need("vocab_size", defaults.vocab)?,
        context_length,
        hidden_size,
        layers,
        heads,
        kv_heads,
        head_dim,
        ffn_size: config.need_count(ffn_key(architecture), MAX_COUNT)?,
        norm_eps: config.positive(names.norm_eps)?.unwrap_or(defaults.norm_eps) as f32,
        rope,
        windows,
        qkv_bias: match architecture.qkv_bias_by_key() {
            Some(default) => config.flag("attention_bias")?.unwrap_or(default),
            None => architecture.qkv_bias(),
        },
        qk_norm: architecture.qk_norm() || glm && config.flag("use_qk_norm")?.unwrap_or(false),
        tied_embeddings: config.flag("tie_word_embeddings")?.unwrap_or(defaults.tied),
        moe: match architecture {
            _ if architecture.latent() || glm => Some(hf_moe::read(config, architecture, layers)?),
            _ => moe(config, architecture)?,
        },
        extras,
    };
    validate(config, &names, &spec)?;
    Ok(spec)
}

/// The quantisation to one-byte floats, if there is one. Rejects others than that, MLX's and gpt-oss's own.
fn float8(config: &Object<'_>) -> Result<Option<Float8>, LoadError> {
    // MLX repeats its own key `quantization` as `quantization_config`.
    let quantized = config.child("quantization_config", "quantization_config.")?;
    match quantized.filter(|_| config.json("quantization").is_none()) {
        None => Ok(None),
        Some(quantization) if quantization.text("quant_method")? == Some("fp8") => {
            Float8::read(&quantization).map(Some)
        }
        Some(quantization)
            if quantization.text("quant_method")? == Some("mxfp4")
                && config.text("model_type")? == Some("gpt_oss") =>
        {
            Ok(None)
        }
        Some(quantization) => Err(LoadError::UnsupportedQuantization {
            path: config.path.to_owned(),
            found: quantization.text("quant_method")?.unwrap_or("an unnamed method").to_owned(),
            instead: "use the original F32, F16 or BF16 checkpoint, or a GGUF file of it",
        }),
    }
}

/// Rejects a model of another class.
fn check_class(config: &Object<'_>, class: &str) -> Result<(), LoadError> {
    let Some(classes) = config.json("architectures") else { return Ok(()) };
    match classes.as_array().and_then(|list| list.first()).and_then(Json::as_str) {
        Some(named) if named == class => Ok(()),
        named => {
            let found = named.unwrap_or("something else");
            Err(config.bad("architectures", found, format!("[{class:?}]")))
        }
    }
}

/// Rejects options that change the computation and that the forward pass lacks.
fn refuse_other_functions(config: &Object<'_>, defaults: &Defaults) -> Result<(), LoadError> {
    // Gemma has its own key; under the usual key, some of its files name another function, which is not used.
    let (key, runs) = match defaults.architecture {
        Architecture::Gemma2 | Architecture::Gemma3 => ("hidden_activation", "gelu_pytorch_tanh"),
        _ => ("hidden_act", "silu"),
    };
    if let Some(found) = config.text(key)?.filter(|&act| act != runs) {
        return Err(config.unsupported(key, format!("{found:?}"), format!("only {runs:?} is supported")));
    }
    if config.flag("use_bidirectional_attention")? == Some(true) {
        return Err(config.unsupported(
            "use_bidirectional_attention",
            true,
            "only causal models are supported",
        ));
    }
    if let Some(found) = config.flag("qkv_bias")?.filter(|&has| !has) {
        return Err(config.unsupported("qkv_bias", found, "only models with these biases are supported"));
    }
    let gpt_oss = defaults.architecture == Architecture::GptOss;
    if gpt_oss && config.flag("attention_bias")? == Some(false) {
        return Err(config.unsupported("attention_bias", false, "gpt_oss with these biases is run"));
    }
    for key in ["attention_bias", "mlp_bias"] {
        // Qwen2 has biases on Q, K and V, and no such key. GLM has none on the output projection.
        let has = gpt_oss || defaults.architecture.qkv_bias_by_key().is_some();
        if config.flag(key)? == Some(true) && !(has && key == "attention_bias") {
            return Err(config.unsupported(key, true, "only models without these biases are supported"));
        }
    }
    Ok(())
}

/// The Hub name in the file, if there is one; the name of a local training folder is ignored.
fn name(config: &Object<'_>) -> Option<String> {
    let name = config.json("_name_or_path")?.as_str()?;
    let hub = name.split('/').count() == 2 && !name.starts_with(['/', '.', '~']);
    hub.then(|| name.to_owned())
}

fn windows(config: &Object<'_>, defaults: &Defaults, layers: usize) -> Result<Vec<Option<usize>>, LoadError> {
    let architecture = defaults.architecture;
    let key = if architecture == Architecture::Llama4 { "attention_chunk_size" } else { "sliding_window" };
    let window = match config.object.get(key) {
        None => defaults.window,
        // `transformers` writes 0 for Qwen2-MoE without windows
        Some(json) if architecture == Architecture::Qwen2Moe && json.as_u64() == Some(0) => None,
        Some(_) => config.count(key, MAX_COUNT)?,
    };
    match architecture {
        Architecture::Llama4 => {
            let no_rope = hf_extras::no_rope(config, layers)?;
            let chunks = match layer_types(config, layers, "chunked_attention")? {
                Some(types) => types,
                None => (0..layers).map(|l| !no_rope.contains(&l)).collect(),
            };
            Ok(chunks.into_iter().map(|chunked| window.filter(|_| chunked)).collect())
        }
        // `transformers` ignores the key here.
        Architecture::Llama
        | Architecture::Olmo2
        | Architecture::DeepSeekV2
        | Architecture::DeepSeekV3
        | Architecture::Mistral4
        | Architecture::Glm
        | Architecture::Glm4
        | Architecture::Glm4Moe => Ok(vec![None; layers]),
        granite if granite.granite() => Ok(vec![None; layers]),
        Architecture::Gemma2
        | Architecture::Gemma3
        | Architecture::Olmo3
        | Architecture::Cohere2
        | Architecture::GptOss => {
            let slides = match layer_types(config, layers, "sliding_attention")? {
                Some(types) => types,
                None => {
                    let every =
                        config.count("sliding_window_pattern", MAX_COUNT)?.unwrap_or(defaults.full_every);
                    (0..layers).map(|l| (l + 1) % every != 0).collect()
                }
            };
            Ok(slides.into_iter().map(|slides| window.filter(|_| slides)).collect())
        }
        Architecture::Mistral | Architecture::Mixtral | Architecture::Ministral3 | Architecture::Phi3 => {
            let types = layer_types(config, layers, "sliding_attention")?;
            let window = types.map_or(Ok(window), |types| match types.as_slice() {
                types if types.iter().all(|&slides| slides == window.is_some()) => Ok(window),
                _ => Err(config.unsupported(
                    "layer_types",
                    "a pattern at odds with sliding_window",
                    "mistral, mixtral and phi3 use sliding_window in every layer",
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
            if let Some(types) = layer_types(config, layers, "sliding_attention")? {
                return Ok(types.into_iter().map(|slides| window.filter(|_| slides)).collect());
            }
            if matches!(architecture, Architecture::SmolLm3 | Architecture::Qwen2Moe) && window.is_some() {
                return Err(config.missing("layer_types", "the layers with sliding attention"));
            }
            let full = match config.json("max_window_layers") {
                None => 28,
                // Zero is a valid number of layers.
                Some(Json::Number(n)) if n.as_u64() == Some(0) => 0,
                Some(_) => config.need_count("max_window_layers", MAX_COUNT)?,
            };
            Ok((0..layers).map(|layer| window.filter(|_| layer >= full)).collect())
        }
    }
}

/// Whether each layer has a window according to `layer_types`, which calls it `windowed`.
fn layer_types(config: &Object<'_>, layers: usize, windowed: &str) -> Result<Option<Vec<bool>>, LoadError> {
    const KEY: &str = "layer_types";
    let Some(json) = config.json(KEY) else { return Ok(None) };
    let expected = format!("an array of {layers} strings, full_attention or {windowed}");
    let list = json.as_array().filter(|list| list.len() == layers);
    let Some(list) = list else {
        let found = json.as_array().map_or("not an array".into(), |l| format!("an array of {}", l.len()));
        return Err(config.bad(KEY, found, expected));
    };
    list.iter()
        .map(|kind| match kind.as_str() {
            Some("full_attention") => Ok(false),
            Some(kind) if kind == windowed => Ok(true),
            _ => Err(config.bad(KEY, format!("an array with {kind}"), expected.clone())),
        })
        .collect::<Result<_, _>>()
        .map(Some)
}

/// The key of the dense feed-forward layer's width, or of an expert's.
fn ffn_key(architecture: Architecture) -> &'static str {
    match architecture {
        // without experts only what is shared is left of it
        Architecture::GraniteMoeHybrid => "shared_intermediate_size",
        Architecture::Llama4 => "intermediate_size_mlp",
        _ => "intermediate_size",
    }
}

fn moe(config: &Object<'_>, architecture: Architecture) -> Result<Option<Moe>, LoadError> {
    let experts = || match config.count("num_local_experts", MAX_EXPERTS)? {
        Some(n) => Ok(n),
        None => config.need_count("num_experts", MAX_EXPERTS),
    };
    match architecture {
        Architecture::Mixtral | Architecture::GraniteMoe | Architecture::GraniteMoeShared => {
            let shares = architecture == Architecture::GraniteMoeShared;
            let shared = match shares {
                true => config.count_or_zero("shared_intermediate_size", MAX_COUNT)?.filter(|&n| n > 0),
                false => None,
            };
            let mut moe = Moe::plain(
                experts()?,
                config.need_count(NAMES.experts_used, MAX_EXPERTS)?,
                config.need_count("intermediate_size", MAX_COUNT)?,
                true,
            );
            moe.shared = shared.map(|ffn_size| SharedExpert { ffn_size, gated: false });
            Ok(Some(moe))
        }
        Architecture::Qwen2Moe | Architecture::Qwen3Moe => {
            let step = config.count("decoder_sparse_step", MAX_COUNT)?.unwrap_or(1);
            let dense =
                config.json("mlp_only_layers").is_some_and(|l| l.as_array().is_none_or(|l| !l.is_empty()));
            if step != 1 || dense {
                let key = if dense { "mlp_only_layers" } else { "decoder_sparse_step" };
                let found = config.json(key).map_or_else(String::new, Json::to_string);
                return Err(config.unsupported(
                    key,
                    found,
                    "only models with experts in every layer are supported",
                ));
            }
            let mut moe = Moe::plain(
                experts()?,
                config.need_count(NAMES.experts_used, MAX_EXPERTS)?,
                config.need_count("moe_intermediate_size", MAX_COUNT)?,
                config.flag("norm_topk_prob")?.unwrap_or(false),
            );
            if architecture == Architecture::Qwen2Moe {
                let ffn_size = config.need_count("shared_expert_intermediate_size", MAX_COUNT)?;
                moe.shared = Some(SharedExpert { ffn_size, gated: true });
            }
            Ok(Some(moe))
        }
        Architecture::Llama4 => {
            let (layers, step) = (
                config.need_count("num_hidden_layers", MAX_LAYERS)?,
                config.count("interleave_moe_layer_step", MAX_COUNT)?.unwrap_or(1),
            );
            let every = (step - 1..layers).step_by(step).map(|l| l as u64);
            if let Some(list) = config.json("moe_layers")
                && !list.as_array().is_some_and(|list| every.map(Some).eq(list.iter().map(Json::as_u64)))
            {
                return Err(config.unsupported(
                    "moe_layers",
                    list,
                    format!("every {step}-th layer has experts"),
                ));
            }
            let used = config.count(NAMES.experts_used, MAX_EXPERTS)?.unwrap_or(1);
            let ffn_size = config.need_count("intermediate_size", MAX_COUNT)?;
            Ok(Some(Moe::llama4(experts()?, used, ffn_size, step)))
        }
        Architecture::GptOss => {
            let old = "experts_per_token";
            let used = match config.count(old, MAX_EXPERTS)? {
                Some(n) if config.json(NAMES.experts_used).is_none() => n,
                _ => config.need_count(NAMES.experts_used, MAX_EXPERTS)?,
            };
            Ok(Some(Moe::gpt_oss(experts()?, used, config.need_count("intermediate_size", MAX_COUNT)?)))
        }
        _ => Ok(None),
    }
}
