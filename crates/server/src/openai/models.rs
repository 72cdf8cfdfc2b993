//! `/v1/models`: the models that requests can use.

use crate::error::ApiError;
use crate::models::{Loaded, ModelSource};
use crate::server::Server;
use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Serialize;
use std::sync::Arc;
use utoipa::ToSchema;

/// All models.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModelList {
    /// `list`.
    pub object: &'static str,
    /// The models, in the order in which they were given.
    pub data: Vec<Model>,
    /// Always empty. Codex reads its own descriptions of models here, with their prompts; without one for a model, it uses
    /// its defaults.
    #[schema(value_type = Vec<Object>)]
    pub models: [(); 0],
}

/// A model.
#[derive(Debug, Serialize, ToSchema)]
pub struct Model {
    /// The name that requests use.
    pub id: String,
    /// `model`.
    pub object: &'static str,
    /// When the server started, in seconds since 1970.
    pub created: u64,
    /// `zonda`.
    pub owned_by: &'static str,
    /// The model's name without its backend: entries with the same root have the same weights.
    pub root: String,
    /// The backend that runs it, or will run it once it is loaded.
    pub backend: Option<String>,
    /// Details of the loaded model; `null` while it is not loaded.
    pub zonda: Option<Details>,
}

/// Details of a loaded model.
#[derive(Debug, Serialize, ToSchema)]
pub struct Details {
    /// The backend's name.
    pub backend: String,
    /// The device that it computes on.
    pub device: String,
    /// How the weights are stored in memory.
    pub weights: String,
    /// The longest sequence, prompt and answer together, in tokens.
    pub context: usize,
    /// Sequences that run at once.
    pub parallel: usize,
    /// Tokens in the vocabulary.
    pub vocabulary: usize,
    /// Whether it has a chat template.
    pub chat: bool,
}

fn describe(created: u64, source: &ModelSource, loaded: Option<&Loaded>) -> Model {
    let details = |l: &Loaded| Details {
        backend: l.engine.info().name.clone(),
        device: l.engine.info().device.clone(),
        weights: l.engine.info().weights.clone(),
        context: l.engine.capacity(),
        parallel: l.engine.max_running(),
        vocabulary: l.engine.spec().vocab_size,
        chat: l.engine.text().is_some_and(|t| t.template.is_some()),
    };
    let zonda = loaded.map(details);
    Model {
        id: source.name().to_owned(),
        object: "model",
        created,
        owned_by: "zonda",
        root: source.root().to_owned(),
        backend: source.backend().or(zonda.as_ref().map(|d| d.backend.as_str())).map(str::to_owned),
        zonda,
    }
}

/// List the models
#[utoipa::path(get, path = "/v1/models", tag = "openai", responses((status = 200, body = ModelList)))]
pub async fn list(State(server): State<Arc<Server>>) -> Json<ModelList> {
    let models = server.models();
    let data = models.sources().map(|(source, l)| describe(models.created, source, l.as_deref())).collect();
    Json(ModelList { object: "list", data, models: [] })
}

/// One model
#[utoipa::path(get, path = "/v1/models/{model}", tag = "openai", params(("model" = String, Path,)),
    responses((status = 200, body = Model), (status = 404, body = crate::error::ErrorBody)))]
pub async fn retrieve(
    State(server): State<Arc<Server>>,
    Path(name): Path<String>,
) -> Result<Json<Model>, ApiError> {
    let models = server.models();
    let found = models.sources().find(|(source, _)| source.name() == name);
    let (source, loaded) = found.ok_or_else(|| {
        ApiError::new(StatusCode::NOT_FOUND, "model_not_found", format!("there is no model {name:?}"))
    })?;
    Ok(Json(describe(models.created, source, loaded.as_deref())))
}
