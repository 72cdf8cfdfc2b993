//! The context of every stage of a step, and the work that stages share: filling activations in the forms that matrices
//! read.

use crate::rope::Angles;
use crate::rows::Rows;
use crate::weights::Matrix;
use zonda_engine::forward::Batch;
use zonda_engine::load::{Activation, ModelSpec, Norm};
use zonda_kernels::activations::TILE;
use zonda_kernels::elementwise::{AddScaled, ScaleAndCap};
use zonda_kernels::norm::{LayerNorm, RmsNorm, RmsNormInPlace};
use zonda_kernels::{ActivationKind, Activations, Isa, Job, Pool, matmul};

/// The context of every stage of a step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run<'a> {
    pub isa: Isa,
    pub pool: &'a Pool,
    pub hidden: usize,
    pub norm: Norm,
    pub eps: f32,
    pub activation: Activation,
}

impl<'a> Run<'a> {
    pub fn new(isa: Isa, pool: &'a Pool, spec: &ModelSpec) -> Run<'a> {
        let (norm, activation) = (spec.extras.norm, spec.extras.activation);
        Run { isa, pool, hidden: spec.hidden_size, norm, eps: spec.norm_eps, activation }
    }
}

/// The context of both halves of a layer in a step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step<'a> {
    pub run: Run<'a>,
    pub spec: &'a ModelSpec,
    pub batch: &'a Batch<'a>,
    /// The angles of the batch's positions, for each kind of RoPE in the model.
    pub angles: &'a [Angles],
}

/// What happens to the output of half a layer before it is added to the residual stream, in this order.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Change<'a> {
    /// `[hidden]`
    pub bias: Option<&'a [f32]>,
    /// `[hidden]`
    pub norm: Option<&'a [f32]>,
    pub scale: f32,
}

impl Run<'_> {
    /// Writes the norm of every row of `x`, `[tokens, hidden]`, to `out`, in each form that one of `readers` reads.
    /// Where a layer has no norm, the rows are written unchanged.
    pub fn norm(&self, x: &[f32], weight: Option<&[f32]>, out: &mut Activations, readers: &[&Matrix]) {
        let (hidden, eps) = (self.hidden, self.eps);
        self.fill(out, x.len() / hidden, hidden, readers, |t, row| {
            let x = &x[t * hidden..][..hidden];
            match (weight, self.norm) {
                (None, _) => row.copy_from_slice(x),
                (Some(weight), Norm::Rms) => RmsNorm { x, weight, eps, out: row }.on(self.isa),
                (Some(weight), Norm::Layer) => LayerNorm { x, weight, eps, out: row }.on(self.isa),
            }
        });
    }

    /// Adds the output of half a layer, `weights` times `input`, to the residual stream `x`, `[tokens, hidden]`: at once, or, where
    /// something changes it, by way of `room`.
    pub fn join(
        &self,
        weights: &Matrix,
        input: &Activations,
        change: Change<'_>,
        room: &mut Vec<f32>,
        x: &mut [f32],
    ) {
        let (stride, weights) = (self.hidden, &weights.packed);
        let Change { bias, norm, scale } = change;
        if bias.is_none() && norm.is_none() && scale == 1.0 {
            matmul(self.isa, self.pool, input, &mut [Job { weights, out: x, stride, add: true }]);
            return;
        }
        room.resize(x.len(), 0.0);
        matmul(self.isa, self.pool, input, &mut [Job { weights, out: room, stride, add: false }]);
        let (from, to) = (Rows::new(room, stride), Rows::new(x, stride));
        self.pool.split(input.tokens(), TILE, &|rows| {
            for t in rows {
                // SAFETY: each row belongs to one range, so to one thread.
                let (y, x) = unsafe { (from.part(t, 0, stride), to.part(t, 0, stride)) };
                if let Some(bias) = bias {
                    AddScaled { x: y, y: bias, scale: 1.0 }.on(self.isa);
                }
                if let Some(weight) = norm {
                    RmsNormInPlace { x: y, weight, eps: self.eps }.on(self.isa);
                }
                AddScaled { x, y, scale }.on(self.isa);
            }
        });
    }

    /// Scales and caps rows of logits, `[rows, vocab]`, if the model does.
    pub fn finish(&self, logits: &mut [f32], spec: &ModelSpec) {
        let (scale, cap, vocab) = (spec.extras.logit_scale, spec.extras.final_softcap, spec.vocab_size);
        if scale == 1.0 && cap.is_none() {
            return;
        }
        let (rows, logits) = (logits.len() / vocab, Rows::new(logits, vocab));
        self.pool.split(rows, 1, &|rows| {
            for t in rows {
                // SAFETY: each row belongs to one range, so to one thread.
                ScaleAndCap { x: unsafe { logits.part(t, 0, vocab) }, scale, cap }.on(self.isa);
            }
        });
    }

    /// Fills activations row by row with `fill(t, row)`, then converts them to the forms that `readers` need.
    pub fn fill(
        &self,
        out: &mut Activations,
        tokens: usize,
        cols: usize,
        readers: &[&Matrix],
        fill: impl Fn(usize, &mut [f32]) + Sync,
    ) {
        out.reset(tokens, cols, &kinds(readers));
        let rows = out.rows();
        // quantised blocks of a tile's tokens share cache lines
        self.pool.split(tokens, TILE, &|range| {
            for t in range {
                // SAFETY: each row belongs to one range, so to one thread; the slice is not used beyond `fill`.
                unsafe {
                    fill(t, rows.row(t));
                    rows.convert(self.isa, t);
                }
            }
        });
    }
}

/// The forms of activations that the matrices read.
pub(crate) fn kinds(readers: &[&Matrix]) -> [ActivationKind; 2] {
    let has = |kind| readers.iter().any(|m| m.reads == kind);
    let kinds = [
        (ActivationKind::Bf16, has(ActivationKind::Bf16)),
        (ActivationKind::Quant, has(ActivationKind::Quant)),
    ];
    kinds.map(|(kind, wanted)| if wanted { kind } else { ActivationKind::F32 })
}
