//! What the families of a Hugging Face `config.json` compute beyond Llama, with `transformers`' defaults; and the text part of a
//! model that also reads images.

use serde_json::Value as Json;

use super::LoadError;
use super::fields::{Fields, MAX_COUNT, Object};
use super::hf_rope;
use super::mla::Mla;
use super::spec::{Activation, Architecture, Extras, QueryTemperature, Rope, RopePairing, RopeScaling};
use super::validate::MAX_EXPERTS;
use super::validate::inverse_root;

/// The configuration of the text part of a model with several, and the class of the whole.
pub(super) struct TextPart<'a> {
    pub config: Object<'a>,
    pub class: &'static str,
    /// The `model_type` if the configuration has none.
    pub model_type: &'static str,
}

/// The text part, if this is a supported model of several parts.
pub(super) fn text_part<'a>(config: &Object<'a>) -> Result<Option<TextPart<'a>>, LoadError> {
    let (class, model_type) = match config.text("model_type")? {
        Some("mistral3") => ("Mistral3ForConditionalGeneration", "mistral"),
        Some("gemma3") => ("Gemma3ForConditionalGeneration", "gemma3_text"),
        Some("llama4") => ("Llama4ForConditionalGeneration", "llama4_text"),
        _ => return Ok(None),
    };
    let text = config.child("text_config", "text_config.")?;
    let config = text.ok_or_else(|| config.missing("text_config", "the text part's configuration"))?;
    Ok(Some(TextPart { config, class, model_type }))
}

/// The base frequency and scaling of RoPE, and those of windowed layers if they differ.
pub(super) fn ropes(
    config: &Object<'_>,
    architecture: Architecture,
    mla: Option<&Mla>,
    default_theta: f64,
    (context, head_dim): (usize, usize),
) -> Result<(Rope, Option<Rope>), LoadError> {
    let pairing = match architecture {
        Architecture::Cohere2 | Architecture::Glm | Architecture::Glm4 | Architecture::Llama4 => {
            RopePairing::Adjacent
        }
        _ if architecture.latent() => RopePairing::Adjacent,
        _ => RopePairing::Halves,
    };
    let width = match mla {
        Some(mla) => Some(mla.rope),
        None => hf_rope::width(config, architecture, head_dim)?,
    };
    let rope = |(theta, scaling)| Rope { theta, pairing, width, scaling };
    if architecture == Architecture::Phi3 {
        let scaling = hf_rope::read_phi3(config, default_theta, context, width.unwrap_or(head_dim))?;
        return Ok((rope(scaling), None));
    }
    if !matches!(architecture, Architecture::Gemma3 | Architecture::Olmo3) {
        return Ok((rope(hf_rope::read(config, default_theta, context)?), None));
    }
    let kinds = config.child("rope_parameters", "rope_parameters.")?;
    let full = rope(match &kinds {
        Some(kinds) if kinds.json("full_attention").is_some() => {
            let full = kinds.child("full_attention", "rope_parameters.full_attention.")?;
            hf_rope::of_kind(config, full, default_theta, context)?
        }
        _ => hf_rope::read(config, default_theta, context)?,
    });
    let local_theta = match architecture {
        Architecture::Gemma3 => config.positive("rope_local_base_freq")?.unwrap_or(10_000.0),
        _ => f64::from(full.theta),
    };
    let window = rope(match &kinds {
        Some(kinds) if kinds.json("sliding_attention").is_some() => {
            let sliding = kinds.child("sliding_attention", "rope_parameters.sliding_attention.")?;
            hf_rope::of_kind(config, sliding, local_theta, context)?
        }
        _ => (local_theta as f32, RopeScaling::None),
    });
    let differs = window != full;
    Ok((full, differs.then_some(window)))
}

/// The numbers that the extras depend on.
pub(super) struct Shapes<'a> {
    pub hidden: usize,
    pub head_dim: usize,
    pub windows: &'a [Option<usize>],
}

/// What the family computes beyond Llama.
pub(super) fn read(
    config: &Object<'_>,
    architecture: Architecture,
    shapes: &Shapes<'_>,
    window_rope: Option<Rope>,
) -> Result<Extras, LoadError> {
    let layers = shapes.windows.len();
    let slides = shapes.windows.iter().any(Option::is_some);
    let scale = |key: &str| Ok::<_, LoadError>(config.positive(key)?.unwrap_or(1.0) as f32);
    let unless_plain = |scale: f32| Some(scale).filter(|&s| s != 1.0 / (shapes.head_dim as f32).sqrt());
    let mut extras = Extras {
        window_rope: window_rope.filter(|_| slides),
        ..Extras::of(architecture, shapes.hidden, shapes.windows)
    };
    match architecture {
        Architecture::Ministral3 | Architecture::Mistral4 => {
            extras.query_temperature = query_temperature(config)?;
        }
        Architecture::Gemma2 | Architecture::Gemma3 => {
            let cap = |key: &str, default: Option<f32>| match config.object.get(key) {
                None => Ok::<_, LoadError>(default),
                Some(_) => Ok(config.positive(key)?.map(|x| x as f32)),
            };
            let scalar = config.positive("query_pre_attn_scalar")?.unwrap_or(256.0);
            extras.attention_scale =
                if scalar == shapes.head_dim as f64 { None } else { unless_plain(inverse_root(scalar)) };
            let gemma2 = architecture == Architecture::Gemma2;
            extras.final_softcap = cap("final_logit_softcapping", gemma2.then_some(30.0))?;
            extras.attention_softcap = cap("attn_logit_softcapping", gemma2.then_some(50.0))?;
            // `transformers` reads the key for Gemma 3, but does not use it.
            if let Some(found) = extras.attention_softcap.filter(|_| !gemma2) {
                return Err(config.unsupported("attn_logit_softcapping", found, "gemma2 has it"));
            }
        }
        granite if granite.granite() => {
            if granite == Architecture::GraniteMoeHybrid {
                check_hybrid(config, layers)?;
                // `transformers` has RoPE only where the key says so.
                if config.text("position_embedding_type")? != Some("rope") {
                    extras.no_rope = (0..layers).collect();
                }
            }
            extras.embedding_scale = scale("embedding_multiplier")?;
            extras.residual_scale = scale("residual_multiplier")?;
            extras.attention_scale = unless_plain(scale("attention_multiplier")?);
            extras.logit_scale = 1.0 / scale("logits_scaling")?;
        }
        Architecture::SmolLm3 => extras.no_rope = no_rope(config, layers)?,
        Architecture::Cohere2 => {
            extras.logit_scale = config.positive("logit_scale")?.unwrap_or(0.0625) as f32;
        }
        Architecture::Llama4 => {
            extras.no_rope = no_rope(config, layers)?;
            extras.norm_behind_rope = config.flag("use_qk_norm")?.unwrap_or(true);
            // published files have a number
            let tuned = match config.json("attn_temperature_tuning") {
                None => true,
                Some(Json::Number(n)) => n.as_f64() != Some(0.0),
                Some(_) => config.flag("attn_temperature_tuning")?.unwrap_or(true),
            };
            extras.query_temperature = match tuned {
                false => None,
                true => Some(QueryTemperature {
                    beta: config.positive("attn_scale")?.unwrap_or(0.1) as f32,
                    step: config.count("floor_scale", MAX_COUNT)?.unwrap_or(8192),
                    offset: 1,
                    no_rope_only: true,
                }),
            };
        }
        Architecture::GptOss => {
            if hf_rope::parameters(config)?.is_none() {
                return Err(config.missing("rope_parameters", "the parameters of YaRN"));
            }
            let number =
                |key: &str, default: f64| Ok::<_, LoadError>(config.positive(key)?.unwrap_or(default) as f32);
            let (alpha, limit) = (number("swiglu_alpha", 1.702)?, number("swiglu_limit", 7.0)?);
            extras.activation = Activation::Clamped { alpha, limit };
        }
        _ => {}
    }
    Ok(extras)
}

/// Refuses what the hybrid of attention and Mamba-2 layers, with or without experts, has beyond dense layers of attention.
fn check_hybrid(config: &Object<'_>, layers: usize) -> Result<(), LoadError> {
    const EXPERTS: &str = "num_local_experts";
    // `transformers`' default is 8
    if config.json(EXPERTS).is_none_or(|json| json.as_u64() != Some(0)) {
        let found = config.count(EXPERTS, MAX_EXPERTS)?.unwrap_or(8);
        return Err(config.unsupported(
            EXPERTS,
            found,
            "of granitemoehybrid, models without experts are run",
        ));
    }
    let key = if config.json("layer_types").is_some() { "layer_types" } else { "layers_block_type" };
    let attends = |kind: &Json| matches!(kind.as_str(), Some("attention" | "full_attention"));
    let kinds = config.json(key).and_then(Json::as_array).filter(|kinds| kinds.len() == layers);
    match kinds.is_some_and(|kinds| kinds.iter().all(attends)) {
        true => Ok(()),
        false => {
            let found = config.json(key).map_or("nothing".to_owned(), Json::to_string);
            let runs = format!("{layers} layers of \"attention\" are run, no Mamba-2");
            Err(config.unsupported(key, found, runs))
        }
    }
}

/// Ministral 3's factor of queries, among RoPE's parameters.
fn query_temperature(config: &Object<'_>) -> Result<Option<QueryTemperature>, LoadError> {
    let Some(rope) = hf_rope::parameters(config)? else { return Ok(None) };
    let beta = rope.number("llama_4_scaling_beta")?.filter(|&beta| beta != 0.0);
    let Some(beta) = beta else { return Ok(None) };
    let step = rope.need_count("original_max_position_embeddings", MAX_COUNT)?;
    Ok(Some(QueryTemperature { beta: beta as f32, step, offset: 0, no_rope_only: false }))
}

/// The layers without RoPE: those with a 0 in `no_rope_layers`, or every `no_rope_layer_interval`-th.
pub(super) fn no_rope(config: &Object<'_>, layers: usize) -> Result<Vec<usize>, LoadError> {
    const KEY: &str = "no_rope_layers";
    let empty = |json: &&Json| json.as_array().is_some_and(Vec::is_empty);
    let Some(json) = config.json(KEY).filter(|json| !empty(json)) else {
        let every = config.count("no_rope_layer_interval", MAX_COUNT)?.unwrap_or(4);
        return Ok((0..layers).filter(|l| (l + 1) % every == 0).collect());
    };
    let flags: Option<Vec<u64>> = json.as_array().and_then(|list| list.iter().map(Json::as_u64).collect());
    match flags.filter(|flags| flags.len() == layers && flags.iter().all(|&f| f <= 1)) {
        Some(flags) => Ok((0..layers).filter(|&l| flags[l] == 0).collect()),
        None => Err(config.bad(KEY, "something else", format!("an array of {layers} zeros and ones"))),
    }
}
