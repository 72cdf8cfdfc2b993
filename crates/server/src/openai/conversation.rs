//! [`Conversation`]: builds the messages of a chat from the parts that other APIs have: items or blocks.

use super::messages::{ChatMessage, Content};
use serde_json::{Value, json};

/// A conversation in progress. Parts of one turn become one message, as chat templates expect: the system messages at the
/// beginning, user messages in a row, and what the assistant thinks, says and calls.
#[derive(Debug, Default)]
pub(crate) struct Conversation(Vec<ChatMessage>);

/// Between two texts of one role.
const GAP: &str = "\n\n";

impl Conversation {
    /// Adds instructions.
    pub fn system(&mut self, text: &str) {
        match self.0.last_mut() {
            Some(last) if last.role == "system" => append(&mut last.content, text, GAP),
            _ => self.push("system", Some(text)),
        }
    }

    /// Adds a user's text.
    pub fn user(&mut self, text: &str) {
        match self.0.last_mut() {
            Some(last) if last.role == "user" => append(&mut last.content, text, GAP),
            _ => self.push("user", Some(text)),
        }
    }

    /// Adds a text of the assistant.
    pub fn assistant(&mut self, text: &str) {
        append(&mut self.turn().content, text, GAP);
    }

    /// Adds what the assistant thought.
    pub fn reasoning(&mut self, text: &str) {
        let thoughts = &mut self.turn().reasoning_content;
        match thoughts {
            Some(all) => *all = format!("{all}{GAP}{text}"),
            None => *thoughts = Some(text.to_owned()),
        }
    }

    /// Adds a call. `arguments` is JSON, as text.
    pub fn call(&mut self, id: &str, name: &str, arguments: &str) {
        let call = json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}});
        self.turn().tool_calls.get_or_insert_default().push(call);
    }

    /// Adds the result of the call with this id.
    pub fn result(&mut self, id: &str, text: &str) {
        self.push("tool", Some(text));
        if let Some(last) = self.0.last_mut() {
            last.tool_call_id = Some(id.to_owned());
        }
    }

    /// The messages. A conversation in which nobody said anything gets an empty user message: chat templates need one.
    pub fn finish(mut self) -> Vec<ChatMessage> {
        if self.0.iter().all(|message| message.role == "system") {
            self.user("");
        }
        self.0
    }

    fn push(&mut self, role: &str, text: Option<&str>) {
        self.0.push(ChatMessage {
            role: role.to_owned(),
            content: text.map(|text| Content::Text(text.to_owned())),
            name: None,
            tool_calls: None,
            tool_call_id: None,
            reasoning_content: None,
        });
    }

    /// The assistant's message at the end.
    fn turn(&mut self) -> &mut ChatMessage {
        if self.0.last().is_none_or(|last| last.role != "assistant") {
            self.push("assistant", None);
        }
        let last = self.0.len() - 1;
        &mut self.0[last]
    }
}

fn append(content: &mut Option<Content>, text: &str, gap: &str) {
    match content {
        Some(Content::Text(all)) => *all = format!("{all}{gap}{text}"),
        _ => *content = Some(Content::Text(text.to_owned())),
    }
}

/// A text of a request: a string, or parts that each have a text. `kinds` are the parts' types that have one.
///
/// # Errors
/// The type of the first part that is not text, or a message about a part that is malformed.
pub(crate) fn text_of(value: &Value, kinds: &[&str]) -> Result<String, BadPart> {
    match value {
        Value::Null => Ok(String::new()),
        Value::String(text) => Ok(text.clone()),
        Value::Array(parts) => parts.iter().map(|part| text_of_part(part, kinds)).collect(),
        other => Err(BadPart::Malformed(format!("expected a text or a list of parts, found {other}"))),
    }
}

fn text_of_part(part: &Value, kinds: &[&str]) -> Result<String, BadPart> {
    let Some(kind) = part["type"].as_str() else {
        return Err(BadPart::Malformed("expected parts with a type".to_owned()));
    };
    if !kinds.contains(&kind) {
        return Err(BadPart::NotText(kind.chars().take(64).collect()));
    }
    let text = part["text"].as_str().or(part["refusal"].as_str());
    text.map(str::to_owned).ok_or_else(|| BadPart::Malformed(format!("a part of type {kind} has no text")))
}

/// Why a part can't be read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum BadPart {
    /// Its type.
    NotText(String),
    /// What was expected.
    Malformed(String),
}

impl BadPart {
    /// The error for a field of a request.
    pub fn at(self, field: String) -> crate::error::ApiError {
        use crate::error::ApiError;
        match self {
            BadPart::NotText(kind) => ApiError::unsupported(
                field,
                format!("expected text, found a part of type {kind:?}: only text is supported"),
            ),
            BadPart::Malformed(message) => ApiError::field(field, message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_one_turn_are_one_message() {
        let mut all = Conversation::default();
        all.system("be brief");
        all.system("be kind");
        all.user("a");
        all.user("b");
        all.reasoning("hm");
        all.assistant("wait");
        all.call("1", "f", "{}");
        all.call("2", "g", "{}");
        all.result("1", "one");
        all.result("2", "two");
        all.assistant("done");
        let all = all.finish();
        let roles: Vec<&str> = all.iter().map(|m| m.role.as_str()).collect();
        assert_eq!(roles, ["system", "user", "assistant", "tool", "tool", "assistant"]);
        let text = |i: usize| match &all[i].content {
            Some(Content::Text(text)) => text.clone(),
            other => format!("{other:?}"),
        };
        assert_eq!(
            (text(0), text(1), text(2)),
            ("be brief\n\nbe kind".into(), "a\n\nb".into(), "wait".into())
        );
        assert_eq!(all[2].reasoning_content.as_deref(), Some("hm"));
        assert_eq!(all[2].tool_calls.as_ref().map(Vec::len), Some(2));
        assert_eq!(all[4].tool_call_id.as_deref(), Some("2"));
    }

    #[test]
    fn somebody_has_to_speak() {
        let mut all = Conversation::default();
        all.system("be brief");
        assert_eq!(all.finish()[1].role, "user");
        assert_eq!(Conversation::default().finish().len(), 1);
    }
}
