//! `/v1/chat/completions`: an answer to a conversation, at once or streamed.

use super::answer::{Timings, TokenProbability, Usage};
use super::chunks::{self, Chunks, chunk};
use super::shared::{self, Shared};
use super::turn::{Call, ChatRequest, Part, Step, Turn};
use crate::error::ApiError;
use crate::extract::{self, Fields, IGNORED_FIELDS};
use crate::gate::RequestId;
use crate::generate::Running;
use crate::id;
use crate::server::Server;
use axum::extract::State;
use axum::response::sse::Event;
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use serde::Serialize;
use std::sync::Arc;
use utoipa::ToSchema;

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
    let chat = Chat { id: id::random("chatcmpl-"), begun: vec![false; turn.choices()], turn };
    let mut response = if streams {
        chunks::respond(&server, Stream { chat, running, usage })
    } else {
        Json(chat.whole(running).await?).into_response()
    };
    extract::list(&mut response, IGNORED_FIELDS, &ignored);
    Ok(response)
}

/// An answer in progress, in OpenAI's form.
struct Chat {
    id: String,
    turn: Turn,
    /// Whether the first chunk of each choice was sent.
    begun: Vec<bool>,
}

/// What one step or several add to a choice.
#[derive(Default)]
struct Piece {
    content: String,
    reasoning: String,
    calls: Vec<ToolCall>,
    logprobs: Vec<TokenProbability>,
}

impl Piece {
    fn add(&mut self, step: Step) {
        for part in step.parts {
            match part {
                Part::Text(text) => self.content.push_str(&text),
                Part::Reasoning(text) => self.reasoning.push_str(&text),
                Part::Call(Call { index, id, name, arguments }) => {
                    let function = Function { name, arguments };
                    self.calls.push(ToolCall { index: Some(index), id, r#type: "function", function });
                }
            }
        }
        self.logprobs.extend(step.logprobs);
    }
}

impl Chat {
    /// Waits for the complete answer.
    async fn whole(mut self, mut running: Running) -> Result<ChatCompletion, ApiError> {
        let count = self.turn.choices();
        let mut whole: Vec<Piece> = (0..count).map(|_| Piece::default()).collect();
        let mut reasons = vec!["stop"; count];
        while let Some(event) = running.next().await {
            let (index, event) = event?;
            let step = self.turn.take(index, event, running.loaded());
            reasons[index] = step.end.as_ref().map_or(reasons[index], |end| end.reason);
            whole[index].add(step);
        }
        let choices = whole.into_iter().enumerate().map(|(index, piece)| {
            let Piece { content, reasoning, mut calls, logprobs } = piece;
            self.turn.log(index, &content);
            let content = (!content.is_empty() || calls.is_empty()).then_some(content);
            let reasoning_content = (!reasoning.is_empty()).then_some(reasoning);
            calls.iter_mut().for_each(|call| call.index = None);
            ChatChoice {
                index,
                message: Answer { role: "assistant", content, reasoning_content, tool_calls: calls },
                logprobs: self.turn.logprobs.then_some(Logprobs { content: logprobs }),
                finish_reason: reasons[index],
            }
        });
        Ok(ChatCompletion {
            choices: choices.collect(),
            id: self.id,
            object: "chat.completion",
            created: self.turn.created,
            usage: self.turn.usage,
            timings: self.turn.timings,
            model: self.turn.model,
        })
    }

    fn chunk(&self, choices: Vec<ChunkChoice>) -> ChatChunk {
        ChatChunk {
            id: self.id.clone(),
            object: "chat.completion.chunk",
            created: self.turn.created,
            model: self.turn.model.clone(),
            choices,
            usage: None,
            timings: None,
        }
    }
}

/// The answer as chunks.
struct Stream {
    chat: Chat,
    running: Running,
    /// Whether the chunk with token counts is still to be sent.
    usage: bool,
}

impl Chunks for Stream {
    async fn next(&mut self) -> Result<Option<Vec<Event>>, ApiError> {
        let Some(event) = self.running.next().await else {
            let last = std::mem::take(&mut self.usage);
            let counts = ChatChunk { usage: Some(self.chat.turn.usage), ..self.chat.chunk(Vec::new()) };
            return Ok(last.then(|| vec![chunk(&counts)]));
        };
        let (index, event) = event?;
        let mut step = self.chat.turn.take(index, event, self.running.loaded());
        let end = step.end.take();
        let mut new = Piece::default();
        new.add(step);
        let logprobs = self.chat.turn.logprobs;
        let first = !std::mem::replace(&mut self.chat.begun[index], true);
        let piece = |delta, logprobs, finish_reason| ChunkChoice { index, delta, logprobs, finish_reason };
        let mut pieces = Vec::new();
        if first {
            let delta = Delta { role: Some("assistant"), content: Some(String::new()), ..Delta::default() };
            pieces.push(piece(delta, None, None));
        }
        let said = !new.content.is_empty() || !new.calls.is_empty() || !new.reasoning.is_empty();
        if said || !new.logprobs.is_empty() {
            let content = (!new.content.is_empty() || !said).then_some(new.content);
            let reasoning_content = (!new.reasoning.is_empty()).then_some(new.reasoning);
            let delta = Delta { role: None, content, reasoning_content, tool_calls: new.calls };
            pieces.push(piece(delta, logprobs.then_some(Logprobs { content: new.logprobs }), None));
        }
        let mut made: Vec<ChatChunk> = pieces.into_iter().map(|p| self.chat.chunk(vec![p])).collect();
        if let Some(end) = end {
            let last = self.chat.chunk(vec![piece(Delta::default(), None, Some(end.reason))]);
            made.push(ChatChunk { timings: Some(end.timings), ..last });
        }
        Ok(Some(made.iter().map(chunk).collect()))
    }
}
