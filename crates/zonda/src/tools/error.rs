//! [`ToolError`]: why a request's tools were refused.

/// A tool, or a choice among tools, that is malformed or not supported.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{param}: {message}")]
#[non_exhaustive]
pub struct ToolError {
    /// The invalid field, by its name in OpenAI's API: `tools[1].function.name`.
    pub param: String,
    /// What was expected and what was found.
    pub message: String,
    /// The request is well formed, but needs an unsupported feature.
    pub unsupported: bool,
}

impl ToolError {
    pub(super) fn field(param: impl Into<String>, message: impl Into<String>) -> ToolError {
        ToolError { param: param.into(), message: message.into(), unsupported: false }
    }

    pub(super) fn unsupported(param: impl Into<String>, message: impl Into<String>) -> ToolError {
        ToolError { unsupported: true, ..ToolError::field(param, message) }
    }
}
