//! One request inside the worker: its sampler, its text and its consumer.

use super::shift::Shift;
use crate::TokenId;
use crate::request::{Backlog, Request};
use crate::sample::{Constraint, Sampled, Sampler, TokenLogprobs};
use crate::speculate::Speculate;
use crate::stream::{Event, FinishReason, Outcome, TextStream, Timing, Usage};
use crate::tokenize::Tokenizer;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Receives a generation's events, on the worker's thread.
pub(super) type Sink = Box<dyn FnMut(Event) + Send>;

/// A request that was accepted and has not ended. Its consumer gets exactly one [`Event::Finished`] in any case.
pub(super) struct Active {
    /// Identifies the request across threads.
    pub key: u64,
    pub sampler: Sampler,
    text: TextStream,
    /// Tokens that end the generation; empty if they are ignored.
    end_tokens: Vec<TokenId>,
    max_tokens: usize,
    /// Tokens, text and log-probabilities since the last delivery.
    taken: (Vec<TokenId>, String, Vec<TokenLogprobs>),
    /// The source of its drafts.
    pub speculate: Speculate,
    /// How a full context is handled.
    pub shift: Shift,
    pub usage: Usage,
    timing: Timing,
    sink: Sink,
    /// Counts the events that the consumer has not taken yet.
    backlog: Option<Backlog>,
    /// Its ticket among the requests in flight; `None` once it has ended.
    ticket: Option<Ticket>,
}

/// Counts as one request in flight until it is dropped.
#[derive(Debug)]
pub(super) struct Ticket(Arc<AtomicUsize>);

impl Ticket {
    /// A ticket, if fewer than `limit` requests are in flight.
    pub fn take(in_flight: &Arc<AtomicUsize>, limit: usize) -> Option<Ticket> {
        let admit = |n: usize| (n < limit).then_some(n + 1);
        in_flight.fetch_update(Ordering::Relaxed, Ordering::Relaxed, admit).ok()?;
        Some(Ticket(in_flight.clone()))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Active {
    pub fn new(
        key: u64,
        request: Request,
        prompt: &[TokenId],
        constraint: Option<Constraint>,
        tokenizer: Option<Arc<Tokenizer>>,
        sink: Sink,
        ticket: Ticket,
    ) -> Active {
        let backlog = request.backlog.clone();
        let ends = tokenizer.as_ref().filter(|_| !request.ignore_eos);
        Active {
            key,
            end_tokens: ends.map_or(Vec::new(), |t| t.end_tokens().to_vec()),
            sampler: Sampler::new(request.sampling).with_constraint(constraint),
            text: TextStream::new(tokenizer, prompt, request.stop, request.keep_special),
            max_tokens: request.max_tokens,
            taken: Default::default(),
            speculate: request.speculate.unwrap_or_default(),
            shift: Shift::default(),
            usage: Usage { prompt_tokens: prompt.len(), ..Usage::default() },
            timing: Timing { t0: request.t0, prefill: Duration::ZERO, first: None, last: None },
            sink,
            backlog,
            ticket: Some(ticket),
        }
    }

    /// Counts a forward call that took `took` and computed `tokens` tokens, `own` of which belong to this prompt.
    pub fn add_prefill(&mut self, took: Duration, own: usize, tokens: usize) {
        if own > 0 {
            self.timing.prefill += took.mul_f64(own as f64 / tokens as f64);
        }
    }

    /// Sets how a full context is handled; `truncated` tokens of the prompt were cut to make it fit.
    pub fn set_shift(&mut self, shift: Shift, truncated: usize) {
        self.shift = shift;
        self.usage.truncated_tokens = truncated;
    }

    /// Tells the consumer if the prompt was cut; false if the consumer panicked.
    pub fn tell_truncated(&mut self) -> bool {
        let tokens = self.usage.truncated_tokens;
        tokens == 0 || self.deliver(Event::Dropped { tokens, of_prompt: true })
    }

    /// How many more tokens are wanted.
    pub fn wants(&self) -> usize {
        self.max_tokens - self.usage.completion_tokens
    }

    /// Adds a sampled token to the step's delivery, unless it is an end token. Returns the reason if the generation ends here.
    pub fn take(&mut self, sampled: Sampled) -> Option<FinishReason> {
        if self.end_tokens.contains(&sampled.token) {
            return Some(FinishReason::Stop);
        }
        self.usage.completion_tokens += 1;
        #[cfg(test)]
        super::faults::strike(sampled.token);
        let (ids, text, logprobs) = &mut self.taken;
        ids.push(sampled.token);
        text.push_str(&self.text.push(sampled.token));
        logprobs.extend(sampled.logprobs);
        if self.text.stopped() {
            Some(FinishReason::StopString)
        } else if self.usage.completion_tokens >= self.max_tokens {
            Some(FinishReason::Length)
        } else {
            None
        }
    }

    /// Whether its consumer has too many unread events, so that its next tokens can wait.
    pub fn is_backlogged(&self) -> bool {
        self.backlog.as_ref().is_some_and(Backlog::is_full)
    }

    /// Delivers the tokens of a step; false if the consumer panicked.
    pub fn deliver_taken(&mut self) -> bool {
        let (ids, text, logprobs) = std::mem::take(&mut self.taken);
        if ids.is_empty() {
            return true;
        }
        let at = Instant::now();
        self.timing.first.get_or_insert(at);
        self.timing.last = Some(at);
        self.deliver(Event::Tokens { ids, text, logprobs, at })
    }

    /// Delivers the text held back so far, then the outcome; nothing if that was done before.
    pub fn finish(&mut self, reason: FinishReason) {
        // The ticket is returned before the end is delivered, so that a consumer can submit its next request at once.
        if self.ticket.take().is_none() {
            return;
        }
        // A text stream that panicked once may do so again; the outcome is delivered anyway.
        let text = catch_unwind(AssertUnwindSafe(|| self.text.finish())).unwrap_or_default();
        if !text.is_empty() {
            let at = Instant::now();
            self.deliver(Event::Tokens { ids: vec![], text, logprobs: vec![], at });
        }
        let seed = self.sampler.seed();
        self.deliver(Event::Finished(Outcome { reason, usage: self.usage, timing: self.timing, seed }));
    }

    /// Discards a request that could not be submitted; its consumer gets no event.
    pub fn discard(mut self: Box<Self>) {
        self.ticket = None;
    }

    /// Hands an event to the consumer; false if the consumer panicked.
    pub(super) fn deliver(&mut self, event: Event) -> bool {
        if let Some(backlog) = &self.backlog {
            backlog.add();
        }
        catch_unwind(AssertUnwindSafe(|| (self.sink)(event))).is_ok()
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.finish(FinishReason::Error("the engine has stopped".into()));
    }
}
