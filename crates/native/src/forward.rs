//! The forward pass, the same for every architecture: embed → (attention → feed-forward) × layers → norm → head.

use crate::Native;
use crate::attention::AttentionBuffers;
use crate::ffn::FfnBuffers;
use crate::rope::Angles;
use crate::weights::Matrix;
use zonda_engine::forward::{Batch, Logits};
use zonda_engine::load::ModelSpec;
use zonda_kernels::activations::TILE;
use zonda_kernels::memory::SharedPtr;
use zonda_kernels::norm::RmsNorm;
use zonda_kernels::{ActivationKind, Activations, Isa, Job, Pool, matmul};

/// Buffers between tokens and logits. They grow to the largest batch seen; after that a step never allocates.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    /// The residual stream, `[tokens, hidden]`
    pub x: Vec<f32>,
    /// Normalised rows in the forms that matmuls read, `[tokens, hidden]`
    pub normed: Activations,
    pub attention: AttentionBuffers,
    pub ffn: FfnBuffers,
}

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

impl Native {
    /// One step: every span's tokens through every layer, logits for the positions that want them.
    pub(crate) fn step(&mut self, batch: &Batch<'_>, out: &mut Logits) {
        let run = Run { isa: self.isa, pool: &self.pool, eps: self.spec.norm_eps };
        let hidden = self.spec.hidden_size;
        self.angles.set(batch.spans.iter().flat_map(|s| s.start..s.start + s.tokens.len()));
        self.buffers.x.resize(batch.tokens() * hidden, 0.0);
        let tokens = batch.spans.iter().flat_map(|s| s.tokens);
        for (&token, row) in tokens.zip(self.buffers.x.chunks_exact_mut(hidden)) {
            self.weights.embed(token, row);
        }
        let step = Step { run, spec: &self.spec, batch, angles: &self.angles };
        for (l, layer) in self.weights.layers.iter().enumerate() {
            let Buffers { x, normed, attention, ffn } = &mut self.buffers;
            run.norm(x, &layer.attn_norm, normed, &[&layer.q.matrix, &layer.k.matrix, &layer.v.matrix]);
            attention.run(step, layer, l, &mut self.kv, normed, x);
            ffn.run(step, layer, normed, x);
        }
        self.head(batch, out);
    }

    /// Final norm and output head for the wanted rows only.
    fn head(&mut self, batch: &Batch<'_>, out: &mut Logits) {
        let run = Run { isa: self.isa, pool: &self.pool, eps: self.spec.norm_eps };
        let (hidden, vocab) = (self.spec.hidden_size, self.spec.vocab_size);
        out.reset(batch.rows(), vocab);
        // move the wanted rows of the residual stream together, in place: a row only ever moves forward
        let rows = batch.rows();
        for (to, row) in batch.wanted_rows().enumerate() {
            self.buffers.x.copy_within(row * hidden..(row + 1) * hidden, to * hidden);
        }
        if rows == 0 {
            return;
        }
        let head = &self.weights.head;
        let Buffers { x, normed, .. } = &mut self.buffers;
        run.norm(&x[..rows * hidden], &self.weights.output_norm, normed, &[head]);
        let job = Job { weights: &head.packed, out: out.as_mut_slice(), stride: vocab, add: false };
        matmul(run.isa, run.pool, normed, &mut [job]);
    }
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

/// A matrix of `f32` whose rows several threads write, each its own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows {
    base: SharedPtr<f32>,
    cols: usize,
}

impl Rows {
    pub fn new(data: &mut [f32], cols: usize) -> Rows {
        Rows { base: SharedPtr::new(data), cols }
    }

    /// Columns `from..from + len` of row `t`, to write.
    ///
    /// # Safety
    /// The slice given to [`Rows::new`] has that row and still lives, and nothing else touches these columns while the part is
    /// in use.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn part<'a>(&self, t: usize, from: usize, len: usize) -> &'a mut [f32] {
        assert!(from + len <= self.cols, "columns of a row");
        // SAFETY: the caller guarantees the row, and that the part is used by nothing else.
        unsafe { std::slice::from_raw_parts_mut(self.base.at(t * self.cols + from), len) }
    }

    /// Columns `from..from + len` of row `t`, to read.
    ///
    /// # Safety
    /// As [`Rows::part`], but others may read.
    pub unsafe fn read<'a>(&self, t: usize, from: usize, len: usize) -> &'a [f32] {
        assert!(from + len <= self.cols, "columns of a row");
        // SAFETY: the caller guarantees the row, and that nothing writes to the part.
        unsafe { std::slice::from_raw_parts(self.base.at(t * self.cols + from), len) }
    }
}
