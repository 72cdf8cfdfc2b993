//! [`Style::apply`]: everything that tools and reasoning change in a request.

use super::answer::Parser;
use super::choice::{ToolChoice, Tools};
use super::error::ToolError;
use super::marks::Kind;
use super::style::Style;
use zonda_engine::tokenize::{Message, Tokenizer};
use zonda_engine::{Prompt, Request};

impl Style {
    /// Describes the tools to the model, lets the marks of calls and of reasoning appear in the text, and adds the grammar that a
    /// required call needs. Returns the parser for the answer's text, or `None` if there is nothing to separate: the prompt is no
    /// conversation, the model must not call anything, and its reasoning has no marks or stays in the text.
    ///
    /// Call it on requests without tools too: it rewrites earlier calls in the conversation for templates without
    /// tools.
    ///
    /// # Errors
    /// If calls are allowed and the prompt is not a conversation, or the request has a grammar that can't be combined with
    /// calls.
    pub fn apply(
        self,
        tools: &Tools,
        request: &mut Request,
        tokenizer: Option<&Tokenizer>,
    ) -> Result<Option<Parser>, ToolError> {
        let allowed = tools.choice != ToolChoice::None;
        match &mut request.prompt {
            Prompt::Chat { messages, options } => {
                self.tell(tools, messages, options);
                if self.channels() {
                    messages.iter_mut().for_each(name_thinking);
                }
            }
            _ if allowed => {
                return Err(ToolError::unsupported("tools", "expected a conversation as the prompt"));
            }
            _ => return Ok(None),
        }
        if let Some(tokenizer) = tokenizer {
            if allowed {
                request.keep_special = self.markers(tokenizer);
            }
            if let Some(marks) = self.marks {
                request.keep_special.extend(marks.tokens(tokenizer));
            }
            request.grammar = self.grammar(tools, request.grammar.take(), tokenizer)?;
        }
        let calls = allowed.then(|| self.calls_parser(tools));
        let constrained = request.grammar.is_some();
        let needed = allowed || self.separates_reasoning();
        Ok(needed.then(|| Parser::new(self.marks, self.separates, calls, constrained)))
    }

    /// Whether answers are messages in channels.
    pub(super) fn channels(self) -> bool {
        self.marks.is_some_and(|marks| marks.kind == Kind::Harmony)
    }
}

/// Harmony's templates read the reasoning of a message as `thinking`.
fn name_thinking(message: &mut Message) {
    if let Some(thinking) = message.extra.get("reasoning_content").cloned() {
        message.extra.entry("thinking").or_insert(thinking);
    }
}
