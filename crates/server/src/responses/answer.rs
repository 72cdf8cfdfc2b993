//! The response object of `/v1/responses`.

use super::request::ResponsesRequest;
use crate::openai::turn::Turn;
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

/// An answer.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ResponseObject {
    /// The answer's id.
    pub id: String,
    /// `response`.
    pub object: &'static str,
    /// When it began, in seconds since 1970.
    pub created_at: u64,
    /// When it was complete, in seconds since 1970.
    pub completed_at: Option<u64>,
    /// `in_progress`, `completed`, `incomplete` or `failed`.
    pub status: &'static str,
    /// False.
    pub background: bool,
    /// Why it failed, if it did.
    pub error: Option<ResponseError>,
    /// Why it is incomplete, if it is.
    pub incomplete_details: Option<Incomplete>,
    /// The model.
    pub model: String,
    /// What the model thought, said and called, in order.
    pub output: Vec<OutputItem>,
    /// Token counts, at the end.
    pub usage: Option<ResponsesUsage>,
    /// As in the request.
    pub instructions: Option<String>,
    /// As in the request.
    pub max_output_tokens: Option<u64>,
    /// As in the request.
    #[schema(value_type = Option<Object>)]
    pub metadata: Value,
    /// As in the request.
    pub parallel_tool_calls: bool,
    /// As in the request.
    pub previous_response_id: Option<String>,
    /// As in the request.
    pub prompt_cache_key: Option<String>,
    /// As in the request.
    #[schema(value_type = Object)]
    pub reasoning: Value,
    /// Whether it is stored.
    pub store: bool,
    /// As in the request.
    pub temperature: Option<f32>,
    /// The form of the text.
    #[schema(value_type = Object)]
    pub text: Value,
    /// As in the request.
    #[schema(value_type = Object)]
    pub tool_choice: Value,
    /// As in the request.
    #[schema(value_type = Vec<Object>)]
    pub tools: Vec<Value>,
    /// As in the request.
    pub top_p: Option<f32>,
    /// As in the request.
    pub truncation: String,
}

/// Why an answer failed.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ResponseError {
    /// `server_error`, `rate_limit_exceeded` or `invalid_prompt`.
    pub code: &'static str,
    /// A sentence for people.
    pub message: String,
}

/// Why an answer is incomplete.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub struct Incomplete {
    /// `max_output_tokens`, also if the context is full.
    pub reason: &'static str,
}

/// Token counts.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub struct ResponsesUsage {
    /// Tokens of the prompt, including the template's.
    pub input_tokens: usize,
    /// Details of the prompt's tokens.
    pub input_tokens_details: InputDetails,
    /// Generated tokens.
    pub output_tokens: usize,
    /// Details of the generated tokens.
    pub output_tokens_details: OutputDetails,
    /// Both.
    pub total_tokens: usize,
}

/// Details of the prompt's tokens.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub struct InputDetails {
    /// Prompt tokens found in the prefix cache.
    pub cached_tokens: usize,
}

/// Details of the generated tokens.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub struct OutputDetails {
    /// Tokens up to the end of the reasoning, its marks included.
    pub reasoning_tokens: usize,
}

/// A part of an answer.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum OutputItem {
    /// What the model thought.
    Reasoning {
        /// Its id.
        id: String,
        /// `in_progress`, `completed` or `incomplete`.
        status: &'static str,
        /// Empty: reasoning is not summarised.
        #[schema(value_type = Vec<Object>)]
        summary: [(); 0],
        /// The thoughts.
        content: Vec<OutputText>,
    },
    /// What the model said.
    Message {
        /// Its id.
        id: String,
        /// `in_progress`, `completed` or `incomplete`.
        status: &'static str,
        /// `assistant`.
        role: &'static str,
        /// The text.
        content: Vec<OutputText>,
    },
    /// A call.
    FunctionCall {
        /// The item's id.
        id: String,
        /// `in_progress`, `completed` or `incomplete`.
        status: &'static str,
        /// The call's id, which its result names.
        call_id: String,
        /// The function.
        name: String,
        /// A JSON object, as text.
        arguments: String,
    },
}

/// A text of an answer.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum OutputText {
    /// Of a message.
    OutputText {
        /// The text.
        text: String,
        /// Empty.
        #[schema(value_type = Vec<Object>)]
        annotations: [(); 0],
        /// Empty.
        #[schema(value_type = Vec<Object>)]
        logprobs: [(); 0],
    },
    /// Of reasoning.
    ReasoningText {
        /// The text.
        text: String,
    },
}

impl OutputItem {
    /// Its id.
    pub fn id(&self) -> &str {
        match self {
            OutputItem::Reasoning { id, .. }
            | OutputItem::Message { id, .. }
            | OutputItem::FunctionCall { id, .. } => id,
        }
    }

    /// Sets its status.
    pub fn set_status(&mut self, new: &'static str) {
        match self {
            OutputItem::Reasoning { status, .. }
            | OutputItem::Message { status, .. }
            | OutputItem::FunctionCall { status, .. } => *status = new,
        }
    }
}

impl ResponsesUsage {
    /// The counts of an answer.
    pub(crate) fn of(turn: &Turn) -> ResponsesUsage {
        let usage = turn.usage;
        ResponsesUsage {
            input_tokens: usage.prompt_tokens,
            input_tokens_details: InputDetails { cached_tokens: usage.prompt_tokens_details.cached_tokens },
            output_tokens: usage.completion_tokens,
            output_tokens_details: OutputDetails { reasoning_tokens: turn.reasoning_tokens },
            total_tokens: usage.total_tokens,
        }
    }
}

impl ResponseObject {
    /// An answer that has not begun. `shared` has the sampling fields of the request.
    pub(crate) fn begin(
        id: String,
        own: ResponsesRequest,
        sampling: (Option<f32>, Option<f32>),
        turn: &Turn,
    ) -> ResponseObject {
        let store = own.stores();
        let reasoning = own.reasoning.unwrap_or_default();
        let format = own.text.and_then(|text| text.format);
        ResponseObject {
            id,
            object: "response",
            created_at: turn.created,
            completed_at: None,
            status: "in_progress",
            background: false,
            error: None,
            incomplete_details: None,
            model: turn.model.clone(),
            output: Vec::new(),
            usage: None,
            instructions: own.instructions,
            max_output_tokens: own.max_output_tokens,
            metadata: own.metadata.unwrap_or_else(|| json!({})),
            parallel_tool_calls: own.parallel_tool_calls != Some(false),
            previous_response_id: own.previous_response_id,
            prompt_cache_key: own.prompt_cache_key,
            reasoning: json!({"effort": reasoning.effort, "summary": reasoning.summary}),
            store,
            temperature: sampling.0,
            text: json!({"format": format.map_or_else(|| json!({"type": "text"}), |format| format.to_value())}),
            tool_choice: own.tool_choice.unwrap_or_else(|| "auto".into()),
            tools: own.tools.unwrap_or_default(),
            top_p: sampling.1,
            truncation: own.truncation.unwrap_or_else(|| "disabled".to_owned()),
        }
    }
}
