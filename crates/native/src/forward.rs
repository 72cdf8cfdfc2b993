//! The forward pass, the same for every architecture: embed → (attention → feed-forward) × layers → norm → head.

use crate::buffers::Buffers;
use crate::native::Native;
use crate::run::{Run, Step};
use zonda_engine::forward::{Batch, Logits};
use zonda_kernels::{Job, matmul};

impl Native {
    /// One step: every span's tokens through every layer, logits for the positions that want them.
    pub(crate) fn step(&mut self, batch: &Batch<'_>, out: &mut Logits) {
        let run = Run::new(self.isa, &self.pool, &self.spec);
        let hidden = self.spec.hidden_size;
        for angles in &mut self.angles {
            angles.set(batch.spans.iter().flat_map(|s| s.start..s.start + s.tokens.len()));
        }
        self.buffers.x.resize(batch.tokens() * hidden, 0.0);
        let tokens = batch.spans.iter().flat_map(|s| s.tokens);
        for (&token, row) in tokens.zip(self.buffers.x.chunks_exact_mut(hidden)) {
            self.weights.embed(token, row);
        }
        let step = Step { run, spec: &self.spec, batch, angles: &self.angles };
        for (l, layer) in self.weights.layers.iter().enumerate() {
            let Buffers { x, normed, attention, ffn } = &mut self.buffers;
            run.norm(x, layer.attn_norm.as_deref(), normed, &layer.first_readers());
            attention.run(step, layer, l, &mut self.kv, normed, x);
            ffn.run(step, layer, normed, x);
        }
        self.head(batch, out);
    }

    /// Final norm and output head for the wanted rows only.
    fn head(&mut self, batch: &Batch<'_>, out: &mut Logits) {
        let run = Run::new(self.isa, &self.pool, &self.spec);
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
        run.norm(&x[..rows * hidden], Some(&self.weights.output_norm), normed, &[head]);
        let job = Job { weights: &head.packed, out: out.as_mut_slice(), stride: vocab, add: false };
        matmul(run.isa, run.pool, normed, &mut [job]);
        run.finish(out.as_mut_slice(), &self.spec);
    }
}
