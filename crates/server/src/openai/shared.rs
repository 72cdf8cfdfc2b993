//! The fields that chats and completions share: sampling, limits, and what they become in the engine.

use crate::config::Config;
use crate::error::ApiError;
use crate::extract::{self, Fields};
use crate::generate::{Job, within};
use crate::models::Loaded;
use crate::server::Server;
use axum::http::HeaderValue;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use utoipa::ToSchema;
use zonda_engine::{Grammar, Keep, Prompt, Request, SamplingParams, Speculate, TokenId};

/// Fields of both chats and completions. Sampling parameters that are left out are the model's (its GGUF
/// metadata or `generation_config.json`), or else llama.cpp's defaults.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
pub struct Shared {
    /// Which model; may be left out where there is but one.
    pub model: Option<String>,
    /// Send the answer as it comes, as server-sent events.
    pub stream: Option<bool>,
    /// What a stream holds besides text.
    pub stream_options: Option<StreamOptions>,
    /// How many answers, each with a seed of its own.
    pub n: Option<u64>,
    /// Most tokens of an answer [default: until the model ends or the context is full; 16 for completions].
    pub max_tokens: Option<u64>,
    /// Texts that end the answer; they are not part of it.
    pub stop: Option<Stop>,
    /// Makes sampling reproducible; -1: a random one.
    pub seed: Option<i64>,
    /// 0 is greedy [default: the model's, else 0.8].
    pub temperature: Option<f32>,
    /// Keep the most probable tokens that together reach this probability [default: the model's, else 0.95].
    pub top_p: Option<f32>,
    /// Keep so many most probable tokens; 0: all [default: the model's, else 40].
    pub top_k: Option<i64>,
    /// Keep tokens at least this share as probable as the best [default: the model's, else 0.05].
    pub min_p: Option<f32>,
    /// Locally typical sampling; 1: off, the default.
    pub typical_p: Option<f32>,
    /// Penalty on tokens that were there; 1: off, the default.
    #[serde(alias = "repetition_penalty")]
    pub repeat_penalty: Option<f32>,
    /// How many last tokens the penalties look at; 0: none, -1: all [default: 64].
    pub repeat_last_n: Option<i64>,
    /// Taken off the logit of a token that was there [default: 0].
    pub presence_penalty: Option<f32>,
    /// Taken off a token's logit for each time it was there [default: 0].
    pub frequency_penalty: Option<f32>,
    /// Added to tokens' logits, by id.
    pub logit_bias: Option<BTreeMap<String, f32>>,
    /// Go on where the model wants to end.
    pub ignore_eos: Option<bool>,
    /// Reuse what earlier requests with the same beginning computed [default: true].
    pub cache_prompt: Option<bool>,
    /// When the context is full, discard half of the tokens after the kept prefix and go on; cut a prompt that does not fit
    /// likewise. Only where the server was started so, which is also the default.
    pub context_shift: Option<bool>,
    /// With `context_shift`: prompt tokens after the BOS that are never dropped; -1: the whole prompt [default: as the server
    /// was started; the system messages, where they take at most half of the context].
    pub n_keep: Option<i64>,
    /// Guess tokens ahead, which changes none of them: false, "ngram" or "draft" [default: as the server was started].
    pub speculate: Option<SpeculateField>,
    /// Give up after so many seconds.
    pub timeout: Option<f64>,
    /// What the answer has to be.
    pub response_format: Option<ResponseFormat>,
}

/// What a stream holds besides text.
#[derive(Clone, Copy, Debug, Default, Deserialize, ToSchema)]
pub struct StreamOptions {
    /// A last chunk with token counts and timings.
    pub include_usage: Option<bool>,
}

/// How tokens are guessed ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum SpeculateField {
    /// `false`: not at all. `true`: from the text so far.
    Switch(bool),
    /// By name.
    Named(SpeculateName),
}

/// Where guesses come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum SpeculateName {
    /// Nowhere.
    Off,
    /// The prompt and the answer so far.
    Ngram,
    /// The draft model that the server was started with.
    Draft,
}

impl From<SpeculateField> for Speculate {
    fn from(field: SpeculateField) -> Speculate {
        match field {
            SpeculateField::Switch(false) | SpeculateField::Named(SpeculateName::Off) => Speculate::Off,
            SpeculateField::Switch(true) | SpeculateField::Named(SpeculateName::Ngram) => Speculate::Ngram,
            SpeculateField::Named(SpeculateName::Draft) => Speculate::Draft,
        }
    }
}

/// One text or several.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum Stop {
    /// One.
    One(String),
    /// Several, 16 at most.
    Many(Vec<String>),
}

/// What an answer has to be. Everything but `text` is enforced while tokens are chosen.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ResponseFormat {
    /// Whatever the model says.
    Text,
    /// A JSON object.
    JsonObject {
        /// A schema that it has to be valid under, as some servers have it.
        #[serde(default)]
        #[schema(value_type = Option<Object>)]
        schema: Option<Value>,
    },
    /// JSON that is valid under a schema.
    JsonSchema {
        /// The schema.
        json_schema: JsonSchemaFormat,
    },
    /// Text that a grammar allows.
    Grammar {
        /// The grammar's language.
        syntax: Syntax,
        /// The grammar.
        definition: String,
    },
}

/// A schema and its name.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[allow(dead_code)] // only the schema changes the answer
pub struct JsonSchemaFormat {
    /// What the schema is called.
    pub name: Option<String>,
    /// What it is for.
    pub description: Option<String>,
    /// JSON Schema, draft 2020-12.
    #[schema(value_type = Object)]
    pub schema: Option<Value>,
    /// Every schema is kept to, strict or not.
    pub strict: Option<bool>,
}

/// A grammar's language.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Syntax {
    /// The variant of Lark that llguidance reads.
    Lark,
    /// A regular expression.
    Regex,
}

/// Most tokens of an answer in a shifted context, in contexts, where the server says nothing else.
const SHIFTED_CONTEXTS: usize = 16;

/// Most texts that end an answer.
const MAX_STOPS: usize = 16;

/// A value of a field that asks for nothing.
type Neutral = fn(&Value) -> bool;

/// Fields of OpenAI's, vLLM's and llama.cpp's APIs that would change the answer and that we don't have.
const UNSUPPORTED: &[(&str, Neutral)] = &[
    ("audio", never),
    ("best_of", |v| v == 1),
    ("continue_final_message", is_false),
    ("echo", is_false),
    ("function_call", |v| v == "none"),
    ("functions", is_empty),
    ("grammar", never),
    ("guided_choice", never),
    ("guided_grammar", never),
    ("guided_json", never),
    ("guided_regex", never),
    ("json_schema", never),
    ("lora", never),
    ("min_tokens", |v| v == 0),
    ("mirostat", |v| v == 0),
    ("modalities", |v| *v == serde_json::json!(["text"])),
    ("structured_outputs", never),
    ("suffix", |v| v == ""),
    ("use_beam_search", is_false),
    ("verbosity", |v| v == "medium"),
    ("web_search_options", never),
];

fn never(_: &Value) -> bool {
    false
}

fn is_false(value: &Value) -> bool {
    value == false
}

fn is_empty(value: &Value) -> bool {
    value.as_array().is_some_and(Vec::is_empty)
}

/// Refuses `reasoning_effort` for a model whose chat template does not read it.
///
/// # Errors
/// If the template has no such variable.
pub(crate) fn check_effort(loaded: &Loaded) -> Result<(), ApiError> {
    let template = loaded.engine.text().and_then(|text| text.template.as_deref());
    if template.is_some_and(|template| template.source().contains("reasoning_effort")) {
        return Ok(());
    }
    Err(ApiError::unsupported("reasoning_effort", "the chat template of this model does not read it"))
}

/// Reads the shared fields and the endpoint's own. Gives the header that names the fields that neither knows.
///
/// # Errors
/// If a field is malformed, or would change the answer and is not supported.
pub(crate) fn read<T: DeserializeOwned>(
    fields: &Fields,
) -> Result<(Shared, T, Option<HeaderValue>), ApiError> {
    for (name, neutral) in UNSUPPORTED {
        if fields.get(name).is_some_and(|value| !neutral(value)) {
            return Err(ApiError::unsupported(
                *name,
                "this field would change the answer and is not supported",
            ));
        }
    }
    let (shared, unknown_to_shared) = fields.read::<Shared>()?;
    let (own, unknown_to_own) = fields.read::<T>()?;
    // A field of one is unknown to the other; one inside a field of either is unknown to that one alone.
    let top = |path: &String| path.split('.').next().unwrap_or_default().to_owned();
    let unknown: std::collections::BTreeSet<String> = unknown_to_shared
        .union(&unknown_to_own)
        .filter(|path| {
            let nested = path.contains('.');
            let top = top(path);
            nested || (unknown_to_shared.contains(&top) && unknown_to_own.contains(&top))
        })
        .cloned()
        .collect();
    Ok((shared, own, extract::names(&unknown)))
}

impl Shared {
    /// What the response format demands, if anything.
    ///
    /// # Errors
    /// If a schema is missing.
    pub fn grammar(&self) -> Result<Option<Grammar>, ApiError> {
        Ok(match &self.response_format {
            None | Some(ResponseFormat::Text) => None,
            Some(ResponseFormat::JsonObject { schema: None }) => Some(Grammar::json_object()),
            Some(ResponseFormat::JsonObject { schema: Some(schema) }) => {
                let object = zonda::tools::as_object_schema(schema.clone());
                let expected =
                    || ApiError::field("response_format.schema", "expected the schema of an object");
                Some(Grammar::JsonSchema(object.ok_or_else(expected)?))
            }
            Some(ResponseFormat::JsonSchema { json_schema }) => {
                let missing =
                    || ApiError::field("response_format.json_schema.schema", "expected a schema, found none");
                Some(Grammar::JsonSchema(json_schema.schema.clone().ok_or_else(missing)?))
            }
            Some(ResponseFormat::Grammar { syntax: Syntax::Lark, definition }) => {
                Some(Grammar::Lark(definition.clone()))
            }
            Some(ResponseFormat::Grammar { syntax: Syntax::Regex, definition }) => {
                Some(Grammar::Regex(definition.clone()))
            }
        })
    }

    /// The schema of a JSON answer, as prompts with model settings contain it; `None`: the answer is any text.
    pub fn schema(&self) -> Option<Value> {
        match &self.response_format {
            Some(ResponseFormat::JsonObject { schema: Some(schema) }) => Some(schema.clone()),
            Some(ResponseFormat::JsonObject { schema: None }) => {
                Some(serde_json::json!({"anyOf": [{"type": "object"}, {"type": "array"}]}))
            }
            Some(ResponseFormat::JsonSchema { json_schema }) => json_schema.schema.clone(),
            None | Some(ResponseFormat::Text | ResponseFormat::Grammar { .. }) => None,
        }
    }

    /// Whether the answer is to be streamed.
    pub fn streams(&self) -> bool {
        self.stream == Some(true)
    }

    /// Whether a stream ends with a chunk of counts.
    pub fn includes_usage(&self) -> bool {
        self.stream_options.is_some_and(|o| o.include_usage == Some(true))
    }

    /// The engine's request for a prompt. `limit` is what the endpoint says of `max_tokens`.
    ///
    /// # Errors
    /// If a field is out of range.
    pub fn request(
        &self,
        config: &Config,
        loaded: &Loaded,
        prompt: Prompt,
        limit: Limit,
        logprobs: Option<u64>,
    ) -> Result<Request, ApiError> {
        let mut request = Request::new(prompt, limit.tokens(config)?);
        request.sampling = self.sampling(loaded.engine.sampling().params())?;
        request.sampling.logprobs = logprobs.map(|n| usize::try_from(n).unwrap_or(usize::MAX));
        request.stop = match &self.stop {
            None => Vec::new(),
            Some(Stop::One(text)) => vec![text.clone()],
            Some(Stop::Many(texts)) if texts.len() > MAX_STOPS => {
                let message = format!("expected at most {MAX_STOPS} texts, found {}", texts.len());
                return Err(ApiError::field("stop", message));
            }
            Some(Stop::Many(texts)) => texts.clone(),
        };
        request.ignore_eos = self.ignore_eos == Some(true);
        request.prefix_cache = config.prefix_cache && self.cache_prompt != Some(false);
        request.grammar = self.grammar()?;
        request.speculate = self.speculate.map(Speculate::from);
        request.context_shift = self.shift(config)?;
        Ok(request)
    }

    /// What is asked of the engine: each request as often as `n` says.
    ///
    /// # Errors
    /// If `n` or `timeout` is out of range.
    pub(crate) fn job(
        &self,
        config: &Config,
        fields: &Fields,
        loaded: Arc<Loaded>,
        mut requests: Vec<Request>,
    ) -> Result<Job, ApiError> {
        let choices = self.n.unwrap_or(1);
        let most = config.max_choices as u64;
        let all = choices.saturating_mul(requests.len() as u64);
        if choices == 0 || all > most {
            let message = format!("expected 1 to {most} answers in all, found {all}");
            return Err(ApiError::field("n", message));
        }
        for request in &mut requests {
            request.t0 = fields.arrived;
            if request.context_shift.is_some() {
                // Nothing else would end it.
                let capacity = loaded.engine.capacity();
                let most = config.max_tokens.unwrap_or(capacity.saturating_mul(SHIFTED_CONTEXTS));
                if request.max_tokens == usize::MAX {
                    request.max_tokens = capacity.min(most);
                } else if request.max_tokens > most {
                    let message = format!(
                        "expected at most {most} where the context is shifted, found {}",
                        request.max_tokens
                    );
                    return Err(ApiError::field("max_tokens", message));
                }
            }
        }
        let (choices, client) = (choices as usize, fields.client.clone());
        Ok(Job { loaded, requests, choices, client, deadline: self.deadline(config)? })
    }

    /// Waits for the request's model, no longer than its deadline allows.
    ///
    /// # Errors
    /// If there is no such model, it does not load, or not in time.
    pub(crate) async fn model(&self, server: &Arc<Server>, fields: &Fields) -> Result<Arc<Loaded>, ApiError> {
        let deadline = self.deadline(server.config())?;
        let (server, name) = (server.clone(), self.model.clone());
        // On a task of its own: a model that is being loaded is of use to the next request.
        let loading = tokio::spawn(async move { server.models().get(name.as_deref()).await });
        within(deadline, fields.arrived, loading).await?.map_err(|e| ApiError::backend(e.to_string()))?
    }

    /// What stays when the context is full; `None`: the answer ends there.
    fn shift(&self, config: &Config) -> Result<Option<Keep>, ApiError> {
        let keep = match self.n_keep {
            None => config.context_shift.unwrap_or_default(),
            Some(n) => Keep::from_count(n).ok_or_else(|| {
                ApiError::field("n_keep", format!("expected a count, or -1 for the whole prompt, found {n}"))
            })?,
        };
        if self.context_shift == Some(true) && config.context_shift.is_none() {
            let message = "expected false, as the server was started without --context-shift, found true";
            return Err(ApiError::unsupported("context_shift", message));
        }
        Ok(self.context_shift.unwrap_or(config.context_shift.is_some()).then_some(keep))
    }

    fn deadline(&self, config: &Config) -> Result<Option<Duration>, ApiError> {
        let Some(seconds) = self.timeout else { return Ok(config.deadline) };
        match Duration::try_from_secs_f64(seconds) {
            Ok(own) if !own.is_zero() && own <= Duration::from_secs(86_400) => {
                Ok(Some(config.deadline.map_or(own, |limit| limit.min(own))))
            }
            _ => Err(ApiError::field(
                "timeout",
                format!("expected seconds, above 0 and up to 86400, found {seconds}"),
            )),
        }
    }

    /// The model's sampling `d` with what the request says.
    fn sampling(&self, d: SamplingParams) -> Result<SamplingParams, ApiError> {
        Ok(SamplingParams {
            temperature: self.temperature.unwrap_or(d.temperature),
            top_k: count("top_k", self.top_k, d.top_k, 0)?,
            top_p: self.top_p.unwrap_or(d.top_p),
            min_p: self.min_p.unwrap_or(d.min_p),
            typical_p: self.typical_p.unwrap_or(d.typical_p),
            repeat_penalty: self.repeat_penalty.unwrap_or(d.repeat_penalty),
            repeat_last_n: count("repeat_last_n", self.repeat_last_n, d.repeat_last_n, usize::MAX)?,
            presence_penalty: self.presence_penalty.unwrap_or(d.presence_penalty),
            frequency_penalty: self.frequency_penalty.unwrap_or(d.frequency_penalty),
            logit_bias: self.logit_bias()?,
            seed: self.seed.filter(|&seed| seed != -1).map(|seed| seed as u64),
            logprobs: None,
        })
    }

    fn logit_bias(&self) -> Result<Vec<(TokenId, f32)>, ApiError> {
        let entry = |(id, bias): (&String, &f32)| match id.parse() {
            // OpenAI's -100 means "never".
            Ok(id) if *bias <= -100.0 => Ok((id, f32::NEG_INFINITY)),
            Ok(id) => Ok((id, *bias)),
            Err(_) => {
                Err(ApiError::field("logit_bias", format!("expected token ids as names, found {id:?}")))
            }
        };
        self.logit_bias.iter().flatten().map(entry).collect()
    }
}

/// A count that may be -1 for `all`.
fn count(field: &'static str, given: Option<i64>, default: usize, all: usize) -> Result<usize, ApiError> {
    match given {
        None => Ok(default),
        Some(-1) => Ok(all),
        Some(n) => usize::try_from(n)
            .map_err(|_| ApiError::field(field, format!("expected a count, or -1 for all, found {n}"))),
    }
}

/// How many tokens an answer may have, and what the field is called.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// The field's name.
    pub field: &'static str,
    /// What the request says.
    pub asked: Option<u64>,
    /// If it says nothing; `None`: until the context is full.
    pub default: Option<usize>,
}

impl Limit {
    fn tokens(self, config: &Config) -> Result<usize, ApiError> {
        let most = config.max_tokens.unwrap_or(usize::MAX);
        let Some(asked) = self.asked else { return Ok(self.default.unwrap_or(usize::MAX).min(most)) };
        match usize::try_from(asked).unwrap_or(usize::MAX) {
            0 => Err(ApiError::field(self.field, "expected at least 1, found 0")),
            asked if config.max_tokens.is_some_and(|most| asked > most) => {
                Err(ApiError::field(self.field, format!("expected at most {most}, found {asked}")))
            }
            asked => Ok(asked),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minus_one_is_all_and_other_negatives_are_errors() {
        assert_eq!(count("top_k", None, 40, 0), Ok(40));
        assert_eq!(count("top_k", Some(-1), 40, 0), Ok(0));
        assert_eq!(count("repeat_last_n", Some(-1), 64, usize::MAX), Ok(usize::MAX));
        assert_eq!(count("top_k", Some(-2), 40, 0).unwrap_err().param.as_deref(), Some("top_k"));
    }

    #[test]
    fn limits_are_named() {
        let config = Config { max_tokens: Some(100), ..Config::default() };
        let limit = |asked| Limit { field: "max_tokens", asked, default: Some(16) }.tokens(&config);
        assert_eq!((limit(None), limit(Some(100))), (Ok(16), Ok(100)));
        assert!(limit(Some(101)).unwrap_err().message.contains("at most 100, found 101"));
        assert!(limit(Some(0)).is_err());
    }

    #[test]
    fn a_timeout_only_shortens() {
        let config = Config { deadline: Some(Duration::from_secs(10)), ..Config::default() };
        let deadline = |timeout| Shared { timeout, ..Shared::default() }.deadline(&config);
        assert_eq!(deadline(None), Ok(Some(Duration::from_secs(10))));
        assert_eq!(deadline(Some(0.5)), Ok(Some(Duration::from_millis(500))));
        assert_eq!(deadline(Some(100.0)), Ok(Some(Duration::from_secs(10))));
        for bad in [0.0, -1.0, f64::NAN, 1e300] {
            assert!(deadline(Some(bad)).is_err(), "{bad}");
        }
    }
}
