//! [`Places`] and [`Prepared`]: what a request needs before it is submitted.

use super::active::Ticket;
use super::shift::Shift;
use crate::TokenId;
use crate::request::Request;
use crate::sample::Constraint;

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
}
