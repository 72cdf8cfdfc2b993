//! From positions to RoPE's cosines and sines. The frequencies are [`Rope::frequencies`].

use zonda_engine::load::{ModelSpec, Rope};

/// The frequencies of a model, and the table of the current batch.
#[derive(Debug)]
pub(crate) struct Angles {
    /// Radians per position, `[width / 2]`, where `width` values of a head turn
    frequencies: Vec<f32>,
    /// Multiplies cosines and sines (YaRN's attention temperature).
    magnitude: f32,
    /// `[tokens, width / 2]`
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Angles {
    /// The angles of each kind of RoPE in the model, in the order that [`Angles::kind_of`] uses. `context` is the longest sequence, in
    /// tokens.
    pub fn all(spec: &ModelSpec, context: usize) -> Vec<Angles> {
        let kinds = std::iter::once(&spec.rope).chain(&spec.extras.window_rope);
        kinds.map(|rope| Angles::new(rope, spec.head_dim, context)).collect()
    }

    /// The kind of RoPE of a layer; `None`: it has none.
    pub fn kind_of(spec: &ModelSpec, layer: usize) -> Option<usize> {
        spec.rope_of(layer).map(|rope| usize::from(spec.extras.window_rope.as_ref() == Some(rope)))
    }

    pub fn new(rope: &Rope, head_dim: usize, context: usize) -> Angles {
        let (frequencies, magnitude) = rope.frequencies(head_dim, context);
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

    /// Cosines and sines of the batch's token `t`, `[width / 2]` each.
    pub fn row(&self, t: usize) -> (&[f32], &[f32]) {
        let half = self.frequencies.len();
        (&self.cos[t * half..][..half], &self.sin[t * half..][..half])
    }
}
