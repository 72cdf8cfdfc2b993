//! From a [`ModelSpec`] to GGUF metadata, with the keys that llama.cpp's converter writes; and the names and order of a GGUF
//! file's tensors.

use std::f64::consts::TAU;
use zonda_engine::load::names::{self, TensorLocation};
use zonda_engine::load::yarn_mscale;
use zonda_engine::load::{Architecture, LayerTensor, Metadata, ModelSpec, RopeScaling, TensorRole, Value};

/// The value of `general.architecture`, which is also the prefix of the keys.
fn architecture(spec: &ModelSpec) -> &'static str {
    match spec.architecture {
        Architecture::Llama | Architecture::Mistral | Architecture::Mixtral => "llama",
        Architecture::Qwen2 => "qwen2",
        Architecture::Qwen3 => "qwen3",
        Architecture::Qwen3Moe => "qwen3moe",
    }
}

/// Whether this family's GGUF files have Q and K permuted for adjacent RoPE pairs.
pub(crate) fn permutes(spec: &ModelSpec) -> bool {
    architecture(spec) == "llama"
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
    put("attention.layer_norm_rms_epsilon", Value::F32(spec.norm_eps));
    put("rope.dimension_count", int(spec.head_dim));
    put("rope.freq_base", Value::F32(spec.rope.theta));

    if let Some(window) = spec.windows.iter().flatten().next() {
        put("attention.sliding_window", int(*window));
        if spec.windows.iter().any(Option::is_none) {
            let pattern = spec.windows.iter().map(|w| Value::Bool(w.is_some())).collect();
            put("attention.sliding_window_pattern", Value::Array(pattern));
        }
    }
    if let Some(moe) = &spec.moe {
        put("expert_count", int(moe.experts));
        put("expert_used_count", int(moe.used));
        put("expert_feed_forward_length", int(moe.ffn_size));
        if !moe.normalize {
            put("expert_weights_norm", Value::Bool(false));
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
            // The key holds the additional factor beyond YaRN's own for this scaling.
            let own = yarn_mscale(f64::from(*factor), 1.0) as f32;
            if (attention_factor / own - 1.0).abs() > 1e-6 {
                put("rope.scaling.attn_factor", Value::F32(attention_factor / own));
            }
        }
    }
    metadata
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
        use LayerTensor::{ExpertDown, ExpertGate, ExpertUp};
        matches!(role, TensorRole::Layer(_, ExpertGate(1..) | ExpertUp(1..) | ExpertDown(1..)))
    };
    spec.roles()
        .filter(|role| !is_later_expert(role))
        .map(|role| match names::gguf(role).swap_remove(0) {
            TensorLocation::Whole(name) => GgufTensor { name, role, experts: None },
            TensorLocation::Plane(name, _) => {
                GgufTensor { name, role, experts: spec.moe.as_ref().map(|moe| moe.experts) }
            }
        })
        .collect()
}

/// The role of expert `e` that corresponds to `role` of expert 0.
pub(crate) fn of_expert(role: TensorRole, e: usize) -> TensorRole {
    use LayerTensor::{ExpertDown, ExpertGate, ExpertUp};
    match role {
        TensorRole::Layer(layer, ExpertGate(_)) => TensorRole::Layer(layer, ExpertGate(e)),
        TensorRole::Layer(layer, ExpertUp(_)) => TensorRole::Layer(layer, ExpertUp(e)),
        TensorRole::Layer(layer, ExpertDown(_)) => TensorRole::Layer(layer, ExpertDown(e)),
        other => other,
    }
}
