//! [`Tool`], a function that a model may call, and [`ToolCall`], a call in an answer.

use super::parse::WrittenCall;
use serde_json::{Value, json};

/// A function that a model may call.
#[derive(Clone, Debug, PartialEq)]
pub struct Tool(Value);

impl Tool {
    /// A function with its name (letters, digits, `_`, `-` and `.`), what it does, and the JSON schema of its arguments, which
    /// are an object.
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
    /// Its id within the answer, for [`Message::tool`](crate::Message::tool): nine letters and digits, as Mistral's templates
    /// demand.
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
        let arguments =
            serde_json::from_str::<Value>(&self.arguments).unwrap_or_else(|_| self.arguments.clone().into());
        json!({"id": self.id, "type": "function", "function": {"name": self.name, "arguments": arguments}})
    }
}
