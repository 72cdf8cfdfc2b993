//! [`Turn`]: a chat request on its way to the engine, and its answer in progress. All chat APIs translate their requests to a
//! [`ChatRequest`] and the [`Step`]s of an answer to their own form.

use super::answer::{self, Timings, TokenProbability, Usage};
use super::messages::{self, ChatMessage};
use super::shared::{self, Limit, Shared};
use crate::error::ApiError;
use crate::extract::Fields;
use crate::generate::{Job, Running, apart};
use crate::id;
use crate::models::Loaded;
use crate::server::Server;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::sync::Arc;
use utoipa::ToSchema;
use zonda::tools::{Parser, Piece, Style, ToolChoice, Tools, WrittenCall};
use zonda_engine::tokenize::{Bounds, ChatTemplate, RenderOptions};
use zonda_engine::{Event, FinishReason, Outcome, Prompt, Request, RequestError};

/// A conversation to answer. Takes the fields of [`Shared`] besides its own.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
pub struct ChatRequest {
    /// The messages, oldest first.
    pub messages: Vec<ChatMessage>,
    /// Most tokens of an answer; the newer name of `max_tokens`.
    #[serde(default)]
    pub max_completion_tokens: Option<u64>,
    /// Report the probability of each token.
    #[serde(default)]
    pub logprobs: Option<bool>,
    /// How many of the most probable tokens to report with each token, 20 at most.
    #[serde(default)]
    pub top_logprobs: Option<u64>,
    /// Functions that the model may call.
    #[serde(default)]
    #[schema(value_type = Option<Vec<Object>>)]
    pub tools: Option<Vec<Value>>,
    /// `none`, `auto`, `required`, or the function to call.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub tool_choice: Option<ToolChoice>,
    /// Whether one answer may contain several calls [default: true].
    #[serde(default)]
    pub parallel_tool_calls: Option<bool>,
    /// Further variables of the chat template, such as `enable_thinking`.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub chat_template_kwargs: Option<Map<String, Value>>,
    /// How much the model thinks (`low`, `medium`, `high` …), where its chat template has such a setting.
    #[serde(default)]
    pub reasoning_effort: Option<String>,
    /// Where the model's reasoning goes: `auto` and `deepseek` into `reasoning_content`, `none` leaves it in the content with its
    /// marks [default: as the server was started].
    #[serde(default)]
    pub reasoning_format: Option<ReasoningFormat>,
    /// Documents for templates that take them.
    #[serde(default)]
    #[schema(value_type = Option<Vec<Object>>)]
    pub documents: Option<Vec<Value>>,
}

/// Where a model's reasoning goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ReasoningFormat {
    /// Into `reasoning_content`.
    Auto,
    /// Into `reasoning_content`.
    Deepseek,
    /// Into the content, with its marks.
    None,
}

impl ChatRequest {
    /// Passes on how much the model is to think, and whether it is to think at all, as far as its chat template has such
    /// settings. Returns whether it has one of them.
    pub fn set_thinking(&mut self, loaded: &Loaded, effort: Option<String>, thinks: Option<bool>) -> bool {
        let template = loaded.engine.text().and_then(|text| text.template.as_deref());
        let reads = |name: &str| template.is_some_and(|template| template.source().contains(name));
        let mut known = false;
        if let Some(thinks) = thinks.filter(|_| reads("enable_thinking")) {
            let extra = self.chat_template_kwargs.get_or_insert_default();
            extra.entry("enable_thinking").or_insert(thinks.into());
            known = true;
        }
        if let Some(effort) = effort.filter(|_| shared::check_effort(loaded).is_ok()) {
            self.reasoning_effort = Some(effort);
            known = true;
        }
        known
    }
}

/// An answer in progress: its choices, and what they share.
pub(crate) struct Turn {
    /// When it began, in seconds since 1970.
    pub created: u64,
    /// The model's name.
    pub model: String,
    /// Token counts of the choices that have finished.
    pub usage: Usage,
    /// Timings of the first choice, once it has finished.
    pub timings: Option<Timings>,
    /// Whether probabilities were asked for.
    pub logprobs: bool,
    /// Tokens up to the end of the reasoning, of all choices.
    pub reasoning_tokens: usize,
    choices: Vec<Progress>,
    log_text: bool,
}

/// The progress of one choice.
struct Progress {
    parser: Option<Parser>,
    /// Calls so far.
    calls: usize,
    short_ids: bool,
    /// Tokens so far, and how many of them until the end of the reasoning.
    tokens: usize,
    reasoning_tokens: usize,
}

/// What one event of the engine adds to a choice.
#[derive(Default)]
pub(crate) struct Step {
    /// In order.
    pub parts: Vec<Part>,
    /// Probabilities of the new tokens, if asked for.
    pub logprobs: Vec<TokenProbability>,
    /// How the choice ended, if it did.
    pub end: Option<End>,
}

/// A part of an answer.
#[derive(Debug)]
pub(crate) enum Part {
    /// Text.
    Text(String),
    /// What the model thinks before it answers.
    Reasoning(String),
    /// A complete call.
    Call(Call),
}

/// A call of a function.
#[derive(Debug)]
pub(crate) struct Call {
    /// Its number among the calls, from 0.
    pub index: usize,
    /// Its id.
    pub id: String,
    /// The function.
    pub name: String,
    /// A JSON object, as text.
    pub arguments: String,
}

/// How a choice ended.
#[derive(Debug)]
pub(crate) struct End {
    /// `stop`, `length` or `tool_calls`.
    pub reason: &'static str,
    /// Whether one of the request's stop texts ended it.
    pub by_text: bool,
    /// Its timings.
    pub timings: Timings,
}

/// A request that is ready for the engine but for its tools, whose text takes time to make.
struct Planned {
    request: Request,
    tools: (Style, Tools),
}

fn plan(server: &Server, loaded: &Loaded, shared: &Shared, own: ChatRequest) -> Result<Planned, ApiError> {
    let config = server.config();
    let tools = Tools::new(own.tools.unwrap_or_default(), own.tool_choice, own.parallel_tool_calls)?;
    let messages = messages::convert(own.messages)?;
    let mut extra = own.chat_template_kwargs.unwrap_or_default();
    if let Some(effort) = own.reasoning_effort {
        shared::check_effort(loaded)?;
        extra.entry("reasoning_effort").or_insert(effort.into());
    }
    let template = loaded.engine.text().and_then(|text| text.template.as_deref());
    if let Some(schema) = shared.schema().filter(|_| template.is_some_and(ChatTemplate::has_settings)) {
        extra.entry("json_schema").or_insert(schema);
    }
    let options = RenderOptions {
        documents: own.documents.unwrap_or_default(),
        extra,
        parse_special: config.parse_special,
        ..RenderOptions::default()
    };
    let logprobs = match (own.logprobs, own.top_logprobs) {
        (Some(true), top) => Some(top.unwrap_or(0)),
        (_, None) => None,
        (_, Some(_)) => return Err(ApiError::field("top_logprobs", "expected `logprobs: true` with it")),
    };
    let limit = match own.max_completion_tokens {
        Some(asked) => Limit { field: "max_completion_tokens", asked: Some(asked), default: None },
        None => Limit { field: "max_tokens", asked: shared.max_tokens, default: None },
    };
    let request = shared.request(config, loaded, Prompt::Chat { messages, options }, limit, logprobs)?;
    let separates = match own.reasoning_format {
        None => config.separate_reasoning,
        Some(format) => format != ReasoningFormat::None,
    };
    Ok(Planned { request, tools: (loaded.tools.separating(separates), tools) })
}

/// The number of tokens of a chat's prompt, which is rendered but not run.
///
/// # Errors
/// If the request is malformed, the model has no tokenizer or template, or the deadline passes.
pub(crate) async fn count(
    server: &Server,
    fields: &Fields,
    loaded: Arc<Loaded>,
    shared: &Shared,
    own: ChatRequest,
) -> Result<usize, ApiError> {
    let Planned { mut request, tools: (style, tools) } = plan(server, &loaded, shared, own)?;
    let deadline = shared.deadline(server.config())?;
    let work = move |stop: &dyn Fn() -> bool| {
        let missing = || ApiError::bad_request(format!("the model {} has no tokenizer", loaded.name));
        let text = loaded.engine.text().ok_or_else(missing)?;
        style.apply(&tools, &mut request, Some(&*text.tokenizer))?;
        let Prompt::Chat { messages, options } = &request.prompt else { return Ok(0) };
        let bounds = Bounds { abandoned: stop, most: usize::MAX };
        let ids = text.encode_chat_within(messages, options, &bounds).map_err(RequestError::from)?;
        Ok(ids.len())
    };
    apart(server, deadline, fields.arrived, work).await?
}

impl Turn {
    /// Submits the request to the engine.
    ///
    /// # Errors
    /// If the request is malformed or does not fit, or there is no place for it.
    pub async fn start(
        server: &Server,
        fields: &Fields,
        loaded: Arc<Loaded>,
        shared: Shared,
        own: ChatRequest,
    ) -> Result<(Turn, Running), ApiError> {
        let config = server.config();
        let Planned { request, tools } = plan(server, &loaded, &shared, own)?;
        let logprobs = request.sampling.logprobs.is_some();
        if config.log_prompts
            && let Prompt::Chat { messages, .. } = &request.prompt
        {
            tracing::info!(messages = ?messages, "prompt");
        }
        let job = Job { tools: Some(tools), ..shared.job(config, fields, loaded, vec![request])? };
        let progress = |_: usize| Progress {
            parser: None,
            calls: 0,
            short_ids: job.loaded.tools.short_ids(),
            tokens: 0,
            reasoning_tokens: 0,
        };
        let mut turn = Turn {
            created: id::now(),
            model: job.loaded.name.clone(),
            usage: Usage::default(),
            timings: None,
            logprobs,
            reasoning_tokens: 0,
            choices: (0..job.answers()).map(progress).collect(),
            log_text: config.log_prompts,
        };
        let running = Running::start(server, job).await?;
        for (index, choice) in turn.choices.iter_mut().enumerate() {
            choice.parser = running.parser().cloned();
            if let Some(text) = running.loaded().engine.text() {
                choice.parser.iter_mut().for_each(|p| p.begin(running.prompt_end(index), &text.tokenizer));
            }
        }
        Ok((turn, running))
    }

    /// The number of answers.
    pub fn choices(&self) -> usize {
        self.choices.len()
    }

    /// Takes an event of one choice.
    pub fn take(&mut self, index: usize, event: Event, loaded: &Loaded) -> Step {
        let choice = &mut self.choices[index];
        match event {
            Event::Tokens { text, logprobs, ids, .. } => {
                let tokenizer = loaded.engine.text().map(|t| &t.tokenizer);
                let probabilities =
                    tokenizer.map(|t| answer::probabilities(t, &logprobs)).unwrap_or_default();
                let pieces = match &mut choice.parser {
                    Some(parser) => parser.push(&text),
                    None => vec![Piece::Text(text)],
                };
                choice.tokens += ids.len();
                Step { parts: choice.parts(pieces), logprobs: probabilities, end: None }
            }
            Event::Finished(outcome) => {
                let pieces = choice.parser.as_mut().map(Parser::finish).unwrap_or_default();
                let parts = choice.parts(pieces);
                let end = choice.end(&outcome);
                self.reasoning_tokens += choice.reasoning_tokens;
                if index == 0 {
                    self.timings = Some(end.timings);
                }
                self.usage.add(&outcome, index == 0);
                Step { parts, logprobs: Vec::new(), end: Some(end) }
            }
            _ => Step::default(),
        }
    }

    /// Writes an answer into the log, if the server does that.
    pub fn log(&self, index: usize, content: &str) {
        if self.log_text {
            tracing::info!(index, content, "answer");
        }
    }
}

impl Progress {
    fn parts(&mut self, pieces: Vec<Piece>) -> Vec<Part> {
        let part = |piece| match piece {
            Piece::Text(text) => (!text.is_empty()).then_some(Part::Text(text)),
            Piece::Reasoning(text) => {
                self.reasoning_tokens = self.tokens;
                (!text.is_empty()).then_some(Part::Reasoning(text))
            }
            Piece::Call(WrittenCall { name, arguments }) => {
                let id = if self.short_ids { id::short() } else { id::random("call_") };
                self.calls += 1;
                Some(Part::Call(Call { index: self.calls - 1, id, name, arguments }))
            }
        };
        pieces.into_iter().filter_map(part).collect()
    }

    fn end(&self, outcome: &Outcome) -> End {
        let reason = match answer::finish_reason(&outcome.reason) {
            "stop" if self.calls > 0 => "tool_calls",
            reason => reason,
        };
        let by_text = outcome.reason == FinishReason::StopString;
        End { reason, by_text, timings: Timings::of(outcome) }
    }
}
