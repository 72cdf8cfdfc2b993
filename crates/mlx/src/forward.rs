//! The forward pass, the same for every architecture: embed → (attention → feed-forward) × layers → norm → head.

use crate::Mlx;
use crate::cache::KeysValues;
use crate::safe::{Array, Dtype, List, Mask, Ops, Result};
use crate::weights::{Ffn, Linear, Matrix};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use zonda_engine::forward::{Batch, Logits, Slot, Span};

/// One span of a batch, for attention.
struct AttendedSpan {
    slot: Slot,
    /// The rows of its tokens in the batch.
    rows: std::ops::Range<usize>,
    /// The position of its first token.
    start: usize,
    /// The positions that its tokens attend to, by window.
    views: BTreeMap<Option<usize>, View>,
}

/// The positions that a span's tokens attend to.
struct View {
    /// The first position that any of them attends to.
    first: usize,
    mask: Mask,
}

impl Mlx {
    /// One step: builds the graph of all spans and layers, evaluates it, and copies the wanted logits.
    pub(crate) fn step(&mut self, batch: &Batch<'_>, out: &mut Logits) -> Result<()> {
        out.reset(batch.rows(), self.spec.vocab_size);
        if batch.spans.is_empty() {
            return Ok(());
        }
        let eps = self.spec.norm_eps;
        let spans = self.attended_spans(batch)?;
        let tokens = self.ops.indices(batch.spans.iter().flat_map(|s| s.tokens.iter().copied()))?;
        let mut x = self.weights.embedding.rows(&self.ops, &tokens, self.compute)?; // [tokens, hidden]
        for l in 0..self.weights.layers.len() {
            let normed = self.ops.rms_norm(&x, &self.weights.layers[l].attn_norm, eps)?;
            let attended = self.attention(l, &normed, &spans)?;
            x = self.ops.add(&x, &attended)?;
            let layer = &self.weights.layers[l];
            let normed = self.ops.rms_norm(&x, &layer.ffn_norm, eps)?;
            let fed = match &layer.ffn {
                Ffn::Dense(dense) => dense.run(&self.ops, &normed)?,
                Ffn::Moe(experts) => experts.run(&self.ops, &normed)?,
            };
            x = self.ops.add(&x, &fed)?;
        }
        let logits = self.head(&x, batch)?;
        let mut computed: List = self.cache.written(batch).collect();
        computed.extend(&logits);
        self.ops.eval(&computed)?;
        match logits {
            Some(logits) => self.ops.read(&logits, out.as_mut_slice()),
            None => Ok(()),
        }
    }

    /// Attention on normalised rows, `[tokens, hidden]` to `[tokens, hidden]`.
    fn attention(&mut self, l: usize, normed: &Array, spans: &[AttendedSpan]) -> Result<Array> {
        let layer = &self.weights.layers[l];
        let q = self.heads(&layer.q, normed, layer.qk_norm.as_ref().map(|(q, _)| q))?;
        let k = self.heads(&layer.k, normed, layer.qk_norm.as_ref().map(|(_, k)| k))?;
        let v = self.heads(&layer.v, normed, None)?;
        let outputs = spans.iter().map(|span| self.attend(l, span, [&q, &k, &v]));
        let outputs = outputs.collect::<Result<Vec<_>>>()?;
        let rows = match outputs.as_slice() {
            [only] => only.clone(),
            all => self.ops.concatenate(&all.iter().collect(), 0)?,
        };
        self.weights.layers[l].attn_out.linear(&self.ops, &rows)
    }

    /// A projection split into heads, normalised per head if the model does so: `[tokens, heads, head_dim]`.
    fn heads(&self, linear: &Linear, x: &Array, norm: Option<&Array>) -> Result<Array> {
        let mut y = linear.matrix.linear(&self.ops, x)?;
        if let Some(bias) = &linear.bias {
            y = self.ops.add(&y, bias)?;
        }
        let (tokens, width) = (x.shape()[0], self.spec.head_dim);
        let y = self.ops.reshape(&y, &[tokens, linear.matrix.out() / width, width])?;
        match norm {
            Some(weight) => self.ops.rms_norm(&y, weight, self.spec.norm_eps),
            None => Ok(y),
        }
    }

    /// One span's attention over its slot, `[its tokens, heads * head_dim]`; adds its keys and values to the cache.
    fn attend(&mut self, l: usize, span: &AttendedSpan, [q, k, v]: [&Array; 3]) -> Result<Array> {
        let ops = &self.ops;
        let adjacent = self.spec.rope.pairing == zonda_engine::load::RopePairing::Adjacent;
        let turned = |x: Array| ops.rope(&x, adjacent, span.start, &self.periods);
        let q = turned(own(ops, q, span)?)?; // [1, heads, tokens, head_dim]
        let new = KeysValues { keys: turned(own(ops, k, span)?)?, values: own(ops, v, span)? };
        let all = self.cache.write(ops, span.slot, l, span.start, &new)?;
        let view = &span.views[&self.spec.windows[l]];
        let end = span.start + span.rows.len();
        let seen = |a: &Array| {
            let (heads, width) = (self.spec.kv_heads, self.spec.head_dim);
            ops.as_type(&ops.slice(a, &[0, 0, view.first, 0], &[1, heads, end, width])?, self.compute)
        };
        let out = ops.attention(&q, &seen(&all.keys)?, &seen(&all.values)?, self.scale, &view.mask)?;
        let rows = ops.transpose(&out, &[0, 2, 1, 3])?;
        ops.reshape(&rows, &[span.rows.len(), self.spec.heads * self.spec.head_dim])
    }

    /// Logits of the wanted rows, `[rows, vocab]` in f32; `None` if there are none.
    fn head(&self, x: &Array, batch: &Batch<'_>) -> Result<Option<Array>> {
        let ops = &self.ops;
        let (tokens, rows) = (batch.tokens(), batch.rows());
        if rows == 0 {
            return Ok(None);
        }
        let wanted = ops.indices(batch.wanted_rows().map(|row| row as u32))?;
        let x = if rows == tokens { x.clone() } else { ops.take(x, &wanted, 0)? };
        let normed = ops.rms_norm(&x, &self.weights.output_norm, self.spec.norm_eps)?;
        let head = self.weights.head.as_ref().unwrap_or(&self.weights.embedding);
        Ok(Some(ops.as_type(&head.linear(ops, &normed)?, Dtype::F32)?))
    }

    fn attended_spans(&self, batch: &Batch<'_>) -> Result<Vec<AttendedSpan>> {
        let mut row = 0;
        batch
            .spans
            .iter()
            .map(|span| {
                let rows = row..row + span.tokens.len();
                row = rows.end;
                let mut views = BTreeMap::new();
                for &window in &self.spec.windows {
                    if let Entry::Vacant(free) = views.entry(window) {
                        free.insert(view(&self.ops, span, window)?);
                    }
                }
                Ok(AttendedSpan { slot: span.slot, rows, start: span.start, views })
            })
            .collect()
    }
}

/// A span's own rows of `[tokens, heads, head_dim]`, as `[1, heads, its tokens, head_dim]`.
fn own(ops: &Ops, x: &Array, span: &AttendedSpan) -> Result<Array> {
    let shape = x.shape();
    let (tokens, heads, width) = (shape[0], shape[1], shape[2]);
    let own = match span.rows.len() == tokens {
        true => x.clone(),
        false => ops.slice(x, &[span.rows.start, 0, 0], &[span.rows.end, heads, width])?,
    };
    let batched = ops.reshape(&own, &[1, span.rows.len(), heads, width])?;
    ops.transpose(&batched, &[0, 2, 1, 3])
}

/// The positions that a span's tokens attend to through a window.
fn view(ops: &Ops, span: &Span<'_>, window: Option<usize>) -> Result<View> {
    let tokens = span.tokens.len();
    let end = span.start + tokens;
    let first = window.map_or(0, |window| (span.start + 1).saturating_sub(window));
    let mask = match window {
        _ if tokens == 1 => Mask::None,
        Some(window) if window < end => {
            let sees = |query: usize, key: usize| key <= query && key + window > query;
            let rows = (span.start..end).flat_map(|query| (first..end).map(move |key| sees(query, key)));
            let bytes: Vec<u8> = rows.map(u8::from).collect();
            Mask::Array(ops.array(&bytes, &[tokens, end - first], Dtype::Bool)?)
        }
        _ => Mask::Causal,
    };
    Ok(View { first, mask })
}

impl Matrix {
    /// `x · wᵀ`: `[tokens, in]` to `[tokens, out]`.
    pub fn linear(&self, ops: &Ops, x: &Array) -> Result<Array> {
        match self {
            Matrix::Dense(w) => ops.linear(x, w),
            Matrix::Quantized(w) => ops.linear_quantized(x, w),
        }
    }

    /// The rows that `indices` name, as values: `[indices, in]`.
    fn rows(&self, ops: &Ops, indices: &Array, dtype: Dtype) -> Result<Array> {
        let rows = match self {
            Matrix::Dense(w) => ops.take(w, indices, 0)?,
            Matrix::Quantized(w) => ops.dequantize(&crate::safe::Quantized {
                codes: ops.take(&w.codes, indices, 0)?,
                scales: ops.take(&w.scales, indices, 0)?,
                biases: ops.take(&w.biases, indices, 0)?,
                ..*w
            })?,
        };
        ops.as_type(&rows, dtype)
    }
}

impl crate::weights::Dense {
    /// SwiGLU: `down(silu(gate(x)) * up(x))`, `[tokens, hidden]`.
    fn run(&self, ops: &Ops, x: &Array) -> Result<Array> {
        let activated = ops.swiglu(&self.gate.linear(ops, x)?, &self.up.linear(ops, x)?)?;
        self.down.linear(ops, &activated)
    }
}
