//! `/v1/embeddings`: answers with an error, since no backend returns hidden states yet.

use crate::error::ApiError;
use crate::extract::Fields;
use crate::server::Server;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use std::sync::Arc;
use utoipa::ToSchema;

/// What to embed.
#[derive(Debug, Deserialize, ToSchema)]
#[allow(dead_code)] // only described: no backend reads it yet
pub struct EmbeddingRequest {
    /// The model.
    pub model: Option<String>,
    /// A text, or a list of texts.
    #[schema(value_type = Object)]
    pub input: serde_json::Value,
}

/// Embed texts (not supported by any backend yet)
#[utoipa::path(post, path = "/v1/embeddings", tag = "openai", request_body = EmbeddingRequest,
    responses((status = 501, body = crate::error::ErrorBody)))]
pub(crate) async fn create(State(server): State<Arc<Server>>, fields: Fields) -> Result<(), ApiError> {
    let (request, _) = fields.read::<EmbeddingRequest>()?;
    let loaded = server.models().get(request.model.as_deref()).await?;
    let backend = &loaded.engine.info().name;
    let message =
        format!("the backend {backend} gives logits only, not the hidden states that embeddings are made of");
    Err(ApiError::new(StatusCode::NOT_IMPLEMENTED, "embeddings_not_supported", message))
}
