//! The attention half of a layer: Q, K, V → bias, QK norm, RoPE → KV cache → attention → output projection.

use crate::Mlx;
use crate::cache::KeysValues;
use crate::safe::{Array, Dtype, Mask, Ops, Result};
use crate::weights::Linear;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use zonda_engine::forward::{Batch, Slot, Span};
use zonda_engine::load::ModelSpec;

/// One span of a batch, for attention.
pub(crate) struct AttendedSpan {
    slot: Slot,
    /// The rows of its tokens in the batch.
    rows: std::ops::Range<usize>,
    /// The position of its first token.
    start: usize,
    /// The positions that its tokens attend to, by window.
    views: BTreeMap<Option<usize>, View>,
    /// The factors of its queries, `[its tokens, 1]`; `None`: 1
    temperature: Option<Array>,
}

/// The positions that a span's tokens attend to.
struct View {
    /// The first position that any of them attends to.
    first: usize,
    mask: Mask,
}

impl Mlx {
    /// Attention on normalised rows, `[tokens, hidden]` to `[tokens, hidden]`.
    pub(crate) fn attention(&mut self, l: usize, normed: &Array, spans: &[AttendedSpan]) -> Result<Array> {
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
        self.weights.layers[l].attn_out.run(&self.ops, &rows)
    }

    /// A projection split into heads, and normalised if the model does so: `[tokens, heads, head_dim]`.
    fn heads(&self, linear: &Linear, x: &Array, norm: Option<&Array>) -> Result<Array> {
        let (tokens, width, eps) = (x.shape()[0], self.spec.head_dim, self.spec.norm_eps);
        let (whole, each) = if self.spec.extras.qk_norm_whole { (norm, None) } else { (None, norm) };
        let mut y = linear.run(&self.ops, x)?;
        if let Some(weight) = whole {
            y = self.ops.rms_norm(&y, weight, eps)?;
        }
        let y = self.ops.reshape(&y, &[tokens, linear.matrix.out() / width, width])?;
        match each {
            Some(weight) => self.ops.rms_norm(&y, weight, eps),
            None => Ok(y),
        }
    }

    /// One span's attention over its slot, `[its tokens, heads * head_dim]`; adds its keys and values to the cache.
    fn attend(&mut self, l: usize, span: &AttendedSpan, [q, k, v]: [&Array; 3]) -> Result<Array> {
        let (ops, layer) = (&self.ops, &self.weights.layers[l]);
        let mut q = self.turned(layer.rope, &own(ops, q, span)?, span.start)?; // [1, heads, tokens, head_dim]
        if let Some(factors) = span.temperature.as_ref().filter(|_| self.has_temperature(layer.rope)) {
            q = ops.multiply(&q, factors)?;
        }
        let k = self.turned(layer.rope, &own(ops, k, span)?, span.start)?;
        let new = KeysValues { keys: k, values: own(ops, v, span)? };
        let all = self.cache.write(ops, span.slot, l, span.start, &new)?;
        let view = &span.views[&self.spec.windows[l]];
        let end = span.start + span.rows.len();
        let seen = |a: &Array| {
            let (heads, width) = (self.spec.kv_heads, self.spec.head_dim);
            ops.as_type(&ops.slice(a, &[0, 0, view.first, 0], &[1, heads, end, width])?, self.compute)
        };
        let scale = self.spec.score_scale() * layer.rope.map_or(1.0, |kind| self.turns[kind].score);
        let (keys, values) = (seen(&all.keys)?, seen(&all.values)?);
        let out = match self.spec.extras.attention_softcap {
            None => ops.attention([&q, &keys, &values], scale, &view.mask, layer.sinks.as_ref())?,
            Some(cap) => capped_attention(ops, [&q, &keys, &values], scale, cap, &view.mask)?,
        };
        let rows = ops.transpose(&out, &[0, 2, 1, 3])?;
        ops.reshape(&rows, &[span.rows.len(), self.spec.heads * self.spec.head_dim])
    }

    /// Queries or keys, `[1, heads, tokens, head_dim]`, with a kind of RoPE, and the norm behind it if the model has one.
    fn turned(&self, rope: Option<usize>, x: &Array, start: usize) -> Result<Array> {
        let Some(kind) = rope else { return Ok(x.clone()) };
        let turned = self.turns[kind].apply(&self.ops, x, start)?;
        match &self.ones {
            Some(ones) => self.ops.rms_norm(&turned, ones, self.spec.norm_eps),
            None => Ok(turned),
        }
    }

    /// Whether positions change the queries of a layer with this kind of RoPE.
    fn has_temperature(&self, rope: Option<usize>) -> bool {
        self.spec.extras.query_temperature.is_some_and(|t| !t.no_rope_only || rope.is_none())
    }

    pub(crate) fn attended_spans(&self, batch: &Batch<'_>) -> Result<Vec<AttendedSpan>> {
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
                        free.insert(view(&self.ops, &self.spec, span, window)?);
                    }
                }
                let temperature = self.temperature(span)?;
                Ok(AttendedSpan { slot: span.slot, rows, start: span.start, views, temperature })
            })
            .collect()
    }

    /// The factors of a span's queries, `[its tokens, 1]`, unless all are 1.
    fn temperature(&self, span: &Span<'_>) -> Result<Option<Array>> {
        let Some(temperature) = &self.spec.extras.query_temperature else { return Ok(None) };
        let positions = span.start..span.start + span.tokens.len();
        let factors: Vec<f32> = positions.map(|position| temperature.at(position)).collect();
        if factors.iter().all(|&factor| factor == 1.0) {
            return Ok(None);
        }
        let factors = self.ops.floats(&factors, &[factors.len(), 1])?;
        Ok(Some(self.ops.as_type(&factors, self.compute)?))
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
fn view(ops: &Ops, spec: &ModelSpec, span: &Span<'_>, window: Option<usize>) -> Result<View> {
    let tokens = span.tokens.len();
    let end = span.start + tokens;
    let first_seen = |query: usize| match window {
        None => 0,
        Some(chunk) if spec.extras.chunked_windows => query / chunk * chunk,
        Some(window) => (query + 1).saturating_sub(window),
    };
    let first = first_seen(span.start);
    // MLX's own attention knows the causal mask; ours, with a softcap, does not.
    let listed = window.is_some_and(|window| window < end) || spec.extras.attention_softcap.is_some();
    let mask = match tokens {
        1 => Mask::None,
        _ if listed => {
            let sees = |query: usize, key: usize| key <= query && key >= first_seen(query);
            let rows = (span.start..end).flat_map(|query| (first..end).map(move |key| sees(query, key)));
            let bytes: Vec<u8> = rows.map(u8::from).collect();
            Mask::Array(ops.array(&bytes, &[tokens, end - first], Dtype::Bool)?)
        }
        _ => Mask::Causal,
    };
    Ok(View { first, mask })
}

/// As [`Ops::attention`], with scores that become `cap · tanh(score / cap)` before the softmax, which MLX's operation does not have.
fn capped_attention(ops: &Ops, [q, k, v]: [&Array; 3], scale: f32, cap: f32, mask: &Mask) -> Result<Array> {
    let (shape, kv_heads) = (q.shape(), k.shape()[1]);
    let (heads, tokens, width) = (shape[1], shape[2], shape[3]);
    let q = ops.reshape(&ops.scale(q, scale)?, &[kv_heads, heads / kv_heads, tokens, width])?;
    let keys = ops.transpose(k, &[1, 0, 3, 2])?; // [kv_heads, 1, head_dim, positions]
    let scores = ops.matmul(&q, &keys)?; // [kv_heads, group, tokens, positions]
    let mut scores = ops.softcap(&ops.as_type(&scores, Dtype::F32)?, cap)?;
    if let Mask::Array(mask) = mask {
        scores = ops.masked(&scores, mask)?;
    }
    let shares = ops.as_type(&ops.softmax(&scores)?, v.dtype()?)?;
    let out = ops.matmul(&shares, &ops.transpose(v, &[1, 0, 2, 3])?)?;
    ops.reshape(&out, &[1, heads, tokens, width])
}
