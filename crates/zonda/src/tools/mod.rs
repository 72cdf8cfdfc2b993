//! Tool calls: the format that a model writes them in, the description of the tools for the model, required calls, and
//! finding calls in an answer.
//!
//! | format | example | models |
//! |---|---|---|
//! | `Mistral` | `[TOOL_CALLS][{"name": …, "arguments": {…}}]` | Mistral, up to tokenizer v7 |
//! | `MistralNamed` | `[TOOL_CALLS]name[ARGS]{…}` | Mistral, from tokenizer v11 on |
//! | `Llama3` | `{"name": …, "parameters": {…}}` | Llama 3.1 and later |
//! | `Tagged` | `<tool_call>{"name": …, "arguments": {…}}</tool_call>` | Qwen 2.5 and 3, Hermes, SmolLM3 |
//! | `TaggedList` | `<tool_call>[{"name": …, "arguments": {…}}]</tool_call>` | SmolLM2, and models whose template has no tools |
//!
//! [`Generate::tools`](crate::Generate::tools) does all of this for one request. A server that builds its own requests calls
//! [`Style::apply`] and feeds the answer's text to the [`Parser`] that it returns.

mod apply;
mod choice;
mod demand;
mod error;
mod format;
mod parse;
mod separate;
mod style;
mod tell;
mod tool;

pub use choice::{ToolChoice, Tools, as_object_schema};
pub use error::ToolError;
pub use parse::{Parser, Piece, WrittenCall};
pub(crate) use separate::Separator;
pub use style::Style;
pub use tool::{Tool, ToolCall, arguments_object};
