//! RoPE of a model's layers, in the form that MLX's operation takes: periods instead of frequencies, no magnitude.

use crate::safe::{Array, Dtype, Ops, Result};
use zonda_engine::load::{ModelSpec, Rope, RopePairing};

/// One kind of RoPE.
#[derive(Debug)]
pub(crate) struct Turn {
    /// Pairs are neighbours, not halves.
    adjacent: bool,
    /// Positions per radian, `[width / 2]`
    periods: Array,
    /// Multiplies heads before they turn, `[head_dim]`: the magnitude where values turn, 1 elsewhere. `None`: it is part of
    /// `score`, or 1.
    stretch: Option<Array>,
    /// Multiplies scores: the magnitude of both sides, where all values of a head have it.
    pub score: f32,
}

impl Turn {
    /// Each kind of RoPE in the model, in the order that [`Turn::kind_of`] uses. `context` is the longest sequence, in tokens.
    pub fn all(ops: &Ops, spec: &ModelSpec, compute: Dtype, context: usize) -> Result<Vec<Turn>> {
        let kinds = std::iter::once(&spec.rope).chain(&spec.extras.window_rope);
        kinds.map(|rope| Turn::new(ops, spec, rope, compute, context)).collect()
    }

    /// The kind of RoPE of a layer; `None`: it has none.
    pub fn kind_of(spec: &ModelSpec, layer: usize) -> Option<usize> {
        spec.rope_of(layer).map(|rope| usize::from(spec.extras.window_rope.as_ref() == Some(rope)))
    }

    fn new(ops: &Ops, spec: &ModelSpec, rope: &Rope, compute: Dtype, context: usize) -> Result<Turn> {
        let (frequencies, magnitude) = rope.frequencies(spec.head_dim, context);
        let periods: Vec<f32> = frequencies.iter().map(|f| 1.0 / f).collect();
        let width = 2 * periods.len();
        // A norm behind RoPE changes the magnitude.
        let of_scores = width == spec.head_dim && !spec.extras.norm_behind_rope;
        let stretch = (magnitude != 1.0 && !of_scores).then(|| {
            let values = (0..spec.head_dim).map(|i| if i < width { magnitude } else { 1.0 });
            ops.as_type(&ops.floats(&values.collect::<Vec<_>>(), &[spec.head_dim])?, compute)
        });
        Ok(Turn {
            adjacent: rope.pairing == RopePairing::Adjacent,
            periods: ops.floats(&periods, &[periods.len()])?,
            stretch: stretch.transpose()?,
            score: if of_scores { magnitude * magnitude } else { 1.0 },
        })
    }

    /// Turns queries or keys, `[1, heads, tokens, head_dim]`, whose first token is at position `start`.
    pub fn apply(&self, ops: &Ops, x: &Array, start: usize) -> Result<Array> {
        match &self.stretch {
            Some(stretch) => ops.rope(&ops.multiply(x, stretch)?, self.adjacent, start, &self.periods),
            None => ops.rope(x, self.adjacent, start, &self.periods),
        }
    }
}
