//! Describes the functions to the model: through its chat template, or in the system message if the template has no tools.

use super::choice::{ToolChoice, Tools};
use super::style::Style;
use serde_json::Value;
use zonda_engine::tokenize::{Message, RenderOptions, write_exact};

impl Style {
    /// Adds the tools where the model reads them, and rewrites earlier calls and results for templates without tools.
    pub(super) fn tell(self, tools: &Tools, messages: &mut Vec<Message>, options: &mut RenderOptions) {
        let told = tools.choice != ToolChoice::None;
        if self.native {
            if told {
                options.tools.clone_from(&tools.list);
            }
            return;
        }
        rewrite(messages);
        if told {
            let text = explain(&tools.list);
            match messages.first_mut().filter(|m| m.role == "system") {
                Some(system) if system.content.is_empty() => system.content = text,
                Some(system) => system.content = format!("{}\n\n{text}", system.content),
                None => messages.insert(0, Message::new("system", text)),
            }
        }
    }
}

fn explain(tools: &[Value]) -> String {
    let functions: Vec<&Value> = tools.iter().map(|t| &t["function"]).collect();
    let functions = serde_json::to_string(&functions).unwrap_or_default();
    format!(
        "You can call functions. These are the ones there are, with JSON schemas of their arguments:\n\
         <tools>{functions}</tools>\n\
         To call some, answer with a JSON list of calls in tags and with nothing else:\n\
         <tool_call>[{{\"name\": \"NAME\", \"arguments\": {{\"ARGUMENT\": VALUE}}}}]</tool_call>\n\
         If no function helps, answer in words."
    )
}

/// Calls become text in the format that the model was told to use; results become messages of the user.
fn rewrite(messages: &mut Vec<Message>) {
    let mut out: Vec<Message> = Vec::with_capacity(messages.len());
    let mut last_is_result = false;
    for mut message in messages.drain(..) {
        if let Some(Value::Array(calls)) = message.extra.shift_remove("tool_calls") {
            let calls: Vec<&Value> = calls.iter().map(|c| &c["function"]).collect();
            let calls = serde_json::to_string(&calls).unwrap_or_default();
            let calls = write_exact(&calls);
            message.content.push_str(&format!("<tool_call>{calls}</tool_call>"));
        }
        let is_result = message.role == "tool";
        if is_result {
            let text = format!("<tool_response>\n{}\n</tool_response>", message.content);
            match out.last_mut().filter(|_| last_is_result) {
                Some(before) => before.content.push_str(&format!("\n{text}")),
                None => out.push(Message::new("user", text)),
            }
        } else {
            out.push(message);
        }
        last_is_result = is_result;
    }
    *messages = out;
}

#[cfg(test)]
mod tests {
    use super::super::format::Format;
    use super::*;
    use serde_json::json;

    fn style(format: Format, native: bool) -> Style {
        Style { format, native, marks: None, separates: true }
    }

    fn tools() -> Tools {
        let list = vec![json!({"type": "function", "function": {"name": "weather"}})];
        Tools::new(list, None, None).unwrap()
    }

    fn conversation() -> Vec<Message> {
        let messages = json!([
            {"role": "user", "content": "how is it?"},
            {"role": "assistant", "content": "", "tool_calls": [
                {"id": "1", "function": {"name": "weather", "arguments": {"at": "sea"}}},
                {"id": "2", "function": {"name": "weather", "arguments": {}}},
            ]},
            {"role": "tool", "tool_call_id": "1", "content": "warm"},
            {"role": "tool", "tool_call_id": "2", "content": "windy"},
        ]);
        serde_json::from_value(messages).unwrap()
    }

    #[test]
    fn a_template_that_knows_tools_gets_them() {
        let (mut messages, mut options) = (conversation(), RenderOptions::default());
        style(Format::Mistral, true).tell(&tools(), &mut messages, &mut options);
        assert_eq!((messages, options.tools.len()), (conversation(), 1));
    }

    #[test]
    fn others_are_told_in_words() {
        let (mut messages, mut options) = (conversation(), RenderOptions::default());
        style(Format::TaggedList, false).tell(&tools(), &mut messages, &mut options);
        assert!(options.tools.is_empty());
        let roles: Vec<&str> = messages.iter().map(|m| m.role.as_str()).collect();
        assert_eq!(roles, ["system", "user", "assistant", "user"]);
        assert!(messages[0].content.contains(r#"<tools>[{"name":"weather"}]</tools>"#));
        let calls = r#"<tool_call>[{"name":"weather","arguments":{"at":"sea"}},{"name":"weather","arguments":{}}]</tool_call>"#;
        assert_eq!(messages[2].content, calls);
        assert!(messages[3].content.contains("warm") && messages[3].content.contains("windy"));
    }
}
