//! [`Model`]: an open model, and [`ModelBuilder`], which opens it.

use crate::backend::{BackendKind, choose};
use crate::error::{Error, Result};
use crate::generate::Generate;
use crate::located::Located;
use crate::options::OpenOptions;
use crate::start::{Sharing, Start};
use crate::store::Store;
use crate::text::{open_files_for, text_of};
use crate::tools::Style;
use std::ffi::{OsStr, OsString};
use std::sync::Arc;
use std::time::{Duration, Instant};
use zonda_engine::forward::{Backend, BackendError, BackendInfo, Limits};
use zonda_engine::load::{Model as ModelFiles, ModelSpec};
use zonda_engine::prompt_cache::CacheLocation;
use zonda_engine::tokenize::{Encode, Message, Tokenizer};
use zonda_engine::{Engine, EngineConfig, Prompt, TextProcessor, TokenId};

/// An open model: its weights are loaded, and its engine accepts requests.
///
/// Share it by reference or in an `Arc`: requests from several threads are computed together. Dropping it cancels
/// running requests and frees the memory.
#[derive(Debug)]
pub struct Model {
    name: String,
    backend: Option<BackendKind>,
    engine: Engine,
    /// The format of the model's tool calls.
    style: Style,
    load: Duration,
}

impl Model {
    /// Opens a model with default options on the best backend that can run it.
    ///
    /// `name` is a `.gguf` file, a folder with config.json and SafeTensors, the name of a model in the
    /// [`Store`] (with the feature `hub`, a missing one is downloaded: `smollm2-135m`, a Hub repository
    /// as `ORG/NAME`, or one file of it as `ORG/NAME:FILE.gguf`), or `mock`.
    ///
    /// # Errors
    /// As [`ModelBuilder::open`].
    pub fn open(name: impl AsRef<OsStr>) -> Result<Model> {
        Model::builder(name).open()
    }

    /// As [`Model::open`], with these options.
    ///
    /// # Errors
    /// As [`ModelBuilder::open`].
    pub fn open_with(name: impl AsRef<OsStr>, options: OpenOptions) -> Result<Model> {
        Model::builder(name).options(options).open()
    }

    fn new(name: String, backend: Option<BackendKind>, engine: Engine, began: Instant) -> Model {
        let style = Style::of(engine.text());
        Model { name, backend, engine, style, load: began.elapsed() }
    }

    /// A builder with more settings than [`Model::open_with`].
    pub fn builder(name: impl AsRef<OsStr>) -> ModelBuilder {
        ModelBuilder::new(Named::Name(name.as_ref().to_owned()))
    }

    /// As [`Model::builder`], for a model that was located before.
    pub fn builder_at(located: Located) -> ModelBuilder {
        ModelBuilder::new(Named::Located(located))
    }

    /// Opens a model on your own backend. `open` is called on the engine's thread, where the backend stays. `text` is
    /// `None` if prompts are token ids.
    ///
    /// # Errors
    /// [`Error::Engine`] with the backend's error.
    pub fn from_backend<F>(open: F, text: Option<TextProcessor>) -> Result<Model>
    where
        F: FnOnce() -> Result<Box<dyn Backend>, BackendError> + Send + 'static,
    {
        let began = Instant::now();
        let engine = Engine::start(open, text, EngineConfig::default())?;
        Ok(Model::new(engine.info().name.clone(), None, engine, began))
    }

    /// Opens a model from files that are already open. `files` is `None` for the mock, `text` for a model without a
    /// tokenizer.
    ///
    /// # Errors
    /// [`Error::Engine`] with the backend's error; [`Error::Draft`].
    pub fn from_files(
        kind: BackendKind,
        files: Option<Arc<ModelFiles>>,
        text: Option<TextProcessor>,
        options: OpenOptions,
    ) -> Result<Model> {
        let began = Instant::now();
        let path = files.as_ref().map_or_else(Located::mock, |files| Located::at(&files.path));
        let start = Start { kind, files, text, options, sharing: None, prompt_cache: None };
        Ok(Model::new(path.name, Some(kind), start.engine()?, began))
    }

    /// Answers a conversation, with the model's chat template.
    pub fn chat(&self, messages: impl IntoIterator<Item = Message>) -> Generate<'_> {
        self.request(Prompt::chat(messages.into_iter().collect()))
    }

    /// Continues a text as it is, without the chat template.
    pub fn generate(&self, text: impl Into<String>) -> Generate<'_> {
        self.request(Prompt::Text(text.into()))
    }

    /// Generates after any prompt, including token ids.
    pub fn request(&self, prompt: Prompt) -> Generate<'_> {
        Generate::new(&self.engine, self.style, prompt)
    }

    /// The token ids of a text, without a BOS token. Names of control tokens in the text, such as `<|im_end|>`, become
    /// these tokens.
    ///
    /// # Errors
    /// [`Error::NoTokenizer`], or [`Error::Tokenizer`] for a text that is too long.
    pub fn tokenize(&self, text: &str) -> Result<Vec<TokenId>> {
        Ok(self.tokenizer()?.encode(text, Encode { add_bos: false, parse_special: true })?)
    }

    /// The text of token ids, including control tokens.
    ///
    /// # Errors
    /// [`Error::NoTokenizer`].
    pub fn detokenize(&self, ids: &[TokenId]) -> Result<String> {
        Ok(self.tokenizer()?.decode(ids, false))
    }

    /// The tokenizer.
    ///
    /// # Errors
    /// [`Error::NoTokenizer`].
    pub fn tokenizer(&self) -> Result<&Tokenizer> {
        Ok(&self.engine.text().ok_or(Error::NoTokenizer)?.tokenizer)
    }

    /// The tokenizer and the chat template; `None` for a model without a tokenizer.
    pub fn text(&self) -> Option<&TextProcessor> {
        self.engine.text()
    }

    /// The name that the model was opened with; for a path, the file's stem or the folder's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The backend that runs it; `None` for [`Model::from_backend`].
    pub fn backend(&self) -> Option<BackendKind> {
        self.backend
    }

    /// Details of the backend: its name and version, device, instruction set, threads.
    pub fn info(&self) -> &BackendInfo {
        self.engine.info()
    }

    /// The model's shapes, vocabulary and context length.
    pub fn spec(&self) -> &ModelSpec {
        self.engine.spec()
    }

    /// The capacity: context, slots, size of the KV cache.
    pub fn limits(&self) -> Limits {
        self.engine.limits()
    }

    /// The time it took to open, without a download.
    pub fn load_time(&self) -> Duration {
        self.load
    }

    /// The engine, for everything else.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Consumes the model and returns only its engine.
    pub fn into_engine(self) -> Engine {
        self.engine
    }
}

/// A model's name, not yet resolved.
#[derive(Clone, Debug)]
enum Named {
    Name(OsString),
    Located(Located),
}

/// The settings for opening a model: see [`Model::builder`].
#[derive(Clone, Debug)]
#[must_use = "nothing happens before `open`"]
pub struct ModelBuilder {
    model: Named,
    store: Option<Store>,
    backend: Option<BackendKind>,
    options: OpenOptions,
    sharing: Option<Sharing>,
    prompt_cache: Option<CacheLocation>,
}

impl ModelBuilder {
    fn new(model: Named) -> ModelBuilder {
        ModelBuilder {
            model,
            store: None,
            backend: None,
            options: OpenOptions::default(),
            sharing: None,
            prompt_cache: None,
        }
    }

    /// Sets the backend. By default it is the best in this build that can run the model.
    pub fn backend(mut self, backend: impl Into<Option<BackendKind>>) -> ModelBuilder {
        self.backend = backend.into();
        self
    }

    /// Sets all options.
    pub fn options(mut self, options: OpenOptions) -> ModelBuilder {
        self.options = options;
        self
    }

    /// Sets the context length in tokens. By default it is the model's, at most 4096.
    pub fn context(mut self, tokens: usize) -> ModelBuilder {
        self.options.ctx = Some(tokens);
        self
    }

    /// Sets the number of threads. By default there is one per physical core.
    pub fn threads(mut self, threads: usize) -> ModelBuilder {
        self.options.threads = Some(threads);
        self
    }

    /// Prepares the engine for many simultaneous requests.
    pub fn sharing(mut self, sharing: impl Into<Option<Sharing>>) -> ModelBuilder {
        self.sharing = sharing.into();
        self
    }

    /// Stores the KV cache of prompts on disk, and starts from what is stored there.
    pub fn prompt_cache(mut self, place: impl Into<Option<CacheLocation>>) -> ModelBuilder {
        self.prompt_cache = place.into();
        self
    }

    /// Sets the store in which names are looked up. By default it is [`Store::from_env`].
    pub fn store(mut self, store: Store) -> ModelBuilder {
        self.store = Some(store);
        self
    }

    /// Finds the model's files, and downloads them if necessary and possible.
    ///
    /// # Errors
    /// [`Error::NoSuchModel`], [`Error::Ambiguous`], [`Error::Offline`], or the error of a download.
    pub fn locate(&mut self) -> Result<Located> {
        let located = match &self.model {
            Named::Located(located) => return Ok(located.clone()),
            Named::Name(name) => match (Located::without_store(name), &self.store) {
                (Some(located), _) => located,
                (None, Some(store)) => store.locate(name)?,
                (None, None) => Store::from_env()?.locate(name)?,
            },
        };
        self.model = Named::Located(located.clone());
        Ok(located)
    }

    /// Returns the model, its backend and its files, without loading weights.
    ///
    /// # Errors
    /// As [`ModelBuilder::locate`]; [`Error::Unavailable`] if no backend runs it; [`Error::Load`].
    pub fn inspect(&mut self) -> Result<(Located, BackendKind, Option<Arc<ModelFiles>>)> {
        let located = self.locate()?;
        let kind = choose(self.backend, &located)?;
        let files = open_files_for(kind, &located)?;
        Ok((located, kind, files))
    }

    /// Finds the model, loads it and starts its engine.
    ///
    /// # Errors
    /// As [`ModelBuilder::inspect`]; if the tokenizer or the chat template can't be read; [`Error::Engine`] with the
    /// backend's error.
    pub fn open(mut self) -> Result<Model> {
        self.locate()?; // a download is not part of the load time
        let began = Instant::now();
        let (located, kind, files) = self.inspect()?;
        let text = text_of(files.as_deref())?;
        let ModelBuilder { options, sharing, prompt_cache, .. } = self;
        let engine = Start { kind, files, text, options, sharing, prompt_cache }.engine()?;
        Ok(Model::new(located.name, Some(kind), engine, began))
    }
}
