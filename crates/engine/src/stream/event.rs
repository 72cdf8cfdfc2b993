//! The events of a generation: tokens as they come, then one outcome.

use crate::TokenId;
use crate::sample::TokenLogprobs;
use std::time::{Duration, Instant};

/// One event. A generation is any number of `Tokens` and `Dropped`, then exactly one `Finished`.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// Generated tokens, and the text that became final with them.
    Tokens {
        /// The tokens; empty only for text that was held back until the end.
        ids: Vec<TokenId>,
        /// Empty while the tokens end inside a character or may begin a stop string. Always empty without a tokenizer.
        text: String,
        /// One per token if requested, else empty.
        logprobs: Vec<TokenLogprobs>,
        /// When this was handed to the consumer.
        at: Instant,
    },
    /// The context was full or the prompt too long, and tokens after the kept prefix were dropped
    /// ([`crate::Request::context_shift`]).
    Dropped {
        /// How many.
        tokens: usize,
        /// Whether they were cut from the prompt before it was computed.
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
    /// Times.
    pub timing: Timing,
    /// The seed of sampling: the request's, or the random one chosen for it.
    pub seed: u64,
}

/// Why a generation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// The model ended it: end of sequence or end of turn.
    Stop,
    /// A stop string appeared.
    StopString,
    /// `max_tokens` were generated.
    Length,
    /// The sequence fills the context.
    ContextFull,
    /// The caller cancelled it, or the engine was dropped.
    Cancelled,
    /// The request can't be fulfilled: it forbids every token, or its grammar can't be followed. Has the message.
    Refused(String),
    /// It failed, with this message.
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
    /// The prompt's tokens, including BOS and template; of a prompt that was cut, those that remained.
    pub prompt_tokens: usize,
    /// How many of them came from the prefix cache.
    pub cached_tokens: usize,
    /// Generated tokens that were delivered; end-of-sequence tokens are not.
    pub completion_tokens: usize,
    /// Tokens that were drafted and verified; 0 without speculation.
    pub drafted_tokens: usize,
    /// How many of them were right.
    pub accepted_tokens: usize,
    /// Tokens cut from the middle of a prompt that was longer than the context.
    pub truncated_tokens: usize,
    /// How often the context was full and half of the tokens after the kept prefix were dropped.
    pub context_shifts: usize,
    /// Tokens of prompt and answer dropped by these shifts.
    pub dropped_tokens: usize,
}

/// The times of a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// The prompt was handed over, as text or chat: before templating and tokenising.
    pub t0: Instant,
    /// Compute time of the prompt's uncached tokens: the time of each forward call with some of them, times their share of the
    /// call's tokens. Excludes waiting, and recomputation after a preemption or a context shift.
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
