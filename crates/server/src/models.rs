//! [`Models`]: the models of a server, and how they are loaded and unloaded.

use crate::error::ApiError;
use crate::id;
use axum::http::StatusCode;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use zonda::tools::Style;
use zonda_engine::Engine;

type Open = dyn Fn() -> Result<Engine, String> + Send + Sync;

/// A model that can be loaded.
#[derive(Clone)]
pub struct ModelSource {
    name: String,
    root: String,
    backend: Option<String>,
    bytes: u64,
    open: Arc<Open>,
}

impl ModelSource {
    /// A model: its name, the memory it takes in bytes (0: unknown), and a function that starts its engine.
    pub fn new(
        name: impl Into<String>,
        bytes: u64,
        open: impl Fn() -> Result<Engine, String> + Send + Sync + 'static,
    ) -> ModelSource {
        let name = name.into();
        ModelSource { root: name.clone(), backend: None, name, bytes, open: Arc::new(open) }
    }

    /// A model that [`zonda::ModelBuilder`] opens. It is located and inspected here, and loaded when it is needed.
    ///
    /// # Errors
    /// As [`zonda::ModelBuilder::inspect`].
    pub fn of(mut builder: zonda::ModelBuilder) -> zonda::Result<ModelSource> {
        let (located, backend, files) = builder.inspect()?;
        let bytes = files.map_or(0, |files| files.packed_bytes());
        let open = move || {
            let opened = builder.clone().open().map(zonda::Model::into_engine);
            opened.map_err(|error| error.sentence())
        };
        Ok(ModelSource::new(located.name, bytes, open).on(backend.name()))
    }

    /// Sets the name of the backend that will run the model.
    #[must_use]
    pub fn on(mut self, backend: impl Into<String>) -> ModelSource {
        self.backend = Some(backend.into());
        self
    }

    /// The same model under the name `MODEL@BACKEND`, beside the source that has the plain name.
    #[must_use]
    pub fn beside(mut self) -> ModelSource {
        self.name = format!("{}@{}", self.root, self.backend.as_deref().unwrap_or("other"));
        self
    }

    /// The name that requests use.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The model's own name: several sources may run one model, each on a different backend.
    pub fn root(&self) -> &str {
        &self.root
    }

    /// The backend that runs it, if that is known before it is loaded.
    pub fn backend(&self) -> Option<&str> {
        self.backend.as_deref()
    }
}

impl fmt::Debug for ModelSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModelSource").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A model in memory.
#[derive(Debug)]
pub struct Loaded {
    /// The name that requests use.
    pub name: String,
    /// The engine that runs it.
    pub engine: Engine,
    /// How it writes tool calls.
    pub(crate) tools: Style,
}

/// The models of one server.
#[derive(Debug)]
pub struct Models {
    entries: Vec<Entry>,
    /// Maximum memory of all loaded models together, in bytes.
    budget: Option<u64>,
    /// One model is loaded at a time.
    loading: tokio::sync::Mutex<()>,
    /// Counts uses, to order them.
    uses: AtomicU64,
    /// When the server started, in seconds since 1970.
    pub created: u64,
}

#[derive(Debug)]
struct Entry {
    source: ModelSource,
    loaded: Mutex<Option<Arc<Loaded>>>,
    last_used: AtomicU64,
}

impl Entry {
    fn loaded(&self) -> Option<Arc<Loaded>> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Removes the model if nobody uses it. The caller drops it.
    fn take_idle(&self) -> Option<Arc<Loaded>> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        // Every user holds a reference, and references are handed out under this lock.
        if loaded.as_ref().is_some_and(|l| Arc::strong_count(l) == 1) { loaded.take() } else { None }
    }
}

impl Models {
    pub(crate) fn new(sources: Vec<ModelSource>, budget: Option<u64>) -> Models {
        let entry = |source| Entry { source, loaded: Mutex::new(None), last_used: AtomicU64::new(0) };
        Models {
            entries: sources.into_iter().map(entry).collect(),
            budget,
            loading: tokio::sync::Mutex::new(()),
            uses: AtomicU64::new(0),
            created: id::now(),
        }
    }

    /// All sources, each with its model if it is loaded.
    pub(crate) fn sources(&self) -> impl Iterator<Item = (&ModelSource, Option<Arc<Loaded>>)> {
        self.entries.iter().map(|e| (&e.source, e.loaded()))
    }

    /// All names, each with its model if it is loaded.
    pub fn list(&self) -> Vec<(&str, Option<Arc<Loaded>>)> {
        self.entries.iter().map(|e| (e.source.name.as_str(), e.loaded())).collect()
    }

    /// Loads the models that are in memory from the start: all of them or, if there is a memory budget, the first one.
    ///
    /// # Errors
    /// If a model does not load; the error names it.
    pub async fn load_first(&self) -> Result<(), ApiError> {
        let first = if self.budget.is_some() { 1 } else { self.entries.len() };
        for entry in &self.entries[..first.min(self.entries.len())] {
            self.load(entry).await?;
        }
        Ok(())
    }

    /// Whether all models that [`Models::load_first`] loads are in memory and their engines run.
    pub fn ready(&self) -> bool {
        let mut loaded = self.entries.iter().filter_map(Entry::loaded).peekable();
        let enough = match self.budget {
            Some(_) => loaded.peek().is_some(),
            None => self.entries.iter().all(|e| e.loaded().is_some()),
        };
        enough && loaded.all(|l| !l.engine.stopped())
    }

    /// The model of a request, which is loaded if necessary. The name may be omitted if there is only one model.
    ///
    /// # Errors
    /// If there is no such model, it does not load, or there is no memory for it.
    pub async fn get(&self, name: Option<&str>) -> Result<Arc<Loaded>, ApiError> {
        let entry = match (name, &self.entries[..]) {
            (None, [only]) => only,
            (None, _) => {
                return Err(ApiError::field(
                    "model",
                    format!("expected one of: {}; found none", self.names()),
                ));
            }
            (Some(name), entries) => entries.iter().find(|e| e.source.name == name).ok_or_else(|| {
                let message = format!("there is no model {name:?}; there are: {}", self.names());
                let error = ApiError::new(StatusCode::NOT_FOUND, "model_not_found", message);
                ApiError { param: Some("model".to_owned()), ..error }
            })?,
        };
        entry.last_used.store(self.uses.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
        match entry.loaded() {
            Some(loaded) => Ok(loaded),
            None => self.load(entry).await,
        }
    }

    fn names(&self) -> String {
        self.entries.iter().map(|e| e.source.name.as_str()).collect::<Vec<_>>().join(", ")
    }

    async fn load(&self, entry: &Entry) -> Result<Arc<Loaded>, ApiError> {
        let _one_at_a_time = self.loading.lock().await;
        if let Some(loaded) = entry.loaded() {
            return Ok(loaded);
        }
        self.make_room(entry.source.bytes).await?;
        let source = entry.source.clone();
        tracing::info!(model = source.name, "loading");
        let opened = tokio::task::spawn_blocking(move || {
            let engine = (source.open)()?;
            let tools = Style::of(engine.text());
            Ok::<_, String>(Arc::new(Loaded { name: source.name, engine, tools }))
        });
        let failed =
            |why: String| ApiError::backend(format!("the model {} did not load: {why}", entry.source.name));
        let loaded = opened.await.map_err(|e| failed(e.to_string()))?.map_err(failed)?;
        tracing::info!(model = loaded.name, backend = loaded.engine.info().name, "loaded");
        *entry.loaded.lock().unwrap_or_else(PoisonError::into_inner) = Some(loaded.clone());
        Ok(loaded)
    }

    /// Unloads idle models, the least recently used first, until `bytes` more fit.
    async fn make_room(&self, bytes: u64) -> Result<(), ApiError> {
        let Some(budget) = self.budget else { return Ok(()) };
        loop {
            let mut loaded: Vec<&Entry> = self.entries.iter().filter(|e| e.loaded().is_some()).collect();
            let held: u64 = loaded.iter().map(|e| e.source.bytes).sum();
            // A model larger than the whole budget is loaded alone; otherwise it could never run.
            if loaded.is_empty() || held.saturating_add(bytes) <= budget {
                return Ok(());
            }
            loaded.sort_by_key(|e| e.last_used.load(Ordering::Relaxed));
            let Some((entry, idle)) = loaded.iter().find_map(|e| Some((e, e.take_idle()?))) else {
                let message =
                    "the loaded models are all in use, and there is no room for another; try again later";
                let error = ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "no_room_for_model", message);
                return Err(ApiError { retry_after: Some(Duration::from_secs(1)), ..error });
            };
            tracing::info!(model = entry.source.name, "unloading");
            // Dropping it waits for its worker.
            tokio::task::spawn_blocking(move || drop(idle)).await.ok();
        }
    }
}
