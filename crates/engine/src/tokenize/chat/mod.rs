//! Chat templates: a conversation to the prompt text that its model was trained on.
//!
//! Templates are Jinja programs that come with the model. They run as Hugging Face `transformers` runs them:
//! `trim_blocks` and `lstrip_blocks` on, loop controls, Python's string and dictionary methods, `raise_exception`,
//! `strftime_now`, and a `tojson` that writes JSON as Python does.

mod builtin;
mod check;
mod error;
mod files;
mod functions;
mod guards;
mod mistral;
mod numbers;
mod program;
mod python;
mod template;

pub use builtin::NAMES as BUILTIN_TEMPLATES;
pub use error::TemplateError;
pub(super) use numbers::MARK;
pub use numbers::{read_exact, write_exact};
pub use template::{ChatTemplate, Message, RenderOptions};

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod tests;
