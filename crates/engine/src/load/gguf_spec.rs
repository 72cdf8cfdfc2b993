//! From GGUF metadata to a [`ModelSpec`]; keys as in llama.cpp's loader.

use std::path::Path;

use super::fields::{Fields, MAX_COUNT, Prefixed};
use super::gguf_extras::Family;
use super::gguf_moe;
use super::moe::{Moe, SharedExpert};
use super::names::LONG_FACTORS;
use super::source::Store;
use super::spec::{Architecture, LongRope, ModelSpec, Rope, RopeScaling};
use super::validate::{Names, validate, yarn_mscale};
use super::{LoadError, Metadata, Value};

/// Supported values of `general.architecture`, for messages.
const RUNS: &str = "llama (Llama, Mistral, Mixtral, SmolLM2), mistral3, qwen2, qwen3, qwen2moe, qwen3moe, gemma2, gemma3, granite, \
                    granitemoe, smollm3, olmo2, cohere2, phi3, chatglm, glm4, deepseek2, mistral4, glm4moe, gpt-oss, llama4";

/// Reads the spec. The vocabulary's size, tied embeddings and biases are taken from the tensors in `store`.
pub(super) fn read(path: &Path, metadata: &Metadata, store: &Store) -> Result<ModelSpec, LoadError> {
    let general = Prefixed { path, prefix: "general", metadata };
    let arch = general.text("architecture")?.ok_or_else(|| general.missing("architecture", RUNS))?;
    let keys = Prefixed { path, prefix: arch, metadata };
    let family = Family::find(arch).ok_or_else(|| LoadError::UnsupportedArchitecture {
        path: path.to_owned(),
        found: arch.to_owned(),
        runs: RUNS,
    })?;
    let names = Names {
        heads: "attention.head_count",
        kv_heads: "attention.head_count_kv",
        head_dim: "attention.key_length",
        experts_used: "expert_used_count",
        groups: "expert_group_count",
        groups_used: "expert_group_used_count",
        norm_eps: family.norm_eps,
        theta: "rope.freq_base",
    };

    let blocks = keys.need_count("block_count", super::validate::MAX_LAYERS)?;
    let predicted = predicted_layers(path, metadata)?;
    let layers = blocks
        .checked_sub(predicted)
        .filter(|&layers| layers > 0)
        .ok_or_else(|| keys.bad(PREDICTED, predicted, format!("less than the number of blocks, {blocks}")))?;
    let hidden_size = keys.need_count("embedding_length", MAX_COUNT)?;
    let heads = keys.need_count(names.heads, MAX_COUNT)?;
    let mla = family.mla(&keys)?;
    let head_dim = match (&mla, keys.count(names.head_dim, MAX_COUNT)?) {
        (Some(mla), _) => mla.key(),
        (None, Some(n)) => n,
        (None, None) => super::validate::derived_head_dim(&keys, names.heads, hidden_size, heads)?,
    };
    let width = match &mla {
        Some(mla) => Some(mla.rope),
        None => rope_width(&keys, family, head_dim)?,
    };
    let value_length = "attention.value_length";
    if let Some(found) = keys.count(value_length, MAX_COUNT)?.filter(|&n| mla.is_none() && n != head_dim) {
        let runs = format!("it must equal the head's width, {head_dim}");
        return Err(keys.unsupported(value_length, found, runs));
    }
    refuse_other_functions(&keys, family)?;

    let moe = match family.base {
        Architecture::DeepSeekV2 | Architecture::Mistral4 | Architecture::Glm4Moe => {
            gguf_moe::read(&keys, family.base, layers, store)?
        }
        _ => moe(&keys, arch)?,
    };
    let windows = windows(&keys, family, layers)?;
    let context_length = keys.need_count("context_length", MAX_COUNT)?;
    let rope = Rope {
        theta: keys.positive(names.theta)?.unwrap_or(10_000.0) as f32,
        pairing: family.pairing,
        width,
        scaling: scaling(&keys, family, store, width.unwrap_or(head_dim), context_length)?,
    };
    let kv_heads = if mla.is_some() { Some(1) } else { keys.count(names.kv_heads, MAX_COUNT)? };
    let extras = family.extras(&keys, (hidden_size, heads, head_dim), mla, &windows, &rope)?;
    // one of GLM-4.5's sizes has these norms
    let qk_norm = family.base == Architecture::Glm4Moe && store.get("blk.0.attn_q_norm.weight").is_some();
    let spec = ModelSpec {
        architecture: family.architecture(&extras, &windows, moe.as_ref()),
        name: general.text("name")?.map(str::to_owned),
        vocab_size: vocab_size(path, metadata, store, hidden_size)?,
        context_length,
        hidden_size,
        layers,
        heads,
        kv_heads: kv_heads.unwrap_or(heads),
        head_dim,
        ffn_size: keys.need_count("feed_forward_length", MAX_COUNT)?,
        norm_eps: keys.need_positive(names.norm_eps)? as f32,
        rope,
        windows,
        qkv_bias: family.base.qkv_bias()
            || ["blk.0.attn_q.bias", "blk.0.attn_qkv.bias"].iter().any(|name| store.get(name).is_some()),
        qk_norm: family.base.qk_norm() || qk_norm,
        tied_embeddings: store.get("output.weight").is_none(),
        moe,
        extras,
    };
    validate(&keys, &names, &spec)?;
    Ok(spec)
}

/// The key of [`predicted_layers`].
const PREDICTED: &str = "nextn_predict_layers";

/// The layers behind the last one, which predict further tokens.
pub(super) fn predicted_layers(path: &Path, metadata: &Metadata) -> Result<usize, LoadError> {
    let prefix = metadata.str("general.architecture").unwrap_or_default();
    let keys = Prefixed { path, prefix, metadata };
    Ok(keys.count_or_zero(PREDICTED, super::validate::MAX_LAYERS)?.unwrap_or(0))
}

/// How many values of a head turn, if that is not all.
fn rope_width(keys: &Prefixed<'_>, family: &Family, head_dim: usize) -> Result<Option<usize>, LoadError> {
    const KEY: &str = "rope.dimension_count";
    let Some(found) = keys.count(KEY, MAX_COUNT)?.filter(|&n| n != head_dim) else { return Ok(None) };
    if family.base.rotary_share().is_none() {
        return Err(keys.unsupported(KEY, found, format!("it must equal the head's width, {head_dim}")));
    }
    match found < head_dim && found.is_multiple_of(2) {
        true => Ok(Some(found)),
        false => Err(keys.bad(KEY, found, format!("an even number up to the head's width, {head_dim}"))),
    }
}

/// Rejects options that change the computation and that llama.cpp supports for these architectures but we don't.
fn refuse_other_functions(keys: &Prefixed<'_>, family: &Family) -> Result<(), LoadError> {
    let options = [
        "attention.scale",
        "attention.temperature_scale",
        "attention.max_alibi_bias",
        "attention.clamp_kqv",
        "embedding_scale",
        "residual_scale",
        "logit_scale",
        "attn_logit_softcapping",
        "final_logit_softcapping",
        "expert_shared_count",
        "expert_shared_feed_forward_length",
        "leading_dense_block_count",
        "nextn_predict_layers",
    ];
    for key in options.into_iter().filter(|key| !family.keys.contains(key)) {
        if let Some(found) = keys.number(key)?.filter(|&x| x != 0.0) {
            return Err(keys.unsupported(key, found, "only models without it are supported"));
        }
    }
    // GLM-4 that also reads images has several positions for each token
    if let Some(found) = keys.lookup("rope.dimension_sections") {
        return Err(keys.unsupported("rope.dimension_sections", found, "models without it are run"));
    }
    if keys.flag("attention.causal")? == Some(false) {
        return Err(keys.unsupported("attention.causal", false, "only causal models are supported"));
    }
    Ok(())
}

fn moe(keys: &Prefixed<'_>, arch: &str) -> Result<Option<Moe>, LoadError> {
    let experts = keys.count_or_zero("expert_count", super::validate::MAX_EXPERTS)?;
    let Some(experts) = experts.filter(|&n| n > 0) else {
        return match arch {
            "qwen2moe" | "qwen3moe" | "granitemoe" | "gpt-oss" | "llama4" => {
                Err(keys.missing("expert_count", "the number of experts"))
            }
            _ => Ok(None),
        };
    };
    if !matches!(arch, "llama" | "mistral3" | "qwen2moe" | "qwen3moe" | "granitemoe" | "gpt-oss" | "llama4") {
        let runs = "qwen2moe, qwen3moe, granitemoe, gpt-oss, llama and llama4 have experts";
        return Err(keys.unsupported("expert_count", experts, runs));
    }
    let used = keys.need_count("expert_used_count", experts as u64)?;
    let ffn_size = match keys.count("expert_feed_forward_length", MAX_COUNT)? {
        Some(n) => n,
        // Mixtral's and Granite's experts have the model's own width; files of Qwen's without the key split it among those used.
        None if arch == "llama4" => keys.need_count("expert_feed_forward_length", MAX_COUNT)?,
        None if arch.starts_with("qwen") => keys.need_count("feed_forward_length", MAX_COUNT)? / used,
        None => keys.need_count("feed_forward_length", MAX_COUNT)?,
    };
    if arch == "llama4" {
        let step = keys.need_count("interleave_moe_layer_step", super::validate::MAX_LAYERS)?;
        return Ok(Some(Moe::llama4(experts, used, ffn_size, step)));
    }
    if arch == "gpt-oss" {
        return Ok(Some(Moe::gpt_oss(experts, used, ffn_size)));
    }
    // llama.cpp always scales the weights for these architectures, except Qwen2-MoE's, and its converter writes no key.
    let qwen2 = arch == "qwen2moe";
    let normalize = keys.flag("expert_weights_norm")?.unwrap_or(!qwen2);
    let mut moe = Moe::plain(experts, used, ffn_size, normalize);
    const SHARED: &str = "expert_shared_feed_forward_length";
    let shared = match keys.count_or_zero(SHARED, MAX_COUNT)?.filter(|&n| n > 0) {
        None if qwen2 => Some(keys.need_count("feed_forward_length", MAX_COUNT)?),
        shared => shared,
    };
    moe.shared = shared.map(|ffn_size| SharedExpert { ffn_size, gated: qwen2 });
    Ok(Some(moe))
}

/// The window of each layer: one number for all, unless a pattern selects the layers: booleans (or 0 and 1), or every n-th
/// without.
fn windows(keys: &Prefixed<'_>, family: &Family, layers: usize) -> Result<Vec<Option<usize>>, LoadError> {
    const WINDOW: &str = "attention.sliding_window";
    const PATTERN: &str = "attention.sliding_window_pattern";
    let window = keys.count_or_zero(WINDOW, MAX_COUNT)?.or(family.window).filter(|&n| n > 0);
    let expected = || format!("an array of {layers} booleans");
    let flag = |n: i64| matches!(n, 0 | 1).then_some(n == 1);
    match keys.metadata.get(&keys.name(PATTERN)) {
        Some(value) if value.as_i64().is_none() => {
            let slides = match value {
                Value::Array(list) if matches!(list.first(), Some(Value::Bool(_))) => {
                    list.iter().map(|value| Some(*value == Value::Bool(true))).collect()
                }
                other => other.as_integers().and_then(|list| list.into_iter().map(flag).collect()),
            };
            match slides.filter(|slides: &Vec<bool>| slides.len() == layers) {
                Some(slides) => Ok(slides.into_iter().map(|slides| window.filter(|_| slides)).collect()),
                None => Err(keys.bad(PATTERN, value.describe(), expected())),
            }
        }
        _ => {
            let slides = family.slides(keys, PATTERN, layers)?;
            Ok(slides.into_iter().map(|slides| window.filter(|_| slides)).collect())
        }
    }
}

/// The embedding's rows.
fn vocab_size(
    path: &Path,
    metadata: &Metadata,
    store: &Store,
    hidden_size: usize,
) -> Result<usize, LoadError> {
    let tensor = "token_embd.weight";
    let tokens = metadata.strings("tokenizer.ggml.tokens").map(<[String]>::len);
    let Some(stored) = store.get(tensor) else {
        let expected = vec![tokens.unwrap_or(0), hidden_size];
        return Err(LoadError::MissingTensor { path: path.to_owned(), tensor: tensor.to_owned(), expected });
    };
    let rows = stored.shape[0];
    if rows as u64 > MAX_COUNT || stored.shape.len() != 2 {
        return Err(LoadError::WrongShape {
            path: path.to_owned(),
            tensor: tensor.to_owned(),
            expected: vec![tokens.unwrap_or(0), hidden_size],
            found: stored.shape.clone(),
        });
    }
    match tokens {
        Some(found) if found > rows => Err(LoadError::BadValue {
            path: path.to_owned(),
            key: "tokenizer.ggml.tokens".to_owned(),
            found: format!("an array of {found} strings"),
            expected: format!("at most {rows}, the rows of {tensor}"),
        }),
        _ => Ok(rows),
    }
}

fn scaling(
    keys: &Prefixed<'_>,
    family: &Family,
    store: &Store,
    width: usize,
    context_length: usize,
) -> Result<RopeScaling, LoadError> {
    const KIND: &str = "rope.scaling.type";
    const ATTN_FACTOR: &str = "rope.scaling.attn_factor";
    // llama.cpp assumes `linear` with the old name of the factor.
    let kind = keys.text(KIND)?.unwrap_or("linear");
    let factor = match keys.number("rope.scaling.factor")? {
        Some(0.0) => 1.0,
        Some(_) => keys.need_positive("rope.scaling.factor")?,
        None => keys.number("rope.scale_linear")?.filter(|&x| x > 0.0).unwrap_or(1.0),
    };
    let attn_factor = keys.positive(ATTN_FACTOR)?.unwrap_or(1.0);
    let original = || keys.count("rope.scaling.original_context_length", MAX_COUNT);
    let factors = factors(keys, store, "rope_freqs.weight", width)?;
    let [short, long] = LONG_FACTORS.map(|name| self::factors(keys, store, name, width));
    match (short?, long?) {
        (None, None) => {}
        (Some(short), Some(long)) if matches!(kind, "none" | "linear" | "longrope") => {
            if factor != 1.0 || factors.is_some() {
                let found = format!("{kind:?}, by {factor}");
                return Err(keys.unsupported(KIND, found, "LongRoPE's factors are run alone"));
            }
            return Ok(RopeScaling::Long(LongRope {
                short,
                long,
                original_context: original()?.unwrap_or(context_length),
                attention_factor: attn_factor as f32,
            }));
        }
        (Some(_), Some(_)) => {
            let found = format!("{kind:?} with {}", LONG_FACTORS[0]);
            return Err(keys.unsupported(KIND, found, "LongRoPE's factors are run alone"));
        }
        (short, _) => {
            let tensor = LONG_FACTORS[usize::from(short.is_some())].to_owned();
            let (path, expected) = (keys.path.to_owned(), vec![width / 2]);
            return Err(LoadError::MissingTensor { path, tensor, expected });
        }
    }
    match (kind, factors) {
        ("none" | "linear", factors) => {
            if attn_factor != 1.0 {
                return Err(keys.unsupported(ATTN_FACTOR, attn_factor, "it is supported with yarn only"));
            }
            let factor = if kind == "none" { 1.0 } else { factor as f32 };
            Ok(match factors {
                Some(factors) => RopeScaling::Factors(factors.into_iter().map(|f| f * factor).collect()),
                None if factor == 1.0 => RopeScaling::None,
                None => RopeScaling::Linear { factor },
            })
        }
        ("yarn", None) => {
            let ext_factor = "rope.scaling.yarn_ext_factor";
            if let Some(found) = keys.number(ext_factor)?.filter(|&x| x >= 0.0 && x != 1.0) {
                return Err(keys.unsupported(ext_factor, found, "yarn is supported with 1 only"));
            }
            let mscale = match family.mscale_all_dim(keys)? {
                0.0 => yarn_mscale(factor, 1.0),
                // both of DeepSeek's are alike
                _ if family.base == Architecture::DeepSeekV2 => 1.0,
                m => yarn_mscale(factor, 1.0) / yarn_mscale(factor, m),
            };
            Ok(RopeScaling::Yarn {
                factor: factor as f32,
                original_context: original()?.unwrap_or(context_length),
                beta_fast: keys.positive("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0) as f32,
                beta_slow: keys.positive("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0) as f32,
                attention_factor: (mscale * attn_factor) as f32,
                // No key says so: gpt-oss's YaRN does not round the first and the last frequency that it changes.
                truncate: family.base != Architecture::GptOss,
            })
        }
        ("yarn", Some(_)) => {
            Err(keys.unsupported(KIND, "yarn with rope_freqs.weight", "only one of the two is supported"))
        }
        (other, _) => Err(keys.unsupported(KIND, format!("{other:?}"), "none, linear and yarn are run")),
    }
}

/// Divisors of frequencies: of `rope_freqs.weight`, in which Llama 3's scaling is stored, or of LongRoPE.
fn factors(
    keys: &Prefixed<'_>,
    store: &Store,
    name: &str,
    width: usize,
) -> Result<Option<Vec<f32>>, LoadError> {
    let Some(stored) = store.get(name) else { return Ok(None) };
    let expected = vec![width / 2];
    if stored.shape != expected {
        let (path, tensor, found) = (keys.path.to_owned(), name.to_owned(), stored.shape.clone());
        return Err(LoadError::WrongShape { path, tensor, expected, found });
    }
    let factors = store.part(stored, None, None)?.to_f32();
    match factors.iter().position(|f| !(f.is_finite() && *f > 0.0)) {
        None => Ok(Some(factors)),
        Some(i) => Err(LoadError::BadValue {
            path: keys.path.to_owned(),
            key: format!("{name}[{i}]"),
            found: factors[i].to_string(),
            expected: "a number above 0".to_owned(),
        }),
    }
}
