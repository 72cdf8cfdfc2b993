//! Function calls: which format a model speaks, how it is told of functions, how a call is demanded, how one is read.
//!
//! | format | looks like | of |
//! |---|---|---|
//! | `Mistral` | `[TOOL_CALLS][{"name": …, "arguments": {…}}]` | Mistral, up to tokenizer v7 |
//! | `MistralNamed` | `[TOOL_CALLS]name[ARGS]{…}` | Mistral, from tokenizer v11 on |
//! | `Llama3` | `{"name": …, "parameters": {…}}` | Llama 3.1 and later |
//! | `Tagged` | `<tool_call>{"name": …, "arguments": {…}}</tool_call>` | Qwen 2.5 and 3, Hermes, SmolLM3 |
//! | `TaggedList` | `<tool_call>[{"name": …, "arguments": {…}}]</tool_call>` | SmolLM2, and models whose template knows no tools |

mod choice;
mod demand;
mod format;
mod parse;
mod style;
mod tell;

pub(crate) use choice::{Choice, ToolChoice, Tools, as_object_schema};
pub(crate) use parse::{Call, Parser, Piece};
pub(crate) use style::Style;
