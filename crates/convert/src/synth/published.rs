//! Shapes of families with options beyond Llama's, one function each.
//!
//! Numbers are those of each release's `config.json`. Where the configuration classes of `transformers` have the same number as
//! their default, it was compared: all of Ministral 3 8B, and of the others all but the sizes that their comments name.

use super::shape::{Shape, glm};
use zonda_engine::load::{
    Architecture, ModelSpec, Moe, QueryTemperature, Rope, RopePairing, RopeScaling, yarn_mscale,
};

/// Ministral 3 8B (2512), the text part: `Ministral3Config`'s defaults. YaRN by 16 from 16,384 tokens with both of its `mscale` 1,
/// and queries that grow every 16,384 positions.
pub(super) fn ministral_3_8b() -> ModelSpec {
    let mut spec = Shape {
        architecture: Architecture::Ministral3,
        vocab: 131_072,
        context: 262_144,
        hidden: 4096,
        layers: 34,
        heads: 32,
        kv_heads: 8,
        head_dim: 128,
        ffn: 14_336,
        eps: 1e-5,
        theta: 1e6,
    }
    .spec();
    spec.rope.scaling = yarn(16.0, 16_384, 1.0, true);
    spec.extras.query_temperature =
        Some(QueryTemperature { beta: 0.1, step: 16_384, offset: 0, no_rope_only: false });
    spec
}

/// Gemma 3 4B, the text part: `Gemma3TextConfig`'s defaults but for the hidden size, the feed-forward width, the layers, the window
/// of 1024 and the full layers' RoPE, which is stretched by 8.
pub(super) fn gemma_3_4b() -> ModelSpec {
    let mut spec = Shape {
        architecture: Architecture::Gemma3,
        vocab: 262_208,
        context: 131_072,
        hidden: 2560,
        layers: 34,
        heads: 8,
        kv_heads: 4,
        head_dim: 256,
        ffn: 10_240,
        eps: 1e-6,
        theta: 1e6,
    }
    .spec();
    spec.extras.window_rope = Some(Rope { theta: 1e4, ..spec.rope.clone() });
    spec.rope.scaling = RopeScaling::Linear { factor: 8.0 };
    spec.windows = windows(spec.layers, 1024, 6);
    spec.tied_embeddings = true;
    spec
}

/// gpt-oss-20b: `GptOssConfig`'s defaults, which are those of the 120B, but for 24 layers and 32 experts. YaRN by 32 from 4096
/// tokens, with bounds that are not rounded.
pub(super) fn gpt_oss_20b() -> ModelSpec {
    let mut spec = Shape {
        architecture: Architecture::GptOss,
        vocab: 201_088,
        context: 131_072,
        hidden: 2880,
        layers: 24,
        heads: 64,
        kv_heads: 8,
        head_dim: 64,
        ffn: 2880,
        eps: 1e-5,
        theta: 1.5e5,
    }
    .spec();
    spec.rope.scaling = yarn(32.0, 4096, yarn_mscale(32.0, 1.0) as f32, false);
    spec.windows = windows(spec.layers, 128, 2);
    spec.moe = Some(Moe::gpt_oss(32, 4, 2880));
    spec
}

/// GLM-4-9B-0414: `Glm4Config`'s defaults but for the context and the norms' epsilon. Half of each head is rotated.
pub(super) fn glm_4_9b() -> ModelSpec {
    let mut spec = Shape {
        architecture: Architecture::Glm4,
        vocab: 151_552,
        context: 32_768,
        hidden: 4096,
        layers: 40,
        heads: 32,
        kv_heads: 2,
        head_dim: 128,
        ffn: 13_696,
        eps: 1e-5,
        theta: 1e4,
    }
    .spec();
    spec.rope.pairing = RopePairing::Adjacent;
    glm(spec)
}

/// Phi-4, the 14B: a `Phi3Config` with sizes of its own, without LongRoPE or windows.
pub(super) fn phi_4() -> ModelSpec {
    Shape {
        architecture: Architecture::Phi3,
        vocab: 100_352,
        context: 16_384,
        hidden: 5120,
        layers: 40,
        heads: 40,
        kv_heads: 10,
        head_dim: 128,
        ffn: 17_920,
        eps: 1e-5,
        theta: 2.5e5,
    }
    .spec()
}

/// YaRN with the usual bounds.
fn yarn(factor: f32, original_context: usize, attention_factor: f32, truncate: bool) -> RopeScaling {
    RopeScaling::Yarn {
        factor,
        original_context,
        beta_fast: 32.0,
        beta_slow: 1.0,
        attention_factor,
        truncate,
    }
}

/// A window in all layers but every n-th, `[layers]`.
fn windows(layers: usize, window: usize, full_every: usize) -> Vec<Option<usize>> {
    (1..=layers).map(|n| Some(window).filter(|_| n % full_every != 0)).collect()
}
