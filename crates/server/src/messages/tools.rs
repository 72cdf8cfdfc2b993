//! Tools of `/v1/messages`: functions reach the model, Anthropic's own tools are skipped and named.

use crate::error::ApiError;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use utoipa::ToSchema;
use zonda::tools::ToolChoice;

/// Whether tools are called.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub struct ToolChoiceField {
    /// `auto`, `any`, `tool` or `none`.
    pub r#type: String,
    /// The tool to call, for the type `tool`.
    #[serde(default)]
    pub name: Option<String>,
    /// Whether an answer may contain only one call [default: false].
    #[serde(default)]
    pub disable_parallel_tool_use: Option<bool>,
}

/// The tools of a request as chats have them.
#[derive(Debug, Default)]
pub(crate) struct Translated {
    /// The functions.
    pub list: Vec<Value>,
    /// Whether one must be called.
    pub choice: Option<ToolChoice>,
    /// Whether one answer may contain several calls.
    pub parallel: Option<bool>,
    /// Types of the tools that were skipped.
    pub skipped: BTreeSet<String>,
}

/// Translates tools and the choice among them.
///
/// # Errors
/// If a tool has no name, or the choice is malformed.
pub(crate) fn translate(tools: &[Value], choice: Option<&ToolChoiceField>) -> Result<Translated, ApiError> {
    let mut out = Translated::default();
    for (i, tool) in tools.iter().enumerate() {
        match tool["type"].as_str() {
            None | Some("custom") => {
                let missing = || ApiError::field(format!("tools[{i}].name"), "expected a text, found none");
                out.list.push(function(tool, tool["name"].as_str().ok_or_else(missing)?));
            }
            Some(kind) => {
                out.skipped.insert(kind.to_owned());
            }
        }
    }
    let Some(choice) = choice else { return Ok(out) };
    out.parallel = choice.disable_parallel_tool_use.map(|only_one| !only_one);
    out.choice = Some(match (choice.r#type.as_str(), &choice.name) {
        ("auto", _) => ToolChoice::Auto,
        ("any", _) => ToolChoice::Required,
        ("none", _) => ToolChoice::None,
        ("tool", Some(name)) => ToolChoice::Function(name.clone()),
        ("tool", None) => return Err(ApiError::field("tool_choice.name", "expected a text, found none")),
        (other, _) => {
            let message = format!("expected auto, any, tool or none, found {other:?}");
            return Err(ApiError::field("tool_choice.type", message));
        }
    });
    Ok(out)
}

/// A function as chats have it.
fn function(tool: &Value, name: &str) -> Value {
    let mut function = json!({"name": name});
    for (from, to) in [("description", "description"), ("input_schema", "parameters")] {
        if !tool[from].is_null() {
            function[to] = tool[from].clone();
        }
    }
    json!({"type": "function", "function": function})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_tools_stay_and_others_are_named() {
        let tools = [
            json!({"name": "f", "description": "F", "input_schema": {"type": "object"}}),
            json!({"type": "web_search_20250305", "name": "web_search"}),
            json!({"type": "custom", "name": "g"}),
        ];
        let choose = |choice: Value| translate(&tools, Some(&serde_json::from_value(choice).unwrap()));
        let out = choose(json!({"type": "any", "disable_parallel_tool_use": true})).unwrap();
        assert_eq!(
            out.list[0],
            json!({"type": "function", "function": {"name": "f", "description": "F", "parameters": {"type": "object"}}})
        );
        assert_eq!((out.list.len(), out.choice, out.parallel), (2, Some(ToolChoice::Required), Some(false)));
        assert_eq!(out.skipped.into_iter().collect::<Vec<_>>(), ["web_search_20250305"]);
        let chosen = |choice| choose(choice).unwrap().choice.unwrap();
        assert_eq!(chosen(json!({"type": "tool", "name": "g"})), ToolChoice::Function("g".into()));
        assert_eq!(chosen(json!({"type": "none"})), ToolChoice::None);
        assert!(choose(json!({"type": "tool"})).is_err() && choose(json!({"type": "some"})).is_err());
        assert!(translate(&[json!({})], None).is_err());
    }
}
