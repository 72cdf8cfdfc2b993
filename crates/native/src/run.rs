//! What every stage of a step needs to know, and what every stage does: fill activations in the forms that matrices read.

use crate::rope::Angles;
use crate::weights::Matrix;
use zonda_engine::forward::Batch;
use zonda_engine::load::ModelSpec;
use zonda_kernels::activations::TILE;
use zonda_kernels::norm::RmsNorm;
use zonda_kernels::{ActivationKind, Activations, Isa, Pool};

/// What every stage of a step needs to know.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run<'a> {
    pub isa: Isa,
    pub pool: &'a Pool,
    pub eps: f32,
}

/// What both halves of a layer need to know of a step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step<'a> {
    pub run: Run<'a>,
    pub spec: &'a ModelSpec,
    pub batch: &'a Batch<'a>,
    /// Of the batch's positions.
    pub angles: &'a Angles,
}

impl Run<'_> {
    /// RMSNorm of every row of `x` into `out`, in each form that one of `readers` reads.
    pub fn norm(&self, x: &[f32], weight: &[f32], out: &mut Activations, readers: &[&Matrix]) {
        let hidden = weight.len();
        self.fill(out, x.len() / hidden, hidden, readers, |t, row| {
            RmsNorm { x: &x[t * hidden..][..hidden], weight, eps: self.eps, out: row }.on(self.isa);
        });
    }

    /// Fills activations row by row with `fill(t, row)`, then converts them to the forms that `readers` want.
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

/// The forms of activations that some matrices read.
pub(crate) fn kinds(readers: &[&Matrix]) -> [ActivationKind; 2] {
    let has = |kind| readers.iter().any(|m| m.reads == kind);
    let kinds = [
        (ActivationKind::Bf16, has(ActivationKind::Bf16)),
        (ActivationKind::Quant, has(ActivationKind::Quant)),
    ];
    kinds.map(|(kind, wanted)| if wanted { kind } else { ActivationKind::F32 })
}
