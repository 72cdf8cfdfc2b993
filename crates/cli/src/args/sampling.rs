//! How tokens are chosen.

use super::values::logit_bias;
use clap::Args;
use zonda::engine::SamplingDefaults;
use zonda::{SamplingParams, TokenId};

/// How tokens are chosen. The defaults are the model's, from its GGUF metadata (`general.sampling.*`) or its
/// `generation_config.json`; what these leave out is llama.cpp's.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArgs {
    /// Temperature; 0: always the most probable token [default: the model's, else 0.8].
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    pub temp: Option<f32>,

    /// Keep the K most probable tokens; 0: all [default: the model's, else 40].
    #[arg(long, value_name = "K")]
    pub top_k: Option<usize>,

    /// Keep the most probable tokens that together reach P; 1: all [default: the model's, else 0.95].
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub top_p: Option<f32>,

    /// Keep tokens at least P times as probable as the best; 0: all [default: the model's, else 0.05].
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub min_p: Option<f32>,

    /// Locally typical sampling; 1: off [default: the model's, else 1].
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub typical_p: Option<f32>,

    /// Divides the logits of tokens that appeared before; 1: off [default: the model's, else 1].
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub repeat_penalty: Option<f32>,

    /// How many of the last tokens the penalties apply to; 0: none, -1: all [default: the model's, else 64].
    #[arg(long, value_name = "N", allow_negative_numbers = true,
          value_parser = clap::value_parser!(i64).range(-1..))]
    pub repeat_last_n: Option<i64>,

    /// Subtracted from the logit of a token that appeared before; 0: off [default: 0].
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub presence_penalty: Option<f32>,

    /// Subtracted from a token's logit for each time it appeared before; 0: off [default: 0].
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub frequency_penalty: Option<f32>,

    /// Add BIAS to the logit of token ID; -inf forbids it. May be repeated.
    #[arg(long, value_name = "ID=BIAS", value_parser = logit_bias)]
    pub logit_bias: Vec<(TokenId, f32)>,

    /// Seed that makes sampling reproducible [default: random].
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
}

impl SamplingArgs {
    /// The model's parameters with those that are given. The engine checks the ranges.
    pub fn params(&self, model: SamplingDefaults) -> SamplingParams {
        let d = model.params();
        SamplingParams {
            temperature: self.temp.unwrap_or(d.temperature),
            top_k: self.top_k.unwrap_or(d.top_k),
            top_p: self.top_p.unwrap_or(d.top_p),
            min_p: self.min_p.unwrap_or(d.min_p),
            typical_p: self.typical_p.unwrap_or(d.typical_p),
            repeat_penalty: self.repeat_penalty.unwrap_or(d.repeat_penalty),
            repeat_last_n: match self.repeat_last_n {
                None => d.repeat_last_n,
                Some(n) => usize::try_from(n).unwrap_or(usize::MAX),
            },
            presence_penalty: self.presence_penalty.unwrap_or(d.presence_penalty),
            frequency_penalty: self.frequency_penalty.unwrap_or(d.frequency_penalty),
            logit_bias: self.logit_bias.clone(),
            seed: self.seed,
            ..d
        }
    }
}
