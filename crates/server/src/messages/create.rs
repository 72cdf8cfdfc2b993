//! `POST /v1/messages` and `/v1/messages/count_tokens`.

use super::answer::{MessageObject, MessagesUsage, TokenCount};
use super::error::MessagesError;
use super::events::Writer;
use super::request::{MessagesBody, MessagesRequest, NAMES, Translated};
use crate::error::ApiError;
use crate::extract::{self, Fields, IGNORED_FIELDS, IGNORED_TOOLS};
use crate::gate::RequestId;
use crate::id;
use crate::models::Loaded;
use crate::openai::chunks;
use crate::openai::shared::{self, Shared};
use crate::openai::turn::{self, ChatRequest, Turn};
use crate::openai::written::Written;
use crate::server::Server;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use std::collections::BTreeSet;
use std::sync::Arc;

/// A request, ready for the engine.
struct Ready {
    shared: Shared,
    chat: ChatRequest,
    loaded: Arc<Loaded>,
    /// Whether thoughts are part of the answer.
    thinks: bool,
    /// The only stop text.
    stop: Option<String>,
    ignored: BTreeSet<String>,
    skipped: BTreeSet<String>,
}

impl Ready {
    async fn of(server: &Arc<Server>, fields: &Fields) -> Result<Ready, ApiError> {
        let (shared, own, mut ignored) = shared::read::<MessagesRequest>(fields)?;
        let thinks = own.thinks()?;
        let translated = own.translate(shared, server.config().keep_billing_header)?;
        let Translated { shared, mut chat, skipped } = translated;
        let loaded = shared.model(server, fields).await?;
        let effort = own.output_config.and_then(|output| output.effort);
        if let Some(effort) = effort
            && !chat.set_thinking(&loaded, Some(effort), None)
        {
            ignored.insert("output_config.effort".to_owned());
        }
        if !chat.set_thinking(&loaded, None, Some(thinks)) && own.thinking.is_some() {
            ignored.insert("thinking.type".to_owned());
        }
        let stop = own.stop_sequences.and_then(|texts| <[String; 1]>::try_from(texts).ok());
        let stop = stop.map(|[text]| text);
        Ok(Ready { shared, chat, loaded, thinks, stop, ignored, skipped })
    }
}

/// Answer a conversation, in Anthropic's form
#[utoipa::path(post, path = "/v1/messages", tag = "anthropic", request_body = MessagesBody, responses(
    (status = 200, body = MessageObject, description = "Or, with `stream`, server-sent events from message_start to message_stop"),
    (status = 400, body = MessagesError, description = "A field is malformed or not supported, or the prompt does not fit"),
    (status = 401, body = MessagesError), (status = 404, body = MessagesError),
    (status = 429, body = MessagesError, description = "The queue is full; Retry-After says when to come back"),
    (status = 504, body = MessagesError, description = "The deadline has passed"),
))]
pub(crate) async fn create(
    State(server): State<Arc<Server>>,
    Extension(RequestId(request_id)): Extension<RequestId>,
    fields: Fields,
) -> Result<Response, ApiError> {
    let Ready { shared, chat, loaded, thinks, stop, ignored, skipped } = Ready::of(&server, &fields).await?;
    if shared.max_tokens.is_none() {
        return Err(ApiError::field("max_tokens", "expected a count of at least 1, found none"));
    }
    let streams = shared.streams();
    let started = Turn::start(&server, &fields, loaded, shared, chat).await;
    let (turn, running) = started.map_err(|error| error.renamed(NAMES))?;
    tracing::debug!(request_id, "generating");
    let message = MessageObject {
        id: id::random("msg_"),
        r#type: "message",
        role: "assistant",
        model: turn.model.clone(),
        content: Vec::new(),
        stop_reason: None,
        stop_sequence: None,
        usage: MessagesUsage { input_tokens: running.prompt_tokens(), ..MessagesUsage::default() },
    };
    let writer = Writer::new(message, streams, thinks, stop);
    let answer = Written::new(turn, running, writer);
    let mut response = match streams {
        true => chunks::respond(&server, answer),
        false => Json(answer.whole().await?.into_message()).into_response(),
    };
    extract::list(&mut response, IGNORED_FIELDS, &ignored);
    extract::list(&mut response, IGNORED_TOOLS, &skipped);
    Ok(response)
}

/// Count the tokens of a conversation
#[utoipa::path(post, path = "/v1/messages/count_tokens", tag = "anthropic", request_body = MessagesBody, responses(
    (status = 200, body = TokenCount), (status = 400, body = MessagesError), (status = 404, body = MessagesError),
))]
pub(crate) async fn count_tokens(
    State(server): State<Arc<Server>>,
    fields: Fields,
) -> Result<Json<TokenCount>, ApiError> {
    let ready = Ready::of(&server, &fields).await?;
    let counted = turn::count(&server, &fields, ready.loaded, &ready.shared, ready.chat).await;
    Ok(Json(TokenCount { input_tokens: counted.map_err(|error| error.renamed(NAMES))? }))
}
