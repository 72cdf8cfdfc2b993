//! One request inside the worker: its sampler, its text, and whom to tell.

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

/// Takes a generation's events, on the worker's thread.
pub(super) type Sink = Box<dyn FnMut(Event) + Send>;

/// A request that was taken and has not ended.
/// Whatever becomes of it, its consumer gets exactly one [`Event::Finished`].
pub(super) struct Active {
    /// Names the request across threads.
    pub key: u64,
    pub sampler: Sampler,
    text: TextStream,
    /// Tokens that end the generation; empty if they are ignored.
    end_tokens: Vec<TokenId>,
    max_tokens: usize,
    /// What was taken since the last delivery.
    taken: (Vec<TokenId>, String, Vec<TokenLogprobs>),
    /// Where its drafts come from.
    pub speculate: Speculate,
    /// What becomes of it when the context is full.
    pub shift: Shift,
    pub usage: Usage,
    timing: Timing,
    sink: Sink,
    /// Counts what its consumer has not taken yet.
    backlog: Option<Backlog>,
    /// Its place among the requests in flight; `None` once it has ended.
    ticket: Option<Ticket>,
}

/// A place among the requests in flight, given back when dropped.
#[derive(Debug)]
pub(super) struct Ticket(Arc<AtomicUsize>);

impl Ticket {
    /// Takes a place if fewer than `limit` are taken.
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

    /// A forward call of `took` computed `tokens` tokens, `own` of which belong to this prompt.
    pub fn add_prefill(&mut self, took: Duration, own: usize, tokens: usize) {
        if own > 0 {
            self.timing.prefill += took.mul_f64(own as f64 / tokens as f64);
        }
    }

    /// What becomes of it when the context is full; `truncated` tokens of its prompt were cut to fit.
    pub fn set_shift(&mut self, shift: Shift, truncated: usize) {
        self.shift = shift;
        self.usage.truncated_tokens = truncated;
    }

    /// How many more tokens it wants.
    pub fn wants(&self) -> usize {
        self.max_tokens - self.usage.completion_tokens
    }

    /// Takes a sampled token, to be delivered with the others of the step, unless it is an end token. Returns why the
    /// generation ends here, if it does.
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

    /// Its consumer has more events to take than it wants to have: the next tokens can wait.
    pub fn is_backlogged(&self) -> bool {
        self.backlog.as_ref().is_some_and(Backlog::is_full)
    }

    /// Delivers what a step has brought; false if the consumer panicked.
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

    /// Delivers text that was held back, then the outcome; nothing if that was done before.
    pub fn finish(&mut self, reason: FinishReason) {
        // The place is free before the end is told: whoever sees the end can submit the next.
        if self.ticket.take().is_none() {
            return;
        }
        // A text stream that panicked once may do so again; the outcome comes all the same.
        let text = catch_unwind(AssertUnwindSafe(|| self.text.finish())).unwrap_or_default();
        if !text.is_empty() {
            let at = Instant::now();
            self.deliver(Event::Tokens { ids: vec![], text, logprobs: vec![], at });
        }
        let seed = self.sampler.seed();
        self.deliver(Event::Finished(Outcome { reason, usage: self.usage, timing: self.timing, seed }));
    }

    /// Forgets a request that was not taken after all: its consumer hears nothing.
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
