//! What a generation delivers: tokens as they come, then one outcome.

use crate::TokenId;
use crate::sample::TokenLogprobs;
use std::time::{Duration, Instant};

/// One delivery. A generation is any number of `Tokens`, `Dropped` among them, then exactly one `Finished`.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Generated tokens and the text that became certain with them.
    Tokens {
        /// The tokens; empty only in a delivery of text that was held back until the end.
        ids: Vec<TokenId>,
        /// May be empty, while the tokens end inside a character or could be the beginning of a stop string. Always
        /// empty without a tokenizer.
        text: String,
        /// One per token if the request asked for them, else empty.
        logprobs: Vec<TokenLogprobs>,
        /// When this was handed to the consumer.
        at: Instant,
    },
    /// The context was full, or the prompt longer than it, and tokens behind the kept front were dropped
    /// ([`crate::Request::context_shift`]).
    Dropped {
        /// How many.
        tokens: usize,
        /// They were cut from the prompt before it was computed.
        of_prompt: bool,
    },
    /// The end.
    Finished(Outcome),
}

/// How a generation ended and what it cost.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Why it ended.
    pub reason: FinishReason,
    /// Token counts.
    pub usage: Usage,
    /// Points in time and durations.
    pub timing: Timing,
    /// The seed that sampling used: the request's, or the random one chosen for it.
    pub seed: u64,
}

/// Why a generation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// The model ended it: end of sequence, end of turn.
    Stop,
    /// A stop string appeared.
    StopString,
    /// `max_tokens` were generated.
    Length,
    /// The sequence fills the context.
    ContextFull,
    /// The caller cancelled it, or the engine was dropped.
    Cancelled,
    /// The request asks for what can't be: it forbids every token, or its grammar can't be followed. Says why.
    Refused(String),
    /// It failed; says why.
    Error(String),
}

impl FinishReason {
    /// The name in records and answers.
    pub fn as_str(&self) -> &'static str {
        match self {
            FinishReason::Stop | FinishReason::StopString => "stop",
            FinishReason::Length => "length",
            FinishReason::ContextFull => "context_full",
            FinishReason::Cancelled => "cancelled",
            FinishReason::Refused(_) | FinishReason::Error(_) => "error",
        }
    }
}

/// Token counts of a generation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// The prompt's tokens, BOS and template included; of one that was cut to fit, those that stayed.
    pub prompt_tokens: usize,
    /// How many of them came from the prefix cache.
    pub cached_tokens: usize,
    /// Generated tokens that were delivered; an end-of-sequence token is not.
    pub completion_tokens: usize,
    /// Tokens that were drafted and verified; 0 without speculation.
    pub drafted_tokens: usize,
    /// How many of them were right.
    pub accepted_tokens: usize,
    /// Prompt tokens that were cut from its middle before it was computed, as it was longer than the context.
    pub truncated_tokens: usize,
    /// How often the context was full and half of what lies behind the kept front was dropped.
    pub context_shifts: usize,
    /// Tokens of prompt and answer that were dropped so.
    pub dropped_tokens: usize,
}

/// Points in time and durations of a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// The prompt was handed over, as text or chat: before templating and tokenising.
    pub t0: Instant,
    /// Compute time of the prompt's uncached tokens: forward calls that held some of them, each counted by the
    /// share of its tokens that they were. Waiting, and computing again after a preemption or a context shift, are not in
    /// it.
    pub prefill: Duration,
    /// The first delivery of a token.
    pub first: Option<Instant>,
    /// The last delivery of a token.
    pub last: Option<Instant>,
}

impl Timing {
    /// TTFT: from `t0` to the first token's delivery.
    pub fn ttft(&self) -> Option<Duration> {
        self.first.map(|first| first - self.t0)
    }

    /// Total latency: from `t0` to the last token's delivery.
    pub fn total(&self) -> Option<Duration> {
        self.last.map(|last| last - self.t0)
    }
}
