//! [`Tools`]: the functions of a request, and [`ToolChoice`]: whether the model must call one.

use super::error::ToolError;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::HashSet;

/// Whether tools are called: OpenAI's `tool_choice`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Value")]
pub enum ToolChoice {
    /// `none`: no calls.
    None,
    /// `auto`: the model decides.
    #[default]
    Auto,
    /// `required`: at least one call.
    Required,
    /// `{"type": "function", "function": {"name": …}}`: a call of this function.
    Function(String),
}

impl TryFrom<Value> for ToolChoice {
    type Error = String;

    fn try_from(value: Value) -> Result<ToolChoice, String> {
        match (value.as_str(), value["function"]["name"].as_str()) {
            (Some("none"), _) => Ok(ToolChoice::None),
            (Some("auto"), _) => Ok(ToolChoice::Auto),
            (Some("required"), _) => Ok(ToolChoice::Required),
            (None, Some(name)) => Ok(ToolChoice::Function(name.to_owned())),
            _ => Err(format!("expected none, auto, required or a function, found {value}")),
        }
    }
}

/// The functions that a model may call, checked.
#[derive(Clone, Debug)]
pub struct Tools {
    /// In the form of OpenAI's API: `{"type": "function", "function": {"name", "description", "parameters"}}`.
    pub(super) list: Vec<Value>,
    pub(super) choice: ToolChoice,
    /// Whether one answer may contain several calls.
    pub(super) parallel: bool,
}

impl Tools {
    /// No tools.
    pub fn none() -> Tools {
        Tools { list: Vec::new(), choice: ToolChoice::None, parallel: true }
    }

    /// Checks a request's tools.
    ///
    /// # Errors
    /// If a tool is not a function, two have the same name, or the chosen one does not exist.
    pub fn new(
        list: Vec<Value>,
        choice: Option<ToolChoice>,
        parallel: Option<bool>,
    ) -> Result<Tools, ToolError> {
        let mut names = HashSet::new();
        for (i, tool) in list.iter().enumerate() {
            let at = format!("tools[{i}]");
            if tool["type"] != "function" {
                let message = format!("expected the type \"function\", found {}", tool["type"]);
                return Err(ToolError::unsupported(at, message));
            }
            let name = tool["function"]["name"].as_str().unwrap_or_default();
            if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c)) {
                let message = format!("expected a name of letters, digits, _, - and ., found {name:?}");
                return Err(ToolError::field(format!("{at}.function.name"), message));
            }
            if !names.insert(name) {
                return Err(ToolError::field(
                    format!("{at}.function.name"),
                    format!("{name:?} occurs twice"),
                ));
            }
            let parameters = &tool["function"]["parameters"];
            if !parameters.is_null() && as_object_schema(parameters.clone()).is_none() {
                let message = "expected the JSON schema of an object";
                return Err(ToolError::field(format!("{at}.function.parameters"), message));
            }
        }
        let choice = match choice {
            None | Some(ToolChoice::Auto) if list.is_empty() => ToolChoice::None,
            Some(ToolChoice::Required) if list.is_empty() => {
                return Err(ToolError::field("tool_choice", "expected tools in the request, found none"));
            }
            Some(ToolChoice::Function(name)) if !names.contains(name.as_str()) => {
                return Err(ToolError::field("tool_choice", format!("there is no tool named {name:?}")));
            }
            choice => choice.unwrap_or_default(),
        };
        Ok(Tools { list, choice, parallel: parallel != Some(false) })
    }

    /// All functions' names.
    pub(super) fn names(&self) -> Vec<String> {
        self.functions().map(|(name, _)| name.to_owned()).collect()
    }

    /// The name of each function and the schema of its arguments.
    pub(super) fn functions(&self) -> impl Iterator<Item = (&str, Value)> {
        self.list.iter().map(|tool| {
            let function = &tool["function"];
            let schema = match &function["parameters"] {
                Value::Null => json!({"type": "object", "properties": {}, "additionalProperties": false}),
                // `new` has already checked it.
                schema => as_object_schema(schema.clone()).unwrap_or_else(|| schema.clone()),
            };
            (function["name"].as_str().unwrap_or_default(), schema)
        })
    }
}

/// A schema that allows only objects: the type is added if the schema has none. `None` if it allows no object, or is
/// not a schema.
pub fn as_object_schema(mut schema: Value) -> Option<Value> {
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

    fn choose(list: Vec<Value>, choice: Value) -> Result<ToolChoice, String> {
        let choice = serde_json::from_value(choice).map_err(|e| e.to_string())?;
        Tools::new(list, choice, None).map(|t| t.choice).map_err(|e| e.to_string())
    }

    #[test]
    fn choices() {
        let list = || vec![tool("f"), tool("g")];
        assert_eq!(choose(list(), json!(null)), Ok(ToolChoice::Auto));
        assert_eq!(choose(vec![], json!("auto")), Ok(ToolChoice::None));
        assert_eq!(choose(list(), json!("none")), Ok(ToolChoice::None));
        assert_eq!(choose(list(), json!("required")), Ok(ToolChoice::Required));
        let named = json!({"type": "function", "function": {"name": "g"}});
        assert_eq!(choose(list(), named), Ok(ToolChoice::Function("g".into())));
        assert!(choose(list(), json!({"function": {"name": "h"}})).unwrap_err().contains("\"h\""));
        for malformed in [json!("maybe"), json!(3), json!({"function": 3})] {
            assert!(choose(list(), malformed.clone()).unwrap_err().contains(&malformed.to_string()));
        }
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
