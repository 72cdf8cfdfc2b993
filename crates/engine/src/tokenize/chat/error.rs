//! [`TemplateError`]: why a template could not be read or did not render.

use super::builtin::NAMES as BUILTIN_TEMPLATES;
use super::functions;
use minijinja::ErrorKind;

/// Why a template could not be read or did not render.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// The template is not valid Jinja.
    #[error("the chat template has an error in line {line}: {reason}")]
    Syntax {
        /// Counted from 1; 0 if unknown.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// The template failed on this conversation.
    #[error("the chat template failed in line {line}: {reason}")]
    Render {
        /// Counted from 1; 0 if unknown.
        line: usize,
        /// What went wrong.
        reason: String,
    },
    /// The thread that compiles or runs the template could not be started.
    #[error("no thread for the chat template: {0}")]
    Thread(#[source] std::io::Error),
    /// The template refuses this conversation (`raise_exception`), with this message.
    #[error("the chat template refuses this conversation: {0}")]
    Refused(String),
    /// The model has no template.
    #[error(
        "the model has no chat template; use `--raw` to give the prompt as it is, or name a template: {}",
        BUILTIN_TEMPLATES.join(", ")
    )]
    Missing,
    /// There is no built-in template of that name.
    #[error("there is no chat template {name:?}; there are: {}", BUILTIN_TEMPLATES.join(", "))]
    Unknown {
        /// The name asked for.
        name: String,
    },
    /// A file of the model that should hold the template is malformed.
    #[error("{path}: {reason}")]
    File {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// Distinguishes a template's refusal from a failure.
pub(super) fn render_error(error: &minijinja::Error) -> TemplateError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(e) = cause {
        if let Some(functions::Raised(message)) = e.downcast_ref() {
            return TemplateError::Refused(message.clone());
        }
        cause = e.source();
    }
    TemplateError::Render { line: error.line().unwrap_or(0), reason: reason(error) }
}

/// An error's message without its line, which is reported separately.
pub(super) fn reason(error: &minijinja::Error) -> String {
    match (error.kind(), error.detail()) {
        (ErrorKind::SyntaxError, Some(detail)) => detail.to_owned(),
        (kind, Some(detail)) => format!("{kind}: {detail}"),
        (kind, None) => kind.to_string(),
    }
}
