//! [`Generation`]: the events of one request; [`Canceller`]: what ends it early.

use super::run::Command;
use crate::TokenId;
use crate::sample::TokenLogprobs;
use crate::stream::{Event, FinishReason, Outcome};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError};
use std::time::Duration;

/// Cancels one request.
#[derive(Clone, Debug)]
pub struct Canceller {
    pub(super) key: u64,
    pub(super) commands: Sender<Command>,
}

impl Canceller {
    /// Ends the request with [`FinishReason::Cancelled`] before the next forward call. No effect if it has ended.
    pub fn cancel(&self) {
        self.commands.send(Command::Cancel { key: self.key }).ok();
    }
}

/// The events of one request, as they come. Dropping it cancels the request.
#[derive(Debug)]
pub struct Generation {
    pub(super) events: Receiver<Event>,
    pub(super) canceller: Canceller,
    pub(super) prompt_end: Vec<TokenId>,
    pub(super) ended: bool,
}

impl Generation {
    /// The last tokens of the prompt; see [`super::Prepared::prompt_end`].
    pub fn prompt_end(&self) -> &[TokenId] {
        &self.prompt_end
    }

    /// Waits for the next event; `None` after [`Event::Finished`].
    pub fn recv(&mut self) -> Option<Event> {
        if self.ended {
            return None;
        }
        // The worker finishes every request, so the channel closes only after `Finished`.
        let event = self.events.recv().ok();
        self.note(event)
    }

    /// The next event if there is one already; `None` also after [`Event::Finished`].
    pub fn try_recv(&mut self) -> Option<Event> {
        match self.events.try_recv() {
            Ok(event) => self.note(Some(event)),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => self.note(None),
        }
    }

    /// Waits for the next event, `timeout` at most; `None` also after [`Event::Finished`].
    pub fn recv_timeout(&mut self, timeout: Duration) -> Option<Event> {
        match self.events.recv_timeout(timeout) {
            Ok(event) => self.note(Some(event)),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => self.note(None),
        }
    }

    /// Whether [`Event::Finished`] has been received.
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// Cancels the request; its [`Event::Finished`] is still delivered.
    pub fn cancel(&self) {
        self.canceller.cancel();
    }

    /// A handle to cancel this request from elsewhere, such as another thread.
    pub fn canceller(&self) -> Canceller {
        self.canceller.clone()
    }

    /// Waits for the end and returns everything at once; `None` if the end was received before.
    pub fn wait(mut self) -> Option<Completion> {
        let (mut ids, mut text, mut logprobs) = (Vec::new(), String::new(), Vec::new());
        loop {
            match self.recv()? {
                Event::Tokens { ids: more, text: piece, logprobs: some, .. } => {
                    ids.extend(more);
                    text.push_str(&piece);
                    logprobs.extend(some);
                }
                Event::Dropped { .. } => {}
                Event::Finished(outcome) => return Some(Completion { ids, text, logprobs, outcome }),
            }
        }
    }

    fn note(&mut self, event: Option<Event>) -> Option<Event> {
        self.ended |= !matches!(event, Some(Event::Tokens { .. } | Event::Dropped { .. }));
        event
    }
}

impl Iterator for Generation {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        self.recv()
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        if !self.ended {
            self.cancel();
        }
    }
}

/// A whole generation, see [`Generation::wait`].
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    /// The generated tokens.
    pub ids: Vec<TokenId>,
    /// Their text.
    pub text: String,
    /// One per token if the request asked for them, else empty.
    pub logprobs: Vec<TokenLogprobs>,
    /// How it ended.
    pub outcome: Outcome,
}

impl Completion {
    /// The error it ended with, if it did.
    pub fn error(&self) -> Option<&str> {
        match &self.outcome.reason {
            FinishReason::Error(message) | FinishReason::Refused(message) => Some(message),
            _ => None,
        }
    }
}
