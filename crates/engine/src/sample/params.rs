//! [`SamplingParams`] and their validation.

use crate::TokenId;

/// How the next token is chosen. Defaults are llama.cpp's.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams {
    /// Divides the logits before the softmax, 0 to 100. 0 is greedy: the highest logit wins.
    pub temperature: f32,
    /// Keep the `top_k` most probable tokens; 0: all.
    pub top_k: usize,
    /// Keep the most probable tokens that together reach this probability, 0 to 1; 1: all.
    pub top_p: f32,
    /// Keep tokens at least this share as probable as the most probable one, 0 to 1; 0: all.
    pub min_p: f32,
    /// Locally typical sampling (arXiv 2202.00666): keep the tokens whose information content is nearest to the entropy and that
    /// together reach this probability, 0 to 1; 1: all.
    pub typical_p: f32,
    /// Logits of tokens in the window are divided (if positive) or multiplied (if not) by this (arXiv 1909.05858), 0.01 to
    /// 100; 1: off.
    pub repeat_penalty: f32,
    /// The penalties' window: how many of the last tokens, prompt included; 0: penalties off, `usize::MAX`: all.
    pub repeat_last_n: usize,
    /// Subtracted from the logit of each token in the window, -100 to 100; 0: off.
    pub presence_penalty: f32,
    /// Subtracted from the logit of a token once per occurrence in the window, -100 to 100; 0: off.
    pub frequency_penalty: f32,
    /// Added to the logits of single tokens: -1e30 to 1e30, or negative infinity to forbid a token. Ids must not repeat.
    pub logit_bias: Vec<(TokenId, f32)>,
    /// The seed, which makes sampling reproducible; `None`: a random one, reported in the outcome.
    pub seed: Option<u64>,
    /// How many of the most probable tokens to report with each generated one, up to 20; `None`: no probabilities.
    pub logprobs: Option<usize>,
}

impl Default for SamplingParams {
    fn default() -> SamplingParams {
        SamplingParams {
            temperature: 0.8,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            typical_p: 1.0,
            repeat_penalty: 1.0,
            repeat_last_n: 64,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: None,
            logprobs: None,
        }
    }
}

/// A sampling parameter out of range.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{field}: expected {expected}, found {found}")]
pub struct ParamError {
    /// The field of [`SamplingParams`].
    pub field: &'static str,
    /// The range.
    pub expected: String,
    /// The value.
    pub found: String,
}

/// The largest logit bias: the sum with a penalty stays finite.
const MAX_BIAS: f32 = 1e30;

/// The maximum number of alternatives reported with a token.
const MAX_LOGPROBS: usize = 20;

impl SamplingParams {
    /// Greedy sampling: the highest logit wins; no penalties.
    pub fn greedy() -> SamplingParams {
        SamplingParams { temperature: 0.0, ..SamplingParams::default() }
    }

    /// Checks every field against its range, and biased tokens against the vocabulary's size.
    ///
    /// # Errors
    /// The first field out of range.
    pub fn validate(&self, vocab: usize) -> Result<(), ParamError> {
        let ranges = [
            ("temperature", self.temperature, 0.0, 100.0),
            ("top_p", self.top_p, 0.0, 1.0),
            ("min_p", self.min_p, 0.0, 1.0),
            ("typical_p", self.typical_p, 0.0, 1.0),
            ("presence_penalty", self.presence_penalty, -100.0, 100.0),
            ("frequency_penalty", self.frequency_penalty, -100.0, 100.0),
        ];
        for (field, value, low, high) in ranges {
            if !(low..=high).contains(&value) {
                return Err(error(field, format!("a number from {low} to {high}"), value));
            }
        }
        if !(0.01..=100.0).contains(&self.repeat_penalty) {
            return Err(error("repeat_penalty", "a number from 0.01 to 100".into(), self.repeat_penalty));
        }
        if let Some(n) = self.logprobs
            && n > MAX_LOGPROBS
        {
            return Err(error("logprobs", format!("at most {MAX_LOGPROBS}"), n));
        }
        self.validate_bias(vocab)
    }

    fn validate_bias(&self, vocab: usize) -> Result<(), ParamError> {
        let mut ids: Vec<TokenId> = self.logit_bias.iter().map(|&(id, _)| id).collect();
        ids.sort_unstable();
        if let Some(twice) = ids.windows(2).find(|w| w[0] == w[1]) {
            return Err(error("logit_bias", "each token once".into(), format!("token {} twice", twice[0])));
        }
        for &(id, bias) in &self.logit_bias {
            if id as usize >= vocab {
                return Err(error("logit_bias", format!("tokens below {vocab}"), format!("token {id}")));
            }
            if bias != f32::NEG_INFINITY && !(-MAX_BIAS..=MAX_BIAS).contains(&bias) {
                let expected = "a number from -1e30 to 1e30 or negative infinity".into();
                return Err(error("logit_bias", expected, format!("{bias} for token {id}")));
            }
        }
        Ok(())
    }

    /// Whether the same logits always give the same token, whatever the seed.
    pub fn is_greedy(&self) -> bool {
        self.temperature == 0.0
    }
}

fn error(field: &'static str, expected: String, found: impl ToString) -> ParamError {
    ParamError { field, expected, found: found.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(change: impl FnOnce(&mut SamplingParams)) -> String {
        let mut params = SamplingParams::default();
        change(&mut params);
        params.validate(10).expect_err("out of range").to_string()
    }

    #[test]
    fn errors_name_the_field_the_expected_and_the_found_value() {
        assert_eq!(
            message(|p| p.temperature = -1.0),
            "temperature: expected a number from 0 to 100, found -1"
        );
        assert_eq!(message(|p| p.top_p = f32::NAN), "top_p: expected a number from 0 to 1, found NaN");
        assert_eq!(message(|p| p.min_p = 1.5), "min_p: expected a number from 0 to 1, found 1.5");
        assert_eq!(message(|p| p.typical_p = -0.1), "typical_p: expected a number from 0 to 1, found -0.1");
        assert_eq!(
            message(|p| p.repeat_penalty = 0.0),
            "repeat_penalty: expected a number from 0.01 to 100, found 0"
        );
        assert_eq!(
            message(|p| p.presence_penalty = f32::INFINITY),
            "presence_penalty: expected a number from -100 to 100, found inf"
        );
        assert_eq!(
            message(|p| p.frequency_penalty = 101.0),
            "frequency_penalty: expected a number from -100 to 100, found 101"
        );
        assert_eq!(message(|p| p.logprobs = Some(21)), "logprobs: expected at most 20, found 21");
        assert_eq!(
            message(|p| p.logit_bias = vec![(10, 1.0)]),
            "logit_bias: expected tokens below 10, found token 10"
        );
        assert_eq!(
            message(|p| p.logit_bias = vec![(3, 1.0), (1, 0.0), (3, 2.0)]),
            "logit_bias: expected each token once, found token 3 twice"
        );
        assert_eq!(
            message(|p| p.logit_bias = vec![(1, f32::INFINITY)]),
            "logit_bias: expected a number from -1e30 to 1e30 or negative infinity, found inf for token 1"
        );
    }

    #[test]
    fn the_ends_of_each_range_are_valid() {
        let params = SamplingParams {
            temperature: 100.0,
            top_p: 0.0,
            min_p: 1.0,
            typical_p: 0.0,
            repeat_penalty: 0.01,
            repeat_last_n: usize::MAX,
            presence_penalty: -100.0,
            frequency_penalty: 100.0,
            logit_bias: vec![(9, f32::NEG_INFINITY)],
            logprobs: Some(20),
            ..SamplingParams::default()
        };
        assert_eq!(params.validate(10), Ok(()));
        assert_eq!(SamplingParams::greedy().validate(1), Ok(()));
    }
}
