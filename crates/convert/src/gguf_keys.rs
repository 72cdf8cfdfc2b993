//! From a [`ModelSpec`] to GGUF metadata, with the keys that llama.cpp's converter writes; and the names and order of a GGUF
//! file's tensors.

use crate::error::ConvertError;
use std::f64::consts::TAU;
use zonda_engine::load::names::{self, TensorLocation};
use zonda_engine::load::yarn_mscale;
use zonda_engine::load::{
    Activation, Architecture, LayerTensor, Metadata, ModelSpec, Norm, QueryTemperature, RopeScaling,
    TensorRole, Value,
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
        Architecture::Granite => "granite",
        Architecture::SmolLm3 => "smollm3",
        Architecture::Olmo2 | Architecture::Olmo3 => "olmo2",
        Architecture::Cohere2 => "cohere2",
        Architecture::GptOss => "gpt-oss",
        Architecture::Llama4 => "llama4",
    }
}

/// Whether this family's GGUF files have Q and K permuted for adjacent RoPE pairs.
pub(crate) fn permutes(spec: &ModelSpec) -> bool {
    matches!(architecture(spec), "llama" | "mistral3" | "granite" | "smollm3")
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
    put("attention.value_length", int(spec.head_dim));
    let norm_eps = match spec.extras.norm {
        Norm::Rms => "attention.layer_norm_rms_epsilon",
        Norm::Layer => "attention.layer_norm_epsilon",
    };
    put(norm_eps, Value::F32(spec.norm_eps));
    put("rope.dimension_count", int(spec.head_dim));
    put("rope.freq_base", Value::F32(spec.rope.theta));

    if let Some(window) = spec.windows.iter().flatten().next() {
        put("attention.sliding_window", int(*window));
        // Families with a pattern of their own need one that says otherwise.
        if spec.windows.iter().any(Option::is_none) || spec.layers > 1 && has_pattern(spec) {
            let pattern = spec.windows.iter().map(|w| Value::Bool(w.is_some())).collect();
            put("attention.sliding_window_pattern", Value::Array(pattern));
        }
    }
    if let Some(moe) = &spec.moe {
        put("expert_count", int(moe.experts));
        put("expert_used_count", int(moe.used));
        put("expert_feed_forward_length", int(moe.ffn_size));
        if arch == "llama4" {
            put("interleave_moe_layer_step", int(moe.step));
        }
        if moe.router.normalize == (arch == "qwen2moe") {
            put("expert_weights_norm", Value::Bool(moe.router.normalize));
        }
        if let Some(shared) = moe.shared {
            put("expert_shared_feed_forward_length", int(shared.ffn_size));
        }
    }
    match &spec.rope.scaling {
        RopeScaling::None | RopeScaling::Llama3 { .. } | RopeScaling::Factors(_) => {}
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
            // The key holds the additional factor beyond YaRN's own for this scaling. A key of its own states a factor of 1 exactly.
            let own = yarn_mscale(f64::from(*factor), 1.0) as f32;
            if arch == "mistral3" && *attention_factor == 1.0 {
                put("rope.scaling.yarn_log_multiplier", Value::F32(1.0));
            } else if (attention_factor / own - 1.0).abs() > 1e-6 {
                put("rope.scaling.attn_factor", Value::F32(attention_factor / own));
            }
        }
    }
    extras(spec, &mut |key, value| drop(put(key, value)));
    metadata
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
    }
    if let Some(scale) = extras.attention_scale {
        put("attention.scale", Value::F32(scale));
    }
    // 0 says that there is none where llama.cpp has a default.
    let cap = |cap: Option<f32>| cap.or((arch == "gemma2").then_some(0.0));
    if let Some(cap) = cap(extras.attention_softcap) {
        put("attn_logit_softcapping", Value::F32(cap));
    }
    if let Some(cap) = cap(extras.final_softcap) {
        put("final_logit_softcapping", Value::F32(cap));
    }
    if arch == "granite" {
        put("embedding_scale", Value::F32(extras.embedding_scale));
        put("residual_scale", Value::F32(extras.residual_scale));
        put("logit_scale", Value::F32(1.0 / extras.logit_scale));
    }
    if arch == "cohere2" {
        put("logit_scale", Value::F32(extras.logit_scale));
    }
}

/// Rejects what no key says.
///
/// # Errors
/// If a model has it.
pub(crate) fn check(spec: &ModelSpec) -> Result<(), ConvertError> {
    let refuse = |what: &str, found: String, reason: &str| {
        let (what, format, reason) = (what.to_owned(), "a GGUF file", reason.to_owned());
        Err(ConvertError::NotExpressible { what, found, format, reason })
    };
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

/// The factors of `rope_freqs.weight`, `[head_dim / 2]`, for scalings that are stored there.
pub(crate) fn frequency_factors(spec: &ModelSpec) -> Option<Vec<f32>> {
    match &spec.rope.scaling {
        RopeScaling::Factors(factors) => Some(factors.clone()),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
            Some(llama3_factors(
                spec,
                f64::from(*factor),
                f64::from(*low_freq_factor),
                f64::from(*high_freq_factor),
                *original_context as f64,
            ))
        }
        _ => None,
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
    let (theta, width) = (f64::from(spec.rope.theta), spec.head_dim as f64);
    (0..spec.head_dim / 2).map(move |i| TAU * theta.powf(2.0 * i as f64 / width))
}

/// A GGUF tensor: of one role, or fused from all experts of a layer.
#[derive(Debug)]
pub(crate) struct GgufTensor {
    pub name: String,
    /// The role; for a fused tensor that of expert 0.
    pub role: TensorRole,
    /// The number of experts in it, one after another; `None` for a tensor of one role.
    pub experts: Option<usize>,
}

/// All tensors of a GGUF file in file order, without `rope_freqs.weight`.
pub(crate) fn tensors(spec: &ModelSpec) -> Vec<GgufTensor> {
    let is_later_expert = |role: &TensorRole| {
        use LayerTensor::*;
        let TensorRole::Layer(_, tensor) = role else { return false };
        let (ExpertGate(e) | ExpertUp(e) | ExpertDown(e) | ExpertGateBias(e) | ExpertUpBias(e)
        | ExpertDownBias(e)) = tensor
        else {
            return false;
        };
        *e > 0
    };
    spec.roles()
        .filter(|role| !is_later_expert(role))
        .map(|role| match names::gguf(role, spec.architecture).swap_remove(0) {
            TensorLocation::Whole(name) => GgufTensor { name, role, experts: None },
            TensorLocation::Plane(name, _) => {
                GgufTensor { name, role, experts: spec.moe.as_ref().map(|moe| moe.experts) }
            }
            TensorLocation::Fused(fused) => unreachable!("{} is no tensor of a GGUF file", fused.name),
        })
        .collect()
}

/// The role of expert `e` that corresponds to `role` of expert 0.
pub(crate) fn of_expert(role: TensorRole, e: usize) -> TensorRole {
    use LayerTensor::*;
    let TensorRole::Layer(layer, tensor) = role else { return role };
    let tensor = match tensor {
        ExpertGate(_) => ExpertGate(e),
        ExpertUp(_) => ExpertUp(e),
        ExpertDown(_) => ExpertDown(e),
        ExpertGateBias(_) => ExpertGateBias(e),
        ExpertUpBias(_) => ExpertUpBias(e),
        ExpertDownBias(_) => ExpertDownBias(e),
        other => other,
    };
    TensorRole::Layer(layer, tensor)
}
