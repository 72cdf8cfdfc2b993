//! Parts that answers to chats and completions share: token counts, timings, probabilities, finish reasons.

use serde::Serialize;
use utoipa::ToSchema;
use zonda_engine::sample::{TokenLogprob, TokenLogprobs};
use zonda_engine::stream::Figures;
use zonda_engine::tokenize::Tokenizer;
use zonda_engine::{FinishReason, Outcome};

/// Token counts of one answer to one prompt; several choices share the prompt.
#[derive(Clone, Copy, Debug, Default, Serialize, ToSchema)]
pub struct Usage {
    /// Tokens of the prompt, including the template's.
    pub prompt_tokens: usize,
    /// Generated tokens of all choices.
    pub completion_tokens: usize,
    /// Prompt and completion tokens.
    pub total_tokens: usize,
    /// Details of the prompt tokens.
    pub prompt_tokens_details: PromptDetails,
}

/// Details of the prompt tokens.
#[derive(Clone, Copy, Debug, Default, Serialize, ToSchema)]
pub struct PromptDetails {
    /// Prompt tokens found in the prefix cache.
    pub cached_tokens: usize,
}

impl Usage {
    /// Adds a finished choice; `first` if its prompt was not counted yet.
    pub fn add(&mut self, outcome: &Outcome, first: bool) {
        if first {
            self.prompt_tokens += outcome.usage.prompt_tokens;
            self.prompt_tokens_details.cached_tokens += outcome.usage.cached_tokens;
        }
        self.completion_tokens += outcome.usage.completion_tokens;
        self.total_tokens = self.prompt_tokens + self.completion_tokens;
    }
}

/// Times in milliseconds, from the request's arrival, and rates in tokens per second.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub struct Timings {
    /// Time to the first token.
    pub ttft_ms: Option<f64>,
    /// Time per further output token: (last − first) / (tokens − 1).
    pub tpt_ms: Option<f64>,
    /// Time to the last token.
    pub total_ms: Option<f64>,
    /// Uncached prompt tokens per second of prefill computation.
    pub prefill_tps: Option<f64>,
    /// Output tokens per second after the first: the inverse of `tpt_ms`.
    pub decode_tps: Option<f64>,
    /// Prompt tokens found in the prefix cache.
    pub cached_tokens: usize,
    /// Tokens that were drafted and verified; 0 without speculation.
    pub drafted_tokens: usize,
    /// Drafted tokens that were accepted.
    pub accepted_tokens: usize,
    /// Tokens removed from the middle of a prompt that was longer than the context; no other count includes them.
    pub truncated_tokens: usize,
    /// How often tokens of a full context were discarded.
    pub context_shifts: usize,
    /// Tokens discarded by these shifts.
    pub dropped_tokens: usize,
}

impl Timings {
    /// A choice's timings.
    pub fn of(outcome: &Outcome) -> Timings {
        let f = Figures::of(outcome);
        Timings {
            ttft_ms: f.ttft_ms,
            tpt_ms: f.tpt_ms,
            total_ms: f.total_ms,
            prefill_tps: f.prefill_tps,
            decode_tps: f.decode_tps,
            cached_tokens: f.cached_tokens,
            drafted_tokens: f.drafted_tokens,
            accepted_tokens: f.accepted_tokens,
            truncated_tokens: f.truncated_tokens,
            context_shifts: f.context_shifts,
            dropped_tokens: f.dropped_tokens,
        }
    }
}

/// OpenAI's name for how an answer ended. A full context counts as `length`.
pub fn finish_reason(reason: &FinishReason) -> &'static str {
    match reason {
        FinishReason::Length | FinishReason::ContextFull => "length",
        _ => "stop",
    }
}

/// A token and how probable it was.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Logprob {
    /// The token's text; bytes that are not whole characters appear as U+FFFD.
    pub token: String,
    /// ln p in the model's own distribution, before penalties and temperature.
    pub logprob: f32,
    /// The token's bytes.
    pub bytes: Vec<u8>,
}

/// A generated token and its alternatives.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct TokenProbability {
    /// The token that was chosen.
    #[serde(flatten)]
    pub chosen: Logprob,
    /// The most probable tokens at this position.
    pub top_logprobs: Vec<Logprob>,
}

impl Logprob {
    fn of(tokenizer: &Tokenizer, found: &TokenLogprob) -> Logprob {
        Logprob {
            token: tokenizer.piece(found.id),
            logprob: found.logprob,
            bytes: tokenizer.token_bytes(found.id).unwrap_or_default().to_vec(),
        }
    }
}

/// Probabilities in the form of the chat API.
pub fn probabilities(tokenizer: &Tokenizer, found: &[TokenLogprobs]) -> Vec<TokenProbability> {
    let one = |t: &TokenLogprobs| TokenProbability {
        chosen: Logprob::of(tokenizer, &t.chosen),
        top_logprobs: t.top.iter().map(|rival| Logprob::of(tokenizer, rival)).collect(),
    };
    found.iter().map(one).collect()
}
