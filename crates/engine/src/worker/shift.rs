//! The worker's part of a full context: who goes on, from what, and what its sampler and drafts still know.
//!
//! The model sees the shortened text. Everything else goes by the whole one: positions of draws, so that none comes
//! twice; penalties; n-gram guesses; grammar, stop strings and detokeniser, which never look back.

use super::active::Active;
use super::run::Worker;
use crate::TokenId;
use crate::schedule::{LEAST_BEHIND, Pushed, ScheduleError, SeqId, cut};
use crate::stream::{Event, FinishReason};

/// What a request does when its context is full, and what it has dropped so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Shift {
    /// Tokens at the front that stay; `None`: the request ends.
    keep: Option<usize>,
    /// Prompt and answer with all that was dropped; empty while nothing was.
    whole: Vec<TokenId>,
}

impl Shift {
    /// Checks a prompt against the context, and cuts it to fit if it may be. Returns how many tokens went as well.
    ///
    /// # Errors
    /// If the prompt is empty or does not fit, or what is to be kept leaves no room.
    pub fn fit(
        prompt: &mut Vec<TokenId>,
        keep: Option<usize>,
        capacity: usize,
    ) -> Result<(Shift, usize), ScheduleError> {
        let most = capacity.saturating_sub(LEAST_BEHIND);
        match (prompt.len(), keep) {
            (0, _) => Err(ScheduleError::EmptyPrompt),
            (_, Some(keep)) if keep > most => Err(ScheduleError::KeepTooLong { keep, capacity, most }),
            (tokens, None) if tokens > capacity => Err(ScheduleError::PromptTooLong { tokens, capacity }),
            (tokens, Some(keep)) if tokens > capacity => {
                let whole = prompt.clone();
                let truncated = cut(prompt, keep, capacity);
                Ok((Shift { keep: Some(keep), whole }, truncated))
            }
            _ => Ok((Shift { keep, whole: Vec::new() }, 0)),
        }
    }

    /// The request's whole text, where the model has `tokens` of it.
    pub fn text<'a>(&'a self, tokens: &'a [TokenId]) -> &'a [TokenId] {
        if self.whole.is_empty() { tokens } else { &self.whole }
    }

    /// A token of the answer was added to what the model has.
    pub fn push(&mut self, token: TokenId) {
        if !self.whole.is_empty() {
            self.whole.push(token);
        }
    }
}

impl Active {
    /// Tells the consumer if the prompt was cut to fit; false if that panicked.
    pub fn tell_truncated(&mut self) -> bool {
        let tokens = self.usage.truncated_tokens;
        tokens == 0 || self.deliver(Event::Dropped { tokens, of_prompt: true })
    }
}

impl Worker {
    /// The context is full and `token` was refused: drops what makes room for it, or says why the sequence ends.
    pub(super) fn make_room(&mut self, id: SeqId, token: TokenId) -> Option<FinishReason> {
        let Some(keep) = self.active.get(&id)?.shift.keep else { return Some(FinishReason::ContextFull) };
        if self.active.get(&id)?.usage.context_shifts == 0 {
            // Later its slot has no more than the front of it.
            self.store(id);
        }
        let active = self.active.get_mut(&id)?;
        if active.shift.whole.is_empty() {
            active.shift.whole = self.scheduler.tokens(id).to_vec();
        }
        let dropped = self.scheduler.shift(id, keep);
        if dropped == 0 || self.scheduler.push(id, token) != Pushed::Next {
            return Some(FinishReason::ContextFull);
        }
        active.shift.push(token);
        active.usage.context_shifts += 1;
        active.usage.dropped_tokens += dropped;
        let told = active.deliver(Event::Dropped { tokens: dropped, of_prompt: false });
        (!told).then_some(FinishReason::Cancelled)
    }
}
