//! [`Separator`]: takes tool calls and reasoning out of a generation's events.

use super::answer::Parser;
use super::parse::Piece;
use super::tool::ToolCall;
use std::time::Instant;
use zonda_engine::tokenize::Tokenizer;
use zonda_engine::{Event, TokenId};

/// Takes tool calls and reasoning out of the text of events. Without a parser, events pass unchanged.
#[derive(Debug, Default)]
pub(crate) struct Separator {
    parser: Option<Parser>,
    calls: Vec<ToolCall>,
    reasoning: String,
    /// The last event, if held text must be delivered before it.
    end: Option<Event>,
}

impl Separator {
    pub(crate) fn new(parser: Option<Parser>) -> Separator {
        Separator { parser, ..Separator::default() }
    }

    /// Begins behind a prompt, of which `end` is the end.
    pub(crate) fn begin(&mut self, end: &[TokenId], tokenizer: Option<&Tokenizer>) {
        if let (Some(parser), Some(tokenizer)) = (&mut self.parser, tokenizer) {
            parser.begin(end, tokenizer);
        }
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

    /// Stores the calls and the reasoning, and returns the text.
    fn keep(&mut self, pieces: Vec<Piece>) -> String {
        let mut text = String::new();
        for piece in pieces {
            match piece {
                Piece::Text(more) => text.push_str(&more),
                Piece::Reasoning(more) => self.reasoning.push_str(&more),
                Piece::Call(call) => self.calls.push(ToolCall::new(self.calls.len(), call)),
            }
        }
        text
    }

    /// The calls so far.
    pub(crate) fn calls(&self) -> &[ToolCall] {
        &self.calls
    }

    /// The reasoning so far.
    pub(crate) fn reasoning(&self) -> &str {
        &self.reasoning
    }

    /// The calls and the reasoning.
    pub(crate) fn into_parts(self) -> (Vec<ToolCall>, String) {
        (self.calls, self.reasoning)
    }
}
