//! The attention half of a layer: Q, K, V → bias, QK norm, RoPE → KV cache → attention → output projection.

use crate::forward::{Rows, Run};
use crate::kv::{KvCache, KvWriter};
use crate::rope::Angles;
use crate::weights::{Layer, Linear};
use std::cell::RefCell;
use zonda_engine::forward::{Batch, Span};
use zonda_engine::load::ModelSpec;
use zonda_kernels::activation::AddScaled;
use zonda_kernels::attention::{Attend, PAGE, Query, Scratch, StoreKv};
use zonda_kernels::norm::RmsNormInPlace;
use zonda_kernels::rope::Rotate;
use zonda_kernels::{Acts, Job, matmul};

/// Tokens whose queries one item of work handles.
const TOKENS_PER_ITEM: usize = 32;

/// What attention writes between its projections.
#[derive(Debug, Default)]
pub(crate) struct AttentionBuffers {
    /// `[tokens, heads · head_dim]`
    q: Vec<f32>,
    /// `[tokens, kv_heads · head_dim]`
    k: Vec<f32>,
    /// `[tokens, kv_heads · head_dim]`
    v: Vec<f32>,
    /// `[tokens, heads · head_dim]`, written by attention, read by the output projection
    mixed: Vec<f32>,
    mixed_acts: Acts,
}

/// Some tokens of one span, for one KV head.
#[derive(Clone, Copy)]
struct Item<'a> {
    span: &'a Span<'a>,
    /// The span's first row in the batch.
    row: usize,
    /// Tokens of the span, from and to.
    from: usize,
    to: usize,
}

impl AttentionBuffers {
    /// Adds the attention block's output to the residual stream `x`, `[tokens, hidden]`.
    #[allow(clippy::too_many_arguments)] // one call; a struct would only rename them
    pub fn run(
        &mut self,
        run: Run<'_>,
        spec: &ModelSpec,
        layer: &Layer,
        l: usize,
        window: Option<usize>,
        batch: &Batch<'_>,
        angles: &Angles,
        kv: &mut KvCache,
        normed: &Acts,
        x: &mut [f32],
    ) {
        let tokens = normed.tokens();
        let (q_cols, kv_cols) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
        self.q.resize(tokens * q_cols, 0.0);
        self.k.resize(tokens * kv_cols, 0.0);
        self.v.resize(tokens * kv_cols, 0.0);
        self.mixed.resize(tokens * q_cols, 0.0);
        project(run, normed, [(&layer.q, &mut self.q), (&layer.k, &mut self.k), (&layer.v, &mut self.v)]);

        let heads = Heads {
            run,
            spec,
            layer,
            l,
            window,
            angles,
            kv: kv.writer(),
            q: Rows::new(&mut self.q, q_cols),
            k: Rows::new(&mut self.k, kv_cols),
            v: Rows::new(&mut self.v, kv_cols),
            mixed: Rows::new(&mut self.mixed, q_cols),
        };
        let decode = batch.spans.iter().all(|s| s.tokens.len() == 1);
        run.pool.for_each(spec.kv_heads, &|head| {
            let mut row = 0;
            for span in &batch.spans {
                heads.rotate_and_store(span, row, head);
                row += span.tokens.len();
            }
            if decode {
                for (row, span) in batch.spans.iter().enumerate() {
                    heads.attend(Item { span, row, from: 0, to: 1 }, head);
                }
            }
        });
        if !decode {
            let chunks = |s: &Span<'_>| s.tokens.len().div_ceil(TOKENS_PER_ITEM);
            let items: usize = batch.spans.iter().map(chunks).sum();
            run.pool.for_each(items * spec.kv_heads, &|i| {
                // later chunks see more and take longer: hand them out first
                let (mut chunk, head) = (items - 1 - i / spec.kv_heads, i % spec.kv_heads);
                let mut row = 0;
                for span in &batch.spans {
                    if chunk < chunks(span) {
                        let from = chunk * TOKENS_PER_ITEM;
                        let to = (from + TOKENS_PER_ITEM).min(span.tokens.len());
                        return heads.attend(Item { span, row, from, to }, head);
                    }
                    chunk -= chunks(span);
                    row += span.tokens.len();
                }
            });
        }

        let mixed = &self.mixed;
        run.fill(&mut self.mixed_acts, tokens, q_cols, &[&layer.attn_out], |t, row| {
            row.copy_from_slice(&mixed[t * q_cols..][..q_cols]);
        });
        let out = Job { weights: &layer.attn_out.packed, out: x, stride: spec.hidden_size, add: true };
        matmul(run.isa, run.pool, &self.mixed_acts, &mut [out]);
    }
}

/// Q, K and V in one parallel loop.
fn project(run: Run<'_>, normed: &Acts, outputs: [(&Linear, &mut Vec<f32>); 3]) {
    let mut jobs = outputs.map(|(linear, out)| {
        let weights = &linear.matrix.packed;
        Job { weights, out, stride: weights.rows(), add: false }
    });
    matmul(run.isa, run.pool, normed, &mut jobs);
}

/// What the work on one KV head (and its group of query heads) needs; heads are independent of each other.
struct Heads<'a> {
    run: Run<'a>,
    spec: &'a ModelSpec,
    layer: &'a Layer,
    l: usize,
    window: Option<usize>,
    angles: &'a Angles,
    kv: KvWriter<'a>,
    q: Rows,
    k: Rows,
    v: Rows,
    mixed: Rows,
}

impl Heads<'_> {
    /// Bias, norm and RoPE for a span's queries and keys of one KV head; keys and values go to the cache.
    fn rotate_and_store(&self, span: &Span<'_>, row: usize, head: usize) {
        let (dim, group) = (self.spec.head_dim, self.spec.group());
        let (q_norm, k_norm) = self.layer.qk_norm.as_ref().map(|(q, k)| (&q[..], &k[..])).unzip();
        for i in 0..span.tokens.len() {
            let t = row + i;
            for h in head * group..(head + 1) * group {
                // SAFETY: rows are the batch's; these columns belong to this KV head, which one thread works on.
                let q = unsafe { self.q.part(t, h * dim, dim) };
                self.turn(q, self.layer.q.bias.as_deref().map(|b| &b[h * dim..][..dim]), q_norm, t);
            }
            // SAFETY: as above; the page is written by this head's thread alone.
            unsafe {
                let (key, value) = (self.k.part(t, head * dim, dim), self.v.part(t, head * dim, dim));
                self.turn(key, self.layer.k.bias.as_deref().map(|b| &b[head * dim..][..dim]), k_norm, t);
                if let Some(bias) = &self.layer.v.bias {
                    self.run.isa.run(AddScaled { x: value, y: &bias[head * dim..][..dim], scale: 1.0 });
                }
                let position = span.start + i;
                let page = self.kv.page_mut(span.slot, position, self.l, head);
                StoreKv { page, kv: self.kv.kv_type(), at: position % PAGE, key, value }.run();
            }
        }
    }

    /// Bias, norm and RoPE of one head of token `t`.
    fn turn(&self, head: &mut [f32], bias: Option<&[f32]>, norm: Option<&[f32]>, t: usize) {
        let isa = self.run.isa;
        if let Some(bias) = bias {
            isa.run(AddScaled { x: head, y: bias, scale: 1.0 });
        }
        if let Some(weight) = norm {
            isa.run(RmsNormInPlace { x: head, weight, eps: self.run.eps });
        }
        let (cos, sin) = self.angles.row(t);
        isa.run(Rotate { head, cos, sin });
    }

    /// Attention of some tokens of a span, for the query heads of one KV head.
    fn attend(&self, item: Item<'_>, head: usize) {
        thread_local! {
            static WORK: RefCell<(Vec<Query>, Scratch)> = RefCell::default();
        }
        let (dim, group) = (self.spec.head_dim, self.spec.group());
        WORK.with_borrow_mut(|(queries, scratch)| {
            queries.clear();
            for i in item.from..item.to {
                let to = item.span.start + i + 1;
                let from = self.window.map_or(0, |w| to.saturating_sub(w));
                for h in head * group..(head + 1) * group {
                    // SAFETY: these columns belong to this KV head, and each token to one item.
                    let (q, out) = unsafe {
                        (self.q.part(item.row + i, h * dim, dim), self.mixed.part(item.row + i, h * dim, dim))
                    };
                    queries.push(Query { q: q.as_ptr(), out: out.as_mut_ptr(), from, to });
                }
            }
            self.run.isa.run(Attend {
                queries,
                head_dim: dim,
                scale: 1.0 / (dim as f32).sqrt(),
                kv: self.kv.kv_type(),
                // SAFETY: this head's keys and values are all written: by this thread, or before the loop began.
                page: |index| unsafe { self.kv.page(item.span.slot, index, self.l, head) },
                scratch,
            });
        });
    }
}

// SAFETY: `Rows` and `KvWriter` are addresses whose users keep to one KV head and token per thread, as said at each use.
unsafe impl Sync for Heads<'_> {}
