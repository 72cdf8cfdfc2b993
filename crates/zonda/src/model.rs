//! [`Model`]: a model that is open and answers, and [`ModelBuilder`], which opens it.

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

/// A model that is open: its weights are loaded, and its engine takes requests.
///
/// Share it by reference or in an `Arc`: requests from several threads are computed together. Dropping it cancels what runs
/// and frees the memory.
#[derive(Debug)]
pub struct Model {
    name: String,
    backend: Option<BackendKind>,
    engine: Engine,
    /// How the model calls tools.
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

    /// Opens a model with these options, otherwise as [`Model::open`].
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

    /// Chooses how a model is opened.
    pub fn builder(name: impl AsRef<OsStr>) -> ModelBuilder {
        ModelBuilder::new(Named::Name(name.as_ref().to_owned()))
    }

    /// Chooses how a model is opened that was located before.
    pub fn builder_at(located: Located) -> ModelBuilder {
        ModelBuilder::new(Named::Located(located))
    }

    /// A model on a backend of your own. `open` is called on the engine's thread, on which the backend stays. `text` is `None`
    /// if prompts are token ids.
    ///
    /// # Errors
    /// [`Error::Engine`] with what the backend says.
    pub fn from_backend<F>(open: F, text: Option<TextProcessor>) -> Result<Model>
    where
        F: FnOnce() -> Result<Box<dyn Backend>, BackendError> + Send + 'static,
    {
        let began = Instant::now();
        let engine = Engine::start(open, text, EngineConfig::default())?;
        Ok(Model::new(engine.info().name.clone(), None, engine, began))
    }

    /// A model whose files are open already; both are `None` for the mock's files and a model without a tokenizer.
    ///
    /// # Errors
    /// [`Error::Engine`] with what the backend says; [`Error::Draft`].
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

    /// An answer to a conversation, whose form the model's chat template defines.
    pub fn chat(&self, messages: impl IntoIterator<Item = Message>) -> Generate<'_> {
        self.request(Prompt::chat(messages.into_iter().collect()))
    }

    /// A continuation of a text, as it is, without the chat template.
    pub fn generate(&self, text: impl Into<String>) -> Generate<'_> {
        self.request(Prompt::Text(text.into()))
    }

    /// A generation after any prompt, token ids included.
    pub fn request(&self, prompt: Prompt) -> Generate<'_> {
        Generate::new(&self.engine, self.style, prompt)
    }

    /// The token ids of a text, without a BOS token. Control tokens written in it, such as `<|im_end|>`, are taken as such.
    ///
    /// # Errors
    /// [`Error::NoTokenizer`], or [`Error::Tokenizer`] for a text that is too long.
    pub fn tokenize(&self, text: &str) -> Result<Vec<TokenId>> {
        Ok(self.tokenizer()?.encode(text, Encode { add_bos: false, parse_special: true })?)
    }

    /// The text of token ids, control tokens included.
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

    /// The model's name, as it was given; of a path, the file's stem or the folder's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The backend that runs it; `None` for [`Model::from_backend`].
    pub fn backend(&self) -> Option<BackendKind> {
        self.backend
    }

    /// What runs it: the backend's name and version, device, instruction set, threads.
    pub fn info(&self) -> &BackendInfo {
        self.engine.info()
    }

    /// What it is: shapes, vocabulary, context length.
    pub fn spec(&self) -> &ModelSpec {
        self.engine.spec()
    }

    /// How much it holds: context, slots, size of the KV cache.
    pub fn limits(&self) -> Limits {
        self.engine.limits()
    }

    /// How long it took to open, without a download.
    pub fn load_time(&self) -> Duration {
        self.load
    }

    /// The engine, for everything else.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The engine alone.
    pub fn into_engine(self) -> Engine {
        self.engine
    }
}

/// A model as it was named.
#[derive(Clone, Debug)]
enum Named {
    Name(OsString),
    Located(Located),
}

/// How a model is opened: see [`Model::builder`].
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

    /// Runs the model on this backend; otherwise the best in this build that can run it.
    pub fn backend(mut self, backend: impl Into<Option<BackendKind>>) -> ModelBuilder {
        self.backend = backend.into();
        self
    }

    /// All options.
    pub fn options(mut self, options: OpenOptions) -> ModelBuilder {
        self.options = options;
        self
    }

    /// The context length in tokens; otherwise the model's, at most 4096.
    pub fn context(mut self, tokens: usize) -> ModelBuilder {
        self.options.ctx = Some(tokens);
        self
    }

    /// The number of threads; otherwise one per physical core.
    pub fn threads(mut self, threads: usize) -> ModelBuilder {
        self.options.threads = Some(threads);
        self
    }

    /// Prepares the engine for many requests at once.
    pub fn sharing(mut self, sharing: impl Into<Option<Sharing>>) -> ModelBuilder {
        self.sharing = sharing.into();
        self
    }

    /// Keeps prompts' keys and values on disk, and starts from those that are there.
    pub fn prompt_cache(mut self, place: impl Into<Option<CacheLocation>>) -> ModelBuilder {
        self.prompt_cache = place.into();
        self
    }

    /// The store in which names are looked up; otherwise [`Store::from_env`].
    pub fn store(mut self, store: Store) -> ModelBuilder {
        self.store = Some(store);
        self
    }

    /// Finds the model's files, and downloads them where that is needed and possible.
    ///
    /// # Errors
    /// [`Error::NoSuchModel`], [`Error::Ambiguous`], [`Error::Offline`], and what a download meets.
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

    /// The model, its backend and its files, without loading weights.
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
    /// As [`ModelBuilder::inspect`]; if the tokenizer or the chat template can't be read; [`Error::Engine`] with what the
    /// backend says.
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
