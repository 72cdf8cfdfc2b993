//! Checks of a [`ModelSpec`] that are the same for all formats; messages use the format's own keys.

use super::fields::Fields;
use super::moe::GroupScore;
use super::{LoadError, ModelSpec};

/// Maximum number of layers; real models have up to about 130.
pub(super) const MAX_LAYERS: u64 = 1024;
/// Maximum number of experts per layer; real models have up to about 512.
pub(super) const MAX_EXPERTS: u64 = 1024;
/// Maximum head width; real models have up to 256.
const MAX_HEAD_DIM: usize = 4096;

/// A format's names of the checked values.
pub(super) struct Names {
    pub heads: &'static str,
    pub kv_heads: &'static str,
    pub head_dim: &'static str,
    pub experts_used: &'static str,
    pub groups: &'static str,
    pub groups_used: &'static str,
    pub norm_eps: &'static str,
    pub theta: &'static str,
}

/// The head's width if the file does not contain it.
pub(super) fn derived_head_dim(
    fields: &impl Fields,
    heads_key: &str,
    hidden: usize,
    heads: usize,
) -> Result<usize, LoadError> {
    match hidden.is_multiple_of(heads) {
        true => Ok(hidden / heads),
        false => Err(fields.bad(heads_key, heads, format!("a divisor of the hidden size, {hidden}"))),
    }
}

/// Rejects an inconsistent spec.
pub(super) fn validate(fields: &impl Fields, names: &Names, spec: &ModelSpec) -> Result<(), LoadError> {
    if spec.head_dim > MAX_HEAD_DIM || !spec.head_dim.is_multiple_of(2) {
        let expected = format!("an even number from 2 to {MAX_HEAD_DIM}");
        return Err(fields.bad(names.head_dim, spec.head_dim, expected));
    }
    if !spec.heads.is_multiple_of(spec.kv_heads) {
        let expected = format!("a divisor of {}, {}", fields.name(names.heads), spec.heads);
        return Err(fields.bad(names.kv_heads, spec.kv_heads, expected));
    }
    if let Some(moe) = spec.moe.as_ref().filter(|moe| moe.used > moe.experts) {
        let expected = format!("at most the number of experts, {}", moe.experts);
        return Err(fields.bad(names.experts_used, moe.used, expected));
    }
    if let Some(moe) = &spec.moe
        && let Some(groups) = moe.router.groups
    {
        if !moe.experts.is_multiple_of(groups.count) {
            let expected = format!("a divisor of the number of experts, {}", moe.experts);
            return Err(fields.bad(names.groups, groups.count, expected));
        }
        // as many experts as are used, and two in each group that is ranked by two
        let in_group = moe.experts / groups.count;
        if groups.used > groups.count || groups.used * in_group < moe.used {
            let expected =
                format!("at most {} groups, with at least {} experts in all", groups.count, moe.used);
            return Err(fields.bad(names.groups_used, groups.used, expected));
        }
        if groups.score == GroupScore::BestTwo && in_group < 2 {
            let expected = format!("at most half the number of experts, {}", moe.experts / 2);
            return Err(fields.bad(names.groups, groups.count, expected));
        }
    }
    if spec.norm_eps >= 1.0 {
        return Err(fields.bad(names.norm_eps, spec.norm_eps, "a number between 0 and 1"));
    }
    if spec.rope.theta < 1.0 {
        return Err(fields.bad(names.theta, spec.rope.theta, "a number of at least 1"));
    }
    Ok(())
}

/// YaRN's attention scale for a context scaling of `factor`, as `transformers` computes it.
pub fn yarn_mscale(factor: f64, mscale: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 }
}

/// `1 / √n`, as models write their attention scale.
pub(super) fn inverse_root(n: f64) -> f32 {
    (1.0 / n.sqrt()) as f32
}
