//! [`Writer`]: an answer as items, and as the events that stream them.

use super::answer::{Incomplete, OutputItem, OutputText, ResponseError, ResponseObject, ResponsesUsage};
use super::store::Stored;
use crate::clients::Client;
use crate::error::ApiError;
use crate::id;
use crate::openai::chunks::named;
use crate::openai::turn::{Call, End, Part, Turn};
use crate::openai::written;
use crate::server::Server;
use axum::http::StatusCode;
use axum::response::sse::Event;
use serde_json::{Value, json};
use std::sync::Arc;

/// Writes a response while it is made.
#[derive(Debug)]
pub(crate) struct Writer {
    response: ResponseObject,
    /// The text of the last item, while it grows.
    open: Option<Text>,
    /// Number of the next event.
    sequence: u64,
    /// Whether events are written at all.
    streams: bool,
    events: Vec<Event>,
    keep: Keep,
}

/// Where the response is stored, if that is wanted.
#[derive(Debug)]
pub(crate) struct Keep {
    /// Has the store.
    pub server: Arc<Server>,
    /// The client that may see it.
    pub client: Client,
    /// The items of the conversation before the answer.
    pub items: Vec<Value>,
}

/// A text that grows.
#[derive(Debug)]
struct Text {
    kind: Kind,
    text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Message,
    Reasoning,
}

impl Kind {
    /// The type of its content, and of its events.
    fn name(self) -> &'static str {
        match self {
            Kind::Message => "output_text",
            Kind::Reasoning => "reasoning_text",
        }
    }

    fn content(self, text: String) -> OutputText {
        match self {
            Kind::Message => OutputText::OutputText { text, annotations: [], logprobs: [] },
            Kind::Reasoning => OutputText::ReasoningText { text },
        }
    }

    fn item(self, id: String, status: &'static str, content: Vec<OutputText>) -> OutputItem {
        match self {
            Kind::Message => OutputItem::Message { id, status, role: "assistant", content },
            Kind::Reasoning => OutputItem::Reasoning { id, status, summary: [], content },
        }
    }
}

impl Writer {
    /// Writes this response, with events if it `streams`. The complete one is stored if its request wants that.
    pub fn new(response: ResponseObject, streams: bool, keep: Keep) -> Writer {
        Writer { response, open: None, sequence: 0, streams, events: Vec::new(), keep }
    }

    /// The response.
    pub fn into_response(self) -> ResponseObject {
        self.response
    }

    fn store(&mut self) {
        let response = &self.response;
        if !response.store {
            return;
        }
        let mut items = std::mem::take(&mut self.keep.items);
        // Our own types can always be serialised.
        items.extend(response.output.iter().filter_map(|item| serde_json::to_value(item).ok()));
        let stored = Stored {
            client: self.keep.client.clone(),
            response: serde_json::to_string(response).unwrap_or_default(),
            items: Value::Array(items).to_string(),
        };
        self.keep.server.responses().insert(response.id.clone(), stored);
    }

    /// Adds to the text of the last item, or begins a new item.
    fn write(&mut self, kind: Kind, text: String) {
        if self.open.as_ref().is_none_or(|open| open.kind != kind) {
            self.close("completed");
            let id = id::random(if kind == Kind::Message { "msg_" } else { "rs_" });
            self.push(kind.item(id, "in_progress", Vec::new()));
            self.send_content("response.content_part.added", json!({"part": kind.content(String::new())}));
            self.open = Some(Text { kind, text: String::new() });
        }
        let mut fields = json!({"delta": text});
        if kind == Kind::Message {
            fields["logprobs"] = json!([]);
        }
        self.send_content(&format!("response.{}.delta", kind.name()), fields);
        if let Some(open) = &mut self.open {
            open.text.push_str(&text);
        }
    }

    /// Ends the item whose text grows, if there is one.
    fn close(&mut self, status: &'static str) {
        let Some(Text { kind, text }) = self.open.take() else { return };
        let mut fields = json!({"text": text});
        if kind == Kind::Message {
            fields["logprobs"] = json!([]);
        }
        self.send_content(&format!("response.{}.done", kind.name()), fields);
        let content = kind.content(text);
        self.send_content("response.content_part.done", json!({"part": content}));
        if let Some(OutputItem::Message { content: all, .. } | OutputItem::Reasoning { content: all, .. }) =
            self.response.output.last_mut()
        {
            all.push(content);
        }
        self.finish_item(status);
    }

    fn call(&mut self, call: Call) {
        let Call { id: call_id, name, arguments, .. } = call;
        let empty = OutputItem::FunctionCall {
            id: id::random("fc_"),
            status: "in_progress",
            call_id,
            name: name.clone(),
            arguments: String::new(),
        };
        self.push(empty);
        self.send_item("response.function_call_arguments.delta", json!({"delta": arguments}));
        let fields = json!({"name": name, "arguments": arguments});
        self.send_item("response.function_call_arguments.done", fields);
        if let Some(OutputItem::FunctionCall { arguments: all, .. }) = self.response.output.last_mut() {
            *all = arguments;
        }
        self.finish_item("completed");
    }

    /// Adds an item.
    fn push(&mut self, item: OutputItem) {
        let fields = json!({"output_index": self.response.output.len(), "item": item});
        self.response.output.push(item);
        self.send("response.output_item.added", fields);
    }

    /// Ends the last item.
    fn finish_item(&mut self, status: &'static str) {
        let index = self.response.output.len().saturating_sub(1);
        let Some(item) = self.response.output.last_mut() else { return };
        item.set_status(status);
        let fields = json!({"output_index": index, "item": item});
        self.send("response.output_item.done", fields);
    }

    fn send_response(&mut self, name: &str) {
        if self.streams {
            self.send(name, json!({"response": self.response}));
        }
    }

    /// An event about the first content of the last item.
    fn send_content(&mut self, name: &str, mut fields: Value) {
        fields["content_index"] = 0.into();
        self.send_item(name, fields);
    }

    /// An event about the last item.
    fn send_item(&mut self, name: &str, mut fields: Value) {
        let Some(item) = self.response.output.last() else { return };
        fields["item_id"] = item.id().into();
        fields["output_index"] = (self.response.output.len() - 1).into();
        self.send(name, fields);
    }

    fn send(&mut self, name: &str, mut fields: Value) {
        if !self.streams {
            return;
        }
        fields["type"] = name.into();
        fields["sequence_number"] = self.sequence.into();
        self.sequence += 1;
        self.events.push(named(name, &fields));
    }
}

impl written::Writer for Writer {
    fn begin(&mut self) {
        for name in ["response.created", "response.in_progress"] {
            self.send_response(name);
        }
    }

    fn add(&mut self, part: Part) {
        match part {
            Part::Text(text) => self.write(Kind::Message, text),
            Part::Reasoning(text) => self.write(Kind::Reasoning, text),
            Part::Call(call) => {
                self.close("completed");
                self.call(call);
            }
        }
    }

    fn end(&mut self, end: &End, turn: &Turn) {
        let whole = end.reason != "length";
        let status = if whole { "completed" } else { "incomplete" };
        self.close(status);
        self.response.status = status;
        self.response.usage = Some(ResponsesUsage::of(turn));
        if whole {
            self.response.completed_at = Some(id::now());
        } else {
            self.response.incomplete_details = Some(Incomplete { reason: "max_output_tokens" });
        }
        self.send_response(if whole { "response.completed" } else { "response.incomplete" });
        self.store();
    }

    fn fail(&mut self, error: &ApiError) {
        let code = match error.status {
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_exceeded",
            status if status.is_client_error() => "invalid_prompt",
            _ => "server_error",
        };
        self.response.status = "failed";
        self.response.error = Some(ResponseError { code, message: error.message.clone() });
        self.send_response("response.failed");
    }

    /// The text of all messages.
    fn text(&self) -> String {
        let texts = self.response.output.iter().filter_map(|item| match item {
            OutputItem::Message { content, .. } => Some(content),
            _ => None,
        });
        let text = |part: &OutputText| match part {
            OutputText::OutputText { text, .. } | OutputText::ReasoningText { text } => text.clone(),
        };
        texts.flatten().map(text).collect()
    }

    fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }
}
