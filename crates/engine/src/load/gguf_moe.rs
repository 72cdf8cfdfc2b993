//! Experts in the metadata of GGUF files that spell them as llama.cpp does for DeepSeek.

use super::LoadError;
use super::fields::{Fields, MAX_COUNT, Prefixed};
use super::moe::{ExpertGroups, GroupScore, Moe, RouterScore, SharedExpert};
use super::source::Store;
use super::spec::Architecture;
use super::validate::MAX_EXPERTS;

/// The experts of a family, if the file has any. Whether their scores are corrected is told by the tensors.
pub(super) fn read(
    keys: &Prefixed<'_>,
    family: Architecture,
    layers: usize,
    store: &Store,
) -> Result<Option<Moe>, LoadError> {
    let count = |key: &str, max: u64| Ok::<_, LoadError>(keys.count_or_zero(key, max)?.filter(|&n| n > 0));
    let glm = family == Architecture::Glm4Moe;
    let dense_layers = count("leading_dense_block_count", MAX_COUNT)?.unwrap_or(0);
    let Some(experts) = count("expert_count", MAX_EXPERTS)? else {
        return match glm {
            true => Err(keys.missing("expert_count", "the number of experts")),
            false => Ok(None),
        };
    };
    if dense_layers > layers {
        let expected = format!("at most the number of layers, {layers}");
        return Err(keys.bad("leading_dense_block_count", dense_layers, expected));
    }
    let used = keys.need_count("expert_used_count", experts as u64)?;
    let ffn_size = match count("expert_feed_forward_length", MAX_COUNT)? {
        Some(n) => n,
        None if glm => keys.need_count("feed_forward_length", MAX_COUNT)? / used,
        None => keys.need_count("expert_feed_forward_length", MAX_COUNT)?,
    };
    let mut moe = Moe::plain(experts, used, ffn_size, keys.flag("expert_weights_norm")?.unwrap_or(false));
    moe.dense_layers = dense_layers;
    moe.router.score = match count("expert_gating_func", MAX_COUNT)? {
        None if glm => RouterScore::Sigmoid,
        None | Some(1) => RouterScore::Softmax,
        Some(2) => RouterScore::Sigmoid,
        Some(3) => RouterScore::SoftmaxOfUsed,
        Some(other) => {
            return Err(keys.unsupported(
                "expert_gating_func",
                other,
                "1 to 3 are run: softmax, sigmoid, softmax of the used",
            ));
        }
    };
    moe.router.scale = match keys.number("expert_weights_scale")? {
        None | Some(0.0) => 1.0,
        Some(_) => keys.need_positive("expert_weights_scale")? as f32,
    };
    moe.router.correction = glm || store.get(&format!("blk.{dense_layers}.exp_probs_b.bias")).is_some();
    if let Some(groups) = count("expert_group_count", MAX_EXPERTS)?.filter(|&groups| groups > 1) {
        let score = match (family, moe.router.score) {
            (Architecture::DeepSeekV2, RouterScore::Softmax) => GroupScore::Best,
            _ => GroupScore::BestTwo,
        };
        let used = keys.need_count("expert_group_used_count", MAX_EXPERTS)?;
        moe.router.groups = Some(ExpertGroups { count: groups, used, score });
    }
    let shared = count("expert_shared_count", MAX_EXPERTS)?;
    moe.shared = shared.map(|n| SharedExpert { ffn_size: n * ffn_size, gated: false });
    Ok(Some(moe))
}
