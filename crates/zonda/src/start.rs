//! Starts an engine on a backend: with a draft model, with a prompt cache, for one user or for many.

use crate::backend::{self, BackendKind};
use crate::error::{Error, Result};
use crate::located::Located;
use crate::options::OpenOptions;
use crate::text::{open_files_for, text_of};
use std::sync::Arc;
use zonda_engine::forward::Limits;
use zonda_engine::load::{Format, Model as ModelFiles};
use zonda_engine::prompt_cache::CacheLocation;
use zonda_engine::{
    DraftModel, Engine, EngineConfig, Extras, Parallel, PromptCacheConfig, SamplingDefaults, Speculate,
    TextProcessor,
};

/// Maximum number of sequences that run at once if the number is measured.
const MOST_PARALLEL: usize = 16;
/// Number of full contexts that the KV cache has room for in that case.
const MEASURED_CONTEXTS: usize = 4;

/// How many requests share an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sharing {
    /// Sequences that run at once; `None`: measured, at most 16.
    pub parallel: Option<usize>,
    /// Number of further requests that may wait.
    pub queue: usize,
    /// Maximum prefill tokens in a step in which other sequences decode.
    pub prefill_chunk: usize,
    /// Whether a request with a seed gets the same tokens whatever else runs.
    pub deterministic: bool,
}

impl Default for Sharing {
    fn default() -> Sharing {
        let EngineConfig { prefill_chunk, max_waiting, .. } = EngineConfig::default();
        Sharing { parallel: None, queue: max_waiting, prefill_chunk, deterministic: false }
    }
}

/// The inputs for starting an engine.
pub(crate) struct Start {
    pub kind: BackendKind,
    /// `None`: the mock.
    pub files: Option<Arc<ModelFiles>>,
    /// `None`: prompts are token ids.
    pub text: Option<TextProcessor>,
    pub options: OpenOptions,
    /// `None`: for one user.
    pub sharing: Option<Sharing>,
    pub prompt_cache: Option<CacheLocation>,
}

impl Start {
    /// Starts the engine.
    ///
    /// # Errors
    /// The error of the draft model's files or of the backend.
    pub fn engine(self) -> Result<Engine> {
        let Start { kind, files, text, mut options, sharing, prompt_cache } = self;
        let sampling = files.as_deref().map(SamplingDefaults::of_model).unwrap_or_default();
        let prompts = prompt_cache.map(|place| prompts(place, files.as_deref(), &options));
        let mut config = EngineConfig::default();
        if let Some(sharing) = sharing {
            let alone = sharing.deterministic && !kind.batch_invariant();
            let fixed = if alone { Some(1) } else { sharing.parallel };
            options.parallel = Some(fixed.unwrap_or(MOST_PARALLEL));
            // Few conversations fill their context, so many sequences share the memory of a few contexts.
            options.kv_contexts = fixed.is_none().then_some(MEASURED_CONTEXTS);
            config = EngineConfig {
                prefill_chunk: sharing.prefill_chunk,
                parallel: fixed.map_or(Parallel::Measured(MOST_PARALLEL), Parallel::AtMost),
                max_waiting: sharing.queue,
                prefix_cache: !alone,
                ..config
            };
        }
        let draft = draft_model(kind, &options).map_err(|error| Error::Draft(Box::new(error)))?;
        let config = options.configure(config);
        let open = move || backend::open(kind, files.as_ref(), &options);
        Ok(Engine::start_with(open, text, config, Extras { draft, prompts, sampling })?)
    }
}

/// A prompt cache on disk belongs to a model's weights or, for the mock, to its seed.
fn prompts(place: CacheLocation, model: Option<&ModelFiles>, options: &OpenOptions) -> PromptCacheConfig {
    let mock = || format!("mock {}", options.seed.unwrap_or(0));
    PromptCacheConfig { location: place, model: model.map_or_else(mock, ModelFiles::fingerprint) }
}

/// The draft model, on the same backend and with the same options as the model.
fn draft_model(kind: BackendKind, options: &OpenOptions) -> Result<Option<DraftModel>> {
    let Some(path) = &options.draft else { return Ok(None) };
    let mock = kind == BackendKind::Mock;
    let located = Located { name: path.display().to_string(), path: (!mock).then(|| path.clone()) };
    let model = open_files_for(kind, &located)?;
    let text = text_of(model.as_deref())?;
    let mut own = OpenOptions {
        speculate: Speculate::Off,
        draft: None,
        draft_max: None,
        draft_min: None,
        ..options.clone()
    };
    if let Some(model) = &model {
        own.ctx = Some(options.ctx.unwrap_or(Limits::DEFAULT_CONTEXT).min(model.spec.context_length));
        if model.format == Format::Gguf {
            own.quantize = None;
        }
    }
    Ok(Some(DraftModel { open: Box::new(move || backend::open(kind, model.as_ref(), &own)), text }))
}
