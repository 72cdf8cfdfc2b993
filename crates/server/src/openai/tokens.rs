//! `/tokenize` and `/detokenize`: text to token ids and back. The fields are those of the servers of llama.cpp and
//! vLLM.

use super::messages::{self, ChatMessage};
use crate::error::ApiError;
use crate::extract::Fields;
use crate::generate::apart;
use crate::models::Loaded;
use crate::server::Server;
use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::ToSchema;
use zonda_engine::tokenize::{Bounds, Encode, RenderOptions};
use zonda_engine::{RequestError, TextProcessor, TokenId};

/// What to tokenise: a text or a conversation.
#[derive(Debug, Deserialize, ToSchema)]
pub struct TokenizeRequest {
    /// The model.
    pub model: Option<String>,
    /// The text; also as `prompt` or `text`.
    #[serde(alias = "prompt", alias = "text")]
    pub content: Option<String>,
    /// A conversation instead of a text, rendered by the chat template.
    pub messages: Option<Vec<ChatMessage>>,
    /// Put a BOS token in front of a text if the model uses one [default: false].
    #[serde(alias = "add_special_tokens")]
    pub add_special: Option<bool>,
    /// Read control tokens that are written out in the text as such [default: true; in messages, as in chats].
    pub parse_special: Option<bool>,
    /// Also return the text of each token [default: false].
    #[serde(alias = "return_token_strs")]
    pub with_pieces: Option<bool>,
}

/// Token ids.
#[derive(Debug, Serialize, ToSchema)]
pub struct TokenizeResponse {
    /// The ids.
    pub tokens: Vec<TokenId>,
    /// How many.
    pub count: usize,
    /// The longest sequence, prompt and answer together, in tokens.
    pub max_model_len: usize,
    /// Each token's text, if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pieces: Option<Vec<String>>,
}

/// Text to token ids
#[utoipa::path(post, path = "/tokenize", tag = "tokens", request_body = TokenizeRequest,
    responses((status = 200, body = TokenizeResponse), (status = 400, body = crate::error::ErrorBody)))]
pub(crate) async fn tokenize(
    State(server): State<Arc<Server>>,
    fields: Fields,
) -> Result<Json<TokenizeResponse>, ApiError> {
    let (request, _) = fields.read::<TokenizeRequest>()?;
    let loaded = server.models().get(request.model.as_deref()).await?;
    let config = server.config();
    let parse_special = config.parse_special;
    let work = move |stop: &dyn Fn() -> bool| encode(&loaded, request, parse_special, stop);
    apart(&server, config.deadline, fields.arrived, work).await?.map(Json)
}

/// Maximum number of texts of tokens in an answer: each takes tens of bytes, many times its part of the request.
const MAX_PIECES: usize = 500_000;

/// `parse_special` is the server's setting for chats. `stop` is called from time to time and says whether to give up.
fn encode(
    loaded: &Loaded,
    request: TokenizeRequest,
    parse_special: bool,
    stop: &dyn Fn() -> bool,
) -> Result<TokenizeResponse, ApiError> {
    let text = text(loaded)?;
    let bounds = Bounds { abandoned: stop, most: usize::MAX };
    let tokens = match (request.content, request.messages) {
        (Some(content), None) => {
            let add_bos = request.add_special == Some(true) && text.tokenizer.adds_bos();
            let options = Encode { add_bos, parse_special: request.parse_special != Some(false) };
            text.tokenizer.encode_within(&content, options, &bounds).map_err(RequestError::from)?
        }
        (None, Some(messages)) => {
            let parse_special = request.parse_special.unwrap_or(parse_special);
            let options = RenderOptions { parse_special, ..RenderOptions::default() };
            let messages = messages::convert(messages)?;
            text.encode_chat_within(&messages, &options, &bounds).map_err(RequestError::from)?
        }
        (None, None) => return Err(ApiError::field("content", "expected a text or messages, found neither")),
        (Some(_), Some(_)) => {
            return Err(ApiError::field("content", "expected a text or messages, found both"));
        }
    };
    if request.with_pieces == Some(true) && tokens.len() > MAX_PIECES {
        let message = format!("expected false for more than {MAX_PIECES} tokens, found {}", tokens.len());
        return Err(ApiError::field("with_pieces", message));
    }
    let pieces = || tokens.iter().map(|&id| text.tokenizer.piece(id)).collect();
    Ok(TokenizeResponse {
        pieces: (request.with_pieces == Some(true)).then(pieces),
        count: tokens.len(),
        max_model_len: loaded.engine.capacity(),
        tokens,
    })
}

/// Token ids to turn into text.
#[derive(Debug, Deserialize, ToSchema)]
pub struct DetokenizeRequest {
    /// The model.
    pub model: Option<String>,
    /// The ids.
    pub tokens: Vec<TokenId>,
}

/// Text.
#[derive(Debug, Serialize, ToSchema)]
pub struct DetokenizeResponse {
    /// The text, control tokens by name.
    pub content: String,
    /// The same, under vLLM's name.
    pub prompt: String,
}

/// Token ids to text
#[utoipa::path(post, path = "/detokenize", tag = "tokens", request_body = DetokenizeRequest,
    responses((status = 200, body = DetokenizeResponse), (status = 400, body = crate::error::ErrorBody)))]
pub(crate) async fn detokenize(
    State(server): State<Arc<Server>>,
    fields: Fields,
) -> Result<Json<DetokenizeResponse>, ApiError> {
    let (request, _) = fields.read::<DetokenizeRequest>()?;
    let loaded = server.models().get(request.model.as_deref()).await?;
    let tokenizer = &text(&loaded)?.tokenizer;
    let size = tokenizer.vocab_size();
    if let Some((i, id)) = request.tokens.iter().enumerate().find(|(_, id)| **id as usize >= size) {
        return Err(ApiError::field(
            format!("tokens[{i}]"),
            format!("expected ids below {size}, found {id}"),
        ));
    }
    let content = tokenizer.decode(&request.tokens, false);
    Ok(Json(DetokenizeResponse { prompt: content.clone(), content }))
}

/// The model's tokenizer and template.
fn text(loaded: &Loaded) -> Result<&TextProcessor, ApiError> {
    let missing = || ApiError::bad_request(format!("the model {} has no tokenizer", loaded.name));
    loaded.engine.text().ok_or_else(missing)
}
