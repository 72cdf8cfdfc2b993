//! From a [`ModelSpec`] to a Hugging Face `config.json`, in the spelling that every reader supports (`rope_theta`,
//! `rope_scaling`, `torch_dtype`).

use crate::error::ConvertError;
use crate::gguf_keys::{llama3_factors, wavelengths};
use serde_json::{Value as Json, json};
use zonda_engine::TokenId;
use zonda_engine::load::{Architecture, ModelSpec, RopeScaling};
use zonda_kernels::DType;

/// The document. `bos` and `eos` are the ids of the tokens that begin and end a text.
///
/// # Errors
/// If the spec has a property that no Hugging Face class of its family has.
pub(crate) fn config(
    spec: &ModelSpec,
    dtype: DType,
    bos: Option<TokenId>,
    eos: &[TokenId],
) -> Result<Json, ConvertError> {
    let model_type = spec.architecture.model_type();
    let torch_dtype = match dtype {
        DType::F32 => "float32",
        DType::F16 => "float16",
        DType::BF16 => "bfloat16",
        other => return Err(ConvertError::FloatsOnly { found: other.to_string() }),
    };
    if matches!(spec.architecture, Architecture::GptOss | Architecture::Llama4) {
        let reason =
            "its experts are stored in one tensor with gate and up together, which is not written".to_owned();
        return Err(not_expressible("the architecture", model_type, reason));
    }
    if spec.qkv_bias != spec.architecture.qkv_bias() {
        return Err(not_expressible(
            "qkv_bias",
            spec.qkv_bias,
            format!("it belongs to qwen2, this is {model_type}"),
        ));
    }

    let mut config = json!({
        "architectures": [spec.architecture.class()],
        "model_type": model_type,
        "vocab_size": spec.vocab_size,
        "hidden_size": spec.hidden_size,
        "intermediate_size": spec.ffn_size,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads,
        "num_key_value_heads": spec.kv_heads,
        "head_dim": spec.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": spec.context_length,
        "rms_norm_eps": number(spec.norm_eps),
        "rope_theta": number(spec.rope.theta),
        "rope_scaling": rope_scaling(spec)?,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "tie_word_embeddings": spec.tied_embeddings,
        "torch_dtype": torch_dtype,
        "use_cache": true,
    });
    let object = config.as_object_mut().expect("created as an object above");
    if let Some(bos) = bos {
        object.insert("bos_token_id".into(), bos.into());
    }
    if let Some(eos) = ids(eos) {
        object.insert("eos_token_id".into(), eos);
    }
    if matches!(spec.architecture, Architecture::Llama | Architecture::Qwen3 | Architecture::Qwen3Moe) {
        object.insert("attention_bias".into(), false.into());
    }
    windows(spec, object)?;
    extras(spec, object);
    if let Some(moe) = &spec.moe {
        object.insert("num_experts_per_tok".into(), moe.used.into());
        match spec.architecture {
            Architecture::Mixtral => {
                if !moe.router.normalize {
                    return Err(not_expressible(
                        "normalize",
                        false,
                        "mixtral always scales expert weights".into(),
                    ));
                }
                object.insert("num_local_experts".into(), moe.experts.into());
                object.insert("intermediate_size".into(), moe.ffn_size.into());
            }
            _ => {
                object.insert("num_experts".into(), moe.experts.into());
                object.insert("moe_intermediate_size".into(), moe.ffn_size.into());
                object.insert("norm_topk_prob".into(), moe.router.normalize.into());
                object.insert("decoder_sparse_step".into(), 1.into());
                object.insert("mlp_only_layers".into(), json!([]));
                if let Some(shared) = moe.shared {
                    object.insert("shared_expert_intermediate_size".into(), shared.ffn_size.into());
                }
            }
        }
    }
    Ok(config)
}

/// One id as a number, several as a list, none as null.
pub(crate) fn ids(ids: &[TokenId]) -> Option<Json> {
    match ids {
        [] => None,
        [one] => Some(json!(one)),
        many => Some(json!(many)),
    }
}

/// A float as its shortest decimal, rather than the digits of its `f64` form (1e-5, not 9.99999974e-6).
fn number(value: f32) -> Json {
    json!(value.to_string().parse::<f64>().unwrap_or(f64::from(value)))
}

fn windows(spec: &ModelSpec, object: &mut serde_json::Map<String, Json>) -> Result<(), ConvertError> {
    let window = spec.windows.iter().flatten().next();
    let kind = |w: &Option<usize>| if w.is_some() { "sliding_attention" } else { "full_attention" };
    let uniform = spec.windows.iter().all(|w| w.as_ref() == window);
    match spec.architecture {
        Architecture::Mistral | Architecture::Mixtral | Architecture::Ministral3 if uniform => {
            object.insert("sliding_window".into(), json!(window));
        }
        Architecture::Gemma2 | Architecture::Gemma3 | Architecture::Olmo3 | Architecture::Cohere2 => {
            object.insert("sliding_window".into(), json!(window));
            object.insert("layer_types".into(), json!(spec.windows.iter().map(kind).collect::<Vec<_>>()));
        }
        Architecture::Qwen2 | Architecture::Qwen3 | Architecture::Qwen2Moe | Architecture::Qwen3Moe
            if window.is_some() =>
        {
            object.insert("use_sliding_window".into(), true.into());
            object.insert("sliding_window".into(), json!(window));
            object.insert("max_window_layers".into(), 0.into());
            object.insert("layer_types".into(), json!(spec.windows.iter().map(kind).collect::<Vec<_>>()));
        }
        Architecture::Qwen2 | Architecture::Qwen3 | Architecture::Qwen2Moe | Architecture::Qwen3Moe => {
            object.insert("use_sliding_window".into(), false.into());
        }
        _ if window.is_none() => {}
        other => {
            let reason = format!("{other} has one window in all layers or none");
            return Err(not_expressible("windows", format!("{:?}", spec.windows), reason));
        }
    }
    Ok(())
}

/// What the model computes beyond Llama.
fn extras(spec: &ModelSpec, object: &mut serde_json::Map<String, Json>) {
    let extras = &spec.extras;
    let mut put = |key: &str, value: Json| object.insert(key.to_owned(), value);
    if let Some(temperature) = &extras.query_temperature {
        // It stands among RoPE's parameters.
        let mut rope = object["rope_scaling"].clone();
        rope["rope_theta"] = number(spec.rope.theta);
        rope["llama_4_scaling_beta"] = number(temperature.beta);
        rope["original_max_position_embeddings"] = temperature.step.into();
        object.insert("rope_scaling".into(), rope);
        return;
    }
    match spec.architecture {
        Architecture::Gemma2 | Architecture::Gemma3 => {
            let scale = f64::from(spec.score_scale());
            put("query_pre_attn_scalar", json!((1.0 / (scale * scale)).round() as u64));
            put("final_logit_softcapping", json!(extras.final_softcap.map(number)));
            put("attn_logit_softcapping", json!(extras.attention_softcap.map(number)));
            put("hidden_act", json!("gelu_pytorch_tanh"));
            put("hidden_activation", json!("gelu_pytorch_tanh"));
            if spec.architecture == Architecture::Gemma3 {
                let window = extras.window_rope.as_ref().unwrap_or(&spec.rope);
                put("rope_local_base_freq", number(window.theta));
            }
        }
        Architecture::Granite => {
            put("embedding_multiplier", number(extras.embedding_scale));
            put("residual_multiplier", number(extras.residual_scale));
            put("attention_multiplier", number(spec.score_scale()));
            put("logits_scaling", number(1.0 / extras.logit_scale));
        }
        Architecture::SmolLm3 => {
            let turns = |l: usize| u64::from(!extras.no_rope.contains(&l));
            put("no_rope_layers", json!((0..spec.layers).map(turns).collect::<Vec<_>>()));
        }
        Architecture::Cohere2 => {
            put("layer_norm_eps", number(spec.norm_eps));
            put("logit_scale", number(extras.logit_scale));
        }
        _ => {}
    }
}

fn rope_scaling(spec: &ModelSpec) -> Result<Json, ConvertError> {
    Ok(match &spec.rope.scaling {
        RopeScaling::None => Json::Null,
        RopeScaling::Linear { factor } => json!({ "rope_type": "linear", "factor": number(*factor) }),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => json!({
            "rope_type": "llama3",
            "factor": number(*factor),
            "low_freq_factor": number(*low_freq_factor),
            "high_freq_factor": number(*high_freq_factor),
            "original_max_position_embeddings": original_context,
        }),
        RopeScaling::Yarn { factor, original_context, beta_fast, beta_slow, attention_factor, truncate } => {
            json!({
                "rope_type": "yarn",
                "factor": number(*factor),
                "original_max_position_embeddings": original_context,
                "beta_fast": number(*beta_fast),
                "beta_slow": number(*beta_slow),
                "attention_factor": number(*attention_factor),
                "truncate": truncate,
            })
        }
        RopeScaling::Factors(factors) => scaling_of_factors(spec, factors)?,
    })
}

/// The parameters that produce these frequency factors, if any do.
///
/// Llama 3's factors are 1 up to one wavelength and constant beyond another; between them `1/factor` is linear in
/// `1/wavelength`. The line determines only two ratios of its three parameters, so `low_freq_factor` is set to 1.
fn scaling_of_factors(spec: &ModelSpec, factors: &[f32]) -> Result<Json, ConvertError> {
    let last = factors.last().copied().unwrap_or(1.0);
    if factors.iter().all(|f| *f == last) {
        return Ok(if last == 1.0 {
            Json::Null
        } else {
            json!({ "rope_type": "linear", "factor": number(last) })
        });
    }
    let factor = f64::from(last);
    let fits = |high: f64, original: f64| {
        let ours = llama3_factors(spec, factor, 1.0, high, original);
        high > 1.0 && ours.iter().zip(factors).all(|(a, b)| (a / b - 1.0).abs() < 1e-4)
    };
    let between: Vec<(f64, f64)> = wavelengths(spec)
        .zip(factors)
        .filter(|(_, f)| **f > 1.0 && **f < last)
        .map(|(wavelength, f)| {
            (1.0 / wavelength, (1.0 / f64::from(*f) - 1.0 / factor) / (1.0 - 1.0 / factor))
        })
        .collect();
    // smooth = (original/wavelength − 1) / (high − 1)
    let published = between.first().map(|(x, y)| (4.0, ((3.0 * y + 1.0) / x).round()));
    let fitted = match between[..] {
        [(x0, y0), .., (x1, y1)] => {
            let slope = (y1 - y0) / (x1 - x0);
            let high = 1.0 - 1.0 / (y0 - slope * x0);
            Some(((high * 1000.0).round() / 1000.0, (slope * (high - 1.0)).round()))
        }
        _ => None,
    };
    // All published models have a high factor of 4, so it is preferred if few points leave a choice.
    let found = published.into_iter().chain(fitted).find(|&(high, original)| fits(high, original));
    match found {
        Some((high, original)) => Ok(json!({
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": 1.0,
            "high_freq_factor": high,
            "original_max_position_embeddings": original as u64,
        })),
        None => Err(not_expressible(
            "rope_freqs.weight",
            format!("{} factors from {} to {last}", factors.len(), factors[0]),
            "no parameters of Llama 3's scaling give these factors".to_owned(),
        )),
    }
}

fn not_expressible(what: &str, found: impl std::fmt::Display, reason: String) -> ConvertError {
    ConvertError::NotExpressible {
        what: what.to_owned(),
        found: found.to_string(),
        format: "a Hugging Face config.json",
        reason,
    }
}
