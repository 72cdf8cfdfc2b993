//! The scale of scores in multi-head latent attention, which YaRN changes.

use super::mla::Mla;
use super::spec::RopeScaling;
use super::validate::yarn_mscale;

impl Mla {
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
