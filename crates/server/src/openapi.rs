//! `/openapi.json`: the description of the API, generated from the types of requests and answers.

use crate::{error, openai, operate};
use axum::Json;
use utoipa::OpenApi;
use utoipa::openapi::OpenApi as Description;

#[derive(OpenApi)]
#[openapi(
    info(title = "Zonda", description = "Language models with OpenAI's API"),
    paths(
        openai::chat::create,
        openai::completions::create,
        openai::embeddings::create,
        openai::models::list,
        openai::models::retrieve,
        openai::tokens::tokenize,
        openai::tokens::detokenize,
        operate::health,
        operate::ready,
        operate::metrics,
    ),
    components(schemas(openai::chat::ChatChunk, error::ErrorBody))
)]
struct Api;

/// The description.
pub(crate) async fn document() -> Json<Description> {
    Json(Api::openapi())
}
