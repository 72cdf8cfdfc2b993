//! The input of one forward call: spans of tokens that extend slots, within a backend's [`Limits`]. The scheduler plans it, a
//! backend computes it; [`forward`](crate::forward) re-exports everything.

use crate::TokenId;
use std::ops::Range;

/// The number of a sequence's slot in a backend, `0..limits().slots`.
pub type Slot = usize;

/// The positions of a span whose logits are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// None, in the middle of a chunked prefill.
    None,
    /// The last one, at the end of a prefill or in a decode step.
    Last,
    /// All, for speculative verification and perplexity.
    All,
}

/// Tokens that extend one slot. `start` is the slot's length before the call.
#[derive(Clone, Copy, Debug)]
pub struct Span<'a> {
    /// The slot of the sequence.
    pub slot: Slot,
    /// How many tokens the slot holds already; the first token's position.
    pub start: usize,
    /// The tokens to append, `[tokens]`; never empty.
    pub tokens: &'a [TokenId],
    /// The positions whose logits are wanted.
    pub want: Want,
}

impl Span<'_> {
    /// The indices of the tokens whose logits are wanted.
    pub fn wanted(&self) -> Range<usize> {
        let len = self.tokens.len();
        match self.want {
            Want::None => len..len,
            Want::Last => len - 1..len,
            Want::All => 0..len,
        }
    }

    /// The number of logits rows for this span.
    pub fn rows(&self) -> usize {
        self.wanted().len()
    }
}

/// One step's work: at most one span per slot.
#[derive(Clone, Debug, Default)]
pub struct Batch<'a> {
    /// The spans, in the order of their logits rows.
    pub spans: Vec<Span<'a>>,
}

impl Batch<'_> {
    /// The total number of tokens.
    pub fn tokens(&self) -> usize {
        self.spans.iter().map(|s| s.tokens.len()).sum()
    }

    /// The number of requested logits rows.
    pub fn rows(&self) -> usize {
        self.spans.iter().map(Span::rows).sum()
    }

    /// The batch's tokens whose logits are wanted, in order: indices into the concatenated tokens of all spans.
    pub fn wanted_rows(&self) -> impl Iterator<Item = usize> {
        let mut first = 0;
        self.spans.iter().flat_map(move |span| {
            let Range { start, end } = span.wanted();
            let rows = first + start..first + end;
            first += span.tokens.len();
            rows
        })
    }

    /// Checks the rules that hold for every backend.
    ///
    /// `slot_len(slot)` gives the current length of a slot.
    ///
    /// # Errors
    /// The first rule that a span breaks.
    pub fn check(
        &self,
        limits: &Limits,
        vocab: usize,
        slot_len: impl Fn(Slot) -> usize,
    ) -> Result<(), BatchError> {
        let tokens = self.tokens();
        if tokens > limits.batch_tokens {
            return Err(BatchError::TooManyTokens { tokens, limit: limits.batch_tokens });
        }
        for (i, s) in self.spans.iter().enumerate() {
            let slot = s.slot;
            if slot >= limits.slots {
                return Err(BatchError::NoSuchSlot { slot, slots: limits.slots });
            }
            // There are few spans, so comparing them all is cheaper than a set, and allocates nothing.
            if self.spans[..i].iter().any(|earlier| earlier.slot == slot) {
                return Err(BatchError::SlotTwice { slot });
            }
            if s.tokens.is_empty() {
                return Err(BatchError::EmptySpan { slot });
            }
            let len = slot_len(slot);
            if s.start != len {
                return Err(BatchError::WrongStart { slot, start: s.start, len });
            }
            let end = s.start.saturating_add(s.tokens.len());
            if end > limits.context {
                return Err(BatchError::ContextFull { slot, end, limit: limits.context });
            }
            if let Some(&token) = s.tokens.iter().find(|&&t| t as usize >= vocab) {
                return Err(BatchError::NoSuchToken { token, vocab });
            }
        }
        Ok(())
    }
}

/// The capacity of a backend. All are hard limits that the scheduler respects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Sequences held at once; slots are numbered `0..slots`.
    pub slots: usize,
    /// Tokens in one [`Batch`].
    pub batch_tokens: usize,
    /// Longest sequence of one slot, in tokens.
    pub context: usize,
    /// KV room of all slots together, in tokens. A slot's tokens occupy whole pages of `kv_page` tokens.
    pub kv_tokens: usize,
    /// Tokens per KV page; 1 for a backend without pages.
    pub kv_page: usize,
}

impl Limits {
    /// The default context length of a backend: models that allow 128k tokens would otherwise take gigabytes of KV cache.
    pub const DEFAULT_CONTEXT: usize = 4096;
}

/// A batch that breaks the rules of [`Backend::forward`](crate::forward::Backend::forward).
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[allow(missing_docs)] // each variant's message names its fields
#[non_exhaustive]
pub enum BatchError {
    #[error("{tokens} tokens in one batch; this backend takes at most {limit}")]
    TooManyTokens { tokens: usize, limit: usize },
    #[error("slot {slot} does not exist; this backend has {slots} slots")]
    NoSuchSlot { slot: Slot, slots: usize },
    #[error("slot {slot} appears twice in one batch")]
    SlotTwice { slot: Slot },
    #[error("the span of slot {slot} has no tokens")]
    EmptySpan { slot: Slot },
    #[error("the span of slot {slot} starts at {start}, but the slot holds {len} tokens")]
    WrongStart { slot: Slot, start: usize, len: usize },
    #[error("slot {slot} would hold {end} tokens; the context is {limit}")]
    ContextFull { slot: Slot, end: usize, limit: usize },
    #[error("no KV room: {needed} pages needed, {free} free")]
    KvFull { needed: usize, free: usize },
    #[error("token id {token} is outside the vocabulary of {vocab}")]
    NoSuchToken { token: TokenId, vocab: usize },
}
