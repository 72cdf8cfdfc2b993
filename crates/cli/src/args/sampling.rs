//! How tokens are chosen.

use super::values::logit_bias;
use clap::Args;
use zonda::{SamplingParams, TokenId};

/// How tokens are chosen. The defaults are llama.cpp's.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArgs {
    /// Temperature; 0: always the most probable token.
    #[arg(long, value_name = "T", default_value_t = 0.8, allow_negative_numbers = true)]
    pub temp: f32,

    /// Keep the K most probable tokens; 0: all.
    #[arg(long, value_name = "K", default_value_t = 40)]
    pub top_k: usize,

    /// Keep the most probable tokens that together reach P; 1: all.
    #[arg(long, value_name = "P", default_value_t = 0.95, allow_negative_numbers = true)]
    pub top_p: f32,

    /// Keep tokens at least P times as probable as the best; 0: all.
    #[arg(long, value_name = "P", default_value_t = 0.05, allow_negative_numbers = true)]
    pub min_p: f32,

    /// Locally typical sampling; 1: off.
    #[arg(long, value_name = "P", default_value_t = 1.0, allow_negative_numbers = true)]
    pub typical_p: f32,

    /// Divides the logits of tokens that appeared before; 1: off.
    #[arg(long, value_name = "X", default_value_t = 1.0, allow_negative_numbers = true)]
    pub repeat_penalty: f32,

    /// How many of the last tokens the penalties apply to; 0: none, -1: all.
    #[arg(long, value_name = "N", default_value_t = 64, allow_negative_numbers = true,
          value_parser = clap::value_parser!(i64).range(-1..))]
    pub repeat_last_n: i64,

    /// Subtracted from the logit of a token that appeared before; 0: off.
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    pub presence_penalty: f32,

    /// Subtracted from a token's logit for each time it appeared before; 0: off.
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    pub frequency_penalty: f32,

    /// Add BIAS to the logit of token ID; -inf forbids it. May be repeated.
    #[arg(long, value_name = "ID=BIAS", value_parser = logit_bias)]
    pub logit_bias: Vec<(TokenId, f32)>,

    /// Seed that makes sampling reproducible [default: random].
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
}

impl SamplingArgs {
    /// The engine's parameters. The engine checks the ranges.
    pub fn params(&self) -> SamplingParams {
        SamplingParams {
            temperature: self.temp,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            typical_p: self.typical_p,
            repeat_penalty: self.repeat_penalty,
            repeat_last_n: usize::try_from(self.repeat_last_n).unwrap_or(usize::MAX),
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            logit_bias: self.logit_bias.clone(),
            seed: self.seed,
            ..SamplingParams::default()
        }
    }
}
