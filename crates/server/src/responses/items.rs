//! Items of the input, and their translation to the messages of a chat.

use crate::error::ApiError;
use crate::openai::conversation::{Conversation, text_of};
use crate::openai::messages::ChatMessage;
use serde_json::{Value, json};

/// Types of content parts that have a text.
const TEXTS: &[&str] = &["input_text", "output_text", "text", "summary_text", "reasoning_text", "refusal"];

/// The items of an input: a text is one message of the user.
///
/// # Errors
/// If the input is neither a text nor a list.
pub fn list(input: Option<&Value>) -> Result<Vec<Value>, ApiError> {
    match input {
        None => Ok(Vec::new()),
        Some(Value::String(text)) if text.is_empty() => Ok(Vec::new()),
        Some(Value::String(text)) => Ok(vec![json!({"type": "message", "role": "user", "content": text})]),
        Some(Value::Array(items)) => Ok(items.clone()),
        Some(_) => Err(ApiError::field("input", "expected a text or a list of items")),
    }
}

/// The messages of a conversation: instructions, the items before this request, and those of this request.
///
/// # Errors
/// If an item is malformed or of a type that is not supported. Items are numbered from the beginning of this request's input.
pub fn messages(
    instructions: Option<&str>,
    earlier: &[Value],
    input: &[Value],
) -> Result<Vec<ChatMessage>, ApiError> {
    let mut all = Conversation::default();
    if let Some(text) = instructions.filter(|text| !text.is_empty()) {
        all.system(text);
    }
    for item in earlier {
        add(&mut all, item, "previous_response_id")?;
    }
    for (i, item) in input.iter().enumerate() {
        add(&mut all, item, &format!("input[{i}]"))?;
    }
    Ok(all.finish())
}

fn add(all: &mut Conversation, item: &Value, at: &str) -> Result<(), ApiError> {
    let field = |name: &str| format!("{at}.{name}");
    let text = |name: &str| text_of(&item[name], TEXTS).map_err(|bad| bad.at(field(name)));
    let needed = |name: &str| {
        let missing = || ApiError::field(field(name), "expected a text, found none");
        item[name].as_str().ok_or_else(missing)
    };
    if !item.is_object() {
        return Err(ApiError::field(at, "expected an item, which is an object"));
    }
    match item["type"].as_str() {
        None | Some("message") => match needed("role")? {
            "system" | "developer" => all.system(&text("content")?),
            "user" => all.user(&text("content")?),
            "assistant" => all.assistant(&text("content")?),
            other => {
                let message = format!("expected system, developer, user or assistant, found {other:?}");
                return Err(ApiError::field(field("role"), message));
            }
        },
        Some("function_call") => {
            let arguments = item["arguments"].as_str().unwrap_or_default();
            all.call(needed("call_id")?, needed("name")?, arguments);
        }
        Some("function_call_output") => all.result(needed("call_id")?, &text("output")?),
        Some("reasoning") => {
            let content = text("content")?;
            let thought = if content.is_empty() { text("summary")? } else { content };
            if !thought.is_empty() {
                all.reasoning(&thought);
            }
        }
        Some(other) => {
            let other: String = other.chars().take(64).collect();
            let message = format!(
                "expected message, function_call, function_call_output or reasoning, found {other:?}"
            );
            return Err(ApiError::unsupported(field("type"), message));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openai::messages::Content;

    fn read(input: Value) -> Result<Vec<ChatMessage>, ApiError> {
        messages(Some("be brief"), &[], &list(Some(&input))?)
    }

    #[test]
    fn items_become_messages() {
        let all = read(json!([
            {"role": "developer", "content": [{"type": "input_text", "text": "be kind"}]},
            {"type": "message", "role": "user", "content": "how is it"},
            {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
            {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{\"a\":1}"},
            {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "warm"}]},
        ]))
        .unwrap();
        let roles: Vec<&str> = all.iter().map(|m| m.role.as_str()).collect();
        assert_eq!(roles, ["system", "user", "assistant", "tool"]);
        assert!(matches!(&all[0].content, Some(Content::Text(text)) if text == "be brief\n\nbe kind"));
        assert_eq!(all[2].reasoning_content.as_deref(), Some("hm"));
        assert_eq!(all[2].tool_calls.as_ref().unwrap()[0]["function"]["arguments"], "{\"a\":1}");
        assert_eq!(all[3].tool_call_id.as_deref(), Some("c1"));
    }

    #[test]
    fn an_empty_input_is_an_empty_user_message() {
        for input in [json!([]), json!("")] {
            let all = read(input).unwrap();
            assert_eq!((all.len(), all[1].role.as_str()), (2, "user"));
        }
    }

    #[test]
    fn what_can_not_be_read_is_named() {
        let param = |input| read(input).unwrap_err().param.unwrap();
        assert_eq!(param(json!(3)), "input");
        assert_eq!(param(json!(["x"])), "input[0]");
        assert_eq!(param(json!([{"role": "pirate", "content": "x"}])), "input[0].role");
        assert_eq!(
            param(json!([{"role": "user", "content": [{"type": "input_image"}]}])),
            "input[0].content"
        );
        assert_eq!(param(json!([{"role": "user", "content": [{"type": "input_text"}]}])), "input[0].content");
        assert_eq!(param(json!([{"type": "function_call", "name": "f"}])), "input[0].call_id");
        assert_eq!(param(json!([{"type": "item_reference", "id": "x"}])), "input[0].type");
    }
}
