//! RoPE's parameters in a `config.json`, in both spellings: `rope_theta` beside `rope_scaling`, and `rope_parameters`.
//!
//! Names, defaults and precedence follow `transformers`' `modeling_rope_utils`.

use serde_json::Value as Json;

use super::LoadError;
use super::fields::{Fields, MAX_COUNT, Object};
use super::spec::RopeScaling;
use super::validate::yarn_mscale;

/// The base frequency and the scaling.
pub(super) fn read(
    config: &Object<'_>,
    default_theta: f64,
    context_length: usize,
) -> Result<(f32, RopeScaling), LoadError> {
    of_kind(config, parameters(config)?, default_theta, context_length)
}

/// The same from the parameters of one kind of layer.
pub(super) fn of_kind(
    config: &Object<'_>,
    parameters: Option<Object<'_>>,
    default_theta: f64,
    context_length: usize,
) -> Result<(f32, RopeScaling), LoadError> {
    let empty = serde_json::Map::new();
    let rope = match parameters {
        Some(rope) => rope,
        None => Object { path: config.path, prefix: "rope_parameters.", object: &empty },
    };
    let theta = match rope.positive("rope_theta")? {
        Some(theta) => theta,
        None => config.positive("rope_theta")?.unwrap_or(default_theta),
    };
    for object in [config, &rope] {
        if let Some(found) = object.number("partial_rotary_factor")?.filter(|&x| x != 1.0) {
            return Err(object.unsupported("partial_rotary_factor", found, "heads that turn whole are run"));
        }
    }
    Ok((theta as f32, scaling(config, &rope, context_length)?))
}

/// The object that holds the parameters. Newer files may repeat it for each kind of layer.
pub(super) fn parameters<'a>(config: &Object<'a>) -> Result<Option<Object<'a>>, LoadError> {
    let old = config.child("rope_scaling", "rope_scaling.")?.filter(|rope| !rope.object.is_empty());
    let rope = match old {
        Some(rope) => rope,
        None => match config.child("rope_parameters", "rope_parameters.")? {
            Some(rope) => rope,
            None => return Ok(None),
        },
    };
    let mut nested = rope.object.values().filter_map(Json::as_object);
    let Some(first) = nested.next() else { return Ok(Some(rope)) };
    match nested.all(|other| other == first) {
        true => Ok(Some(Object { object: first, ..rope })),
        false => Err(config.unsupported(
            rope.prefix.trim_end_matches('.'),
            "one object per kind of layer, which differ",
            "models with the same parameters in all layers are run",
        )),
    }
}

fn scaling(config: &Object<'_>, rope: &Object<'_>, context_length: usize) -> Result<RopeScaling, LoadError> {
    let key = if rope.json("rope_type").is_some() { "rope_type" } else { "type" };
    let original_context = || -> Result<usize, LoadError> {
        let key = "original_max_position_embeddings";
        let found = config.count(key, MAX_COUNT)?;
        Ok(found.or(rope.count(key, MAX_COUNT)?).unwrap_or(context_length))
    };
    match rope.text(key)?.unwrap_or("default") {
        "default" => Ok(RopeScaling::None),
        "linear" => Ok(RopeScaling::Linear { factor: rope.need_positive("factor")? as f32 }),
        "llama3" => {
            let low_freq_factor = rope.need_positive("low_freq_factor")? as f32;
            let high_freq_factor = rope.need_positive("high_freq_factor")? as f32;
            if high_freq_factor < low_freq_factor {
                let expected = format!("a number of at least low_freq_factor, {low_freq_factor}");
                return Err(rope.bad("high_freq_factor", high_freq_factor, expected));
            }
            Ok(RopeScaling::Llama3 {
                factor: rope.need_positive("factor")? as f32,
                low_freq_factor,
                high_freq_factor,
                original_context: original_context()?,
            })
        }
        "yarn" => {
            let original_context = original_context()?;
            let factor = match rope.positive("factor")? {
                Some(factor) => factor,
                None => context_length as f64 / original_context as f64,
            };
            Ok(RopeScaling::Yarn {
                factor: factor as f32,
                original_context,
                beta_fast: or_default(rope, "beta_fast", 32.0)?,
                beta_slow: or_default(rope, "beta_slow", 1.0)?,
                attention_factor: attention_factor(rope, factor)? as f32,
                truncate: rope.flag("truncate")?.unwrap_or(true),
            })
        }
        other => Err(rope.unsupported(key, format!("{other:?}"), "default, linear, llama3 and yarn are run")),
    }
}

/// A number above zero; zero means the default, as with Python's `or`.
fn or_default(rope: &Object<'_>, key: &str, default: f64) -> Result<f32, LoadError> {
    match rope.number(key)? {
        Some(0.0) | None => Ok(default as f32),
        Some(_) => Ok(rope.positive(key)?.unwrap_or(default) as f32),
    }
}

/// YaRN's factor of cos and sin: given, or from `mscale` and `mscale_all_dim`, or from the scaling factor alone.
fn attention_factor(rope: &Object<'_>, factor: f64) -> Result<f64, LoadError> {
    if let Some(given) = rope.positive("attention_factor")? {
        return Ok(given);
    }
    let mscale = rope.number("mscale")?.unwrap_or(0.0);
    let all_dims = rope.number("mscale_all_dim")?.unwrap_or(0.0);
    if mscale == 0.0 || all_dims == 0.0 {
        return Ok(yarn_mscale(factor, 1.0));
    }
    let ratio = yarn_mscale(factor, mscale) / yarn_mscale(factor, all_dims);
    match (ratio as f32).is_finite() && ratio as f32 > 0.0 {
        true => Ok(ratio),
        false => Err(rope.bad("mscale", mscale, "a number that gives an attention factor above 0")),
    }
}
