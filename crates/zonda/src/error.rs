//! [`Error`]: everything that can go wrong between a model's name and its answer, with advice.

use crate::tools::ToolError;
use std::fmt;
use std::path::{Path, PathBuf};
use zonda_engine::forward::BackendError;
use zonda_engine::load::LoadError;
use zonda_engine::tokenize::{TemplateError, TokenizeError};
use zonda_engine::{EngineError, Event, FinishReason, Outcome, RequestError};

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a model could not be found, downloaded, opened or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no model with this name.
    #[error("{0}")]
    NoSuchModel(Detail),
    /// The name fits several models.
    #[error("{0}")]
    Ambiguous(Detail),
    /// The model would have to be downloaded, and downloads are forbidden or not part of this build.
    #[error("{0}")]
    Offline(Detail),
    /// A download failed.
    #[error("{0}")]
    Download(Detail),
    /// A file's content is wrong.
    #[error("{0}")]
    Damaged(Detail),
    /// The model store can't be used in its present state.
    #[error("{0}")]
    Store(Detail),
    /// The backend is not in this build, or does not run this model.
    #[error("{0}")]
    Unavailable(Detail),
    /// An option has an unknown name or value.
    #[error("{0}")]
    Options(Detail),
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// [`Progress::cancelled`](crate::store::Progress::cancelled) returned true.
    #[error("cancelled")]
    Cancelled,
    /// The model's files could not be read.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The model's tokenizer could not be read.
    #[error(transparent)]
    Tokenizer(#[from] TokenizeError),
    /// The model's chat template could not be read.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The draft model could not be opened.
    #[error("the draft model: {0}")]
    Draft(#[source] Box<Error>),
    /// The backend did not open the model, or failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The engine did not start, or refused a request.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The model has no tokenizer, so it takes token ids only.
    #[error("the model has no tokenizer")]
    NoTokenizer,
    /// A tool, or the choice among tools, is malformed or not supported.
    #[error(transparent)]
    Tools(#[from] ToolError),
    /// The generation failed.
    #[error("the generation failed: {0}")]
    Generation(String),
    /// Creating a model on this machine failed.
    #[error("{0}")]
    Make(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// A message, with advice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Detail {
    message: String,
    advice: Option<String>,
}

impl Detail {
    pub(crate) fn new(message: impl Into<String>) -> Detail {
        Detail { message: message.into(), advice: None }
    }

    pub(crate) fn advise(self, advice: impl Into<String>) -> Detail {
        Detail { advice: Some(advice.into()), ..self }
    }
}

impl fmt::Display for Detail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error {
    /// Advice on what to do: a phrase in lower case without a full stop; `None` if the message says all that is known.
    pub fn advice(&self) -> Option<&str> {
        match self {
            Error::NoSuchModel(detail)
            | Error::Ambiguous(detail)
            | Error::Offline(detail)
            | Error::Download(detail)
            | Error::Damaged(detail)
            | Error::Store(detail)
            | Error::Unavailable(detail)
            | Error::Options(detail) => detail.advice.as_deref(),
            Error::Draft(error) => error.advice(),
            Error::Load(_) => Some("`zonda inspect` shows what a file contains"),
            Error::NoTokenizer => Some(
                "put tokenizer.json, tokenizer.model or tekken.json into the model's folder, or give the prompt as token ids",
            ),
            Error::Engine(EngineError::Request(RequestError::Template(TemplateError::Missing))) => {
                Some("the model has no chat template: continue a text instead of answering a chat")
            }
            Error::Generation(_) => {
                Some("the fault is in the model or the backend: `zonda verify` checks both")
            }
            _ => None,
        }
    }

    /// The message, followed by those of its causes that it does not contain, in one line.
    pub fn sentence(&self) -> String {
        let mut out = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            let text = error.to_string();
            if !out.ends_with(&text) {
                out = format!("{out}: {text}");
            }
            cause = error.source();
        }
        out
    }

    /// Turns the end of a failed generation into an error; returns every other event unchanged.
    pub(crate) fn of_event(event: Event) -> Result<Event> {
        match event {
            Event::Finished(Outcome { reason: FinishReason::Error(why), .. }) => Err(Error::Generation(why)),
            event => Ok(event),
        }
    }

    #[cfg(feature = "hub")]
    pub(crate) fn download(message: impl Into<String>) -> Error {
        Error::Download(Detail::new(message))
    }
}

/// Adds the path of a file to an I/O error.
pub(crate) trait At<T> {
    fn at(self, path: &Path) -> Result<T>;
}

impl<T> At<T> for std::io::Result<T> {
    fn at(self, path: &Path) -> Result<T> {
        self.map_err(|source| Error::Io { path: path.to_owned(), source })
    }
}
