//! [`Tool`], a function that a model may call, and [`ToolCall`], a call in an answer.

use super::parse::WrittenCall;
use serde_json::{Value, json};
use zonda_engine::tokenize::read_exact;

/// A function that a model may call.
#[derive(Clone, Debug, PartialEq)]
pub struct Tool(Value);

impl Tool {
    /// A function: its name (letters, digits, `_`, `-` and `.`), its description, and the JSON schema of its arguments,
    /// which must be an object.
    pub fn function(
        name: impl Into<String>,
        description: impl Into<String>,
        parameters: impl Into<Value>,
    ) -> Tool {
        Tool(json!({
            "type": "function",
            "function": {
                "name": name.into(),
                "description": description.into(),
                "parameters": parameters.into(),
            },
        }))
    }
}

/// A tool as OpenAI's API has it: `{"type": "function", "function": {"name", "description", "parameters"}}`.
impl From<Tool> for Value {
    fn from(tool: Tool) -> Value {
        tool.0
    }
}

/// A call that the model made.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ToolCall {
    /// Its id within the answer, for [`Message::tool`](crate::Message::tool): nine letters and digits, as Mistral's
    /// templates require.
    pub id: String,
    /// The function.
    pub name: String,
    /// A JSON object, as text.
    pub arguments: String,
}

impl ToolCall {
    pub(super) fn new(index: usize, call: WrittenCall) -> ToolCall {
        let WrittenCall { name, arguments } = call;
        ToolCall { id: format!("call{:05}", (index + 1) % 100_000), name, arguments }
    }

    /// The call as chat templates expect it in an assistant's message.
    pub(crate) fn to_value(&self) -> Value {
        let arguments = arguments_object(&self.arguments).unwrap_or_else(|| self.arguments.clone().into());
        json!({"id": self.id, "type": "function", "function": {"name": self.name, "arguments": arguments}})
    }
}

/// The arguments of a call, which APIs pass as text, in the form that chat templates expect: an object whose numbers
/// keep their text ([`read_exact`]). An empty text is an empty object; `None` for a text that is not a JSON object.
pub fn arguments_object(text: &str) -> Option<Value> {
    if text.trim().is_empty() {
        return Some(json!({}));
    }
    read_exact(text).ok().filter(Value::is_object)
}

#[cfg(test)]
mod tests {
    use super::*;
    use zonda_engine::tokenize::write_exact;

    #[test]
    fn arguments_are_objects_whose_numbers_keep_their_text() {
        let arguments = r#"{"big":12345678901234567890123,"price":1.50}"#.to_owned();
        let call = ToolCall::new(0, WrittenCall { name: "f".to_owned(), arguments: arguments.clone() });
        let text = call.to_value()["function"]["arguments"].to_string();
        assert_eq!(write_exact(&text).replace('\u{fdd1}', ""), arguments);
        assert_eq!(arguments_object(" "), Some(json!({})));
        assert_eq!((arguments_object("[1]"), arguments_object("{")), (None, None));
    }
}
