//! The attention half of a layer: Q, K, V → bias, QK norm, RoPE → KV cache → attention → output projection.
//!
//! Work is cut by KV head and, within a prompt, by page; a decode step over a long context also by [`SPLIT`], so that few KV
//! heads still keep all threads busy. The one KV head of latent attention has so many query heads that they are cut, too. The way
//! it is cut changes no bit of the result.

use crate::kv::{KvCache, KvWriter};
use crate::latent::LatentBuffers;
use crate::rows::Rows;
use crate::run::{Change, Run, Step, kinds};
use crate::weights::{Layer, Linear};
use std::cell::RefCell;
use std::ops::Range;
use zonda_engine::forward::{Batch, Limits, Span};
use zonda_engine::load::ModelSpec;
use zonda_kernels::activations::TILE;
use zonda_kernels::attention::{Attend, Hadamard, Merge, PAGE, Query, SPLIT, Scratch, StoreKv};
use zonda_kernels::elementwise::{AddScaled, ScaleAndCap};
use zonda_kernels::norm::RmsNormInPlace;
use zonda_kernels::rope::Rotate;
use zonda_kernels::{Activations, Job, matmul};

/// Buffers between the projections of attention.
#[derive(Debug, Default)]
pub(crate) struct AttentionBuffers {
    /// `[tokens, heads · head_dim]`
    q: Vec<f32>,
    /// `[tokens, kv_heads · head_dim]`
    k: Vec<f32>,
    /// `[tokens, kv_heads · head_dim]`
    v: Vec<f32>,
    /// Of a decode step, `[splits of all spans, heads · (head_dim + 2)]`
    parts: Vec<f32>,
    /// `[tokens, heads · head_dim]`, written by attention, read by the output projection
    pub mixed: Activations,
    latent: LatentBuffers,
    /// Its output where a norm or a scale is behind it, `[tokens, hidden]`
    out: Vec<f32>,
}

/// Some tokens of one span.
#[derive(Clone, Copy)]
struct Piece<'a> {
    span: &'a Span<'a>,
    /// The span's first row in the batch.
    row: usize,
    /// Tokens of the span, from and to.
    from: usize,
    to: usize,
}

impl AttentionBuffers {
    /// Makes room for the splits of everything that the cache can hold, so that decode steps never allocate. Memory that is
    /// never used is never touched.
    pub fn reserve(&mut self, spec: &ModelSpec, limits: &Limits) {
        let splits = limits.kv_tokens.div_ceil(SPLIT) + 2 * limits.slots;
        self.parts.reserve(splits * spec.heads * (spec.head_dim + 2));
    }

    /// Adds the attention half's output to the residual stream `x`, `[tokens, hidden]`. `l` is the layer's number in
    /// the cache.
    pub fn run(
        &mut self,
        step: Step<'_>,
        layer: &Layer,
        l: usize,
        kv: &mut KvCache,
        normed: &Activations,
        x: &mut [f32],
    ) {
        let Step { run, spec, batch, .. } = step;
        let tokens = normed.tokens();
        assert_eq!(tokens, batch.tokens(), "a row for every token of the batch");
        let (q_cols, kv_cols) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
        self.q.resize(tokens * q_cols, 0.0);
        self.k.resize(tokens * kv_cols, 0.0);
        let latent = layer.latent.as_ref().zip(spec.extras.mla.as_ref());
        if let Some(v) = &layer.v {
            self.v.resize(tokens * kv_cols, 0.0);
            project(run, normed, [(&layer.q, &mut self.q), (&layer.k, &mut self.k), (v, &mut self.v)]);
        }
        if let Some((latent, mla)) = latent {
            self.latent.project(step, (layer, latent, mla), normed, &mut self.q, &mut self.k);
        }

        if let Some((q_norm, k_norm)) = layer.qk_norm.as_ref().filter(|_| spec.extras.qk_norm_whole) {
            norm_rows(run, &mut self.q, q_norm);
            norm_rows(run, &mut self.k, k_norm);
        }

        let mixed = match latent {
            None => {
                self.mixed.reset(tokens, q_cols, &kinds(&[&layer.attn_out]));
                self.mixed.rows()
            }
            Some(_) => {
                self.latent.attended.reset(tokens, q_cols, &[]);
                self.latent.attended.rows()
            }
        };
        let heads = Heads {
            step,
            layer,
            l,
            kv: kv.writer(),
            q: Rows::new(&mut self.q, q_cols),
            k: Rows::new(&mut self.k, kv_cols),
            v: Rows::new(&mut self.v, kv_cols),
        };
        if batch.spans.iter().all(|s| s.tokens.len() == 1) {
            heads.decode(&mut self.parts);
            let (parts, stride) = (&self.parts, heads.part_len());
            run.pool.split(tokens, TILE, &|rows| {
                for t in rows {
                    let first: usize = batch.spans[..t].iter().map(|s| heads.splits(s).len()).sum();
                    let parts = &parts[first * stride..][..heads.splits(&batch.spans[t]).len() * stride];
                    // SAFETY: each row belongs to one range, so to one thread; the slice is not used beyond `turn_back`.
                    unsafe {
                        let row = mixed.row(t);
                        heads.merge(parts, row);
                        heads.turn_back(row);
                        mixed.convert(run.isa, t);
                    }
                }
            });
        } else {
            heads.rotate_all();
            // later pieces see more and take longer: they are handed out first
            let slices = heads.slices(pieces(batch));
            each_piece(run, batch, spec.kv_heads * slices, &|piece, part| {
                // SAFETY: these columns of these rows belong to this piece and these query heads alone, and each is asked for once.
                let out = |t: usize, h: usize| unsafe { mixed.part(t, h * spec.head_dim, spec.head_dim) };
                heads.attend(piece, (part / slices, part % slices, slices), &out, None);
            });
            run.pool.split(tokens, TILE, &|rows| {
                for t in rows {
                    // SAFETY: each row belongs to one range, so to one thread; the slice is not used beyond `turn_back`.
                    unsafe {
                        heads.turn_back(mixed.row(t));
                        mixed.convert(run.isa, t);
                    }
                }
            });
        }
        if let Some(of_layer) = latent {
            self.latent.values(step, of_layer, &layer.attn_out, &mut self.mixed);
        }
        let (bias, norm) = (layer.attn_out_bias.as_deref(), layer.attn_post_norm.as_deref());
        let change = Change { bias, norm, scale: spec.extras.residual_scale };
        run.join(&layer.attn_out, &self.mixed, change, &mut self.out, x);
    }
}

/// Pieces of a span, each a page's worth of tokens. A page that two threads write at once would be shared between them, so pieces
/// end where pages do.
fn pieces_of(span: &Span<'_>) -> usize {
    (span.start + span.tokens.len()).div_ceil(PAGE) - span.start / PAGE
}

/// Pieces of all spans.
fn pieces(batch: &Batch<'_>) -> usize {
    batch.spans.iter().map(pieces_of).sum()
}

/// Calls `body` for every page's worth of tokens of every span and every part of the heads, the last pieces first.
fn each_piece(run: Run<'_>, batch: &Batch<'_>, parts: usize, body: &(dyn Fn(Piece<'_>, usize) + Sync)) {
    let total = pieces(batch);
    run.pool.for_each(total * parts, &|i| {
        let (mut piece, head) = (total - 1 - i / parts, i % parts);
        let mut row = 0;
        for span in &batch.spans {
            if piece < pieces_of(span) {
                let page = span.start / PAGE + piece;
                let from = (page * PAGE).max(span.start) - span.start;
                let to = ((page + 1) * PAGE).min(span.start + span.tokens.len()) - span.start;
                return body(Piece { span, row, from, to }, head);
            }
            piece -= pieces_of(span);
            row += span.tokens.len();
        }
    });
}

/// Q, K and V in one parallel loop.
fn project(run: Run<'_>, normed: &Activations, outputs: [(&Linear, &mut Vec<f32>); 3]) {
    let mut jobs = outputs.map(|(linear, out)| {
        let weights = &linear.matrix.packed;
        Job { weights, out, stride: weights.rows(), add: false }
    });
    matmul(run.isa, run.pool, normed, &mut jobs);
}

/// RMSNorm of whole rows, in place.
fn norm_rows(run: Run<'_>, rows: &mut [f32], weight: &[f32]) {
    let (tokens, cols) = (rows.len() / weight.len(), weight.len());
    let rows = Rows::new(rows, cols);
    run.pool.split(tokens, TILE, &|range| {
        for t in range {
            // SAFETY: each row belongs to one range, so to one thread.
            let x = unsafe { rows.part(t, 0, cols) };
            RmsNormInPlace { x, weight, eps: run.eps }.on(run.isa);
        }
    });
}

/// What the work on one KV head (and its group of query heads) needs; heads are independent of each other.
struct Heads<'a> {
    step: Step<'a>,
    layer: &'a Layer,
    l: usize,
    kv: KvWriter<'a>,
    q: Rows,
    k: Rows,
    v: Rows,
}

impl Heads<'_> {
    /// Rotates and stores every span's queries, keys and values.
    fn rotate_all(&self) {
        let Step { run, spec, batch, .. } = self.step;
        each_piece(run, batch, spec.kv_heads, &|piece, head| self.rotate_and_store(piece, head));
    }

    /// Attention of spans of one token, cut by KV head and split, into `parts`.
    fn decode(&self, parts: &mut Vec<f32>) {
        let batch = self.step.batch;
        let (kv_heads, stride) = (self.step.spec.kv_heads, self.part_len());
        let splits: usize = batch.spans.iter().map(|s| self.splits(s).len()).sum();
        parts.resize(splits * stride, 0.0);
        let parts = Rows::new(parts, stride);
        let slices = self.slices(splits);
        // where no span has several splits, the thread that rotates a head goes on to attend
        let short = splits == batch.spans.len() && slices == 1;
        if !short {
            self.rotate_all();
        }
        // a head's splits follow each other, and a thread takes runs of them: it reads on where it stopped
        self.step.run.pool.split(splits * kv_heads * slices, 1, &|items| {
            for i in items {
                let (part, head, slice) = (i % splits, i / splits / slices, i / splits % slices);
                let (mut first, mut row) = (0, 0);
                while part >= first + self.splits(&batch.spans[row]).len() {
                    first += self.splits(&batch.spans[row]).len();
                    row += 1;
                }
                let span = &batch.spans[row];
                let piece = Piece { span, row, from: 0, to: 1 };
                if short {
                    self.rotate_and_store(piece, head);
                }
                let split = self.splits(span).start + part - first;
                let width = self.step.spec.head_dim + 2;
                // SAFETY: the row is this split's, its columns this slice's, and each is asked for once.
                let out = |_: usize, h: usize| unsafe { parts.part(part, h * width, width) };
                self.attend(piece, (head, slice, slices), &out, Some(split));
            }
        });
    }

    /// Into how many slices the query heads of each KV head are cut where there are this many pieces of work for each: one, but in
    /// latent attention enough for all threads.
    fn slices(&self, pieces: usize) -> usize {
        match self.layer.latent {
            None => 1,
            Some(_) => self.step.run.pool.threads().div_ceil(pieces.max(1)).min(self.step.spec.group()),
        }
    }

    /// The splits that a span of one token sees.
    fn splits(&self, span: &Span<'_>) -> Range<usize> {
        let to = span.start + 1;
        self.first_seen(span.start) / SPLIT..to.div_ceil(SPLIT)
    }

    /// The first position that a token at this one sees.
    fn first_seen(&self, position: usize) -> usize {
        match self.layer.window {
            None => 0,
            Some(chunk) if self.step.spec.extras.chunked_windows => position / chunk * chunk,
            Some(window) => (position + 1).saturating_sub(window),
        }
    }

    /// Values of one split: of every head its sums, its maximum and its total.
    fn part_len(&self) -> usize {
        self.step.spec.heads * (self.step.spec.head_dim + 2)
    }

    /// One token's splits, `[splits, heads · (head_dim + 2)]`, into its row, `[heads · head_dim]`.
    fn merge(&self, parts: &[f32], row: &mut [f32]) {
        let (dim, stride) = (self.step.spec.head_dim, self.part_len());
        for (h, out) in row.chunks_exact_mut(dim).enumerate() {
            Merge { parts: &parts[h * (dim + 2)..], stride, out, sink: self.sink(h) }.on(self.step.run.isa);
        }
    }

    /// A query head's attention sink, if the model has them.
    fn sink(&self, h: usize) -> Option<f32> {
        self.layer.sinks.as_ref().map(|sinks| sinks[h])
    }

    /// Undoes, in a row of outputs, `[heads · head_dim]`, the rotation of the values that it is a mixture of.
    fn turn_back(&self, row: &mut [f32]) {
        if self.kv.kv_type().rotated() {
            let heads = row.chunks_exact_mut(self.step.spec.head_dim);
            heads.for_each(|head| Hadamard { head }.on(self.step.run.isa));
        }
    }

    /// Bias, norm and RoPE for the queries and keys of one KV head; keys and values go to the cache.
    fn rotate_and_store(&self, piece: Piece<'_>, head: usize) {
        let Step { run, spec, .. } = self.step;
        let (dim, group) = (spec.head_dim, spec.group());
        let per_head = self.layer.qk_norm.as_ref().filter(|_| !spec.extras.qk_norm_whole);
        let (q_norm, k_norm) = per_head.map(|(q, k)| (&q[..], &k[..])).unzip();
        let temperature = spec.extras.query_temperature;
        let temperature = temperature.filter(|t| !t.no_rope_only || self.layer.rope.is_none());
        for i in piece.from..piece.to {
            let t = piece.row + i;
            let scale = temperature.map(|temperature| temperature.at(piece.span.start + i));
            for h in head * group..(head + 1) * group {
                // SAFETY: rows are the batch's; these columns belong to this piece and KV head, which one thread works on.
                let q = unsafe { self.q.part(t, h * dim, dim) };
                self.turn(q, self.layer.q.bias.as_deref().map(|b| &b[h * dim..][..dim]), q_norm, t);
                if let Some(scale) = scale {
                    ScaleAndCap { x: q, scale, cap: None }.on(run.isa);
                }
            }
            // SAFETY: these columns belong to this piece and KV head, too; of this KV head the page is written by this piece
            // alone, which ends where the page does.
            unsafe {
                let key = self.k.part(t, head * dim, dim);
                self.turn(key, self.layer.k.bias.as_deref().map(|b| &b[head * dim..][..dim]), k_norm, t);
                let value: &[f32] = match &self.layer.v {
                    None => &[],
                    Some(v) => {
                        let value = self.v.part(t, head * dim, dim);
                        if let Some(bias) = &v.bias {
                            AddScaled { x: value, y: &bias[head * dim..][..dim], scale: 1.0 }.on(run.isa);
                        }
                        if self.kv.kv_type().rotated() {
                            Hadamard { head: value }.on(run.isa);
                        }
                        value
                    }
                };
                let position = piece.span.start + i;
                let page = self.kv.page_mut(piece.span.slot, position, self.l, head);
                StoreKv { page, kv: self.kv.kv_type(), at: position % PAGE, key, value }.on(run.isa);
            }
        }
    }

    /// Bias, norm and RoPE of one head of token `t`, and the rotation that the cache's type needs.
    fn turn(&self, head: &mut [f32], bias: Option<&[f32]>, norm: Option<&[f32]>, t: usize) {
        let Run { isa, eps, .. } = self.step.run;
        if let Some(bias) = bias {
            AddScaled { x: head, y: bias, scale: 1.0 }.on(isa);
        }
        if let Some(weight) = norm {
            RmsNormInPlace { x: head, weight, eps }.on(isa);
        }
        if let Some(kind) = self.layer.rope {
            let (cos, sin) = self.step.angles[kind].row(t);
            Rotate { head: &mut head[..2 * cos.len()], cos, sin }.on(isa);
        }
        if let Some(weight) = &self.layer.norm_behind_rope {
            RmsNormInPlace { x: head, weight, eps }.on(isa);
        }
        if self.kv.kv_type().rotated() {
            Hadamard { head }.on(isa);
        }
    }

    /// Attention of some tokens for a slice of the query heads of one KV head (the head, the slice, and how many there are): of all
    /// they see, or of one split of it. `out(t, h)` is where head `h` of the batch's token `t` goes.
    fn attend<'o>(
        &self,
        piece: Piece<'_>,
        (head, slice, slices): (usize, usize, usize),
        out: &dyn Fn(usize, usize) -> &'o mut [f32],
        split: Option<usize>,
    ) {
        thread_local! {
            static WORK: RefCell<(Vec<Query>, Scratch)> = RefCell::default();
        }
        let (dim, group) = (self.step.spec.head_dim, self.step.spec.group());
        let of_slice = head * group + slice * group / slices..head * group + (slice + 1) * group / slices;
        WORK.with_borrow_mut(|(queries, scratch)| {
            queries.clear();
            for i in piece.from..piece.to {
                let to = piece.span.start + i + 1;
                let from = self.first_seen(to - 1);
                for h in of_slice.clone() {
                    let t = piece.row + i;
                    // SAFETY: these columns belong to this slice, and each token to one piece; splits only read them. Both
                    // slices are used by nothing else before the queries have been attended to, below.
                    let query = unsafe { Query::new(self.q.read(t, h * dim, dim), out(t, h), from, to) };
                    queries.push(query.with_sink(self.sink(h)));
                }
            }
            Attend {
                queries,
                head_dim: dim,
                scale: self.step.spec.score_scale(),
                softcap: self.step.spec.extras.attention_softcap,
                kv: self.kv.kv_type(),
                holds: self.kv.holds(),
                // SAFETY: this head's keys and values are all written: by this thread, or before the loop began.
                page: &|index| unsafe { self.kv.page(piece.span.slot, index, self.l, head) },
                scratch,
                split,
            }
            .on(self.step.run.isa);
        });
    }
}

// SAFETY: `Rows` and `KvWriter` are addresses; each use says why no other thread touches the same place.
unsafe impl Sync for Heads<'_> {}
