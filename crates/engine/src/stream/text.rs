//! [`TextStream`]: the text of one generation, up to a stop string.

use super::stop::StopStrings;
use crate::TokenId;
use crate::tokenize::{Detokenizer, Tokenizer};
use std::sync::Arc;

/// Detokenises a generation and searches for its stop strings.
#[derive(Debug)]
pub struct TextStream {
    /// `None`: a model without a tokenizer, whose generations have no text.
    detokenizer: Option<(Arc<Tokenizer>, Detokenizer)>,
    stops: StopStrings,
}

impl TextStream {
    /// The text generated after `prompt`. The control tokens `kept` appear in it by name.
    pub fn new(
        tokenizer: Option<Arc<Tokenizer>>,
        prompt: &[TokenId],
        stops: Vec<String>,
        kept: Vec<TokenId>,
    ) -> TextStream {
        TextStream {
            detokenizer: tokenizer.map(|tokenizer| (tokenizer, Detokenizer::after(prompt).keep(kept))),
            stops: StopStrings::new(stops),
        }
    }

    /// Takes the next token and returns the text that became final.
    pub fn push(&mut self, id: TokenId) -> String {
        match &mut self.detokenizer {
            Some((tokenizer, detokenizer)) => self.stops.push(&detokenizer.push(tokenizer, id)),
            None => String::new(),
        }
    }

    /// Ends the generation and returns the text that was held back, which may still complete a stop string.
    pub fn finish(&mut self) -> String {
        let Some((_, detokenizer)) = &mut self.detokenizer else { return String::new() };
        let mut text = self.stops.push(&detokenizer.finish());
        text.push_str(&self.stops.finish());
        text
    }

    /// Whether a stop string has appeared.
    pub fn stopped(&self) -> bool {
        self.stops.stopped()
    }
}
