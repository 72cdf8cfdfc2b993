//! A draft model: a smaller model with the same tokenizer, on a backend and slots of its own, which says what the large one
//! may say next.

use crate::TokenId;
use crate::forward::{Backend, BackendError, Batch, Logits, Slot, Span, Want};
use crate::request::Text;
use crate::sample::Sampler;
use crate::schedule::{SeqId, common_prefix};
use crate::tokenize::Tokenizer;

/// Most tokens that it reads in one step to catch up with a sequence: a long prompt doesn't hold up the others.
const CATCH_UP: usize = 256;

/// How a draft model's backend is opened, on the worker's thread, and its tokenizer.
pub struct DraftModel {
    /// Opens the backend.
    pub open: Box<dyn FnOnce() -> Result<Box<dyn Backend>, BackendError> + Send>,
    /// Its tokenizer, which has to be the model's; `None` where the model has none.
    pub text: Option<Text>,
}

impl std::fmt::Debug for DraftModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DraftModel").field("text", &self.text.is_some()).finish_non_exhaustive()
    }
}

/// A draft model whose tokens are not the model's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenizerMismatch {
    /// One has a tokenizer and the other has none.
    #[error("{with} has a tokenizer and {without} has none")]
    OneHasNone {
        /// Which has one.
        with: &'static str,
        /// Which has not.
        without: &'static str,
    },
    /// Different sizes.
    #[error("the draft model's tokenizer has {draft} tokens, the model's {model}")]
    Size {
        /// The draft's.
        draft: usize,
        /// The model's.
        model: usize,
    },
    /// A token stands for something else.
    #[error("token {id} is {draft:?} to the draft model and {model:?} to the model")]
    Token {
        /// The first such token.
        id: TokenId,
        /// What it is to the draft model.
        draft: String,
        /// What it is to the model.
        model: String,
    },
}

/// Whether two models' tokens are the same: as many, each with the same bytes.
///
/// # Errors
/// The first difference.
pub fn same_tokens(model: Option<&Tokenizer>, draft: Option<&Tokenizer>) -> Result<(), TokenizerMismatch> {
    let (model, draft) = match (model, draft) {
        (None, None) => return Ok(()),
        (Some(model), Some(draft)) => (model, draft),
        (Some(_), None) => {
            return Err(TokenizerMismatch::OneHasNone { with: "the model", without: "the draft model" });
        }
        (None, Some(_)) => {
            return Err(TokenizerMismatch::OneHasNone { with: "the draft model", without: "the model" });
        }
    };
    let (m, d) = (model.vocab_size(), draft.vocab_size());
    if m != d {
        return Err(TokenizerMismatch::Size { draft: d, model: m });
    }
    let differs = |&id: &TokenId| model.token_bytes(id) != draft.token_bytes(id);
    match (0..m as TokenId).find(differs) {
        None => Ok(()),
        Some(id) => Err(TokenizerMismatch::Token { id, draft: draft.piece(id), model: model.piece(id) }),
    }
}

/// What one sequence wants drafted.
#[derive(Debug)]
pub struct Wish<'a> {
    /// Which.
    pub id: SeqId,
    /// Its prompt and answer as the model has them; what is drafted is appended.
    pub tokens: Vec<TokenId>,
    /// The same with what a full context has dropped, if it has: what draws and penalties go by.
    pub text: Option<Vec<TokenId>>,
    /// Most tokens to draft.
    pub most: usize,
    /// Draws as the request does.
    pub sampler: &'a mut Sampler,
    /// What was drafted; less than `most` where there is no room, or the model has to catch up first.
    pub made: Vec<TokenId>,
}

/// What a slot of the draft model holds, and for whom.
#[derive(Clone, Debug, Default)]
struct Held {
    owner: Option<SeqId>,
    tokens: Vec<TokenId>,
}

/// An open draft model.
pub struct Drafter {
    backend: Box<dyn Backend>,
    slots: Vec<Held>,
    logits: Logits,
    /// Tokens below this are the model's too.
    vocab: usize,
}

impl std::fmt::Debug for Drafter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Drafter").field("slots", &self.slots).finish_non_exhaustive()
    }
}

impl Drafter {
    /// Drafts for a model with `vocab` tokens.
    pub fn new(backend: Box<dyn Backend>, vocab: usize) -> Drafter {
        let vocab = vocab.min(backend.spec().vocab_size);
        Drafter {
            slots: vec![Held::default(); backend.limits().slots],
            logits: Logits::new(),
            backend,
            vocab,
        }
    }

    /// The backend, to measure it: its slots have to be empty again after that.
    pub fn backend(&mut self) -> &mut dyn Backend {
        &mut *self.backend
    }

    /// A sequence has ended: its slot may be taken by another, which reuses what both have in common.
    pub fn end(&mut self, id: SeqId) {
        for held in self.slots.iter_mut().filter(|held| held.owner == Some(id)) {
            held.owner = None;
        }
    }

    /// Drafts for all wishes together, a token of each per forward call. Returns how many calls that were, or 0 if some
    /// sequence had more to be read first than a step brings.
    ///
    /// # Errors
    /// What the backend says.
    pub fn draft(&mut self, wishes: &mut [Wish<'_>]) -> Result<usize, BackendError> {
        let (mut budget, mut usual) = (CATCH_UP.min(self.backend.limits().batch_tokens), true);
        // (wish, slot): who reads or drafts in the next call
        let mut turns: Vec<(usize, Slot)> = Vec::new();
        let mut lens: Vec<usize> = Vec::new();
        for (i, wish) in wishes.iter().enumerate() {
            let Some(slot) = self.place(wish)? else { continue };
            let pending = wish.tokens.len() - self.slots[slot].tokens.len();
            usual &= pending <= wish.most + 2;
            let len = pending.min(budget);
            if len > 0 {
                budget -= len;
                turns.push((i, slot));
                lens.push(len);
            }
        }
        let mut rounds = 0;
        while !turns.is_empty() {
            self.forward(wishes, &turns, &lens)?;
            rounds += 1;
            let mut row = 0;
            let mut next = Vec::with_capacity(turns.len());
            for &(i, slot) in &turns {
                let wish = &mut wishes[i];
                if self.slots[slot].tokens.len() < wish.tokens.len() {
                    continue;
                }
                let text = wish.text.as_ref().unwrap_or(&wish.tokens);
                let sampled = wish.sampler.sample(self.logits.row_mut(row), text);
                row += 1;
                // A draft that can't be made is none; what is wrong with the model's own logits is told elsewhere.
                let Some(token) = sampled.ok().map(|s| s.token).filter(|&t| (t as usize) < self.vocab) else {
                    continue;
                };
                wish.tokens.push(token);
                wish.text.iter_mut().for_each(|text| text.push(token));
                wish.made.push(token);
                if wish.made.len() < wish.most {
                    next.push((i, slot));
                }
            }
            turns = next;
            lens = vec![1; turns.len()];
        }
        Ok(if usual { rounds } else { 0 })
    }

    /// One call: the next `lens` tokens of each turn's wish that its slot lacks. Logits where they reach its end.
    fn forward(
        &mut self,
        wishes: &[Wish<'_>],
        turns: &[(usize, Slot)],
        lens: &[usize],
    ) -> Result<(), BackendError> {
        let spans = turns.iter().zip(lens).map(|(&(i, slot), &len)| {
            let (start, tokens) = (self.slots[slot].tokens.len(), &wishes[i].tokens);
            let want = if start + len == tokens.len() { Want::Last } else { Want::None };
            Span { slot, start, tokens: &tokens[start..start + len], want }
        });
        let batch = Batch { spans: spans.collect() };
        self.backend.forward(&batch, &mut self.logits)?;
        for (&(i, slot), &len) in turns.iter().zip(lens) {
            let start = self.slots[slot].tokens.len();
            self.slots[slot].tokens.extend_from_slice(&wishes[i].tokens[start..start + len]);
        }
        Ok(())
    }

    /// The slot of a sequence, shortened to what it has in common with it; `None` if there is no room.
    fn place(&mut self, wish: &Wish<'_>) -> Result<Option<Slot>, BackendError> {
        let limits = self.backend.limits();
        let end = wish.tokens.len() + wish.most;
        if end > limits.context || wish.tokens.iter().any(|&t| t as usize >= self.backend.spec().vocab_size) {
            return Ok(None);
        }
        let common = |held: &Held| common_prefix(&held.tokens, &wish.tokens);
        let own = self.slots.iter().position(|held| held.owner == Some(wish.id));
        let free = || {
            let free = (0..self.slots.len()).filter(|&s| self.slots[s].owner.is_none());
            free.max_by_key(|&s| common(&self.slots[s]))
        };
        let Some(slot) = own.or_else(free) else { return Ok(None) };
        // The last token is computed even if the slot has it: its logits are wanted.
        let keep = common(&self.slots[slot]).min(wish.tokens.len() - 1);
        self.slots[slot].owner = Some(wish.id);
        self.shorten(slot, keep)?;
        // KV room: what nobody needs makes way.
        let pages = |tokens: usize| tokens.div_ceil(limits.kv_page);
        loop {
            let others = (0..self.slots.len()).filter(|&s| s != slot);
            let used: usize = others.map(|s| pages(self.slots[s].tokens.len() + wish.most)).sum();
            if used + pages(end) <= limits.kv_tokens / limits.kv_page {
                return Ok(Some(slot));
            }
            let idle = |s: &Slot| self.slots[*s].owner.is_none() && !self.slots[*s].tokens.is_empty();
            let Some(idle) = (0..self.slots.len()).find(idle) else {
                self.shorten(slot, 0)?;
                self.slots[slot].owner = None;
                return Ok(None);
            };
            self.shorten(idle, 0)?;
        }
    }

    fn shorten(&mut self, slot: Slot, len: usize) -> Result<(), BackendError> {
        if self.slots[slot].tokens.len() > len {
            let kept = self.backend.truncate(slot, len)?.min(len);
            self.slots[slot].tokens.truncate(kept);
        }
        Ok(())
    }
}
