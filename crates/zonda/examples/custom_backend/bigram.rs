//! A backend of about 60 lines: a bigram model, which predicts the next token from the last one. It follows all rules of the
//! [`Backend`] trait (`crates/zonda/tests/custom_backend.rs` checks that).

use std::collections::HashMap;
use zonda::engine::forward::{Batch, BatchError, Logits, Slot, Want};
use zonda::{Backend, BackendError, BackendInfo, Limits, ModelSpec, TokenId};

/// How often each token followed each other token.
pub struct Bigram {
    spec: ModelSpec,
    limits: Limits,
    counts: HashMap<TokenId, HashMap<TokenId, f32>>,
    /// The tokens that each slot holds, `[slots][length]`.
    slots: Vec<Vec<TokenId>>,
}

impl Bigram {
    /// Counts the pairs of a text's tokens. `spec` has the size of the vocabulary.
    pub fn new(spec: ModelSpec, limits: Limits, text: &[TokenId]) -> Bigram {
        let mut counts: HashMap<TokenId, HashMap<TokenId, f32>> = HashMap::new();
        for pair in text.windows(2) {
            *counts.entry(pair[0]).or_default().entry(pair[1]).or_default() += 1.0;
        }
        Bigram { spec, limits, counts, slots: vec![Vec::new(); limits.slots] }
    }

    /// The logits of the tokens after `token`, `[vocab]`: the logarithms of their counts.
    fn logits(&self, token: TokenId, row: &mut [f32]) {
        row.fill(-20.0);
        for (&next, &count) in self.counts.get(&token).into_iter().flatten() {
            row[next as usize] = count.ln();
        }
    }
}

impl Backend for Bigram {
    fn info(&self) -> BackendInfo {
        let text = String::from;
        let (name, version, device, isa) = (text("bigram"), text("1"), text("cpu"), text(""));
        BackendInfo { name, version, device, isa, threads: 1, weights: text("counts"), kv_type: text("") }
    }

    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn forward(&mut self, batch: &Batch<'_>, out: &mut Logits) -> Result<(), BackendError> {
        // Everything is checked before anything changes.
        batch.check(&self.limits, self.spec.vocab_size, |slot| self.slots[slot].len())?;
        let (needed, free) = (batch.tokens(), self.free());
        if needed > free {
            return Err(BatchError::KvFull { needed, free }.into());
        }
        out.reset(batch.rows(), self.spec.vocab_size);
        let mut row = 0;
        for span in &batch.spans {
            self.slots[span.slot].extend(span.tokens);
            for (i, &token) in span.tokens.iter().enumerate() {
                if span.want == Want::All || (span.want == Want::Last && i + 1 == span.tokens.len()) {
                    self.logits(token, out.row_mut(row));
                    row += 1;
                }
            }
        }
        Ok(())
    }

    fn truncate(&mut self, slot: Slot, len: usize) -> Result<usize, BackendError> {
        self.limits.check_slot(slot)?;
        self.slots[slot].truncate(len);
        Ok(self.slots[slot].len())
    }

    fn share_prefix(&mut self, from: Slot, to: Slot, len: usize) -> Result<usize, BackendError> {
        self.limits.check_slot(from)?;
        self.limits.check_slot(to)?;
        let held = self.slots[to].len();
        if held > 0 {
            return Err(BatchError::WrongStart { slot: to, start: 0, len: held }.into());
        }
        let len = len.min(self.slots[from].len()).min(self.free());
        self.slots[to] = self.slots[from][..len].to_vec();
        Ok(len)
    }
}

impl Bigram {
    /// The free room in tokens.
    fn free(&self) -> usize {
        self.limits.kv_tokens - self.slots.iter().map(Vec::len).sum::<usize>()
    }
}
