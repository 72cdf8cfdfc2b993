//! Experts in a Hugging Face `config.json` that spells them as DeepSeek does, with `transformers`' defaults.

use serde_json::Value as Json;

use super::LoadError;
use super::fields::{Fields, MAX_COUNT, Object};
use super::moe::{ExpertGroups, GroupScore, Moe, RouterScore, SharedExpert};
use super::spec::Architecture;
use super::validate::MAX_EXPERTS;

/// `transformers`' defaults of a family.
struct Defaults {
    experts: usize,
    /// `None`: the file must have it.
    used: Option<usize>,
    ffn_size: usize,
    shared: usize,
    dense_layers: usize,
    /// How many groups there are and how many are used.
    groups: (usize, usize),
    normalize: bool,
    scale: f64,
}

fn defaults(architecture: Architecture) -> Defaults {
    match architecture {
        Architecture::DeepSeekV2 => Defaults {
            experts: 64,
            used: None,
            ffn_size: 1407,
            shared: 2,
            dense_layers: 0,
            groups: (1, 1),
            normalize: false,
            scale: 1.0,
        },
        Architecture::DeepSeekV3 => Defaults {
            experts: 256,
            used: Some(8),
            ffn_size: 2048,
            shared: 1,
            dense_layers: 3,
            groups: (8, 4),
            normalize: true,
            scale: 2.5,
        },
        Architecture::Mistral4 => Defaults {
            experts: 128,
            used: Some(4),
            ffn_size: 2048,
            shared: 1,
            dense_layers: 0,
            groups: (1, 1),
            normalize: true,
            scale: 1.0,
        },
        // GLM-4.5
        _ => Defaults {
            experts: 128,
            used: Some(8),
            ffn_size: 1408,
            shared: 1,
            dense_layers: 1,
            groups: (1, 1),
            normalize: true,
            scale: 1.0,
        },
    }
}

/// The experts of a family that has them.
pub(super) fn read(config: &Object<'_>, architecture: Architecture, layers: usize) -> Result<Moe, LoadError> {
    let defaults = defaults(architecture);
    let v2 = architecture == Architecture::DeepSeekV2;
    let count =
        |key: &str, max: u64, default: usize| Ok::<_, LoadError>(config.count(key, max)?.unwrap_or(default));
    let or_zero = |key: &str, default: usize| {
        Ok::<_, LoadError>(config.count_or_zero(key, MAX_COUNT)?.unwrap_or(default))
    };
    if let Some(found) = config.count("moe_layer_freq", MAX_COUNT)?.filter(|&n| n != 1) {
        return Err(config.unsupported(
            "moe_layer_freq",
            found,
            "models with experts in every layer but the first are run",
        ));
    }
    let softmax = matches!(architecture, Architecture::DeepSeekV2 | Architecture::Mistral4);
    let scored = if softmax { "softmax" } else { "sigmoid" };
    if let Some(found) = config.text("scoring_func")?.filter(|&found| found != scored) {
        return Err(config.unsupported("scoring_func", format!("{found:?}"), format!("{scored:?} is run")));
    }
    let used = match defaults.used {
        Some(n) => count("num_experts_per_tok", MAX_EXPERTS, n)?,
        None => config.need_count("num_experts_per_tok", MAX_EXPERTS)?,
    };
    let ffn_size = count("moe_intermediate_size", MAX_COUNT, defaults.ffn_size)?;
    let normalize = config.flag("norm_topk_prob")?;
    if v2 && normalize == Some(true) {
        // `transformers` reads the key and does not use it
        return Err(config.unsupported("norm_topk_prob", true, "deepseek_v2 is run without it"));
    }
    let experts = count("n_routed_experts", MAX_EXPERTS, defaults.experts)?;
    let mut moe = Moe::plain(experts, used, ffn_size, normalize.unwrap_or(defaults.normalize));
    moe.dense_layers = or_zero("first_k_dense_replace", defaults.dense_layers)?;
    if moe.dense_layers > layers {
        let expected = format!("at most the number of layers, {layers}");
        return Err(config.bad("first_k_dense_replace", moe.dense_layers, expected));
    }
    moe.router.scale = config.positive("routed_scaling_factor")?.unwrap_or(defaults.scale) as f32;
    if !softmax {
        moe.router.score = RouterScore::Sigmoid;
        moe.router.correction = true;
    }
    moe.router.groups = groups(config, &defaults, v2)?;
    let shared = or_zero("n_shared_experts", defaults.shared)?;
    moe.shared = (shared > 0).then_some(SharedExpert { ffn_size: shared * ffn_size, gated: false });
    Ok(moe)
}

/// The groups, if more than one.
fn groups(config: &Object<'_>, defaults: &Defaults, v2: bool) -> Result<Option<ExpertGroups>, LoadError> {
    if v2 {
        match config.json("topk_method").and_then(Json::as_str).unwrap_or("greedy") {
            "greedy" => return Ok(None),
            "group_limited_greedy" => {}
            other => {
                let runs = "greedy and group_limited_greedy are run";
                return Err(config.unsupported("topk_method", format!("{other:?}"), runs));
            }
        }
    }
    let count = config.count("n_group", MAX_EXPERTS)?.unwrap_or(defaults.groups.0);
    let used = config.count("topk_group", MAX_EXPERTS)?.unwrap_or(defaults.groups.1);
    let score = if v2 { GroupScore::Best } else { GroupScore::BestTwo };
    Ok((count > 1).then_some(ExpertGroups { count, used, score }))
}
