//! [`Style::apply`]: all changes that tools make to a request.

use super::choice::{ToolChoice, Tools};
use super::error::ToolError;
use super::parse::Parser;
use super::style::Style;
use zonda_engine::tokenize::Tokenizer;
use zonda_engine::{Prompt, Request};

impl Style {
    /// Describes the tools to the model, makes the marks of calls appear in the text, and adds the grammar for required
    /// calls. Returns the parser for the answer's text, or `None` if the model must not call anything.
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
            Prompt::Chat { messages, options } => self.tell(tools, messages, options),
            _ if allowed => {
                return Err(ToolError::unsupported("tools", "expected a conversation as the prompt"));
            }
            _ => {}
        }
        if !allowed {
            return Ok(None);
        }
        if let Some(tokenizer) = tokenizer {
            request.keep_special = self.markers(tokenizer);
            request.grammar = self.grammar(tools, request.grammar.take(), tokenizer)?;
        }
        Ok(Some(self.parser(tools)))
    }
}
