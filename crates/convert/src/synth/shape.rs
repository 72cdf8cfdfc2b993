//! [`Shape`]: a published model's numbers, and what the specs of several families have in common.

use zonda_engine::load::{
    Architecture, Extras, Mla, ModelSpec, Moe, Rope, RopePairing, RopeScaling, RouterScore, SharedExpert,
};

/// The numbers that differ between models, in the order of `config.json`.
pub(super) struct Shape {
    pub architecture: Architecture,
    pub vocab: usize,
    pub context: usize,
    pub hidden: usize,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub ffn: usize,
    pub eps: f32,
    pub theta: f32,
}

impl Shape {
    /// The spec, with everything that all models of the architecture have.
    pub fn spec(self) -> ModelSpec {
        let windows = vec![None; self.layers];
        ModelSpec {
            architecture: self.architecture,
            name: None,
            vocab_size: self.vocab,
            context_length: self.context,
            hidden_size: self.hidden,
            layers: self.layers,
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            ffn_size: self.ffn,
            norm_eps: self.eps,
            rope: Rope {
                theta: self.theta,
                pairing: RopePairing::Halves,
                width: None,
                scaling: RopeScaling::None,
            },
            qkv_bias: self.architecture.qkv_bias(),
            qk_norm: self.architecture.qk_norm(),
            tied_embeddings: false,
            moe: None,
            extras: Extras::of(self.architecture, self.hidden, &windows),
            windows,
        }
    }
}

/// Llama 3's scaling by this factor.
pub(super) fn llama3(factor: f32) -> RopeScaling {
    RopeScaling::Llama3 { factor, low_freq_factor: 1.0, high_freq_factor: 4.0, original_context: 8192 }
}

/// A model with so many experts, of which so many are used, of this width.
pub(super) fn experts(mut spec: ModelSpec, experts: usize, used: usize, ffn_size: usize) -> ModelSpec {
    spec.moe = Some(Moe::plain(experts, used, ffn_size, true));
    spec
}

/// Experts as DeepSeek has them, with `shared` widths of an expert that every token runs besides.
pub(super) fn deepseek_experts(
    spec: ModelSpec,
    (count, used, ffn_size): (usize, usize, usize),
    shared: usize,
    dense_layers: usize,
    change: impl FnOnce(&mut Moe),
) -> ModelSpec {
    let mut spec = experts(spec, count, used, ffn_size);
    if let Some(moe) = &mut spec.moe {
        moe.shared = Some(SharedExpert { ffn_size: shared * ffn_size, gated: false });
        moe.dense_layers = dense_layers;
        change(moe);
    }
    spec
}

/// Multi-head latent attention with YaRN: its factor, original context and `mscale_all_dim`.
pub(super) fn latent(
    mut spec: ModelSpec,
    mla: Mla,
    (factor, original_context, all_dim): (f32, usize, f64),
) -> ModelSpec {
    spec.rope.pairing = RopePairing::Adjacent;
    spec.rope.scaling = RopeScaling::Yarn {
        factor,
        original_context,
        beta_fast: 32.0,
        beta_slow: 1.0,
        attention_factor: 1.0,
        truncate: true,
    };
    (spec.kv_heads, spec.head_dim) = (1, mla.key());
    spec.extras.attention_scale = Some(mla.score_scale(&spec.rope.scaling, all_dim));
    spec.rope.width = Some(mla.rope);
    spec.extras.mla = Some(mla);
    spec
}

/// A corrected router of sigmoids, with this scale.
pub(super) fn sigmoids(scale: f32) -> impl FnOnce(&mut Moe) {
    move |moe| {
        let router = &mut moe.router;
        (router.score, router.correction, router.scale) = (RouterScore::Sigmoid, true, scale);
    }
}

/// GLM-4.5's heads: half of each is rotated, and Q, K and V have biases.
pub(super) fn glm(mut spec: ModelSpec) -> ModelSpec {
    spec.qkv_bias = true;
    spec.rope.width = Some(spec.head_dim / 2);
    spec
}

/// Two layers, one row of 256 so that every type of block fits: under two million weights.
pub(super) fn tiny(architecture: Architecture) -> ModelSpec {
    Shape {
        architecture,
        vocab: 512,
        context: 2048,
        hidden: 256,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_dim: 64,
        ffn: 512,
        eps: 1e-5,
        theta: 1e4,
    }
    .spec()
}
