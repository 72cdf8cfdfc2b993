//! A request to `/v1/messages`, and its translation to a chat.

use super::blocks;
use super::tools::{self, ToolChoiceField};
use crate::error::ApiError;
use crate::openai::shared::{JsonSchemaFormat, ResponseFormat, Shared, Stop};
use crate::openai::turn::ChatRequest;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeSet;
use utoipa::ToSchema;

/// What to answer. Takes the fields of [`Shared`] besides its own, with their meaning in chats; `max_tokens` is required.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
pub struct MessagesRequest {
    /// The turns, oldest first: `role` and `content`, a text or blocks of type `text`, `thinking`, `tool_use` and `tool_result`.
    #[schema(value_type = Vec<Object>)]
    pub messages: Vec<Value>,
    /// A text, or blocks of type `text`.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub system: Option<Value>,
    /// Functions that the model may call. Anthropic's own tools are skipped and named in the header `x-zonda-ignored-tools`.
    #[serde(default)]
    #[schema(value_type = Option<Vec<Object>>)]
    pub tools: Option<Vec<Value>>,
    /// `auto`, `any`, `none`, or the tool to call.
    #[serde(default)]
    pub tool_choice: Option<ToolChoiceField>,
    /// Texts that end the answer, 16 at most. They are not part of it.
    #[serde(default)]
    pub stop_sequences: Option<Vec<String>>,
    /// Whether the model thinks, where its chat template has such a setting [default: disabled].
    #[serde(default)]
    pub thinking: Option<Thinking>,
    /// How much the model thinks, and the form of its answer.
    #[serde(default)]
    pub output_config: Option<OutputConfig>,
    /// Accepted and not used: common prefixes of prompts are found without it.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    #[allow(dead_code)] // known, so that it is not named as ignored
    pub cache_control: Option<Value>,
}

/// Whether the model thinks.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub struct Thinking {
    /// `enabled`, `adaptive` or `disabled`.
    pub r#type: String,
}

/// How much the model thinks, and the form of its answer.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
pub struct OutputConfig {
    /// `low`, `medium`, `high` …, where the chat template has such a setting.
    #[serde(default)]
    pub effort: Option<String>,
    /// The form of the text, enforced during sampling.
    #[serde(default)]
    pub format: Option<OutputFormat>,
}

/// The form of an answer's text.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub struct OutputFormat {
    /// `json_schema`.
    pub r#type: String,
    /// JSON Schema, draft 2020-12.
    #[schema(value_type = Object)]
    pub schema: Value,
}

/// All fields of a request, for the API's description.
#[derive(Debug, ToSchema)]
#[allow(dead_code)] // only described, never created
pub struct MessagesBody {
    #[schema(inline)]
    #[serde(flatten)]
    own: MessagesRequest,
    #[serde(flatten)]
    shared: Shared,
}

/// The fields of a translated request, as chats call them and as this API calls them.
pub(crate) const NAMES: &[(&str, &str)] =
    &[("stop", "stop_sequences"), ("response_format", "output_config.format")];

/// A request as a chat.
#[derive(Debug)]
pub(crate) struct Translated {
    /// What it shares with chats.
    pub shared: Shared,
    /// The chat.
    pub chat: ChatRequest,
    /// Types of tools that were skipped.
    pub skipped: BTreeSet<String>,
}

impl MessagesRequest {
    /// The request as a chat. `keeps_header` is the server's setting for a changing system block.
    ///
    /// # Errors
    /// If a field is malformed, or would change the answer and is not supported.
    pub(crate) fn translate(&self, mut shared: Shared, keeps_header: bool) -> Result<Translated, ApiError> {
        if let Some(n) = shared.n.filter(|&n| n != 1) {
            return Err(ApiError::field("n", format!("expected 1, found {n}")));
        }
        if let Some(texts) = &self.stop_sequences {
            shared.stop = Some(Stop::Many(texts.clone()));
        }
        if let Some(format) = self.output_config.as_ref().and_then(|output| output.format.as_ref()) {
            if format.r#type != "json_schema" {
                let message = format!("expected json_schema, found {:?}", format.r#type);
                return Err(ApiError::field("output_config.format.type", message));
            }
            let json_schema = JsonSchemaFormat {
                name: None,
                description: None,
                schema: Some(format.schema.clone()),
                strict: None,
            };
            shared.response_format = Some(ResponseFormat::JsonSchema { json_schema });
        }
        let tools = tools::translate(self.tools.as_deref().unwrap_or_default(), self.tool_choice.as_ref())?;
        let chat = ChatRequest {
            messages: blocks::messages(self.system.as_ref(), &self.messages, keeps_header)?,
            tools: Some(tools.list),
            tool_choice: tools.choice,
            parallel_tool_calls: tools.parallel,
            ..ChatRequest::default()
        };
        Ok(Translated { shared, chat, skipped: tools.skipped })
    }

    /// Whether the model is to think.
    ///
    /// # Errors
    /// If the setting is unknown.
    pub(crate) fn thinks(&self) -> Result<bool, ApiError> {
        match self.thinking.as_ref().map(|thinking| thinking.r#type.as_str()) {
            None | Some("disabled") => Ok(false),
            Some("enabled" | "adaptive") => Ok(true),
            Some(other) => {
                let message = format!("expected enabled, adaptive or disabled, found {other:?}");
                Err(ApiError::field("thinking.type", message))
            }
        }
    }
}
