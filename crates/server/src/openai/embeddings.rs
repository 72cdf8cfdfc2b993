//! `/v1/embeddings`: pooled hidden states, where a backend gives them. None does yet, and none is made up.

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
#[allow(dead_code)] // described, for what will read it
pub struct EmbeddingRequest {
    /// Which model.
    pub model: Option<String>,
    /// Text or texts.
    #[schema(value_type = Object)]
    pub input: serde_json::Value,
}

/// Vectors of texts: not implemented by any backend yet
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
