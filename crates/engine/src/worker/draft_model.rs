//! A draft model: a smaller model with the same tokenizer, on its own backend and slots, which drafts the large model's next
//! tokens.

use crate::TokenId;
use crate::forward::{Backend, BackendError, Batch, Logits, Slot, Span, Want};
use crate::sample::Sampler;
use crate::schedule::{SeqId, common_prefix};
use crate::tokenize::{TextProcessor, Tokenizer};
use std::collections::HashMap;

/// Maximum number of prompt tokens it reads per step, so that a long prompt does not delay other sequences.
const CATCH_UP: usize = 256;

/// A draft model to open: its backend, opened on the worker's thread, and its tokenizer.
pub struct DraftModel {
    /// Opens the backend.
    pub open: Box<dyn FnOnce() -> Result<Box<dyn Backend>, BackendError> + Send>,
    /// Its tokenizer, which must have the model's tokens; `None` if the model has no tokenizer.
    pub text: Option<TextProcessor>,
}

impl std::fmt::Debug for DraftModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DraftModel").field("text", &self.text.is_some()).finish_non_exhaustive()
    }
}

/// Why a draft model's tokens are not the model's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerMismatch {
    /// Only one of the two has a tokenizer.
    #[error("{with} has a tokenizer and {without} has none")]
    OneHasNone {
        /// The model with a tokenizer.
        with: &'static str,
        /// The model without one.
        without: &'static str,
    },
    /// The vocabularies differ in size.
    #[error("the draft model's tokenizer has {draft} tokens, the model's {model}")]
    Size {
        /// The draft model's size.
        draft: usize,
        /// The model's size.
        model: usize,
    },
    /// A token stands for different bytes.
    #[error("token {id} is {draft:?} to the draft model and {model:?} to the model")]
    Token {
        /// The first such token.
        id: TokenId,
        /// The token in the draft model.
        draft: String,
        /// The token in the model.
        model: String,
    },
}

/// Checks that two models have the same tokens: as many, each with the same bytes.
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

/// A draft to make for one sequence.
#[derive(Debug)]
pub(super) struct DraftTask {
    /// The sequence.
    pub id: SeqId,
    /// Its prompt and answer as the model sees them; drafted tokens are appended.
    pub tokens: Vec<TokenId>,
    /// The same including tokens dropped by context shifts, if there are any; sampling uses this text.
    pub text: Option<Vec<TokenId>>,
    /// The maximum number of tokens to draft.
    pub most: usize,
    /// The drafted tokens; fewer than `most` if there is no room or the model has to read the prompt first.
    pub made: Vec<TokenId>,
}

/// The tokens in a slot of the draft model, and the sequence they belong to.
#[derive(Clone, Debug, Default)]
struct DraftSlot {
    owner: Option<SeqId>,
    tokens: Vec<TokenId>,
}

/// An open draft model.
pub(super) struct Drafter {
    backend: Box<dyn Backend>,
    slots: Vec<DraftSlot>,
    /// A sampler for each sequence that draws as the request's own does.
    samplers: HashMap<SeqId, Sampler>,
    logits: Logits,
    /// Tokens below this exist in the model, too.
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
            slots: vec![DraftSlot::default(); backend.limits().slots],
            samplers: HashMap::new(),
            logits: Logits::new(),
            backend,
            vocab,
        }
    }

    /// Begins drafting for a sequence; `sampler` is its request's.
    pub fn begin(&mut self, id: SeqId, sampler: &Sampler) {
        self.samplers.insert(id, sampler.twin());
    }

    /// Ends a sequence. Another one may take over its slot and reuse a common prefix.
    pub fn end(&mut self, id: SeqId) {
        self.samplers.remove(&id);
        for slot in self.slots.iter_mut().filter(|slot| slot.owner == Some(id)) {
            slot.owner = None;
        }
    }

    /// Makes all drafts together, one token of each per forward call. Returns the number of calls, or 0 if some
    /// sequence had more unread tokens than a step adds.
    ///
    /// # Errors
    /// The backend's.
    pub fn draft(&mut self, tasks: &mut [DraftTask]) -> Result<usize, BackendError> {
        let (mut budget, mut usual) = (CATCH_UP.min(self.backend.limits().batch_tokens), true);
        // (task, slot) pairs that read or draft in the next call
        let mut turns: Vec<(usize, Slot)> = Vec::new();
        let mut lens: Vec<usize> = Vec::new();
        for (i, task) in tasks.iter().enumerate() {
            let Some(slot) = self.place(task)? else { continue };
            let pending = task.tokens.len() - self.slots[slot].tokens.len();
            usual &= pending <= task.most + 2;
            let len = pending.min(budget);
            if len > 0 {
                budget -= len;
                turns.push((i, slot));
                lens.push(len);
            }
        }
        let mut rounds = 0;
        while !turns.is_empty() {
            self.forward(tasks, &turns, &lens)?;
            rounds += 1;
            let mut row = 0;
            let mut next = Vec::with_capacity(turns.len());
            for &(i, slot) in &turns {
                let task = &mut tasks[i];
                if self.slots[slot].tokens.len() < task.tokens.len() {
                    continue;
                }
                let text = task.text.as_ref().unwrap_or(&task.tokens);
                let sampler = self.samplers.get_mut(&task.id);
                let sampled = sampler.and_then(|s| s.sample(self.logits.row_mut(row), text).ok());
                row += 1;
                // If sampling fails, nothing is drafted; errors in the model's own logits are reported elsewhere.
                let Some(token) = sampled.map(|s| s.token).filter(|&t| (t as usize) < self.vocab) else {
                    continue;
                };
                task.tokens.push(token);
                task.text.iter_mut().for_each(|text| text.push(token));
                task.made.push(token);
                if task.made.len() < task.most {
                    next.push((i, slot));
                }
            }
            turns = next;
            lens = vec![1; turns.len()];
        }
        Ok(if usual { rounds } else { 0 })
    }

    /// One call: for each turn, the next `len` tokens that the slot lacks, with logits if they reach the end.
    fn forward(
        &mut self,
        tasks: &[DraftTask],
        turns: &[(usize, Slot)],
        lens: &[usize],
    ) -> Result<(), BackendError> {
        let spans = turns.iter().zip(lens).map(|(&(i, slot), &len)| {
            let (start, tokens) = (self.slots[slot].tokens.len(), &tasks[i].tokens);
            let want = if start + len == tokens.len() { Want::Last } else { Want::None };
            Span { slot, start, tokens: &tokens[start..start + len], want }
        });
        let batch = Batch { spans: spans.collect() };
        self.backend.forward(&batch, &mut self.logits)?;
        for (&(i, slot), &len) in turns.iter().zip(lens) {
            let start = self.slots[slot].tokens.len();
            self.slots[slot].tokens.extend_from_slice(&tasks[i].tokens[start..start + len]);
        }
        Ok(())
    }

    /// The slot for a sequence, cut to their common prefix; `None` if there is no room.
    fn place(&mut self, task: &DraftTask) -> Result<Option<Slot>, BackendError> {
        let limits = self.backend.limits();
        let end = task.tokens.len() + task.most;
        if end > limits.context || task.tokens.iter().any(|&t| t as usize >= self.backend.spec().vocab_size) {
            return Ok(None);
        }
        let common = |slot: &DraftSlot| common_prefix(&slot.tokens, &task.tokens);
        let own = self.slots.iter().position(|slot| slot.owner == Some(task.id));
        let free = || {
            let free = (0..self.slots.len()).filter(|&s| self.slots[s].owner.is_none());
            free.max_by_key(|&s| common(&self.slots[s]))
        };
        let Some(slot) = own.or_else(free) else { return Ok(None) };
        // The last token is always computed, for its logits.
        let keep = common(&self.slots[slot]).min(task.tokens.len() - 1);
        self.slots[slot].owner = Some(task.id);
        self.shorten(slot, keep)?;
        // KV memory: idle slots are emptied if needed.
        let pages = |tokens: usize| tokens.div_ceil(limits.kv_page);
        loop {
            let others = (0..self.slots.len()).filter(|&s| s != slot);
            let used: usize = others.map(|s| pages(self.slots[s].tokens.len() + task.most)).sum();
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
