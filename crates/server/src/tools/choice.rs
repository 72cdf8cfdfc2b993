//! [`Tools`]: the functions of a request, and whether one has to be called.

use crate::error::ApiError;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::HashSet;

/// OpenAI's `tool_choice`.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum ToolChoice {
    /// `none`, `auto` or `required`.
    Mode(String),
    /// One function.
    Named { function: Named },
}

/// A function's name.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Named {
    name: String,
}

/// Whether functions are called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// Never.
    None,
    /// As the model likes.
    Auto,
    /// Some function.
    Required,
    /// This one.
    Function(String),
}

/// The functions that a model may call.
#[derive(Clone, Debug)]
pub(crate) struct Tools {
    /// As the API has them: `{"type": "function", "function": {"name", "description", "parameters"}}`.
    pub list: Vec<Value>,
    pub choice: Choice,
    /// One answer may hold several calls.
    pub parallel: bool,
}

impl Tools {
    /// Checks a request's tools.
    ///
    /// # Errors
    /// If one is no function, two have one name, or the choice is none of them.
    pub fn new(
        list: Vec<Value>,
        choice: Option<ToolChoice>,
        parallel: Option<bool>,
    ) -> Result<Tools, ApiError> {
        let mut names = HashSet::new();
        for (i, tool) in list.iter().enumerate() {
            let at = format!("tools[{i}]");
            if tool["type"] != "function" {
                let message = format!("expected the type \"function\", found {}", tool["type"]);
                return Err(ApiError::unsupported(at, message));
            }
            let name = tool["function"]["name"].as_str().unwrap_or_default();
            if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c)) {
                let message = format!("expected a name of letters, digits, _, - and ., found {name:?}");
                return Err(ApiError::field(format!("{at}.function.name"), message));
            }
            if !names.insert(name) {
                return Err(ApiError::field(
                    format!("{at}.function.name"),
                    format!("{name:?} is there twice"),
                ));
            }
            let parameters = &tool["function"]["parameters"];
            if !parameters.is_null() && as_object_schema(parameters.clone()).is_none() {
                let message = "expected the JSON schema of an object";
                return Err(ApiError::field(format!("{at}.function.parameters"), message));
            }
        }
        let choice = match choice {
            None if list.is_empty() => Choice::None,
            None => Choice::Auto,
            Some(ToolChoice::Mode(mode)) => match mode.as_str() {
                "none" => Choice::None,
                "auto" if list.is_empty() => Choice::None,
                "auto" => Choice::Auto,
                "required" if list.is_empty() => {
                    return Err(ApiError::field("tool_choice", "expected tools with it, found none"));
                }
                "required" => Choice::Required,
                other => {
                    let message = format!("expected none, auto, required or a function, found {other:?}");
                    return Err(ApiError::field("tool_choice", message));
                }
            },
            Some(ToolChoice::Named { function }) if names.contains(function.name.as_str()) => {
                Choice::Function(function.name)
            }
            Some(ToolChoice::Named { function }) => {
                let message = format!("there is no tool named {:?}", function.name);
                return Err(ApiError::field("tool_choice", message));
            }
        };
        Ok(Tools { list, choice, parallel: parallel != Some(false) })
    }

    /// All functions' names.
    pub fn names(&self) -> Vec<String> {
        self.functions().map(|(name, _)| name.to_owned()).collect()
    }

    /// Name and schema of the arguments of each function.
    pub fn functions(&self) -> impl Iterator<Item = (&str, Value)> {
        self.list.iter().map(|tool| {
            let function = &tool["function"];
            let schema = match &function["parameters"] {
                Value::Null => json!({"type": "object", "properties": {}, "additionalProperties": false}),
                // `new` has checked it.
                schema => as_object_schema(schema.clone()).unwrap_or_else(|| schema.clone()),
            };
            (function["name"].as_str().unwrap_or_default(), schema)
        })
    }
}

/// A schema that allows objects only: the type is added where the schema says none. `None` if it allows no object, or is no
/// schema.
pub(crate) fn as_object_schema(mut schema: Value) -> Option<Value> {
    let referenced = match schema.get("$ref").and_then(Value::as_str) {
        Some(target) => {
            schema.pointer(target.strip_prefix('#')?).is_some_and(|part| part["type"] == "object")
        }
        None => false,
    };
    let fields = schema.as_object_mut()?;
    match fields.get("type") {
        None if referenced => {}
        None => {
            fields.insert("type".to_owned(), "object".into());
        }
        Some(Value::String(name)) if name == "object" => {}
        Some(Value::Array(names)) if names.iter().any(|name| name == "object") => {
            fields.insert("type".to_owned(), "object".into());
        }
        Some(_) => return None,
    }
    Some(schema)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tool(name: &str) -> Value {
        json!({"type": "function", "function": {"name": name}})
    }

    fn choose(list: Vec<Value>, choice: Value) -> Result<Choice, String> {
        let choice = serde_json::from_value(choice).unwrap();
        Tools::new(list, choice, None).map(|t| t.choice).map_err(|e| e.message)
    }

    #[test]
    fn choices() {
        let list = || vec![tool("f"), tool("g")];
        assert_eq!(choose(list(), json!(null)), Ok(Choice::Auto));
        assert_eq!(choose(vec![], json!("auto")), Ok(Choice::None));
        assert_eq!(choose(list(), json!("none")), Ok(Choice::None));
        assert_eq!(choose(list(), json!("required")), Ok(Choice::Required));
        let named = json!({"type": "function", "function": {"name": "g"}});
        assert_eq!(choose(list(), named), Ok(Choice::Function("g".into())));
        assert!(choose(list(), json!({"function": {"name": "h"}})).unwrap_err().contains("\"h\""));
        assert!(choose(list(), json!("maybe")).unwrap_err().contains("maybe"));
        assert!(choose(vec![], json!("required")).unwrap_err().contains("tools"));
    }

    #[test]
    fn malformed_tools_are_named() {
        let fails = |list| choose(list, json!(null)).unwrap_err();
        assert!(fails(vec![tool("f"), tool("f")]).contains("tools[1].function.name"));
        assert!(fails(vec![tool("a b")]).contains("\"a b\""));
        assert!(fails(vec![json!({"type": "code_interpreter"})]).contains("code_interpreter"));
        assert!(
            fails(vec![json!({"type": "function", "function": {"name": "f", "parameters": 3}})])
                .contains("schema")
        );
    }
}
