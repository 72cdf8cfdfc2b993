//! [`Grammar`]: what a text has to follow, and the errors of grammars.

use serde_json::{Value, json};

/// A format that a generation's text has to follow.
#[derive(Clone, Debug, PartialEq)]
pub enum Grammar {
    /// A JSON document that is valid under this schema (JSON Schema, draft 2020-12).
    JsonSchema(Value),
    /// A text that a grammar in `llguidance`'s Lark dialect derives from `start`.
    Lark(String),
    /// A text that a regular expression matches as a whole.
    Regex(String),
}

impl Grammar {
    /// Any JSON object.
    pub fn json_object() -> Grammar {
        Grammar::JsonSchema(json!({"type": "object"}))
    }

    /// This grammar as the value of a rule in a Lark grammar.
    ///
    /// # Errors
    /// If it is a Lark grammar: these can't be nested.
    pub fn as_lark_value(&self) -> Result<String, GrammarError> {
        match self {
            Grammar::JsonSchema(schema) => Ok(format!("%json {}", with_bounded_whitespace(schema)?)),
            Grammar::Regex(pattern) => Ok(lark_regex(pattern)),
            Grammar::Lark(_) => {
                Err(GrammarError::Invalid("a Lark grammar can't stand inside another".to_owned()))
            }
        }
    }
}

/// A regular expression in Lark's syntax. A `\/` in the pattern is kept; an empty pattern is written as a text, since `//` starts
/// a comment.
fn lark_regex(pattern: &str) -> String {
    if pattern.is_empty() {
        return "\"\"".to_owned();
    }
    let mut out = String::with_capacity(pattern.len() + 2);
    out.push('/');
    let mut escaped = false;
    for c in pattern.chars() {
        if c == '/' && !escaped {
            out.push('\\');
        }
        escaped = c == '\\' && !escaped;
        out.push(c);
    }
    out.push('/');
    out
}

/// The whitespace allowed between JSON tokens: none, a space, or a line break with an indent. Without this limit small models
/// write spaces until the context is full.
const WHITESPACE: &str = r"( |\n[ \t]{0,20})?";

/// The schema with our options, which replace any in it.
pub(super) fn with_bounded_whitespace(schema: &Value) -> Result<Value, GrammarError> {
    let options = json!({"whitespace_pattern": WHITESPACE, "lenient": false});
    match schema {
        Value::Object(schema) => {
            let mut schema = schema.clone();
            schema.insert("x-guidance".to_owned(), options);
            Ok(Value::Object(schema))
        }
        Value::Bool(true) => Ok(json!({"x-guidance": options})),
        other => Err(GrammarError::Invalid(format!("a schema is an object, found {other}"))),
    }
}

/// Why a grammar can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GrammarError {
    /// It is malformed, unsatisfiable, too large, or uses something unsupported, which the message names.
    #[error("{0}")]
    Invalid(String),
    /// The engine was compiled without grammars.
    #[error("grammars need zonda-engine's feature `grammar`, which this program was compiled without")]
    NotCompiled,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slashes_are_escaped_once() {
        assert_eq!(lark_regex(r"a/b\/c\\/"), r"/a\/b\/c\\\//");
        assert_eq!(lark_regex(""), "\"\"");
    }
}
