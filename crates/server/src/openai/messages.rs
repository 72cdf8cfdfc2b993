//! Messages as OpenAI's API has them, and their conversion for chat templates.

use crate::error::ApiError;
use serde::Deserialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;
use zonda::tools::arguments_object;
use zonda_engine::tokenize::Message;

/// One message of a conversation.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub struct ChatMessage {
    /// `system`, `developer`, `user`, `assistant` or `tool`.
    pub role: String,
    /// Text, or parts of type `text`.
    #[serde(default)]
    pub content: Option<Content>,
    /// The author's name.
    #[serde(default)]
    pub name: Option<String>,
    /// Functions that the assistant called.
    #[serde(default)]
    #[schema(value_type = Option<Vec<Object>>)]
    pub tool_calls: Option<Vec<Value>>,
    /// The id of the call whose result this tool message contains.
    #[serde(default)]
    pub tool_call_id: Option<String>,
    /// The assistant's reasoning before its answer, for templates that show it.
    #[serde(default, alias = "reasoning")]
    pub reasoning_content: Option<String>,
}

/// A message's content.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum Content {
    /// Text.
    Text(String),
    /// Parts.
    Parts(Vec<Part>),
}

/// A part of a message's content.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub struct Part {
    /// `text`; images, sounds and files are refused.
    pub r#type: String,
    /// The text.
    #[serde(default)]
    pub text: Option<String>,
}

const ROLES: [&str; 5] = ["system", "developer", "user", "assistant", "tool"];

/// Converts messages for a chat template.
///
/// # Errors
/// If there are none, a role is unknown, or a part is not text.
pub fn convert(messages: Vec<ChatMessage>) -> Result<Vec<Message>, ApiError> {
    if messages.is_empty() {
        return Err(ApiError::field("messages", "expected at least one message, found none"));
    }
    messages.into_iter().enumerate().map(|(i, message)| one(i, message)).collect()
}

fn one(index: usize, message: ChatMessage) -> Result<Message, ApiError> {
    let at = |field: &str| format!("messages[{index}].{field}");
    let ChatMessage { role, content, name, tool_calls, tool_call_id, reasoning_content } = message;
    if !ROLES.contains(&role.as_str()) {
        return Err(ApiError::field(
            at("role"),
            format!("expected one of {}, found {role:?}", ROLES.join(", ")),
        ));
    }
    let content = match content {
        None => String::new(),
        Some(Content::Text(text)) => text,
        Some(Content::Parts(parts)) => {
            let text = parts.into_iter().map(|part| match (part.r#type.as_str(), part.text) {
                ("text", Some(text)) => Ok(text),
                ("text", None) => Err(ApiError::field(at("content"), "a part of type text has no text")),
                (other, _) => {
                    let message =
                        format!("expected parts of type text, found {other:?}: only text is supported");
                    Err(ApiError::unsupported(at("content"), message))
                }
            });
            text.collect::<Result<String, _>>()?
        }
    };
    let mut extra = Map::new();
    let texts = [("name", name), ("tool_call_id", tool_call_id), ("reasoning_content", reasoning_content)];
    extra.extend(texts.into_iter().filter_map(|(key, text)| Some((key.to_owned(), Value::String(text?)))));
    if let Some(calls) = tool_calls.filter(|c| !c.is_empty()) {
        let calls = calls.into_iter().enumerate().map(|(i, call)| {
            call_of(call).ok_or_else(|| {
                let message =
                    "expected {\"id\", \"type\": \"function\", \"function\": {\"name\", \"arguments\"}}";
                ApiError::field(at(&format!("tool_calls[{i}]")), message)
            })
        });
        extra.insert("tool_calls".to_owned(), calls.collect::<Result<Vec<Value>, _>>()?.into());
    }
    // Templates don't know the role `developer`, which is OpenAI's later name for `system`.
    let role = if role == "developer" { "system".to_owned() } else { role };
    Ok(Message { role, content, extra })
}

/// A call whose arguments are an object, as templates expect; in the API they are text.
fn call_of(mut call: Value) -> Option<Value> {
    let function = call.get_mut("function")?.as_object_mut()?;
    function.get("name")?.as_str()?;
    if let Some(arguments) = function.get("arguments").and_then(Value::as_str).and_then(arguments_object) {
        function.insert("arguments".to_owned(), arguments);
    }
    Some(call)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use zonda_engine::TextProcessor;
    use zonda_engine::tokenize::{ChatTemplate, RenderOptions, Tokenizer};

    fn converted(messages: Value) -> Result<Vec<Message>, ApiError> {
        convert(serde_json::from_value(messages).unwrap())
    }

    #[test]
    fn parts_are_joined_and_developers_are_the_system() {
        let messages = converted(json!([
            {"role": "developer", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "name": "me"},
        ]))
        .unwrap();
        assert_eq!((messages[0].role.as_str(), messages[1].content.as_str()), ("system", "ab"));
        assert_eq!(messages[1].extra["name"], "me");
    }

    #[test]
    fn arguments_of_calls_become_objects() {
        let call =
            json!({"id": "1", "type": "function", "function": {"name": "f", "arguments": "{\"a\": 1}"}});
        let messages =
            converted(json!([{"role": "assistant", "content": null, "tool_calls": [call]}])).unwrap();
        assert_eq!(messages[0].extra["tool_calls"][0]["function"]["arguments"], json!({"a": 1}));
        assert_eq!(messages[0].content, "");
    }

    #[test]
    fn numbers_in_arguments_keep_their_text() {
        let arguments = r#"{"big": 12345678901234567890123, "price": 1.50, "n": 1e3}"#;
        let call = json!({"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}});
        let messages = converted(json!([{"role": "assistant", "tool_calls": [call]}])).unwrap();
        let tokenizer = Tokenizer::mock();
        let source = "{{ messages[0].tool_calls[0].function.arguments | tojson }} {{ messages[0].tool_calls[0].function.arguments.n }}";
        let template = ChatTemplate::new(source, &tokenizer).unwrap();
        let text = TextProcessor { tokenizer: tokenizer.into(), template: Some(template.into()) };
        let ids = text.encode_chat(&messages, &RenderOptions::default()).unwrap();
        assert_eq!(text.tokenizer.decode(&ids, false), format!("<s>{arguments} 1e3"));
    }

    #[test]
    fn what_can_not_be_read_is_named() {
        let message = |m| converted(m).unwrap_err().message;
        assert!(message(json!([])).contains("messages"));
        assert!(message(json!([{"role": "pirate", "content": "x"}])).contains("messages[0].role"));
        let image = json!([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]);
        assert!(message(image).contains("image_url"));
        let call = json!([{"role": "assistant", "tool_calls": [{"id": "1"}]}]);
        assert!(message(call).contains("tool_calls[0]"));
    }
}
