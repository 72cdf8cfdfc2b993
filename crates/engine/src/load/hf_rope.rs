//! RoPE's parameters in a `config.json`, in both spellings: `rope_theta` beside `rope_scaling`, and `rope_parameters`.
//!
//! Names, defaults and precedence follow `transformers`' `modeling_rope_utils`.

use serde_json::Value as Json;

use super::LoadError;
use super::fields::{Fields, MAX_COUNT, Object};
use super::spec::{Architecture, LongRope, RopeScaling};
use super::validate::yarn_mscale;

/// The base frequency and the scaling.
pub(super) fn read(
    config: &Object<'_>,
    default_theta: f64,
    context_length: usize,
) -> Result<(f32, RopeScaling), LoadError> {
    of_kind(config, parameters(config)?, default_theta, context_length)
}

/// The same, from the parameters of one kind of layer.
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
    Ok((theta as f32, scaling(config, &rope, context_length)?))
}

/// How many values of a head turn, if that is not all.
pub(super) fn width(
    config: &Object<'_>,
    architecture: Architecture,
    head_dim: usize,
) -> Result<Option<usize>, LoadError> {
    const KEY: &str = "partial_rotary_factor";
    // one kind of layer's parameters stand for all: no family that has several turns a part of its heads
    let kinds = config.child("rope_parameters", "rope_parameters.")?;
    let nested = kinds.iter().flat_map(|kinds| kinds.object.values()).filter_map(Json::as_object);
    let nested = nested.map(|object| Object { path: config.path, prefix: "rope_parameters.", object });
    let scaling = config.child("rope_scaling", "rope_scaling.")?;
    let mut share = None;
    for object in scaling.into_iter().chain(kinds).chain(nested).chain([*config]) {
        let found = object.number(KEY)?;
        if architecture.rotary_share().is_none()
            && let Some(found) = found.filter(|&x| x != 1.0)
        {
            return Err(object.unsupported(KEY, found, "heads of this family that turn whole are run"));
        }
        share = share.or(found);
    }
    let Some(share) = share.or(architecture.rotary_share()) else { return Ok(None) };
    let width = (head_dim as f64 * share) as usize;
    match share > 0.0 && share <= 1.0 && width >= 2 && width.is_multiple_of(2) {
        true => Ok(Some(width).filter(|&width| width != head_dim)),
        false => {
            Err(config.bad(KEY, share, format!("a number of 0 to 1 that gives an even part of {head_dim}")))
        }
    }
}

/// [`read`] for Phi-3, which calls LongRoPE by several names and has nothing else. `width`: the values of a head that turn.
pub(super) fn read_phi3(
    config: &Object<'_>,
    default_theta: f64,
    context_length: usize,
    width: usize,
) -> Result<(f32, RopeScaling), LoadError> {
    let Some(rope) = parameters(config)? else { return read(config, default_theta, context_length) };
    let key = kind_key(&rope);
    match rope.text(key)?.unwrap_or("default") {
        "default" => return read(config, default_theta, context_length),
        "longrope" | "su" | "yarn" => {}
        other => return Err(rope.unsupported(key, format!("{other:?}"), "default and longrope are run")),
    }
    let theta = match rope.positive("rope_theta")? {
        Some(theta) => theta,
        None => config.positive("rope_theta")?.unwrap_or(default_theta),
    };
    let original = "original_max_position_embeddings";
    let original_context = match config.count(original, MAX_COUNT)? {
        Some(found) => found,
        None => rope.count(original, MAX_COUNT)?.unwrap_or(4096),
    };
    let factor = match rope.positive("factor")? {
        Some(factor) => factor,
        None => context_length as f64 / original_context as f64,
    };
    let attention_factor = match rope.positive("attention_factor")? {
        Some(given) => given,
        None => LongRope::default_attention_factor(factor, original_context),
    };
    if !(attention_factor as f32).is_finite() {
        return Err(config.bad(original, original_context, "a context of several tokens"));
    }
    let factors = |key: &str| factors(&rope, key, width / 2);
    let long = LongRope {
        short: factors("short_factor")?,
        long: factors("long_factor")?,
        original_context,
        attention_factor: attention_factor as f32,
    };
    Ok((theta as f32, RopeScaling::Long(long)))
}

/// An array of so many numbers above 0.
fn factors(rope: &Object<'_>, key: &str, len: usize) -> Result<Vec<f32>, LoadError> {
    let expected = format!("an array of {len} numbers above 0, one for each pair of values that turn");
    let Some(json) = rope.json(key) else { return Err(rope.missing(key, &expected)) };
    let numbers = json.as_array().into_iter().flatten().map(|v| v.as_f64().map(|x| x as f32));
    let numbers: Option<Vec<f32>> = numbers.collect();
    match numbers.filter(|f| f.len() == len && f.iter().all(|x| x.is_finite() && *x > 0.0)) {
        Some(factors) => Ok(factors),
        None => {
            let found =
                json.as_array().map_or("something else".to_owned(), |v| format!("an array of {}", v.len()));
            Err(rope.bad(key, found, expected))
        }
    }
}

/// The key of the scaling's kind.
fn kind_key(rope: &Object<'_>) -> &'static str {
    if rope.json("rope_type").is_some() { "rope_type" } else { "type" }
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
            "only models with the same parameters in all layers are supported",
        )),
    }
}

fn scaling(config: &Object<'_>, rope: &Object<'_>, context_length: usize) -> Result<RopeScaling, LoadError> {
    let key = kind_key(rope);
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
