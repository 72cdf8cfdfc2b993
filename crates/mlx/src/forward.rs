//! The forward pass, the same for every architecture: embed → (attention → feed-forward) × layers → norm → head.

use crate::Mlx;
use crate::safe::{Array, Dtype, List, Ops, Result};
use crate::weights::{Linear, Matrix};
use zonda_engine::forward::{Batch, Logits};
use zonda_engine::load::{Norm, NormPlacement};

impl Mlx {
    /// One step: builds the graph of all spans and layers, evaluates it, and copies the wanted logits.
    pub(crate) fn step(&mut self, batch: &Batch<'_>, out: &mut Logits) -> Result<()> {
        out.reset(batch.rows(), self.spec.vocab_size);
        if batch.spans.is_empty() {
            return Ok(());
        }
        let parallel = self.spec.extras.norms == NormPlacement::Parallel;
        let spans = self.attended_spans(batch)?;
        let mut x = self.embed(batch)?; // [tokens, hidden]
        for l in 0..self.weights.layers.len() {
            let read = self.norm(&x, self.weights.layers[l].attn_norm.as_ref())?;
            let attended = self.attention(l, &read, &spans)?;
            let layer = &self.weights.layers[l];
            x = self.join(&x, attended, layer.attn_post_norm.as_ref())?;
            let read = if parallel { read } else { self.norm(&x, layer.ffn_norm.as_ref())? };
            let fed = layer.ffn.run(&self.ops, &read, self.spec.extras.activation)?;
            x = self.join(&x, fed, layer.ffn_post_norm.as_ref())?;
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

    /// The embeddings of a batch's tokens, `[tokens, hidden]`.
    fn embed(&self, batch: &Batch<'_>) -> Result<Array> {
        let tokens = self.ops.indices(batch.spans.iter().flat_map(|s| s.tokens.iter().copied()))?;
        let rows = self.weights.embedding.rows(&self.ops, &tokens, self.compute)?;
        self.scaled(rows, self.spec.extras.embedding_scale)
    }

    /// Rows, `[tokens, hidden]`, normalised; unchanged where the model has no norm.
    fn norm(&self, x: &Array, weight: Option<&Array>) -> Result<Array> {
        match (weight, self.spec.extras.norm) {
            (None, _) => Ok(x.clone()),
            (Some(weight), Norm::Rms) => self.ops.rms_norm(x, weight, self.spec.norm_eps),
            (Some(weight), Norm::Layer) => self.ops.layer_norm(x, weight, self.spec.norm_eps),
        }
    }

    /// The residual stream `x` with the output of half a layer, both `[tokens, hidden]`.
    fn join(&self, x: &Array, output: Array, norm: Option<&Array>) -> Result<Array> {
        let output = self.scaled(self.norm(&output, norm)?, self.spec.extras.residual_scale)?;
        self.ops.add(x, &output)
    }

    fn scaled(&self, x: Array, factor: f32) -> Result<Array> {
        if factor == 1.0 { Ok(x) } else { self.ops.scale(&x, factor) }
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
        let normed = self.norm(&x, Some(&self.weights.output_norm))?;
        let head = self.weights.head.as_ref().unwrap_or(&self.weights.embedding);
        let logits = ops.as_type(&head.linear(ops, &normed)?, Dtype::F32)?;
        let logits = self.scaled(logits, self.spec.extras.logit_scale)?;
        match self.spec.extras.final_softcap {
            Some(cap) => ops.softcap(&logits, cap).map(Some),
            None => Ok(Some(logits)),
        }
    }
}

impl Linear {
    /// `x · wᵀ + bias`: `[tokens, in]` to `[tokens, out]`.
    pub fn run(&self, ops: &Ops, x: &Array) -> Result<Array> {
        let y = self.matrix.linear(ops, x)?;
        match &self.bias {
            Some(bias) => ops.add(&y, bias),
            None => Ok(y),
        }
    }
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
                biases: w.biases.as_ref().map(|biases| ops.take(biases, indices, 0)).transpose()?,
                ..*w
            })?,
        };
        ops.as_type(&rows, dtype)
    }
}
