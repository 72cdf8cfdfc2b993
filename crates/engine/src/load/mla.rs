//! [`Mla`]: multi-head latent attention (arXiv 2405.04434) as data.

use super::RopeScaling;
use super::validate::yarn_mscale;

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

    /// What scores are multiplied by: `1 / √query`, times the square of YaRN's scale for `mscale_all_dim` (DeepSeek's own
    /// use of it).
    pub fn score_scale(&self, scaling: &RopeScaling, mscale_all_dim: f64) -> f32 {
        let mscale = match scaling {
            RopeScaling::Yarn { factor, .. } => yarn_mscale(f64::from(*factor), mscale_all_dim),
            _ => 1.0,
        };
        ((self.query() as f64).powf(-0.5) * mscale * mscale) as f32
    }

    /// The `mscale_all_dim` that gives this scale of scores; 0 without YaRN.
    pub fn mscale_all_dim(&self, scaling: &RopeScaling, score_scale: f32) -> f32 {
        match scaling {
            RopeScaling::Yarn { factor, .. } if *factor > 1.0 => {
                let mscale = (f64::from(score_scale) * (self.query() as f64).sqrt()).sqrt();
                // six digits: the scale has no more
                let all_dim = (mscale - 1.0) / (0.1 * f64::from(*factor).ln());
                ((all_dim * 1e6).round() / 1e6) as f32
            }
            _ => 0.0,
        }
    }
}
