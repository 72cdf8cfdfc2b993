//! [`Mla`]: multi-head latent attention (arXiv 2405.04434) as data.

/// Multi-head latent attention: the keys and values of all heads are projections of one latent per position. A model of it has
/// one KV head in its spec, whose key is the latent and a rotated part, and whose value is the latent: the projections of keys
/// are applied to queries instead, those of values to what attention gives.
#[derive(Clone, Debug, PartialEq)]
pub struct Mla {
    /// Width of the latent that queries are projected from; `None`: they are projected from the layer's input.
    pub q_rank: Option<usize>,
    /// Width of the latent of keys and values.
    pub kv_rank: usize,
    /// Values of a query head that are not rotated.
    pub nope: usize,
    /// Values of a query head, behind those, that are rotated.
    pub rope: usize,
    /// Values of a value head.
    pub value: usize,
    /// Epsilon of the latents' norms.
    pub norm_eps: f32,
}

impl Mla {
    /// Values of a query head.
    pub fn query(&self) -> usize {
        self.nope + self.rope
    }

    /// Values of a key in the KV cache: the latent and the rotated part.
    pub fn key(&self) -> usize {
        self.kv_rank + self.rope
    }
}
