//! What multi-head latent attention has before and behind attention: queries are turned into the form of the latents that the KV
//! cache holds, and what attention gives into values.
//!
//! Scores are `q · (W_k c) = (W_kᵀ q) · c`, so each head's query is multiplied by its projection of keys, and attention sees one
//! KV head: the latent `c` with the rotated part of the key behind it. What it gives are mixtures of latents, of which each
//! head's projection of values makes values.

use crate::rows::Rows;
use crate::run::{Run, Step};
use crate::weights::{HeadMatrices, Latent, Layer, Matrix};
use zonda_engine::load::Mla;
use zonda_kernels::activations::TILE;
use zonda_kernels::norm::{RmsNorm, RmsNormInPlace};
use zonda_kernels::rope::Rotate;
use zonda_kernels::{Activations, HeadJobs, Job, matmul, matmul_heads, rows_of_head};

/// Buffers of latent attention.
#[derive(Debug, Default)]
pub(crate) struct LatentBuffers {
    /// Latents of queries, `[tokens, q_rank]`
    ranked: Vec<f32>,
    /// The same, normalised
    normed: Activations,
    /// Queries as they are projected, `[tokens, heads · (nope + rope)]`
    queries: Vec<f32>,
    /// Inputs of the projections of keys and of values, `[heads, rows of a head, nope]` and `[.., kv_rank]`
    by_head: Activations,
    /// What attention gives, `[tokens, heads · (kv_rank + rope)]`; the last values of each head mean nothing
    pub attended: Activations,
    /// `[tokens, heads · value]`
    values: Vec<f32>,
}

impl LatentBuffers {
    /// The queries that attention sees, `[tokens, heads · (kv_rank + rope)]`, and keys, `[tokens, kv_rank + rope]`, rotated.
    pub fn project(
        &mut self,
        step: Step<'_>,
        (layer, latent, mla): (&Layer, &Latent, &Mla),
        input: &Activations,
        q: &mut [f32],
        k: &mut [f32],
    ) {
        let Step { run, spec, .. } = step;
        let (tokens, eps) = (input.tokens(), mla.norm_eps);
        let (query_cols, key_cols) = (spec.heads * mla.query(), mla.key());
        self.queries.resize(tokens * query_cols, 0.0);
        let key = Job { weights: &layer.k.matrix.packed, out: k, stride: key_cols, add: false };
        let query = &layer.q.matrix.packed;
        match &latent.query_up {
            Some((norm, up)) => {
                let rank = norm.len();
                self.ranked.resize(tokens * rank, 0.0);
                let query = Job { weights: query, out: &mut self.ranked, stride: rank, add: false };
                matmul(run.isa, run.pool, input, &mut [query, key]);
                let ranked = &self.ranked;
                run.fill(&mut self.normed, tokens, rank, &[up], |t, out| {
                    RmsNorm { x: &ranked[t * rank..][..rank], weight: norm, eps, out }.on(run.isa);
                });
                let out = &mut self.queries;
                let query = Job { weights: &up.packed, out, stride: query_cols, add: false };
                matmul(run.isa, run.pool, &self.normed, &mut [query]);
            }
            None => {
                let out = &mut self.queries;
                let query = Job { weights: query, out, stride: query_cols, add: false };
                matmul(run.isa, run.pool, input, &mut [query, key]);
            }
        }
        let keys = Rows::new(k, key_cols);
        run.pool.split(tokens, TILE, &|rows| {
            for t in rows {
                // SAFETY: each row belongs to one range, so to one thread.
                let (x, turned) =
                    unsafe { (keys.part(t, 0, mla.kv_rank), keys.part(t, mla.kv_rank, mla.rope)) };
                RmsNormInPlace { x, weight: &latent.norm, eps }.on(run.isa);
                rotate(step, latent, t, turned);
            }
        });
        self.absorb(step, latent, mla, q);
    }

    /// From each head's query to the one that attention sees.
    fn absorb(&mut self, step: Step<'_>, latent: &Latent, mla: &Mla, q: &mut [f32]) {
        let Step { run, spec, .. } = step;
        let (query, key, cols) = (mla.query(), mla.key(), spec.heads * mla.key());
        let tokens = q.len() / cols;
        let (queries, out) = (&self.queries, Rows::new(q, cols));
        fill_by_head(run, &mut self.by_head, (spec.heads, tokens, mla.nope), &latent.key_up, |h, t, row| {
            let head = &queries[(t * spec.heads + h) * query..][..query];
            row.copy_from_slice(&head[..mla.nope]);
            // SAFETY: these columns of the row belong to this head, which one thread fills for this token.
            let turned = unsafe { out.part(t, h * key + mla.kv_rank, mla.rope) };
            turned.copy_from_slice(&head[mla.nope..]);
            rotate(step, latent, t, turned);
        });
        let jobs = HeadJobs { weights: &latent.key_up.packed, tokens, out: q, stride: cols, step: key };
        matmul_heads(run.isa, run.pool, &self.by_head, jobs);
    }

    /// The heads' values, `[tokens, heads · value]`, in the form that `reader` reads, from what attention gave.
    pub fn values(
        &mut self,
        step: Step<'_>,
        (latent, mla): (&Latent, &Mla),
        reader: &Matrix,
        mixed: &mut Activations,
    ) {
        let Step { run, spec, .. } = step;
        let (tokens, cols) = (self.attended.tokens(), spec.heads * mla.value);
        let attended = self.attended.f32();
        let shape = (spec.heads, tokens, mla.kv_rank);
        fill_by_head(run, &mut self.by_head, shape, &latent.value_up, |h, t, row| {
            row.copy_from_slice(&attended[(t * spec.heads + h) * mla.key()..][..mla.kv_rank]);
        });
        self.values.resize(tokens * cols, 0.0);
        let out = &mut self.values;
        let jobs = HeadJobs { weights: &latent.value_up.packed, tokens, out, stride: cols, step: mla.value };
        matmul_heads(run.isa, run.pool, &self.by_head, jobs);
        let values = &self.values;
        run.fill(mixed, tokens, cols, &[reader], |t, row| row.copy_from_slice(&values[t * cols..][..cols]));
    }
}

/// RoPE of the rotated part of a head of token `t`.
fn rotate(step: Step<'_>, latent: &Latent, t: usize, head: &mut [f32]) {
    if let Some(kind) = latent.rope {
        let (cos, sin) = step.angles[kind].row(t);
        Rotate { head, cos, sin }.on(step.run.isa);
    }
}

/// Fills each head's rows with `fill(head, token, row)`, in the form that its matrices read. Rows beyond the tokens stay as they
/// are.
fn fill_by_head(
    run: Run<'_>,
    out: &mut Activations,
    (heads, tokens, cols): (usize, usize, usize),
    reader: &HeadMatrices,
    fill: impl Fn(usize, usize, &mut [f32]) + Sync,
) {
    let of_head = rows_of_head(tokens);
    out.reset(heads * of_head, cols, &[reader.reads]);
    let rows = out.rows();
    run.pool.split(heads * of_head, TILE, &|range| {
        for row in range {
            let (head, t) = (row / of_head, row % of_head);
            if t < tokens {
                // SAFETY: each row belongs to one range, so to one thread; the slice is not used beyond `fill`.
                unsafe {
                    fill(head, t, rows.row(row));
                    rows.convert(run.isa, row);
                }
            }
        }
    });
}
