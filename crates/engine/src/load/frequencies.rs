//! RoPE's frequencies from its parameters, with each kind of scaling.
//!
//! Formulas as published with each method and as `transformers` computes them: linear (position interpolation), llama3
//! (by wavelength band), YaRN (arXiv 2309.00071), LongRoPE (arXiv 2402.13753).

use super::{Rope, RopeScaling};
use std::f32::consts::TAU;

impl Rope {
    /// Radians per position, `[width / 2]`, and the factor of cosines and sines (YaRN's attention temperature). `context` is the
    /// longest sequence in tokens, on which LongRoPE's factors depend.
    pub fn frequencies(&self, head_dim: usize, context: usize) -> (Vec<f32>, f32) {
        let width = self.width.unwrap_or(head_dim);
        let plain = (0..width / 2).map(|i| 1.0 / self.theta.powf((2 * i) as f32 / width as f32));
        match &self.scaling {
            RopeScaling::None => (plain.collect(), 1.0),
            RopeScaling::Linear { factor } => (plain.map(|f| f / factor).collect(), 1.0),
            RopeScaling::Factors(factors) => (plain.zip(factors).map(|(f, by)| f / by).collect(), 1.0),
            RopeScaling::Long(long) => {
                (plain.zip(long.factors(context)).map(|(f, by)| f / by).collect(), long.attention_factor)
            }
            &RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                let original = original_context as f32;
                let band = |f: f32| {
                    let wavelength = TAU / f;
                    if wavelength < original / high_freq_factor {
                        f
                    } else if wavelength > original / low_freq_factor || low_freq_factor == high_freq_factor {
                        f / factor
                    } else {
                        let smooth =
                            (original / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                        (1.0 - smooth) * f / factor + smooth * f
                    }
                };
                (plain.map(band).collect(), 1.0)
            }
            &RopeScaling::Yarn {
                factor,
                original_context,
                beta_fast,
                beta_slow,
                attention_factor,
                truncate,
            } => {
                // the dimension whose wavelength turns `rotations` times within the original context
                let dimension = |rotations: f32| {
                    width as f32 * (original_context as f32 / (rotations * TAU)).ln()
                        / (2.0 * self.theta.ln())
                };
                let (mut low, mut high) = (dimension(beta_fast), dimension(beta_slow));
                if truncate {
                    (low, high) = (low.floor(), high.ceil());
                }
                (low, high) = (low.max(0.0), high.min(width as f32 - 1.0));
                if low == high {
                    high += 0.001;
                }
                let blend = |(i, f): (usize, f32)| {
                    let ramp = ((i as f32 - low) / (high - low)).clamp(0.0, 1.0);
                    f / factor * ramp + f * (1.0 - ramp)
                };
                (plain.enumerate().map(blend).collect(), attention_factor)
            }
        }
    }
}
