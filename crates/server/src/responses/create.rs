//! `POST /v1/responses` and `/v1/responses/input_tokens`.

use super::answer::ResponseObject;
use super::events::{Keep, Writer};
use super::request::{NAMES, ResponsesBody, ResponsesRequest, Translated};
use super::store::Store;
use super::stored;
use crate::error::ApiError;
use crate::extract::{self, Fields, IGNORED_FIELDS, IGNORED_TOOLS};
use crate::gate::RequestId;
use crate::models::Loaded;
use crate::openai::chunks;
use crate::openai::shared::{self, Shared};
use crate::openai::turn::{self, ChatRequest, Turn};
use crate::openai::written::Written;
use crate::server::Server;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::Arc;
use utoipa::ToSchema;

/// The number of tokens of a prompt.
#[derive(Debug, Serialize, ToSchema)]
pub struct InputTokens {
    /// `response.input_tokens`.
    pub object: &'static str,
    /// Tokens of the prompt, including the template's.
    pub input_tokens: usize,
}

/// A request, ready for the engine.
struct Ready {
    own: ResponsesRequest,
    shared: Shared,
    chat: ChatRequest,
    loaded: Arc<Loaded>,
    /// The items of the conversation, this request's included.
    items: Vec<Value>,
    ignored: BTreeSet<String>,
    skipped: BTreeSet<String>,
}

impl Ready {
    async fn of(server: &Arc<Server>, fields: &Fields) -> Result<Ready, ApiError> {
        let (shared, own, mut ignored) = shared::read::<ResponsesRequest>(fields)?;
        let earlier = match &own.previous_response_id {
            Some(id) => Some(server.responses().get(id, &fields.client).ok_or_else(|| {
                let error = stored::missing(id);
                ApiError { param: Some("previous_response_id".to_owned()), ..error }
            })?),
            None => None,
        };
        let known = earlier.as_ref().map_or(0, |earlier| earlier.items.len());
        let mut items = earlier.map(|earlier| earlier.items()).unwrap_or_default();
        let Translated { shared, mut chat, input, skipped } = own.translate(shared, &items, &mut ignored)?;
        if known > 0 {
            let most = server.config().max_body;
            let found = known + input.iter().map(|item| item.to_string().len()).sum::<usize>();
            if found > most {
                let message = format!("the conversation: expected at most {most} bytes, found {found}");
                return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message));
            }
        }
        items.extend(input);
        let loaded = shared.model(server, fields).await?;
        let (effort, thinks) = own.thinking();
        if effort.is_some() && !chat.set_thinking(&loaded, effort, thinks) {
            ignored.insert("reasoning.effort".to_owned());
        }
        Ok(Ready { own, shared, chat, loaded, items, ignored, skipped })
    }
}

/// Answer items
#[utoipa::path(post, path = "/v1/responses", tag = "openai", request_body = ResponsesBody, responses(
    (status = 200, body = ResponseObject, description = "Or, with `stream`, server-sent events from response.created to response.completed"),
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
    let ready = Ready::of(&server, &fields).await?;
    let Ready { own, shared, chat, loaded, items, ignored, skipped } = ready;
    let streams = shared.streams();
    let sampling = (shared.temperature, shared.top_p);
    let started = Turn::start(&server, &fields, loaded, shared, chat).await;
    let (turn, running) = started.map_err(|error| error.renamed(NAMES))?;
    tracing::debug!(request_id, "generating");
    let response = ResponseObject::begin(Store::id(), own, sampling, &turn);
    let keep = Keep { server: server.clone(), client: fields.client.clone(), items };
    let answer = Written::new(turn, running, Writer::new(response, streams, keep));
    let mut response = match streams {
        true => chunks::respond(&server, answer),
        false => Json(answer.whole().await?.into_response()).into_response(),
    };
    extract::list(&mut response, IGNORED_FIELDS, &ignored);
    extract::list(&mut response, IGNORED_TOOLS, &skipped);
    Ok(response)
}

/// Count the tokens of items
#[utoipa::path(post, path = "/v1/responses/input_tokens", tag = "openai", request_body = ResponsesBody, responses(
    (status = 200, body = InputTokens), (status = 400, body = crate::error::ErrorBody),
    (status = 404, body = crate::error::ErrorBody),
))]
pub(crate) async fn input_tokens(
    State(server): State<Arc<Server>>,
    fields: Fields,
) -> Result<Json<InputTokens>, ApiError> {
    let ready = Ready::of(&server, &fields).await?;
    let counted = turn::count(&server, &fields, ready.loaded, &ready.shared, ready.chat).await;
    let input_tokens = counted.map_err(|error| error.renamed(NAMES))?;
    Ok(Json(InputTokens { object: "response.input_tokens", input_tokens }))
}
