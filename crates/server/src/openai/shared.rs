//! The fields that chats and completions share (sampling, limits), and their conversion to engine requests.

use crate::config::Config;
use crate::error::ApiError;
use crate::extract::Fields;
use crate::generate::{Job, within};
use crate::models::Loaded;
use crate::server::Server;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use utoipa::ToSchema;
use zonda_engine::{Grammar, Keep, Prompt, Request, SamplingParams, Speculate, TokenId};

/// Fields of both chats and completions. Omitted sampling parameters are the model's (its GGUF
/// metadata or `generation_config.json`), or else llama.cpp's defaults.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
pub struct Shared {
    /// The model; may be omitted if there is only one.
    pub model: Option<String>,
    /// Stream the answer as server-sent events.
    pub stream: Option<bool>,
    /// What a stream contains besides text.
    pub stream_options: Option<StreamOptions>,
    /// How many answers to generate, each with its own seed.
    pub n: Option<u64>,
    /// Maximum tokens of an answer [default: until the model ends or the context is full; 16 for completions].
    pub max_tokens: Option<u64>,
    /// Texts that end the answer. They are not part of it.
    pub stop: Option<Stop>,
    /// Makes sampling reproducible; -1: a random seed.
    pub seed: Option<i64>,
    /// Sampling temperature; 0: always the most probable token [default: the model's, else 0.8].
    pub temperature: Option<f32>,
    /// Keep the most probable tokens that together reach this probability [default: the model's, else 0.95].
    pub top_p: Option<f32>,
    /// Keep this many of the most probable tokens; 0: all [default: the model's, else 40].
    pub top_k: Option<i64>,
    /// Keep tokens at least this share as probable as the best [default: the model's, else 0.05].
    pub min_p: Option<f32>,
    /// Locally typical sampling; 1: off, the default.
    pub typical_p: Option<f32>,
    /// Penalty on tokens that appeared before; 1: off, the default.
    #[serde(alias = "repetition_penalty")]
    pub repeat_penalty: Option<f32>,
    /// How many of the last tokens the penalties apply to; 0: none, -1: all [default: 64].
    pub repeat_last_n: Option<i64>,
    /// Subtracted from the logit of a token that appeared before [default: 0].
    pub presence_penalty: Option<f32>,
    /// Subtracted from a token's logit for each time it appeared before [default: 0].
    pub frequency_penalty: Option<f32>,
    /// Values added to the logits of tokens, by id.
    pub logit_bias: Option<BTreeMap<String, f32>>,
    /// Continue where the model would end its answer.
    pub ignore_eos: Option<bool>,
    /// Reuse what earlier requests with the same beginning computed [default: true].
    pub cache_prompt: Option<bool>,
    /// When the context is full, discard half of the tokens after the kept prefix and continue; shorten a prompt that
    /// does not fit in the same way. Only if the server was started with --context-shift; then it is also the default.
    pub context_shift: Option<bool>,
    /// With `context_shift`: prompt tokens after the BOS token that are never discarded; -1: the whole prompt [default:
    /// the server's; if it has none, the system messages if they take at most half of the context].
    pub n_keep: Option<i64>,
    /// Speculative decoding, which does not change the answer: false, "ngram" or "draft" [default: the server's].
    pub speculate: Option<SpeculateField>,
    /// Cancel the request after this many seconds.
    pub timeout: Option<f64>,
    /// The form that the answer must have.
    pub response_format: Option<ResponseFormat>,
}

/// What a stream contains besides text.
#[derive(Clone, Copy, Debug, Default, Deserialize, ToSchema)]
pub struct StreamOptions {
    /// Send a last chunk with token counts and timings.
    pub include_usage: Option<bool>,
}

/// Where the drafts of speculative decoding come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum SpeculateField {
    /// `false`: no drafts. `true`: drafts from the text so far.
    Switch(bool),
    /// By name.
    Named(SpeculateName),
}

/// Where guesses come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum SpeculateName {
    /// No drafts.
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

/// The form that an answer must have. All but `text` are enforced during sampling.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ResponseFormat {
    /// Any text.
    Text,
    /// A JSON object.
    JsonObject {
        /// A schema that the object must match, as some servers accept here.
        #[serde(default)]
        #[schema(value_type = Option<Object>)]
        schema: Option<Value>,
    },
    /// JSON that matches a schema.
    JsonSchema {
        /// The schema.
        json_schema: JsonSchemaFormat,
    },
    /// Text that matches a grammar.
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
    /// The schema's name.
    pub name: Option<String>,
    /// The schema's purpose.
    pub description: Option<String>,
    /// JSON Schema, draft 2020-12.
    #[schema(value_type = Object)]
    pub schema: Option<Value>,
    /// Ignored: every schema is enforced, strict or not.
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

/// Maximum tokens of an answer in a shifted context, in multiples of the context, if the server sets no limit.
const SHIFTED_CONTEXTS: usize = 16;

/// Maximum number of stop texts.
const MAX_STOPS: usize = 16;

/// Whether a field's value has no effect on the answer.
type Neutral = fn(&Value) -> bool;

/// Fields of the APIs of OpenAI, vLLM and llama.cpp that would change the answer and are not supported.
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

/// Reads the shared fields and the endpoint's own fields. Also returns the paths of fields that neither has.
///
/// # Errors
/// If a field is malformed, or would change the answer and is not supported.
pub(crate) fn read<T: DeserializeOwned>(fields: &Fields) -> Result<(Shared, T, BTreeSet<String>), ApiError> {
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
    // A top-level field of one struct is unknown to the other, so it counts only if both report it. A nested field is
    // reported by only one.
    let top = |path: &String| path.split('.').next().unwrap_or_default().to_owned();
    let unknown = unknown_to_shared
        .union(&unknown_to_own)
        .filter(|path| {
            let nested = path.contains('.');
            let top = top(path);
            nested || (unknown_to_shared.contains(&top) && unknown_to_own.contains(&top))
        })
        .cloned()
        .collect();
    Ok((shared, own, unknown))
}

impl Shared {
    /// The grammar that the response format requires, if any.
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

    /// The engine's request for a prompt. `limit` is the endpoint's maximum number of tokens.
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

    /// The job for the engine: each request `n` times.
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
                // Nothing else ends an answer in a shifted context.
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
        Ok(Job { loaded, requests, choices, client, deadline: self.deadline(config)?, tools: None })
    }

    /// Waits for the request's model, at most until its deadline.
    ///
    /// # Errors
    /// If there is no such model, it does not load, or not in time.
    pub(crate) async fn model(&self, server: &Arc<Server>, fields: &Fields) -> Result<Arc<Loaded>, ApiError> {
        let deadline = self.deadline(server.config())?;
        let (server, name) = (server.clone(), self.model.clone());
        // In a separate task: a model that is being loaded is useful for the next request.
        let loading = tokio::spawn(async move { server.models().get(name.as_deref()).await });
        within(deadline, fields.arrived, loading).await?.map_err(|e| ApiError::backend(e.to_string()))?
    }

    /// Which prefix is kept when the context is full; `None`: the answer ends there.
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

    /// How long the request may take.
    ///
    /// # Errors
    /// If `timeout` is out of range.
    pub fn deadline(&self, config: &Config) -> Result<Option<Duration>, ApiError> {
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

/// The limit of an answer's tokens, and the name of its field.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// The field's name.
    pub field: &'static str,
    /// The request's value.
    pub asked: Option<u64>,
    /// The value if the request has none; `None`: until the context is full.
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
