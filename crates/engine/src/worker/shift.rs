//! The worker's part of a full context: who goes on, from what, and what its sampler and drafts still know.
//!
//! The model sees the shortened text. Everything else goes by the whole one: positions of draws, so that none comes
//! twice; penalties; n-gram guesses; grammar, stop strings and detokeniser, which never look back.

use crate::TokenId;
use crate::schedule::{LEAST_BEHIND, ScheduleError, cut};

/// What a request does when its context is full, and what it has dropped so far.
#[derive(Debug, Default)]
pub(super) struct Shift {
    /// Tokens at the front that stay; `None`: the request ends.
    pub keep: Option<usize>,
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

    /// Remembers the text before tokens of it are dropped for the first time: the model has all of it still, `tokens`.
    pub fn remember(&mut self, tokens: &[TokenId]) {
        if self.whole.is_empty() {
            self.whole = tokens.to_vec();
        }
    }

    /// A token of the answer was added to what the model has.
    pub fn push(&mut self, token: TokenId) {
        if !self.whole.is_empty() {
            self.whole.push(token);
        }
    }
}
