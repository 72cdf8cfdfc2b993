//! The scheduler's view of one sequence: its tokens, and how many of them the backend has computed.

use crate::TokenId;
use crate::batch::Slot;

/// A sequence's arrival number: lower is older.
pub type SeqId = u64;

/// A prompt and the tokens generated after it. Prefill and decode differ only in the number of pending tokens.
#[derive(Clone, Debug)]
pub(super) struct Sequence {
    pub id: SeqId,
    /// Prompt, then generated tokens, then drafted ones.
    pub tokens: Vec<TokenId>,
    /// How many of the last `tokens` are unconfirmed drafts; 0 except between drafting and the last row of the step that verifies
    /// them.
    pub drafted: usize,
    /// How many of `tokens` are the prompt.
    pub prompt: usize,
    /// How many of `tokens` the backend's slot holds, not counting drafts that are being verified.
    pub computed: usize,
    /// The maximum of `computed` so far: larger than `computed` after a preemption.
    pub reached: usize,
    /// Prompt tokens from the prefix cache that were never computed here.
    pub cached: usize,
    /// How many of its first tokens are stored on disk and could be imported.
    pub stored: usize,
    /// Whether it reuses cached prefixes and leaves its own tokens for reuse.
    pub prefix_cache: bool,
    /// Its slot; meaningless while it waits.
    pub slot: Slot,
    /// KV pages it holds; 0 while it waits.
    pub pages: usize,
    /// Its turn among prefills: the lowest is served first.
    pub turn: u64,
    /// Excluded from the next steps.
    pub held: bool,
    /// It was in a forward call that failed, and is computed alone until its slot holds this many tokens; 0: never.
    pub alone_until: usize,
}

impl Sequence {
    /// A waiting sequence with nothing computed.
    pub fn new(id: SeqId, prompt: Vec<TokenId>, prefix_cache: bool) -> Sequence {
        Sequence {
            id,
            prompt: prompt.len(),
            tokens: prompt,
            drafted: 0,
            computed: 0,
            reached: 0,
            cached: 0,
            stored: 0,
            prefix_cache,
            slot: 0,
            pages: 0,
            turn: 0,
            held: false,
            alone_until: 0,
        }
    }

    /// Tokens to compute before the next one can be sampled.
    pub fn pending(&self) -> usize {
        self.confirmed().len() - self.computed
    }

    /// Prompt and generated tokens.
    pub fn confirmed(&self) -> &[TokenId] {
        &self.tokens[..self.tokens.len() - self.drafted]
    }

    /// Confirms the first draft.
    pub fn accept(&mut self, computed: bool) {
        self.drafted -= 1;
        if computed {
            self.computed += 1;
            self.reached = self.reached.max(self.computed);
        }
    }

    /// Drops the remaining drafts.
    pub fn reject(&mut self) {
        self.tokens.truncate(self.tokens.len() - self.drafted);
        self.drafted = 0;
    }

    /// Prompt tokens among the next `len` that were not computed before.
    pub fn new_prompt_tokens(&self, len: usize) -> usize {
        let end = (self.computed + len).min(self.prompt);
        end.saturating_sub(self.computed.max(self.reached))
    }

    /// Reuses the first `n` tokens from the prefix cache.
    pub fn reuse(&mut self, n: usize) {
        self.cached += n.min(self.prompt).saturating_sub(self.reached);
        self.computed = n;
        self.reached = self.reached.max(n);
    }
}
