//! [`Separator`]: extracts tool calls from a generation's events.

use super::parse::{Parser, Piece};
use super::tool::ToolCall;
use std::time::Instant;
use zonda_engine::Event;

/// Removes tool calls from the text of events. Without a parser, events pass unchanged.
#[derive(Debug, Default)]
pub(crate) struct Separator {
    parser: Option<Parser>,
    calls: Vec<ToolCall>,
    /// The last event, if held text must be delivered before it.
    end: Option<Event>,
}

impl Separator {
    pub(crate) fn new(parser: Option<Parser>) -> Separator {
        Separator { parser, ..Separator::default() }
    }

    /// The next event; `receive` provides the engine's events.
    pub(crate) fn next<E>(
        &mut self,
        receive: impl FnOnce() -> Option<Result<Event, E>>,
    ) -> Option<Result<Event, E>> {
        if let Some(end) = self.end.take() {
            return Some(Ok(end));
        }
        let mut event = match receive()? {
            Ok(event) => event,
            error => return Some(error),
        };
        let Some(parser) = &mut self.parser else { return Some(Ok(event)) };
        match &mut event {
            Event::Tokens { text, .. } => {
                let pieces = parser.push(text);
                *text = self.keep(pieces);
            }
            Event::Finished(_) => {
                let pieces = parser.finish();
                let text = self.keep(pieces);
                if !text.is_empty() {
                    self.end = Some(event);
                    event = Event::Tokens { ids: Vec::new(), text, logprobs: Vec::new(), at: Instant::now() };
                }
            }
            _ => {}
        }
        Some(Ok(event))
    }

    /// Stores the calls and returns the text.
    fn keep(&mut self, pieces: Vec<Piece>) -> String {
        let mut text = String::new();
        for piece in pieces {
            match piece {
                Piece::Text(more) => text.push_str(&more),
                Piece::Call(call) => self.calls.push(ToolCall::new(self.calls.len(), call)),
            }
        }
        text
    }

    /// The calls so far.
    pub(crate) fn calls(&self) -> &[ToolCall] {
        &self.calls
    }

    pub(crate) fn into_calls(self) -> Vec<ToolCall> {
        self.calls
    }
}
