//! Content blocks of a request, and their translation to the messages of a chat.

use crate::error::ApiError;
use crate::openai::conversation::{Conversation, text_of};
use crate::openai::messages::ChatMessage;
use serde_json::{Value, json};

/// How the system block begins that Claude Code changes with each request.
const BILLING_HEADER: &str = "x-anthropic-billing-header:";

/// The messages of a conversation. The first system block that is a billing header is left out unless `keeps_header`.
///
/// # Errors
/// If there are none, or a block is malformed or of a type that is not supported.
pub fn messages(
    system: Option<&Value>,
    turns: &[Value],
    keeps_header: bool,
) -> Result<Vec<ChatMessage>, ApiError> {
    if turns.is_empty() {
        return Err(ApiError::field("messages", "expected at least one message, found none"));
    }
    let mut all = Conversation::default();
    let mut dropped = keeps_header;
    for (i, block) in blocks(system.unwrap_or(&Value::Null), "system")?.iter().enumerate() {
        let text = text_of(&json!([block]), &["text"]).map_err(|bad| bad.at(format!("system[{i}]")))?;
        if !dropped && text.starts_with(BILLING_HEADER) {
            dropped = true;
        } else if !text.is_empty() {
            all.system(&text);
        }
    }
    for (i, turn) in turns.iter().enumerate() {
        let at = format!("messages[{i}]");
        let content = blocks(&turn["content"], &format!("{at}.content"))?;
        let role = turn["role"].as_str().unwrap_or_default();
        if !["user", "assistant", "system"].contains(&role) {
            let message = format!("expected user or assistant, found {:?}", clip(role));
            return Err(ApiError::field(format!("{at}.role"), message));
        }
        if content.is_empty() && role == "user" {
            all.user("");
        }
        for (j, block) in content.iter().enumerate() {
            add(&mut all, role, block, &format!("{at}.content[{j}]"))?;
        }
    }
    Ok(all.finish())
}

/// A content as blocks: a text is one block.
fn blocks(content: &Value, at: &str) -> Result<Vec<Value>, ApiError> {
    match content {
        Value::Null if at == "system" => Ok(Vec::new()),
        Value::String(text) => Ok(vec![json!({"type": "text", "text": text})]),
        Value::Array(blocks) => Ok(blocks.clone()),
        _ => Err(ApiError::field(at, "expected a text or a list of blocks")),
    }
}

fn add(all: &mut Conversation, role: &str, block: &Value, at: &str) -> Result<(), ApiError> {
    let needed = |name: &str| {
        let missing = || ApiError::field(format!("{at}.{name}"), "expected a text, found none");
        block[name].as_str().ok_or_else(missing)
    };
    let kind = block["type"].as_str().unwrap_or_default();
    match (role, kind) {
        ("user", "text") => all.user(needed("text")?),
        ("system", "text") => all.system(needed("text")?),
        ("assistant", "text") => all.assistant(needed("text")?),
        ("assistant", "thinking") => {
            let thought = needed("thinking")?;
            if !thought.is_empty() {
                all.reasoning(thought);
            }
        }
        // Another server's thoughts, which only that one can read.
        ("assistant", "redacted_thinking") => {}
        ("assistant", "tool_use") => {
            if !block["input"].is_object() {
                return Err(ApiError::field(format!("{at}.input"), "expected an object"));
            }
            all.call(needed("id")?, needed("name")?, &block["input"].to_string());
        }
        ("user", "tool_result") => {
            let text =
                text_of(&block["content"], &["text"]).map_err(|bad| bad.at(format!("{at}.content")))?;
            all.result(needed("tool_use_id")?, &text);
        }
        ("user", _) => return Err(refused(at, "text or tool_result", kind)),
        ("assistant", _) => return Err(refused(at, "text, thinking or tool_use", kind)),
        _ => return Err(refused(at, "text", kind)),
    }
    Ok(())
}

fn refused(at: &str, expected: &str, found: &str) -> ApiError {
    let message =
        format!("expected {expected}, found a block of type {:?}: only text is supported", clip(found));
    ApiError::unsupported(format!("{at}.type"), message)
}

fn clip(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openai::messages::Content;

    fn read(system: Value, turns: Value, keeps: bool) -> Result<Vec<ChatMessage>, ApiError> {
        messages(Some(&system), turns.as_array().unwrap(), keeps)
    }

    fn text(message: &ChatMessage) -> &str {
        match &message.content {
            Some(Content::Text(text)) => text,
            _ => "",
        }
    }

    #[test]
    fn blocks_become_messages() {
        let all = read(
            json!("be brief"),
            json!([
                {"role": "user", "content": [{"type": "text", "text": "how", "cache_control": {"type": "ephemeral"}}, {"type": "text", "text": "is it"}]},
                {"role": "assistant", "content": [
                    {"type": "thinking", "thinking": "hm", "signature": ""},
                    {"type": "text", "text": "let me see"},
                    {"type": "tool_use", "id": "t1", "name": "f", "input": {"b": 1, "a": 2}},
                ]},
                {"role": "user", "content": [
                    {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "warm"}]},
                    {"type": "text", "text": "thanks"},
                ]},
            ]),
            false,
        )
        .unwrap();
        let roles: Vec<&str> = all.iter().map(|m| m.role.as_str()).collect();
        assert_eq!(roles, ["system", "user", "assistant", "tool", "user"]);
        assert_eq!((text(&all[1]), text(&all[2]), text(&all[3])), ("how\n\nis it", "let me see", "warm"));
        assert_eq!(all[2].reasoning_content.as_deref(), Some("hm"));
        let call = &all[2].tool_calls.as_ref().unwrap()[0];
        assert_eq!(call["function"]["arguments"], r#"{"b":1,"a":2}"#, "in the order of the request");
    }

    #[test]
    fn one_changing_block_is_left_out() {
        let header =
            |n: u32| json!({"type": "text", "text": format!("x-anthropic-billing-header: cch={n};")});
        let system = json!([header(1), {"type": "text", "text": "be brief"}, header(2)]);
        let turns = json!([{"role": "user", "content": "hi"}]);
        let all = read(system.clone(), turns.clone(), false).unwrap();
        assert_eq!(text(&all[0]), "be brief\n\nx-anthropic-billing-header: cch=2;");
        assert!(
            text(&read(system, turns, true).unwrap()[0]).starts_with("x-anthropic-billing-header: cch=1;")
        );
    }

    #[test]
    fn what_can_not_be_read_is_named() {
        let param = |turns| read(json!(null), turns, false).unwrap_err().param.unwrap();
        assert_eq!(param(json!([])), "messages");
        assert_eq!(param(json!([{"role": "pirate", "content": "x"}])), "messages[0].role");
        assert_eq!(param(json!([{"role": "user"}])), "messages[0].content");
        let block = |role: &str, block: Value| param(json!([{"role": role, "content": [block]}]));
        assert_eq!(block("user", json!({"type": "image", "source": {}})), "messages[0].content[0].type");
        assert_eq!(block("user", json!({"type": "text"})), "messages[0].content[0].text");
        assert_eq!(
            block("assistant", json!({"type": "tool_use", "id": "1", "name": "f"})),
            "messages[0].content[0].input"
        );
        let image = json!({"type": "tool_result", "tool_use_id": "1", "content": [{"type": "image"}]});
        assert_eq!(block("user", image), "messages[0].content[0].content");
        assert_eq!(
            read(json!(3), json!([{"role": "user", "content": "x"}]), false).unwrap_err().param.unwrap(),
            "system"
        );
    }
}
