//! [`Writer`]: an answer as content blocks, and as the events that stream them.

use super::answer::{Block, MessageObject};
use super::error;
use crate::error::ApiError;
use crate::openai::chunks::named;
use crate::openai::turn::{Call, End, Part, Turn};
use crate::openai::written;
use axum::response::sse::Event;
use serde_json::value::RawValue;
use serde_json::{Value, json};

/// Writes a message while it is made.
#[derive(Debug)]
pub(crate) struct Writer {
    message: MessageObject,
    /// Whether thoughts are part of the answer.
    thinks: bool,
    /// The request's only stop text.
    stop: Option<String>,
    /// Whether the last block is a text that grows.
    open: bool,
    /// Whether events are written at all.
    streams: bool,
    events: Vec<Event>,
}

impl Writer {
    /// Writes this message, with events if it `streams`, and with what the model thinks if it `thinks`. `stop` is the request's
    /// stop text if it has only one.
    pub fn new(message: MessageObject, streams: bool, thinks: bool, stop: Option<String>) -> Writer {
        Writer { message, thinks, stop, open: false, streams, events: Vec::new() }
    }

    /// The message.
    pub fn into_message(self) -> MessageObject {
        self.message
    }

    /// Adds to the text of the last block, or begins `empty`, a new one.
    fn write(&mut self, empty: Block, new: &str) {
        let same = self
            .message
            .content
            .last()
            .is_some_and(|last| std::mem::discriminant(last) == std::mem::discriminant(&empty));
        if !self.open || !same {
            self.close();
            self.begin_block(json!(empty));
            self.message.content.push(empty);
            self.open = true;
        }
        let delta = match self.message.content.last_mut() {
            Some(Block::Text { text }) => {
                text.push_str(new);
                json!({"type": "text_delta", "text": new})
            }
            Some(Block::Thinking { thinking, .. }) => {
                thinking.push_str(new);
                json!({"type": "thinking_delta", "thinking": new})
            }
            _ => return,
        };
        self.send_delta(delta);
    }

    fn call(&mut self, call: Call) {
        self.close();
        let Call { id, name, arguments, .. } = call;
        self.begin_block(json!({"type": "tool_use", "id": id, "name": name, "input": {}}));
        let input = object(arguments);
        let text = input.get().to_owned();
        self.message.content.push(Block::ToolUse { id, name, input });
        self.send_delta(json!({"type": "input_json_delta", "partial_json": text}));
        self.open = true;
        self.close();
    }

    fn begin_block(&mut self, block: Value) {
        let index = self.message.content.len();
        self.send("content_block_start", json!({"index": index, "content_block": block}));
    }

    /// Ends the last block, if it is open.
    fn close(&mut self) {
        if std::mem::take(&mut self.open) {
            let index = self.message.content.len().saturating_sub(1);
            self.send("content_block_stop", json!({"index": index}));
        }
    }

    fn send_delta(&mut self, delta: Value) {
        let index = self.message.content.len().saturating_sub(1);
        self.send("content_block_delta", json!({"index": index, "delta": delta}));
    }

    fn send(&mut self, name: &str, mut fields: Value) {
        if self.streams {
            fields["type"] = name.into();
            self.events.push(named(name, &fields));
        }
    }
}

impl written::Writer for Writer {
    fn begin(&mut self) {
        if self.streams {
            self.send("message_start", json!({"message": self.message}));
            self.events.push(ping());
        }
    }

    fn add(&mut self, part: Part) {
        match part {
            Part::Text(text) => self.write(Block::Text { text: String::new() }, &text),
            Part::Reasoning(text) if self.thinks => {
                self.write(Block::Thinking { thinking: String::new(), signature: "" }, &text);
            }
            Part::Reasoning(_) => {}
            Part::Call(call) => self.call(call),
        }
    }

    fn end(&mut self, end: &End, turn: &Turn) {
        let usage = turn.usage.into();
        self.close();
        let reason = match end.reason {
            "length" => "max_tokens",
            "tool_calls" => "tool_use",
            _ if end.by_text => "stop_sequence",
            _ => "end_turn",
        };
        self.message.stop_reason = Some(reason);
        self.message.stop_sequence = self.stop.take().filter(|_| reason == "stop_sequence");
        self.message.usage = usage;
        let delta = json!({"stop_reason": reason, "stop_sequence": self.message.stop_sequence});
        self.send("message_delta", json!({"delta": delta, "usage": usage}));
        self.send("message_stop", json!({}));
    }

    fn fail(&mut self, error: &ApiError) {
        self.events.push(named("error", &error::body(error, None)));
    }

    /// The text of all blocks.
    fn text(&self) -> String {
        let text = |block: &Block| match block {
            Block::Text { text } => Some(text.clone()),
            _ => None,
        };
        self.message.content.iter().filter_map(text).collect()
    }

    fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    fn alive(&self) -> Option<Event> {
        Some(ping())
    }
}

fn ping() -> Event {
    named("ping", &json!({"type": "ping"}))
}

/// The arguments of a call as an object. A model may write something else; clients then get that as a text.
fn object(arguments: String) -> Box<RawValue> {
    let is_object = arguments.trim_start().starts_with('{');
    let raw = RawValue::from_string(arguments.clone()).ok().filter(|_| is_object);
    raw.or_else(|| RawValue::from_string(json!({"arguments": arguments}).to_string()).ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_objects_and_keep_their_text() {
        let exact = r#"{"big":12345678901234567890123,"price":1.50}"#;
        assert_eq!(object(exact.to_owned()).get(), exact);
        assert_eq!(object("[1]".to_owned()).get(), r#"{"arguments":"[1]"}"#);
        assert_eq!(object("{".to_owned()).get(), r#"{"arguments":"{"}"#);
    }
}
