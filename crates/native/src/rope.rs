//! From positions to RoPE's cosines and sines, with each way of stretching the frequencies.
//!
//! Formulas as published with each method and as `transformers` computes them: linear (position interpolation), llama3
//! (by wavelength band), YaRN (arXiv 2309.00071).

use std::f32::consts::TAU;
use zonda_engine::load::{Rope, RopeScaling};

/// Frequencies of a model, and the table of the batch in hand.
#[derive(Debug)]
pub(crate) struct Angles {
    /// Radians per position, `[head_dim / 2]`
    frequencies: Vec<f32>,
    /// Multiplies cosines and sines (YaRN's attention temperature).
    magnitude: f32,
    /// `[tokens, head_dim / 2]`
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Angles {
    pub fn new(rope: &Rope, head_dim: usize) -> Angles {
        let half = head_dim / 2;
        let plain: Vec<f32> =
            (0..half).map(|i| 1.0 / rope.theta.powf((2 * i) as f32 / head_dim as f32)).collect();
        let (frequencies, magnitude) = stretch(plain, rope, head_dim);
        Angles { frequencies, magnitude, cos: Vec::new(), sin: Vec::new() }
    }

    /// Fills the table for these positions, one row each.
    pub fn set(&mut self, positions: impl Iterator<Item = usize>) {
        self.cos.clear();
        self.sin.clear();
        for position in positions {
            for &f in &self.frequencies {
                let (sin, cos) = (position as f32 * f).sin_cos();
                self.cos.push(cos * self.magnitude);
                self.sin.push(sin * self.magnitude);
            }
        }
    }

    /// Cosines and sines of the batch's token `t`, `[head_dim / 2]` each.
    pub fn row(&self, t: usize) -> (&[f32], &[f32]) {
        let half = self.frequencies.len();
        (&self.cos[t * half..][..half], &self.sin[t * half..][..half])
    }
}

/// The scaled frequencies, and the magnitude of the rotation.
fn stretch(plain: Vec<f32>, rope: &Rope, head_dim: usize) -> (Vec<f32>, f32) {
    match &rope.scaling {
        RopeScaling::None => (plain, 1.0),
        RopeScaling::Linear { factor } => (plain.iter().map(|f| f / factor).collect(), 1.0),
        RopeScaling::Factors(factors) => (plain.iter().zip(factors).map(|(f, by)| f / by).collect(), 1.0),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
            let original = *original_context as f32;
            let band = |f: f32| {
                let wavelength = TAU / f;
                if wavelength < original / high_freq_factor {
                    f
                } else if wavelength > original / low_freq_factor {
                    f / factor
                } else {
                    let smooth =
                        (original / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                    (1.0 - smooth) * f / factor + smooth * f
                }
            };
            (plain.into_iter().map(band).collect(), 1.0)
        }
        &RopeScaling::Yarn { factor, original_context, beta_fast, beta_slow, attention_factor, truncate } => {
            // the dimension whose wavelength turns `rotations` times within the original context
            let dimension = |rotations: f32| {
                head_dim as f32 * (original_context as f32 / (rotations * TAU)).ln() / (2.0 * rope.theta.ln())
            };
            let (mut low, mut high) = (dimension(beta_fast), dimension(beta_slow));
            if truncate {
                (low, high) = (low.floor(), high.ceil());
            }
            (low, high) = (low.max(0.0), high.min(head_dim as f32 - 1.0));
            if low == high {
                high += 0.001;
            }
            let blend = |(i, f): (usize, f32)| {
                let ramp = ((i as f32 - low) / (high - low)).clamp(0.0, 1.0);
                f / factor * ramp + f * (1.0 - ramp)
            };
            (plain.into_iter().enumerate().map(blend).collect(), attention_factor)
        }
    }
}
