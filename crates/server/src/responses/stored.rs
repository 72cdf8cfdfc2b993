//! `/v1/responses/{id}`: stored responses.

use super::answer::ResponseObject;
use crate::clients::Client;
use crate::error::ApiError;
use crate::server::Server;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use serde::Serialize;
use std::sync::Arc;
use utoipa::ToSchema;

/// A response that was deleted.
#[derive(Debug, Serialize, ToSchema)]
pub struct Deleted {
    /// Its id.
    pub id: String,
    /// `response`.
    pub object: &'static str,
    /// True.
    pub deleted: bool,
}

/// 404: there is no such response.
pub(crate) fn missing(id: &str) -> ApiError {
    let id: String = id.chars().take(64).collect();
    let message = format!(
        "there is no response {id:?}: it was not stored, or newer ones took its place, or the server was started anew"
    );
    ApiError::new(StatusCode::NOT_FOUND, "response_not_found", message)
}

/// A stored response
#[utoipa::path(get, path = "/v1/responses/{id}", tag = "openai", params(("id" = String, Path,)),
    responses((status = 200, body = ResponseObject), (status = 404, body = crate::error::ErrorBody)))]
pub(crate) async fn retrieve(
    State(server): State<Arc<Server>>,
    Extension(client): Extension<Client>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let stored = server.responses().get(&id, &client).ok_or_else(|| missing(&id))?;
    Ok(([(header::CONTENT_TYPE, "application/json")], stored.response).into_response())
}

/// Delete a stored response
#[utoipa::path(delete, path = "/v1/responses/{id}", tag = "openai", params(("id" = String, Path,)),
    responses((status = 200, body = Deleted), (status = 404, body = crate::error::ErrorBody)))]
pub(crate) async fn delete(
    State(server): State<Arc<Server>>,
    Extension(client): Extension<Client>,
    Path(id): Path<String>,
) -> Result<Json<Deleted>, ApiError> {
    if server.responses().delete(&id, &client) {
        return Ok(Json(Deleted { id, object: "response", deleted: true }));
    }
    Err(missing(&id))
}
