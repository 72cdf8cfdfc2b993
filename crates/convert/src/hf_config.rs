//! From a [`ModelSpec`] to a Hugging Face `config.json`, in the spelling that every reader supports (`rope_theta`,
//! `rope_scaling`, `torch_dtype`).

use crate::error::ConvertError;
use crate::gguf_keys::{llama3_factors, wavelengths};
use serde_json::{Value as Json, json};
use zonda_engine::TokenId;
use zonda_engine::load::{Architecture, GroupScore, LongRope, ModelSpec, Moe, RopeScaling, RouterScore};
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
    if spec.qkv_bias != spec.architecture.qkv_bias() && spec.architecture.qkv_bias_by_key().is_none() {
        return Err(not_expressible(
            "qkv_bias",
            spec.qkv_bias,
            format!("it belongs to qwen2 and glm, this is {model_type}"),
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
    if spec.architecture.qkv_bias_by_key().is_some()
        || matches!(spec.architecture, Architecture::Llama | Architecture::Qwen3 | Architecture::Qwen3Moe)
    {
        object.insert("attention_bias".into(), spec.qkv_bias.into());
    }
    windows(spec, object)?;
    extras(spec, object);
    latent(spec, object)?;
    if let Some(moe) = &spec.moe {
        object.insert("num_experts_per_tok".into(), moe.used.into());
        match spec.architecture {
            mixtral if mixtral == Architecture::Mixtral || mixtral.granite() => {
                if !moe.router.normalize {
                    return Err(not_expressible(
                        "normalize",
                        false,
                        format!("{mixtral} always scales expert weights"),
                    ));
                }
                object.insert("num_local_experts".into(), moe.experts.into());
                object.insert("intermediate_size".into(), moe.ffn_size.into());
                if let Some(shared) = moe.shared {
                    object.insert("shared_intermediate_size".into(), shared.ffn_size.into());
                }
            }
            _ if spec.extras.mla.is_some() || spec.architecture == Architecture::Glm4Moe => {
                deepseek_experts(spec.architecture, moe, object)?;
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

/// Multi-head latent attention, and the norms that GLM-4.5 says it has.
fn latent(spec: &ModelSpec, object: &mut serde_json::Map<String, Json>) -> Result<(), ConvertError> {
    if spec.architecture == Architecture::Glm4Moe {
        object.insert("use_qk_norm".into(), spec.qk_norm.into());
    }
    let Some(mla) = &spec.extras.mla else { return Ok(()) };
    if mla.norm_eps != 1e-6 {
        let reason = "transformers normalises latents with 1e-6".to_owned();
        return Err(not_expressible("the epsilon of the latents' norms", mla.norm_eps, reason));
    }
    if spec.moe.is_none() {
        let reason = "the classes of this kind of attention have experts".to_owned();
        return Err(not_expressible("experts", "none", reason));
    }
    for (key, value) in [
        ("kv_lora_rank", json!(mla.kv_rank)),
        ("q_lora_rank", json!(mla.q_rank)),
        ("qk_nope_head_dim", json!(mla.nope)),
        ("qk_rope_head_dim", json!(mla.rope)),
        ("v_head_dim", json!(mla.value)),
        ("num_key_value_heads", json!(spec.heads)),
    ] {
        object.insert(key.to_owned(), value);
    }
    object.remove("head_dim");
    if let RopeScaling::Yarn { .. } = &spec.rope.scaling {
        let all_dim = mla.mscale_all_dim(&spec.rope.scaling, spec.score_scale());
        object["rope_scaling"]["mscale_all_dim"] = number(all_dim);
    }
    Ok(())
}

/// Experts in DeepSeek's spelling.
fn deepseek_experts(
    architecture: Architecture,
    moe: &Moe,
    object: &mut serde_json::Map<String, Json>,
) -> Result<(), ConvertError> {
    let router = &moe.router;
    let refuse = |what: &str, found: String| {
        Err(not_expressible(what, found, format!("{architecture} has no such router")))
    };
    let v2 = architecture == Architecture::DeepSeekV2;
    let softmax = v2 || architecture == Architecture::Mistral4;
    let score = if softmax { RouterScore::Softmax } else { RouterScore::Sigmoid };
    if router.score != score {
        return refuse("the router's score", format!("{:?}", router.score));
    }
    if router.bias || router.correction == softmax {
        return refuse("its biases", format!("logits {}, correction {}", router.bias, router.correction));
    }
    if v2 && router.normalize {
        return refuse("normalize", "true".to_owned());
    }
    let group_score = if v2 { GroupScore::Best } else { GroupScore::BestTwo };
    if let Some(groups) = router.groups.filter(|groups| groups.score != group_score) {
        return refuse("the score of groups", format!("{:?}", groups.score));
    }
    let shared = moe.shared.map_or(0, |shared| shared.ffn_size);
    if moe.shared.is_some_and(|shared| shared.gated) || !shared.is_multiple_of(moe.ffn_size) {
        return refuse("the shared expert", format!("{:?}", moe.shared));
    }
    let (count, used) = router.groups.map_or((1, 1), |groups| (groups.count, groups.used));
    let mut put = |key: &str, value: Json| object.insert(key.to_owned(), value);
    put("n_routed_experts", moe.experts.into());
    put("n_shared_experts", (shared / moe.ffn_size).into());
    put("moe_intermediate_size", moe.ffn_size.into());
    put("norm_topk_prob", router.normalize.into());
    put("routed_scaling_factor", number(router.scale));
    put("first_k_dense_replace", moe.dense_layers.into());
    put("n_group", count.into());
    put("topk_group", used.into());
    put("scoring_func", if softmax { "softmax" } else { "sigmoid" }.into());
    if v2 {
        put("topk_method", if count > 1 { "group_limited_greedy" } else { "greedy" }.into());
    } else {
        // layers that predict further tokens are not kept
        put("num_nextn_predict_layers", 0.into());
    }
    Ok(())
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
        Architecture::Mistral | Architecture::Mixtral | Architecture::Ministral3 | Architecture::Phi3
            if uniform =>
        {
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
        // It is one of RoPE's parameters.
        let mut rope = object["rope_scaling"].clone();
        rope["rope_theta"] = number(spec.rope.theta);
        rope["llama_4_scaling_beta"] = number(temperature.beta);
        rope["original_max_position_embeddings"] = temperature.step.into();
        object.insert("rope_scaling".into(), rope);
        return;
    }
    if spec.architecture.rotary_share().is_some() {
        put("partial_rotary_factor", json!(spec.rope_dim() as f64 / spec.head_dim as f64));
    }
    if let RopeScaling::Long(long) = &spec.rope.scaling {
        put("original_max_position_embeddings", long.original_context.into());
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
        granite if granite.granite() => {
            if granite == Architecture::GraniteMoeHybrid {
                put("layer_types", json!(vec!["attention"; spec.layers]));
                put(
                    "position_embedding_type",
                    json!(if extras.no_rope.is_empty() { "rope" } else { "nope" }),
                );
                put("num_local_experts", 0.into());
                put("num_experts_per_tok", 0.into());
                put("shared_intermediate_size", spec.ffn_size.into());
            }
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
        RopeScaling::Long(long) => long_rope(spec, long),
    })
}

/// LongRoPE's parameters. The attention factor is left out where it follows from the contexts, as published files have it.
fn long_rope(spec: &ModelSpec, long: &LongRope) -> Json {
    let numbers = |factors: &[f32]| factors.iter().copied().map(number).collect::<Vec<_>>();
    let mut rope = json!({
        "rope_type": "longrope",
        "short_factor": numbers(&long.short),
        "long_factor": numbers(&long.long),
        "original_max_position_embeddings": long.original_context,
    });
    let factor = spec.context_length as f64 / long.original_context as f64;
    if LongRope::default_attention_factor(factor, long.original_context) as f32 != long.attention_factor {
        rope["attention_factor"] = number(long.attention_factor);
    }
    rope
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
