//! [`Places`] and [`Prepared`]: what a request needs before it is submitted.

use super::active::Ticket;
use super::shift::Shift;
use crate::TokenId;
use crate::request::Request;
use crate::sample::Constraint;

/// The most tokens of [`Prepared::prompt_end`]. Marks of reasoning and headers of answers are shorter.
const PROMPT_END: usize = 32;

/// Places among the requests in flight, returned when dropped.
#[derive(Debug)]
pub struct Places(pub(super) Vec<Ticket>);

/// A request that is checked, tokenised and ready to run, any number of times.
#[derive(Clone, Debug)]
pub struct Prepared {
    pub(super) request: Request,
    pub(super) prompt: Vec<TokenId>,
    pub(super) shift: Shift,
    /// Tokens that were cut from the prompt.
    pub(super) truncated: usize,
    pub(super) constraint: Option<Constraint>,
}

impl Prepared {
    /// The number of tokens of the prompt as the model gets it.
    pub fn prompt_tokens(&self) -> usize {
        self.prompt.len()
    }

    /// The last tokens of the prompt, at most 32. What an answer begins with depends on them: a chat template may
    /// have opened the model's reasoning.
    pub fn prompt_end(&self) -> &[TokenId] {
        &self.prompt[self.prompt.len().saturating_sub(PROMPT_END)..]
    }
}
