//! `/v1/chat/completions`: an answer to a conversation, at once or streamed.

use super::answer::{self, Timings, TokenProbability, Usage};
use super::chunks::{self, Chunks, chunk};
use super::messages::{self, ChatMessage};
use super::shared::{self, Limit, Shared};
use crate::error::ApiError;
use crate::extract::{Fields, IGNORED_FIELDS};
use crate::gate::RequestId;
use crate::generate::{Job, Running};
use crate::id;
use crate::models::Loaded;
use crate::server::Server;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::sync::Arc;
use utoipa::ToSchema;
use zonda::tools::{Parser, Piece, ToolChoice, Tools, WrittenCall};
use zonda_engine::tokenize::{ChatTemplate, RenderOptions};
use zonda_engine::{Event, Outcome, Prompt};

/// A conversation to answer. Takes the fields of [`Shared`] besides its own.
#[derive(Debug, Deserialize, ToSchema)]
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

/// All fields of a chat, for the API's description.
#[derive(Debug, ToSchema)]
#[allow(dead_code)] // only described, never created
pub struct ChatBody {
    #[schema(inline)]
    #[serde(flatten)]
    own: ChatRequest,
    #[serde(flatten)]
    shared: Shared,
}

/// An answer.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChatCompletion {
    /// The answer's id.
    pub id: String,
    /// `chat.completion`.
    pub object: &'static str,
    /// When it began, in seconds since 1970.
    pub created: u64,
    /// The model.
    pub model: String,
    /// The answers, as many as `n`.
    pub choices: Vec<ChatChoice>,
    /// Token counts.
    pub usage: Usage,
    /// Timings of the first choice.
    pub timings: Option<Timings>,
}

/// One answer.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChatChoice {
    /// Its number, from 0.
    pub index: usize,
    /// The assistant's message.
    pub message: Answer,
    /// Probabilities, if asked for.
    pub logprobs: Option<Logprobs>,
    /// `stop`, `length` or `tool_calls`.
    pub finish_reason: &'static str,
}

/// An assistant's message.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct Answer {
    /// `assistant`.
    pub role: &'static str,
    /// The text; `null` if there are calls only.
    pub content: Option<String>,
    /// What the model thought before it answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// The functions to call.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
}

/// A function to call.
#[derive(Debug, Serialize, ToSchema)]
pub struct ToolCall {
    /// Its index among the calls; only in streams.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<usize>,
    /// The call's id.
    pub id: String,
    /// `function`.
    pub r#type: &'static str,
    /// The function and its arguments.
    pub function: Function,
}

/// A function and its arguments.
#[derive(Debug, Serialize, ToSchema)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// A JSON object, as text.
    pub arguments: String,
}

/// Probabilities of an answer's tokens.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub struct Logprobs {
    /// One per token.
    pub content: Vec<TokenProbability>,
}

/// A piece of an answer.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChatChunk {
    /// The answer's id.
    pub id: String,
    /// `chat.completion.chunk`.
    pub object: &'static str,
    /// When the answer began, in seconds since 1970.
    pub created: u64,
    /// The model.
    pub model: String,
    /// The new parts of the answers; empty in the chunk with token counts.
    pub choices: Vec<ChunkChoice>,
    /// Token counts, in the last chunk if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// Timings, at the end of each choice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timings: Option<Timings>,
}

/// The new part of one answer.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChunkChoice {
    /// The answer's number.
    pub index: usize,
    /// The new text and calls.
    pub delta: Delta,
    /// Probabilities of the new tokens, if asked for.
    pub logprobs: Option<Logprobs>,
    /// How it ended, if it did.
    pub finish_reason: Option<&'static str>,
}

/// The new part of an answer.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct Delta {
    /// `assistant`, in the first piece.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'static str>,
    /// Text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// Reasoning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// Calls.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
}

/// Answer a conversation
#[utoipa::path(post, path = "/v1/chat/completions", tag = "openai", request_body = ChatBody, responses(
    (status = 200, body = ChatCompletion, description = "Or, with `stream`, server-sent events of ChatChunk and a last `[DONE]`"),
    (status = 400, body = crate::error::ErrorBody, description = "A field is malformed or not supported, or the prompt does not fit"),
    (status = 401, body = crate::error::ErrorBody), (status = 404, body = crate::error::ErrorBody),
    (status = 429, body = crate::error::ErrorBody, description = "The queue is full; Retry-After says when to come back"),
    (status = 504, body = crate::error::ErrorBody, description = "The deadline has passed"),
))]
pub(crate) async fn create(
    State(server): State<Arc<Server>>,
    Extension(RequestId(request_id)): Extension<RequestId>,
    fields: Fields,
) -> Result<Response, ApiError> {
    let (shared, own, ignored) = shared::read::<ChatRequest>(&fields)?;
    let streams = shared.streams();
    let usage = shared.includes_usage();
    let loaded = shared.model(&server, &fields).await?;
    let (turn, running) = Turn::start(&server, &fields, loaded, shared, own).await?;
    tracing::debug!(request_id, "generating");
    let mut response = if streams {
        chunks::respond(&server, Stream { turn, running, usage })
    } else {
        Json(turn.whole(running).await?).into_response()
    };
    if let Some(names) = ignored {
        response.headers_mut().insert(IGNORED_FIELDS, names);
    }
    Ok(response)
}

/// One answer in progress: its choices, and what they share.
struct Turn {
    id: String,
    created: u64,
    model: String,
    choices: Vec<Progress>,
    usage: Usage,
    log_text: bool,
}

/// The progress of one choice.
struct Progress {
    parser: Option<Parser>,
    calls: usize,
    short_ids: bool,
    begun: bool,
    logprobs: bool,
    timings: Option<Timings>,
}

/// What one event of the engine adds to a choice.
#[derive(Default)]
struct Step {
    content: String,
    reasoning: String,
    calls: Vec<ToolCall>,
    logprobs: Vec<TokenProbability>,
    finish_reason: Option<&'static str>,
}

impl Turn {
    async fn start(
        server: &Server,
        fields: &Fields,
        loaded: Arc<Loaded>,
        shared: Shared,
        own: ChatRequest,
    ) -> Result<(Turn, Running), ApiError> {
        let config = server.config();
        let tools = Tools::new(own.tools.unwrap_or_default(), own.tool_choice, own.parallel_tool_calls)?;
        let messages = messages::convert(own.messages)?;
        let mut extra = own.chat_template_kwargs.unwrap_or_default();
        if let Some(effort) = own.reasoning_effort {
            shared::check_effort(&loaded)?;
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
        let request = shared.request(config, &loaded, Prompt::Chat { messages, options }, limit, logprobs)?;
        let separates = match own.reasoning_format {
            None => config.separate_reasoning,
            Some(format) => format != ReasoningFormat::None,
        };
        let style = loaded.tools.separating(separates);
        if config.log_prompts
            && let Prompt::Chat { messages, .. } = &request.prompt
        {
            tracing::info!(messages = ?messages, "prompt");
        }
        let job = Job { tools: Some((style, tools)), ..shared.job(config, fields, loaded, vec![request])? };
        let progress = |_: usize| Progress {
            parser: None,
            calls: 0,
            short_ids: job.loaded.tools.short_ids(),
            begun: false,
            logprobs: logprobs.is_some(),
            timings: None,
        };
        let mut turn = Turn {
            id: id::random("chatcmpl-"),
            created: id::now(),
            model: job.loaded.name.clone(),
            choices: (0..job.answers()).map(progress).collect(),
            usage: Usage::default(),
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

    /// Takes an event of one choice.
    fn take(&mut self, index: usize, event: Event, loaded: &Loaded) -> Step {
        let choice = &mut self.choices[index];
        match event {
            Event::Tokens { text, logprobs, .. } => {
                let tokenizer = loaded.engine.text().map(|t| &t.tokenizer);
                let probabilities =
                    tokenizer.map(|t| answer::probabilities(t, &logprobs)).unwrap_or_default();
                let pieces = match &mut choice.parser {
                    Some(parser) => parser.push(&text),
                    None => vec![Piece::Text(text)],
                };
                Step { logprobs: probabilities, ..choice.step(pieces) }
            }
            Event::Finished(outcome) => {
                let pieces = choice.parser.as_mut().map(Parser::finish).unwrap_or_default();
                let mut step = choice.step(pieces);
                step.finish_reason = Some(choice.reason(&outcome));
                choice.timings = Some(Timings::of(&outcome));
                self.usage.add(&outcome, index == 0);
                step
            }
            _ => Step::default(),
        }
    }

    /// Waits for the complete answer.
    async fn whole(mut self, mut running: Running) -> Result<ChatCompletion, ApiError> {
        let mut whole: Vec<Step> = self.choices.iter().map(|_| Step::default()).collect();
        while let Some(event) = running.next().await {
            let (index, event) = event?;
            let step = self.take(index, event, running.loaded());
            let all = &mut whole[index];
            all.content.push_str(&step.content);
            all.reasoning.push_str(&step.reasoning);
            all.calls.extend(step.calls);
            all.logprobs.extend(step.logprobs);
            all.finish_reason = step.finish_reason;
        }
        let choices = whole.into_iter().enumerate().map(|(index, step)| {
            if self.log_text {
                tracing::info!(index, content = step.content, "answer");
            }
            let content = (!step.content.is_empty() || step.calls.is_empty()).then_some(step.content);
            let reasoning_content = (!step.reasoning.is_empty()).then_some(step.reasoning);
            let mut tool_calls = step.calls;
            tool_calls.iter_mut().for_each(|call| call.index = None);
            ChatChoice {
                index,
                message: Answer { role: "assistant", content, reasoning_content, tool_calls },
                logprobs: self.choices[index].logprobs.then_some(Logprobs { content: step.logprobs }),
                finish_reason: step.finish_reason.unwrap_or("stop"),
            }
        });
        Ok(ChatCompletion {
            choices: choices.collect(),
            id: self.id,
            object: "chat.completion",
            created: self.created,
            model: self.model,
            usage: self.usage,
            timings: self.choices.first().and_then(|c| c.timings),
        })
    }

    fn chunk(&self, choices: Vec<ChunkChoice>) -> ChatChunk {
        ChatChunk {
            id: self.id.clone(),
            object: "chat.completion.chunk",
            created: self.created,
            model: self.model.clone(),
            choices,
            usage: None,
            timings: None,
        }
    }
}

impl Progress {
    fn step(&mut self, pieces: Vec<Piece>) -> Step {
        let mut step = Step::default();
        for piece in pieces {
            match piece {
                Piece::Text(text) => step.content.push_str(&text),
                Piece::Reasoning(text) => step.reasoning.push_str(&text),
                Piece::Call(WrittenCall { name, arguments }) => {
                    let id = if self.short_ids { id::short() } else { id::random("call_") };
                    let function = Function { name, arguments };
                    step.calls.push(ToolCall { index: Some(self.calls), id, r#type: "function", function });
                    self.calls += 1;
                }
            }
        }
        step
    }

    fn reason(&self, outcome: &Outcome) -> &'static str {
        match answer::finish_reason(&outcome.reason) {
            "stop" if self.calls > 0 => "tool_calls",
            reason => reason,
        }
    }
}

/// The answer as chunks.
struct Stream {
    turn: Turn,
    running: Running,
    /// Whether the chunk with token counts is still to be sent.
    usage: bool,
}

impl Chunks for Stream {
    async fn next(&mut self) -> Result<Option<Vec<String>>, ApiError> {
        let Some(event) = self.running.next().await else {
            let last = std::mem::take(&mut self.usage);
            let counts = ChatChunk { usage: Some(self.turn.usage), ..self.turn.chunk(Vec::new()) };
            return Ok(last.then(|| vec![chunk(&counts)]));
        };
        let (index, event) = event?;
        let step = self.turn.take(index, event, self.running.loaded());
        let choice = &mut self.turn.choices[index];
        let (logprobs, timings) = (choice.logprobs, choice.timings);
        let first = !std::mem::replace(&mut choice.begun, true);
        let piece = |delta, logprobs, finish_reason| ChunkChoice { index, delta, logprobs, finish_reason };
        let mut pieces = Vec::new();
        if first {
            let delta = Delta { role: Some("assistant"), content: Some(String::new()), ..Delta::default() };
            pieces.push(piece(delta, None, None));
        }
        let said = !step.content.is_empty() || !step.calls.is_empty() || !step.reasoning.is_empty();
        if said || !step.logprobs.is_empty() {
            let content = (!step.content.is_empty() || !said).then_some(step.content);
            let reasoning_content = (!step.reasoning.is_empty()).then_some(step.reasoning);
            let delta = Delta { role: None, content, reasoning_content, tool_calls: step.calls };
            pieces.push(piece(delta, logprobs.then_some(Logprobs { content: step.logprobs }), None));
        }
        let mut made: Vec<ChatChunk> = pieces.into_iter().map(|p| self.turn.chunk(vec![p])).collect();
        if step.finish_reason.is_some() {
            let end = self.turn.chunk(vec![piece(Delta::default(), None, step.finish_reason)]);
            made.push(ChatChunk { timings, ..end });
        }
        Ok(Some(made.iter().map(chunk).collect()))
    }
}
