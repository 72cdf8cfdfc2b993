//! Tools of `/v1/responses`: functions reach the model, other types are skipped and named.

use crate::error::ApiError;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use zonda::tools::ToolChoice;

/// The tools of a request as chats have them.
#[derive(Debug, Default)]
pub(crate) struct Translated {
    /// The functions.
    pub list: Vec<Value>,
    /// Whether one must be called.
    pub choice: Option<ToolChoice>,
    /// Types of the tools that were skipped, with the names of those that have one.
    pub skipped: BTreeSet<String>,
}

/// Translates tools and the choice among them.
///
/// # Errors
/// If a tool has no type, or the choice is malformed or names a tool that is not a function.
pub(crate) fn translate(tools: &[Value], choice: Option<&Value>) -> Result<Translated, ApiError> {
    let mut out = Translated::default();
    for (i, tool) in tools.iter().enumerate() {
        let kind = tool["type"].as_str();
        let name = tool["name"].as_str();
        match kind {
            None => return Err(ApiError::field(format!("tools[{i}].type"), "expected a text, found none")),
            Some("function") => {
                let missing = || ApiError::field(format!("tools[{i}].name"), "expected a text, found none");
                out.list.push(function(tool, name.ok_or_else(missing)?));
            }
            Some(kind) => {
                out.skipped.insert(name.map_or_else(|| kind.to_owned(), |name| format!("{kind}:{name}")));
            }
        }
    }
    out.choose(choice.filter(|choice| !choice.is_null()))?;
    Ok(out)
}

/// A function as chats have it.
fn function(tool: &Value, name: &str) -> Value {
    let mut function = json!({"name": name});
    for key in ["description", "parameters"] {
        if !tool[key].is_null() {
            function[key] = tool[key].clone();
        }
    }
    json!({"type": "function", "function": function})
}

impl Translated {
    fn choose(&mut self, choice: Option<&Value>) -> Result<(), ApiError> {
        let Some(choice) = choice else { return Ok(()) };
        self.choice = Some(match (choice.as_str(), choice["type"].as_str()) {
            (Some("none"), _) => ToolChoice::None,
            (Some("auto"), _) => ToolChoice::Auto,
            (Some("required"), _) => ToolChoice::Required,
            (_, Some("function")) => {
                let missing = || ApiError::field("tool_choice.name", "expected a text, found none");
                ToolChoice::Function(choice["name"].as_str().ok_or_else(missing)?.to_owned())
            }
            (_, Some("allowed_tools")) => {
                let allowed: BTreeSet<&str> = choice["tools"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(|tool| tool["name"].as_str())
                    .collect();
                self.list.retain(|tool| {
                    tool["function"]["name"].as_str().is_some_and(|name| allowed.contains(name))
                });
                match choice["mode"].as_str() {
                    None | Some("auto") => ToolChoice::Auto,
                    Some("required") => ToolChoice::Required,
                    Some(other) => {
                        let message = format!("expected auto or required, found {other:?}");
                        return Err(ApiError::field("tool_choice.mode", message));
                    }
                }
            }
            _ => {
                let found: String = choice.to_string().chars().take(200).collect();
                let message =
                    format!("expected none, auto, required, a function or allowed_tools, found {found}");
                return Err(ApiError::unsupported("tool_choice", message));
            }
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_stay_and_other_tools_are_named() {
        let tools = [
            json!({"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": true}),
            json!({"type": "web_search"}),
            json!({"type": "custom", "name": "apply_patch"}),
            json!({"type": "function", "name": "g", "description": "G"}),
        ];
        let out = translate(&tools, None).unwrap();
        assert_eq!(
            out.list,
            [
                json!({"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}),
                json!({"type": "function", "function": {"name": "g", "description": "G"}}),
            ]
        );
        assert_eq!(out.skipped.into_iter().collect::<Vec<_>>(), ["custom:apply_patch", "web_search"]);
        let only = json!({"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "g"}]});
        let out = translate(&tools, Some(&only)).unwrap();
        assert_eq!((out.list.len(), out.choice), (1, Some(ToolChoice::Required)));
    }

    #[test]
    fn choices_are_translated_or_refused() {
        let choose = |choice: Value| translate(&[], Some(&choice)).map(|out| out.choice);
        assert_eq!(choose(json!(null)), Ok(None));
        assert_eq!(choose(json!("required")), Ok(Some(ToolChoice::Required)));
        assert_eq!(
            choose(json!({"type": "function", "name": "f"})),
            Ok(Some(ToolChoice::Function("f".into())))
        );
        for bad in [json!("maybe"), json!({"type": "web_search"}), json!({"type": "function"}), json!(3)] {
            assert!(choose(bad.clone()).is_err(), "{bad}");
        }
        assert!(translate(&[json!({"name": "f"})], None).is_err());
    }
}
