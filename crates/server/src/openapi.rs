//! `/openapi.json`: the description of the API, generated from the types of requests and answers.

use crate::{error, messages, openai, operate, responses};
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
        responses::create::create,
        responses::create::input_tokens,
        responses::stored::retrieve,
        responses::stored::delete,
        messages::create::create,
        messages::create::count_tokens,
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
