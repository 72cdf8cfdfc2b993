//! One sequence as the scheduler sees it: its tokens and how many of them the backend has computed.

use crate::TokenId;
use crate::forward::Slot;

/// A sequence's arrival number: lower is older.
pub type SeqId = u64;

/// A prompt and what was generated after it. Prefill and decode differ only in how many tokens are pending.
#[derive(Clone, Debug)]
pub(super) struct Sequence {
    pub id: SeqId,
    /// Prompt, then generated tokens, then drafted ones.
    pub tokens: Vec<TokenId>,
    /// How many at the end of `tokens` are drafts that nothing has confirmed yet; 0 but between a draft and the last row of
    /// the step that verifies it.
    pub drafted: usize,
    /// How many of `tokens` are the prompt.
    pub prompt: usize,
    /// How many of `tokens` the backend's slot holds; while drafts are verified, it holds those beyond.
    pub computed: usize,
    /// The most that was ever computed or reused: more than `computed` after the sequence was put back.
    pub reached: usize,
    /// Prompt tokens that came from the prefix cache before they were ever computed here.
    pub cached: usize,
    /// How many tokens at its start are stored outside the backend and could be imported.
    pub stored: usize,
    /// May reuse cached prefixes and leave its own tokens to others.
    pub prefix_cache: bool,
    /// Its slot; meaningless while it waits.
    pub slot: Slot,
    /// KV pages it holds; 0 while it waits.
    pub pages: usize,
    /// Its place in the line of prefills: the lowest is served first.
    pub turn: u64,
    /// Left out of the next steps.
    pub held: bool,
}

impl Sequence {
    /// A sequence that waits, nothing computed.
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
        }
    }

    /// Tokens that still have to go through the backend before the next one can be sampled.
    pub fn pending(&self) -> usize {
        self.confirmed().len() - self.computed
    }

    /// Prompt and generated tokens.
    pub fn confirmed(&self) -> &[TokenId] {
        &self.tokens[..self.tokens.len() - self.drafted]
    }

    /// The first draft was right.
    pub fn accept(&mut self, computed: bool) {
        self.drafted -= 1;
        if computed {
            self.computed += 1;
            self.reached = self.reached.max(self.computed);
        }
    }

    /// The drafts that are left were wrong.
    pub fn reject(&mut self) {
        self.tokens.truncate(self.tokens.len() - self.drafted);
        self.drafted = 0;
    }

    /// Prompt tokens among the next `len` that were never computed before.
    pub fn new_prompt_tokens(&self, len: usize) -> usize {
        let end = (self.computed + len).min(self.prompt);
        end.saturating_sub(self.computed.max(self.reached))
    }

    /// The first `n` tokens were found in the prefix cache.
    pub fn reuse(&mut self, n: usize) {
        self.cached += n.min(self.prompt).saturating_sub(self.reached);
        self.computed = n;
        self.reached = self.reached.max(n);
    }
}
