//! A request to `/v1/responses`, and its translation to a chat.

use super::items;
use super::tools;
use crate::error::ApiError;
use crate::openai::shared::{JsonSchemaFormat, ResponseFormat, Shared};
use crate::openai::turn::ChatRequest;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use utoipa::ToSchema;

/// What to answer. Takes the fields of [`Shared`] besides its own, with their meaning in chats.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
pub struct ResponsesRequest {
    /// A text, or items: `message`, `function_call`, `function_call_output` and `reasoning`.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub input: Option<Value>,
    /// A system message in front of the input. It does not carry over to the next response.
    #[serde(default)]
    pub instructions: Option<String>,
    /// The id of a stored response whose conversation goes on.
    #[serde(default)]
    pub previous_response_id: Option<String>,
    /// Whether the response is stored, in memory [default: true].
    #[serde(default)]
    pub store: Option<bool>,
    /// Maximum tokens of the answer, reasoning and calls included.
    #[serde(default)]
    pub max_output_tokens: Option<u64>,
    /// Functions that the model may call. Tools of other types are skipped and named in the header `x-zonda-ignored-tools`.
    #[serde(default)]
    #[schema(value_type = Option<Vec<Object>>)]
    pub tools: Option<Vec<Value>>,
    /// `none`, `auto`, `required`, the function to call, or `allowed_tools`.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub tool_choice: Option<Value>,
    /// Whether one answer may contain several calls [default: true].
    #[serde(default)]
    pub parallel_tool_calls: Option<bool>,
    /// How much the model thinks.
    #[serde(default)]
    pub reasoning: Option<Reasoning>,
    /// The form of the answer's text.
    #[serde(default)]
    pub text: Option<TextOptions>,
    /// Further outputs. `reasoning.encrypted_content` is accepted and adds nothing: reasoning is not encrypted.
    #[serde(default)]
    pub include: Option<Vec<String>>,
    /// `disabled`, or `auto` where the server was started with --context-shift.
    #[serde(default)]
    pub truncation: Option<String>,
    /// Must be false or absent: answers are not made in the background.
    #[serde(default)]
    pub background: Option<bool>,
    /// Must be absent: the server has no conversations besides `previous_response_id`.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub conversation: Option<Value>,
    /// Must be absent: the server has no stored prompts.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub prompt: Option<Value>,
    /// Must be absent or 0: probabilities are only in chats and completions.
    #[serde(default)]
    pub top_logprobs: Option<u64>,
    /// Returned as it is. Common prefixes of prompts are found without it.
    #[serde(default)]
    pub prompt_cache_key: Option<String>,
    /// Returned as it is.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<Value>,
    /// Accepted and not used.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    #[allow(dead_code)] // known, so that it is not named as ignored
    pub client_metadata: Option<Value>,
}

/// How much a model thinks.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
pub struct Reasoning {
    /// `none`, `minimal`, `low`, `medium`, `high` …, where the chat template has such a setting; otherwise it is ignored and
    /// named in `x-zonda-ignored-fields`.
    #[serde(default)]
    pub effort: Option<String>,
    /// Accepted: the reasoning is in the answer as it is, not summarised.
    #[serde(default)]
    pub summary: Option<String>,
}

/// The form of an answer's text.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
pub struct TextOptions {
    /// The form.
    #[serde(default)]
    pub format: Option<TextFormat>,
}

/// The form of an answer's text, enforced during sampling.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum TextFormat {
    /// Any text.
    Text,
    /// A JSON object.
    JsonObject,
    /// JSON that matches a schema.
    JsonSchema(JsonSchemaFormat),
}

impl TextFormat {
    /// The form as requests have it.
    pub fn to_value(&self) -> Value {
        match self {
            TextFormat::Text => json!({"type": "text"}),
            TextFormat::JsonObject => json!({"type": "json_object"}),
            TextFormat::JsonSchema(JsonSchemaFormat { name, description, schema, strict }) => json!({
                "type": "json_schema", "name": name, "description": description, "schema": schema, "strict": strict,
            }),
        }
    }
}

/// All fields of a request, for the API's description.
#[derive(Debug, ToSchema)]
#[allow(dead_code)] // only described, never created
pub struct ResponsesBody {
    #[schema(inline)]
    #[serde(flatten)]
    own: ResponsesRequest,
    #[serde(flatten)]
    shared: Shared,
}

/// The fields of a translated request, as chats call them and as this API calls them.
pub(crate) const NAMES: &[(&str, &str)] = &[
    ("messages", "input"),
    ("max_completion_tokens", "max_output_tokens"),
    ("response_format", "text.format"),
    ("context_shift", "truncation"),
];

/// Values of `include` that are known and add nothing.
const INCLUDED: &[&str] = &["reasoning.encrypted_content"];

/// A request as a chat.
#[derive(Debug)]
pub(crate) struct Translated {
    /// What it shares with chats.
    pub shared: Shared,
    /// The chat.
    pub chat: ChatRequest,
    /// The items of this request.
    pub input: Vec<Value>,
    /// Types of tools that were skipped.
    pub skipped: BTreeSet<String>,
}

impl ResponsesRequest {
    /// Whether the response is to be stored.
    pub fn stores(&self) -> bool {
        self.store != Some(false)
    }

    /// The request as a chat; `earlier` are the items of the conversation so far.
    ///
    /// # Errors
    /// If a field is malformed, or would change the answer and is not supported.
    pub(crate) fn translate(
        &self,
        mut shared: Shared,
        earlier: &[Value],
        ignored: &mut BTreeSet<String>,
    ) -> Result<Translated, ApiError> {
        self.check(&shared)?;
        for name in self.include.iter().flatten().filter(|name| !INCLUDED.contains(&name.as_str())) {
            ignored.insert(format!("include.{name}"));
        }
        match self.truncation.as_deref() {
            None => {}
            Some("disabled") => shared.context_shift = Some(false),
            Some("auto") => shared.context_shift = Some(true),
            Some(other) => {
                let message = format!("expected auto or disabled, found {other:?}");
                return Err(ApiError::field("truncation", message));
            }
        }
        match self.text.as_ref().and_then(|text| text.format.clone()) {
            None => {}
            Some(TextFormat::Text) => shared.response_format = None,
            Some(TextFormat::JsonObject) => {
                shared.response_format = Some(ResponseFormat::JsonObject { schema: None });
            }
            Some(TextFormat::JsonSchema(json_schema)) => {
                shared.response_format = Some(ResponseFormat::JsonSchema { json_schema });
            }
        }
        let input = items::list(self.input.as_ref())?;
        let tools = tools::translate(self.tools.as_deref().unwrap_or_default(), self.tool_choice.as_ref())?;
        let chat = ChatRequest {
            messages: items::messages(self.instructions.as_deref(), earlier, &input)?,
            max_completion_tokens: self.max_output_tokens,
            tools: Some(tools.list),
            tool_choice: tools.choice,
            parallel_tool_calls: self.parallel_tool_calls,
            ..ChatRequest::default()
        };
        Ok(Translated { shared, chat, input, skipped: tools.skipped })
    }

    /// How much the model is to think, and whether it is to think at all.
    pub(crate) fn thinking(&self) -> (Option<String>, Option<bool>) {
        let effort = self.reasoning.as_ref().and_then(|reasoning| reasoning.effort.clone());
        let thinks = effort.as_deref().map(|effort| !matches!(effort, "none" | "minimal"));
        (effort, thinks)
    }

    /// Refuses what would change the answer and is not supported.
    fn check(&self, shared: &Shared) -> Result<(), ApiError> {
        let refuse = |field: &str, message: &str| Err(ApiError::unsupported(field, message));
        if self.background == Some(true) {
            return refuse("background", "expected false: answers are not made in the background");
        }
        if self.conversation.is_some() {
            return refuse("conversation", "expected none: use previous_response_id");
        }
        if self.prompt.is_some() {
            return refuse("prompt", "expected none: the server has no stored prompts");
        }
        if self.top_logprobs.is_some_and(|n| n > 0) {
            return refuse("top_logprobs", "expected 0: probabilities are only in chats and completions");
        }
        if self.include.iter().flatten().any(|name| name == "message.output_text.logprobs") {
            return refuse(
                "include",
                "expected no logprobs: probabilities are only in chats and completions",
            );
        }
        if let Some(n) = shared.n.filter(|&n| n != 1) {
            return Err(ApiError::field("n", format!("expected 1, found {n}")));
        }
        Ok(())
    }
}
