//! [`Sampler`]: one request's way from a row of logits to a token.

use super::candidates::Candidates;
use super::grammar::Constraint;
use super::logprobs::{TokenLogprobs, logprobs};
use super::params::SamplingParams;
use super::rng::{random_seed, uniform};
use super::scan::{argmax, first_not_finite};
use crate::TokenId;
use std::collections::HashMap;

/// Why no token could be chosen. The model's numbers are broken, or everything was forbidden.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SampleError {
    /// Every logit is NaN.
    #[error("the logits at position {position} are all NaN")]
    AllNan {
        /// The generated token's position in the sequence.
        position: usize,
    },
    /// A logit is not a number.
    #[error("logits contain NaN at token {token} (position {position})")]
    Nan {
        /// The first such token.
        token: TokenId,
        /// The generated token's position in the sequence.
        position: usize,
    },
    /// A logit is infinite.
    #[error("logits contain {value} at token {token} (position {position})")]
    Infinite {
        /// The first such token.
        token: TokenId,
        /// `inf` or `-inf`.
        value: f32,
        /// The generated token's position in the sequence.
        position: usize,
    },
    /// The logit bias, with the grammar if there is one, forbids every token.
    #[error("no token is allowed at position {position}: logit bias and grammar forbid all")]
    NothingAllowed {
        /// The generated token's position in the sequence.
        position: usize,
    },
    /// The grammar's parser gave up.
    #[error("the grammar can't be followed at position {position}: {reason}")]
    Grammar {
        /// What the parser says.
        reason: String,
        /// The generated token's position in the sequence.
        position: usize,
    },
}

impl SampleError {
    /// The request's own parameters lead to it, not the model's numbers.
    pub fn is_the_requests(&self) -> bool {
        matches!(self, SampleError::NothingAllowed { .. } | SampleError::Grammar { .. })
    }
}

/// What was chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampled {
    /// The next token.
    pub token: TokenId,
    /// Its log-probability and its rivals', if asked for.
    pub logprobs: Option<TokenLogprobs>,
}

/// Chooses the tokens of one request. See the [room's page](super) for the order of its steps.
#[derive(Debug)]
pub struct Sampler {
    params: SamplingParams,
    seed: u64,
    constraint: Option<Constraint>,
    candidates: Candidates,
    /// Scratch: how often each token of the window occurs in it.
    counts: HashMap<TokenId, u32>,
}

impl Sampler {
    /// A sampler for valid parameters (see [`SamplingParams::validate`]).
    pub fn new(params: SamplingParams) -> Sampler {
        let seed = params.seed.unwrap_or_else(random_seed);
        Sampler { params, seed, constraint: None, candidates: Candidates::default(), counts: HashMap::new() }
    }

    /// Chooses only what the grammar allows.
    pub fn with_constraint(self, constraint: Option<Constraint>) -> Sampler {
        Sampler { constraint, ..self }
    }

    /// A sampler that draws as this one does, for a draft model: without the grammar, whose state can't be had twice.
    pub fn twin(&self) -> Sampler {
        let params = SamplingParams { seed: Some(self.seed), logprobs: None, ..self.params.clone() };
        Sampler::new(params)
    }

    /// The seed in use, given or random.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Chooses the token that follows `history` (prompt and generated tokens) from its logits, `[vocab]`. Bias and
    /// penalties are applied to the row in place.
    ///
    /// # Errors
    /// If a logit is NaN or infinite, every token is forbidden, or the grammar's parser gives up.
    pub fn sample(&mut self, row: &mut [f32], history: &[TokenId]) -> Result<Sampled, SampleError> {
        let position = history.len();
        check(row, position)?;
        let wanted = self.params.logprobs;
        let raw = wanted.filter(|_| self.changes_logits()).map(|_| row.to_vec());
        self.bias(row);
        self.penalise(row, history);
        if let Some(constraint) = &mut self.constraint {
            constraint.mask(row, position)?;
        }
        let token = if self.params.is_greedy() {
            argmax(row).map(|i| i as TokenId)
        } else {
            self.narrow(row);
            self.candidates.draw(self.params.temperature, uniform(self.seed, position))
        };
        let token = token.ok_or(SampleError::NothingAllowed { position })?;
        if let Some(constraint) = &mut self.constraint {
            constraint.accept(token, position)?;
        }
        let logprobs = wanted.map(|top| logprobs(raw.as_deref().unwrap_or(row), token, top));
        Ok(Sampled { token, logprobs })
    }

    fn penalises(&self) -> bool {
        let p = &self.params;
        p.repeat_last_n > 0
            && (p.repeat_penalty != 1.0 || p.presence_penalty != 0.0 || p.frequency_penalty != 0.0)
    }

    fn changes_logits(&self) -> bool {
        self.penalises() || !self.params.logit_bias.is_empty() || self.constraint.is_some()
    }

    fn bias(&self, row: &mut [f32]) {
        for &(id, bias) in &self.params.logit_bias {
            row[id as usize] += bias;
        }
    }

    /// Repetition penalty as in CTRL and llama.cpp, then OpenAI's presence and frequency penalties.
    fn penalise(&mut self, row: &mut [f32], history: &[TokenId]) {
        if !self.penalises() {
            return;
        }
        let window = &history[history.len().saturating_sub(self.params.repeat_last_n)..];
        self.counts.clear();
        for &token in window {
            *self.counts.entry(token).or_insert(0) += 1;
        }
        let SamplingParams { repeat_penalty, presence_penalty, frequency_penalty, .. } = self.params;
        for (&token, &count) in &self.counts {
            let Some(logit) = row.get_mut(token as usize) else { continue };
            if *logit > 0.0 {
                *logit /= repeat_penalty;
            } else {
                *logit *= repeat_penalty;
            }
            *logit -= count as f32 * frequency_penalty + presence_penalty;
        }
    }

    /// Fills the candidates and narrows them: top-k → typical → top-p → min-p.
    fn narrow(&mut self, row: &[f32]) {
        let SamplingParams { top_k, typical_p, top_p, min_p, .. } = self.params;
        self.candidates.fill(row, top_k);
        if typical_p < 1.0 {
            self.candidates.typical(typical_p);
        }
        if top_p < 1.0 {
            self.candidates.top_p(top_p);
        }
        if min_p > 0.0 {
            self.candidates.min_p(min_p);
        }
    }
}

fn check(row: &[f32], position: usize) -> Result<(), SampleError> {
    let Some(at) = first_not_finite(row) else { return Ok(()) };
    let (token, value) = (at as TokenId, row[at]);
    if !value.is_nan() {
        return Err(SampleError::Infinite { token, value, position });
    }
    if row.iter().all(|x| x.is_nan()) {
        return Err(SampleError::AllNan { position });
    }
    Err(SampleError::Nan { token, position })
}
