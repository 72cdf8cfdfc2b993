//! From a [`ModelSpec`] to GGUF metadata, with the keys that llama.cpp's converter writes; and the names and order of a GGUF
//! file's tensors.

use crate::error::ConvertError;
use crate::file_tensors::{FileTensor, file_tensors};
use std::f64::consts::TAU;
use zonda_engine::load::names::{self, LONG_FACTORS};
use zonda_engine::load::yarn_mscale;
use zonda_engine::load::{
    Activation, Architecture, LongRope, Metadata, ModelSpec, Moe, Norm, QueryTemperature, RopeScaling,
    RouterScore, Value,
};

/// The value of `general.architecture`, which is also the prefix of the keys.
fn architecture(spec: &ModelSpec) -> &'static str {
    match spec.architecture {
        Architecture::Llama | Architecture::Mistral | Architecture::Mixtral => "llama",
        Architecture::Qwen2 => "qwen2",
        Architecture::Qwen3 => "qwen3",
        Architecture::Qwen3Moe => "qwen3moe",
        Architecture::Qwen2Moe => "qwen2moe",
        Architecture::Ministral3 => "mistral3",
        Architecture::Gemma2 => "gemma2",
        Architecture::Gemma3 => "gemma3",
        // A hybrid of attention layers alone is what Granite is.
        Architecture::Granite | Architecture::GraniteMoeHybrid => "granite",
        Architecture::GraniteMoe | Architecture::GraniteMoeShared => "granitemoe",
        Architecture::Phi3 => "phi3",
        Architecture::Glm => "chatglm",
        Architecture::Glm4 => "glm4",
        Architecture::SmolLm3 => "smollm3",
        Architecture::Olmo2 | Architecture::Olmo3 => "olmo2",
        Architecture::Cohere2 => "cohere2",
        Architecture::DeepSeekV2 | Architecture::DeepSeekV3 => "deepseek2",
        Architecture::Mistral4 => "mistral4",
        Architecture::Glm4Moe => "glm4moe",
        Architecture::GptOss => "gpt-oss",
        Architecture::Llama4 => "llama4",
        // Its tensors can't be read, so nothing is written.
        Architecture::Other => "other",
    }
}

/// Whether this family's GGUF files have Q and K permuted for adjacent RoPE pairs.
pub(crate) fn permutes(spec: &ModelSpec) -> bool {
    matches!(architecture(spec), "llama" | "mistral3" | "granite" | "granitemoe" | "smollm3")
}

/// The hyperparameters. The tokenizer's keys are added by the caller.
pub(crate) fn metadata(spec: &ModelSpec, file_type: u32) -> Metadata {
    let mut metadata = Metadata::default();
    let mut put = |key: String, value: Value| metadata.0.insert(key, value);
    let int = |n: usize| Value::U32(n as u32);
    let text = |s: &str| Value::String(s.to_owned());
    let arch = architecture(spec);

    put("general.architecture".into(), text(arch));
    put("general.type".into(), text("model"));
    put("general.file_type".into(), Value::U32(file_type));
    put("general.quantization_version".into(), Value::U32(2));
    if let Some(name) = &spec.name {
        put("general.name".into(), text(name));
    }

    let mut put = |key: &str, value: Value| metadata.0.insert(format!("{arch}.{key}"), value);
    put("vocab_size", int(spec.vocab_size));
    put("context_length", int(spec.context_length));
    put("embedding_length", int(spec.hidden_size));
    put("block_count", int(spec.layers));
    put("feed_forward_length", int(spec.ffn_size));
    put("attention.head_count", int(spec.heads));
    put("attention.head_count_kv", int(spec.kv_heads));
    put("attention.key_length", int(spec.head_dim));
    put("attention.value_length", int(spec.extras.mla.as_ref().map_or(spec.head_dim, |mla| mla.kv_rank)));
    let norm_eps = match spec.extras.norm {
        Norm::Rms => "attention.layer_norm_rms_epsilon",
        Norm::Layer => "attention.layer_norm_epsilon",
    };
    put(norm_eps, Value::F32(spec.norm_eps));
    put("rope.dimension_count", int(spec.rope_dim()));
    put("rope.freq_base", Value::F32(spec.rope.theta));

    if let Some(window) = spec.windows.iter().flatten().next() {
        put("attention.sliding_window", int(*window));
        // Families with a default pattern need a pattern in the file to override it.
        if spec.windows.iter().any(Option::is_none) || spec.layers > 1 && has_pattern(spec) {
            let pattern = spec.windows.iter().map(|w| Value::Bool(w.is_some())).collect();
            put("attention.sliding_window_pattern", Value::Array(pattern));
        }
    }
    if let Some(moe) = &spec.moe {
        put("expert_count", int(moe.experts));
        put("expert_used_count", int(moe.used));
        put("expert_feed_forward_length", int(moe.ffn_size));
        experts(arch, moe, &mut |key, value| drop(put(key, value)));
    }
    match &spec.rope.scaling {
        RopeScaling::None | RopeScaling::Llama3 { .. } | RopeScaling::Factors(_) => {}
        RopeScaling::Long(LongRope { original_context, attention_factor, .. }) => {
            put("rope.scaling.original_context_length", int(*original_context));
            put("rope.scaling.attn_factor", Value::F32(*attention_factor));
        }
        RopeScaling::Linear { factor } => {
            put("rope.scaling.type", text("linear"));
            put("rope.scaling.factor", Value::F32(*factor));
        }
        RopeScaling::Yarn { factor, original_context, beta_fast, beta_slow, attention_factor, .. } => {
            put("rope.scaling.type", text("yarn"));
            put("rope.scaling.factor", Value::F32(*factor));
            put("rope.scaling.original_context_length", int(*original_context));
            put("rope.scaling.yarn_beta_fast", Value::F32(*beta_fast));
            put("rope.scaling.yarn_beta_slow", Value::F32(*beta_slow));
            // The key contains the factor beyond YaRN's own factor for this scaling. A separate key states a factor of
            // exactly 1.
            let own = yarn_mscale(f64::from(*factor), 1.0) as f32;
            if let Some(mla) = &spec.extras.mla {
                // a tenth of it, in these families
                let all_dim = mla.mscale_all_dim(&spec.rope.scaling, spec.score_scale());
                put("rope.scaling.yarn_log_multiplier", Value::F32(0.1 * all_dim));
            } else if arch == "mistral3" && *attention_factor == 1.0 {
                put("rope.scaling.yarn_log_multiplier", Value::F32(1.0));
            } else if (attention_factor / own - 1.0).abs() > 1e-6 {
                put("rope.scaling.attn_factor", Value::F32(attention_factor / own));
            }
        }
    }
    extras(spec, &mut |key, value| drop(put(key, value)));
    metadata
}

/// What a mixture of experts is beyond its sizes.
fn experts(arch: &str, moe: &Moe, put: &mut dyn FnMut(&str, Value)) {
    let int = |n: usize| Value::U32(n as u32);
    let router = &moe.router;
    if arch == "llama4" {
        put("interleave_moe_layer_step", int(moe.step));
    }
    if !matches!(arch, "deepseek2" | "mistral4" | "glm4moe") {
        if router.normalize == (arch == "qwen2moe") {
            put("expert_weights_norm", Value::Bool(router.normalize));
        }
        if let Some(shared) = moe.shared {
            put("expert_shared_feed_forward_length", int(shared.ffn_size));
        }
        return;
    }
    put("expert_weights_norm", Value::Bool(router.normalize));
    put("expert_weights_scale", Value::F32(router.scale));
    let function = match router.score {
        RouterScore::Softmax => 1,
        RouterScore::Sigmoid => 2,
        RouterScore::SoftmaxOfUsed => 3,
    };
    put("expert_gating_func", int(function));
    put("leading_dense_block_count", int(moe.dense_layers));
    put("expert_shared_count", int(moe.shared.map_or(0, |shared| shared.ffn_size / moe.ffn_size)));
    if let Some(groups) = router.groups {
        put("expert_group_count", int(groups.count));
        put("expert_group_used_count", int(groups.used));
    }
}

/// Whether llama.cpp leaves some layers of this family without a window if the file does not say which.
fn has_pattern(spec: &ModelSpec) -> bool {
    matches!(architecture(spec), "gemma2" | "gemma3" | "olmo2" | "cohere2" | "gpt-oss" | "llama4")
}

/// What the model computes beyond Llama.
fn extras(spec: &ModelSpec, put: &mut dyn FnMut(&str, Value)) {
    let extras = &spec.extras;
    let arch = architecture(spec);
    if let Some(window_rope) = &extras.window_rope {
        put("rope.freq_base_swa", Value::F32(window_rope.theta));
    }
    if let Some(temperature) = extras.query_temperature.as_ref().filter(|_| arch != "llama4") {
        put("attention.temperature_scale", Value::F32(temperature.beta));
        if extras.mla.is_some() {
            put("attention.temperature_length", Value::U32(temperature.step as u32));
        }
    }
    if let Some(mla) = &extras.mla {
        let int = |n: usize| Value::U32(n as u32);
        put("attention.key_length_mla", int(mla.query()));
        put("attention.value_length_mla", int(mla.value));
        put("attention.kv_lora_rank", int(mla.kv_rank));
        // 0 says that there is none, where llama.cpp asks for the key
        put("attention.q_lora_rank", int(mla.q_rank.unwrap_or(0)));
    }
    if let Some(scale) = extras.attention_scale {
        put("attention.scale", Value::F32(scale));
    }
    // Where llama.cpp has a default, 0 means that there is no cap.
    let cap = |cap: Option<f32>| cap.or((arch == "gemma2").then_some(0.0));
    if let Some(cap) = cap(extras.attention_softcap) {
        put("attn_logit_softcapping", Value::F32(cap));
    }
    if let Some(cap) = cap(extras.final_softcap) {
        put("final_logit_softcapping", Value::F32(cap));
    }
    if arch == "granite" && !extras.no_rope.is_empty() {
        put("rope.scaling.finetuned", Value::Bool(false));
    }
    if spec.architecture.granite() {
        put("embedding_scale", Value::F32(extras.embedding_scale));
        put("residual_scale", Value::F32(extras.residual_scale));
        put("logit_scale", Value::F32(1.0 / extras.logit_scale));
    }
    if arch == "cohere2" {
        put("logit_scale", Value::F32(extras.logit_scale));
    }
}

/// Rejects properties that no key can express.
///
/// # Errors
/// If the model has such a property.
pub(crate) fn check(spec: &ModelSpec) -> Result<(), ConvertError> {
    let refuse = |what: &str, found: String, reason: &str| {
        let (what, format, reason) = (what.to_owned(), "a GGUF file", reason.to_owned());
        Err(ConvertError::NotExpressible { what, found, format, reason })
    };
    if let Some(mla) = &spec.extras.mla {
        if mla.norm_eps != spec.norm_eps {
            let found = format!("{} in latents and {} elsewhere", mla.norm_eps, spec.norm_eps);
            return refuse("the norms' epsilon", found, "it is one number");
        }
        if let RopeScaling::Yarn { factor, attention_factor, .. } = &spec.rope.scaling {
            let all_dim = f64::from(mla.mscale_all_dim(&spec.rope.scaling, spec.score_scale()));
            let own = match spec.architecture {
                _ if all_dim == 0.0 => yarn_mscale(f64::from(*factor), 1.0),
                Architecture::Mistral4 => {
                    yarn_mscale(f64::from(*factor), 1.0) / yarn_mscale(f64::from(*factor), all_dim)
                }
                _ => 1.0,
            };
            if (f64::from(*attention_factor) / own - 1.0).abs() > 1e-6 {
                return refuse(
                    "YaRN's attention factor",
                    attention_factor.to_string(),
                    "mscale_all_dim determines it",
                );
            }
        }
        let shared = spec.moe.as_ref().and_then(|moe| Some((moe, moe.shared?)));
        if let Some((moe, shared)) = shared.filter(|(moe, shared)| shared.ffn_size % moe.ffn_size != 0) {
            let found = format!("{} beside experts of {}", shared.ffn_size, moe.ffn_size);
            return refuse("the width of the shared expert", found, "it is a multiple of an expert's");
        }
    }
    let no_rope = &spec.extras.no_rope;
    if spec.architecture == Architecture::SmolLm3 && !no_rope.iter().copied().eq((3..spec.layers).step_by(4))
    {
        let found = format!("layers {no_rope:?}");
        return refuse("layers without RoPE", found, "smollm3 leaves every fourth without it");
    }
    let llama4 = spec.architecture == Architecture::Llama4;
    if llama4 && !no_rope.iter().copied().eq((3..spec.layers).step_by(4)) {
        let found = format!("layers {no_rope:?}");
        return refuse("layers without RoPE", found, "llama4 leaves every fourth without it");
    }
    let temperature = QueryTemperature { beta: 0.1, step: 8192, offset: 1, no_rope_only: true };
    if llama4 && spec.extras.query_temperature != Some(temperature) {
        let found = format!("{:?}", spec.extras.query_temperature);
        return refuse("the factor of queries", found, "llama4 has beta 0.1 and steps of 8192");
    }
    if let Some(chunk) = spec.windows.iter().flatten().find(|&&chunk| llama4 && chunk != 8192) {
        return refuse("the chunk of attention", chunk.to_string(), "llama4 has 8192");
    }
    let experts = spec.moe.as_ref().map_or(0, |moe| moe.experts);
    if llama4 && spec.extras.norm_behind_rope == (experts == 128) {
        let found = spec.extras.norm_behind_rope.to_string();
        return refuse("the norm of queries and keys", found, "llama4 has it unless it has 128 experts");
    }
    let gpt_oss = spec.architecture == Architecture::GptOss;
    if let RopeScaling::Yarn { truncate, .. } = spec.rope.scaling
        && truncate == gpt_oss
    {
        let reason = "gpt-oss has false and all others have true";
        return refuse("YaRN's truncate", truncate.to_string(), reason);
    }
    let activation = spec.extras.activation;
    if gpt_oss && activation != (Activation::Clamped { alpha: 1.702, limit: 7.0 }) {
        return refuse("the activation", format!("{activation:?}"), "gpt-oss has alpha 1.702 and limit 7");
    }
    match &spec.extras.window_rope {
        Some(rope) if gpt_oss && rope.scaling == spec.rope.scaling => Ok(()),
        Some(rope) if rope.scaling != RopeScaling::None => {
            refuse("rope of layers with a window", format!("{:?}", rope.scaling), "it is not scaled")
        }
        _ => Ok(()),
    }
}

/// The tensors with divisors of frequencies, `[width / 2]` each, for scalings that are stored there.
pub(crate) fn frequency_factors(spec: &ModelSpec) -> Vec<(&'static str, Vec<f32>)> {
    const FREQS: &str = "rope_freqs.weight";
    match &spec.rope.scaling {
        RopeScaling::Factors(factors) => vec![(FREQS, factors.clone())],
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
            let factors = llama3_factors(
                spec,
                f64::from(*factor),
                f64::from(*low_freq_factor),
                f64::from(*high_freq_factor),
                *original_context as f64,
            );
            vec![(FREQS, factors)]
        }
        RopeScaling::Long(LongRope { short, long, .. }) => {
            vec![(LONG_FACTORS[0], short.clone()), (LONG_FACTORS[1], long.clone())]
        }
        _ => Vec::new(),
    }
}

/// The divisor of each frequency in Llama 3's scaling, `[head_dim / 2]`: 1 for wavelengths much shorter than the original
/// context, `factor` for longer ones, interpolated between. Formula of `transformers`' `_compute_llama3_parameters`.
pub(crate) fn llama3_factors(spec: &ModelSpec, factor: f64, low: f64, high: f64, original: f64) -> Vec<f32> {
    wavelengths(spec)
        .map(|wavelength| {
            let smooth = ((original / wavelength - low) / (high - low)).clamp(0.0, 1.0);
            (1.0 / ((1.0 - smooth) / factor + smooth)) as f32
        })
        .collect()
}

/// The wavelength of each pair of a head in tokens, shortest first.
pub(crate) fn wavelengths(spec: &ModelSpec) -> impl Iterator<Item = f64> {
    let (theta, width) = (f64::from(spec.rope.theta), spec.rope_dim() as f64);
    (0..spec.rope_dim() / 2).map(move |i| TAU * theta.powf(2.0 * i as f64 / width))
}

/// All tensors of a GGUF file in file order, without the divisors of frequencies.
pub(crate) fn tensors(spec: &ModelSpec) -> Vec<FileTensor> {
    file_tensors(spec, |role| names::gguf(role, spec.architecture).swap_remove(0))
}
