//! The message object of `/v1/messages`.

use crate::openai::answer::Usage;
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

/// An answer.
#[derive(Debug, Serialize, ToSchema)]
pub struct MessageObject {
    /// The answer's id.
    pub id: String,
    /// `message`.
    pub r#type: &'static str,
    /// `assistant`.
    pub role: &'static str,
    /// The model.
    pub model: String,
    /// What the model thought, said and called, in order.
    pub content: Vec<Block>,
    /// `end_turn`, `max_tokens` (also if the context is full), `stop_sequence` or `tool_use`; `null` at the beginning of a stream.
    pub stop_reason: Option<&'static str>,
    /// The text that ended the answer, if the request has only one.
    pub stop_sequence: Option<String>,
    /// Token counts.
    pub usage: MessagesUsage,
}

/// Token counts. The prompt has `input_tokens` and `cache_read_input_tokens` together.
#[derive(Clone, Copy, Debug, Default, Serialize, ToSchema)]
pub struct MessagesUsage {
    /// Tokens of the prompt that were computed; at the beginning of a stream, all of the prompt's.
    pub input_tokens: usize,
    /// 0: nothing is computed only to be cached.
    pub cache_creation_input_tokens: usize,
    /// Prompt tokens found in the prefix cache.
    pub cache_read_input_tokens: usize,
    /// Generated tokens.
    pub output_tokens: usize,
}

impl From<Usage> for MessagesUsage {
    fn from(usage: Usage) -> MessagesUsage {
        let cached = usage.prompt_tokens_details.cached_tokens;
        MessagesUsage {
            input_tokens: usage.prompt_tokens.saturating_sub(cached),
            cache_creation_input_tokens: 0,
            cache_read_input_tokens: cached,
            output_tokens: usage.completion_tokens,
        }
    }
}

/// A part of an answer.
#[derive(Debug, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Block {
    /// What the model thought.
    Thinking {
        /// The thoughts.
        thinking: String,
        /// Empty: thoughts are not signed.
        signature: &'static str,
    },
    /// What the model said.
    Text {
        /// The text.
        text: String,
    },
    /// A call.
    ToolUse {
        /// The call's id, which its result names.
        id: String,
        /// The function.
        name: String,
        /// Its arguments, an object.
        #[schema(value_type = Object)]
        input: Box<RawValue>,
    },
}

/// The number of tokens of a prompt.
#[derive(Debug, Serialize, ToSchema)]
pub struct TokenCount {
    /// Tokens of the prompt, including the template's.
    pub input_tokens: usize,
}
