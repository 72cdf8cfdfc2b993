//! The worker's part in a full context: which requests continue, and the whole text that their samplers and drafts still see.
//!
//! The model sees the shortened text. Everything else uses the whole text: the positions of draws, so that none repeats;
//! penalties; n-gram drafts. Grammars, stop strings and the detokenizer never look back.

use crate::TokenId;
use crate::schedule::{LEAST_BEHIND, ScheduleError, cut};

/// How a request handles a full context, and its whole text once tokens were dropped.
#[derive(Clone, Debug, Default)]
pub(super) struct Shift {
    /// Tokens kept at the start; `None`: the request ends.
    pub keep: Option<usize>,
    /// Prompt and answer including dropped tokens; empty as long as none were dropped.
    whole: Vec<TokenId>,
}

impl Shift {
    /// Checks a prompt against the context, and cuts it if that is allowed. Also returns how many tokens were cut.
    ///
    /// # Errors
    /// If the prompt is empty or too long, or if the kept tokens leave no room.
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

    /// The request's whole text; `tokens` are those that the model sees.
    pub fn text<'a>(&'a self, tokens: &'a [TokenId]) -> &'a [TokenId] {
        if self.whole.is_empty() { tokens } else { &self.whole }
    }

    /// Saves the whole text, `tokens`, before the first tokens are dropped.
    pub fn remember(&mut self, tokens: &[TokenId]) {
        if self.whole.is_empty() {
            self.whole = tokens.to_vec();
        }
    }

    /// Adds a token of the answer.
    pub fn push(&mut self, token: TokenId) {
        if !self.whole.is_empty() {
            self.whole.push(token);
        }
    }
}
