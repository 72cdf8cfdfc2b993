//! Tool calls and reasoning: the format that a model writes calls in, how the model learns of its tools, how a call is required,
//! and how calls and reasoning are found in an answer.
//!
//! | format | example | models |
//! |---|---|---|
//! | `Mistral` | `[TOOL_CALLS][{"name": …, "arguments": {…}}]` | Mistral, up to tokenizer v7 |
//! | `MistralNamed` | `[TOOL_CALLS]name[ARGS]{…}` | Mistral, from tokenizer v11 on |
//! | `Llama3` | `{"name": …, "parameters": {…}}` | Llama 3.1 and later |
//! | `Tagged` | `<tool_call>{"name": …, "arguments": {…}}</tool_call>` | Qwen 2.5 and 3, Hermes, SmolLM3 |
//! | `TaggedList` | `<tool_call>[{"name": …, "arguments": {…}}]</tool_call>` | SmolLM2, and models whose template has no tools |
//! | `Harmony` | `<\|channel\|>commentary to=functions.name <\|constrain\|>json<\|message\|>{…}` | gpt-oss |
//!
//! The marks of reasoning (`<think>`, `[THINK]`, channels) are one table, [`Marks`].
//!
//! [`Generate::tools`](crate::Generate::tools) does all of this for one request. A server that builds its own requests calls
//! [`Style::apply`] and feeds the answer's text to the [`Parser`] that it returns.

mod answer;
mod apply;
mod choice;
mod demand;
mod error;
mod format;
mod harmony;
mod marks;
mod parse;
mod separate;
mod style;
mod tell;
mod thoughts;
mod tool;

pub use answer::Parser;
pub use choice::{ToolChoice, Tools, as_object_schema};
pub use error::ToolError;
pub use marks::Marks;
pub use parse::{Piece, WrittenCall};
pub(crate) use separate::Separator;
pub use style::Style;
pub use tool::{Tool, ToolCall, arguments_object};
