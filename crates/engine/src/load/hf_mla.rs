//! Multi-head latent attention in a Hugging Face `config.json`, with `transformers`' defaults.

use super::LoadError;
use super::fields::{Fields, MAX_COUNT, Object};
use super::hf_rope;
use super::mla::Mla;
use super::spec::{Architecture, RopeScaling};

/// What `transformers` normalises latents with, whatever the model's own epsilon.
const NORM_EPS: f32 = 1e-6;

/// The widths, if this family has it.
pub(super) fn read(config: &Object<'_>, architecture: Architecture) -> Result<Option<Mla>, LoadError> {
    if !architecture.latent() {
        return Ok(None);
    }
    let small = architecture == Architecture::Mistral4;
    let (q_rank, kv_rank, nope) = if small { (1024, 256, 64) } else { (1536, 512, 128) };
    let count =
        |key: &str, default: usize| Ok::<_, LoadError>(config.count(key, MAX_COUNT)?.unwrap_or(default));
    if config.flag("rope_interleave")? == Some(false) {
        return Err(config.unsupported("rope_interleave", false, "models that interleave are run"));
    }
    let mla = Mla {
        // null says that there is none
        q_rank: match config.object.get("q_lora_rank") {
            None => Some(q_rank),
            Some(_) => config.count("q_lora_rank", MAX_COUNT)?,
        },
        kv_rank: count("kv_lora_rank", kv_rank)?,
        nope: count("qk_nope_head_dim", nope)?,
        rope: count("qk_rope_head_dim", 64)?,
        value: count("v_head_dim", 128)?,
        norm_eps: NORM_EPS,
    };
    if !mla.rope.is_multiple_of(2) {
        return Err(config.bad("qk_rope_head_dim", mla.rope, "an even number"));
    }
    // `transformers` writes the share of a head that is rotated, which the widths already say
    if let Some(rope) = hf_rope::parameters(config)?
        && let Some(found) = rope.number("partial_rotary_factor")?
    {
        let share = mla.rope as f64 / mla.query() as f64;
        if found != 1.0 && (found - share).abs() > 1e-6 {
            return Err(rope.unsupported("partial_rotary_factor", found, format!("the widths say {share}")));
        }
    }
    Ok(Some(mla))
}

/// What attention scores are multiplied by.
pub(super) fn score_scale(config: &Object<'_>, mla: &Mla, scaling: &RopeScaling) -> Result<f32, LoadError> {
    let all_dim = match hf_rope::parameters(config)? {
        None => None,
        Some(rope) => rope.number("mscale_all_dim")?,
    };
    Ok(mla.score_scale(scaling, all_dim.unwrap_or(0.0)))
}
