//! [`TextProcessor`]: a model's tokenizer and chat template together.

use super::bounds::Bounds;
use super::chat::{ChatTemplate, Message, RenderOptions, TemplateError};
use super::error::TokenizeError;
use super::tokenizer::Tokenizer;
use crate::TokenId;
use std::sync::Arc;

/// Turns text into a model's token ids and back.
#[derive(Clone, Debug)]
pub struct TextProcessor {
    /// The model's tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// The model's chat template, if it has one.
    pub template: Option<Arc<ChatTemplate>>,
}

/// Why a conversation could not be turned into token ids.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChatError {
    /// The chat template is missing or failed.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The rendered text could not be tokenised.
    #[error(transparent)]
    Tokenize(#[from] TokenizeError),
}

impl TextProcessor {
    /// The mock backend's tokenizer and chat template.
    pub fn mock() -> TextProcessor {
        TextProcessor {
            tokenizer: Arc::new(Tokenizer::mock()),
            template: Some(Arc::new(ChatTemplate::mock())),
        }
    }

    /// The token ids of a conversation. If the template writes no BOS and the model uses one, it is added in front.
    ///
    /// # Errors
    /// If the model has no template, or the template fails on this conversation.
    pub fn encode_chat(
        &self,
        messages: &[Message],
        options: &RenderOptions,
    ) -> Result<Vec<TokenId>, ChatError> {
        self.encode_chat_within(messages, options, &Bounds::NONE)
    }

    /// As [`TextProcessor::encode_chat`], within bounds, of which the first ends the template too.
    ///
    /// # Errors
    /// As [`TextProcessor::encode_chat`]; also if the bounds end it.
    pub fn encode_chat_within(
        &self,
        messages: &[Message],
        options: &RenderOptions,
        bounds: &Bounds<'_>,
    ) -> Result<Vec<TokenId>, ChatError> {
        let template = self.template.as_ref().ok_or(TemplateError::Missing)?;
        let prompt = if options.parse_special {
            template.render_unless(messages, options, bounds.abandoned)?
        } else {
            let (mut messages, mut options) = (messages.to_vec(), options.clone());
            messages.iter_mut().for_each(|message| self.tokenizer.guard_message(message));
            let values = options.tools.iter_mut().chain(&mut options.documents);
            values.chain(options.extra.values_mut()).for_each(|value| self.tokenizer.guard_value(value));
            template.render_unless(&messages, &options, bounds.abandoned)?
        };
        let mut tokens = self.tokenizer.encode_prompt_within(&prompt, bounds)?;
        if let Some(bos) = self.tokenizer.bos()
            && self.tokenizer.adds_bos()
            && tokens.first() != Some(&bos)
        {
            tokens.insert(0, bos);
        }
        Ok(tokens)
    }
}
