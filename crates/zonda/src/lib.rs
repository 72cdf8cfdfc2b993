//! Runs Mistral-class language models on your own hardware: opens a model by its name and generates text, chats and JSON.
//!
//! ```
//! use zonda::{Event, Message, Model};
//!
//! # fn main() -> zonda::Result<()> {
//! // "mock" is a built-in model that needs no file. A real one is "smollm2-135m", a path or "ORG/NAME".
//! let model = Model::open("mock")?;
//!
//! // A whole answer, with its token counts and times.
//! let question = Message::user("Why is the sky blue?");
//! let answer = model.chat([question]).max_tokens(64).temperature(0.7).seed(1).send()?;
//! println!("{} ({} tokens)", answer.text, answer.usage.completion_tokens);
//!
//! // A continuation, piece by piece. Dropping the stream cancels it.
//! for event in model.generate("Once upon a time").max_tokens(16).stream()? {
//!     if let Event::Tokens { text, .. } = event? {
//!         print!("{text}");
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Models
//! [`Model::open`] takes
//!
//! * the path of a `.gguf` file, or of a folder with `config.json` and SafeTensors;
//! * a name: `smollm2-135m`, a Hugging Face repository as `ORG/NAME`, or one GGUF file of it as `ORG/NAME:FILE.gguf`. Models
//!   are kept in the [`Store`], at `$ZONDA_HOME`; with the feature `hub`, missing ones are downloaded and verified;
//! * `mock`, which answers with random words.
//!
//! [`Model::builder`] chooses the backend, its [`OpenOptions`] (threads, context length, KV cache type, speculative
//! decoding, …), how many requests share the model ([`Sharing`]), and where prompts are kept on disk. A model that does not fit
//! into memory is refused before it is loaded, with what would fit.
//!
//! # Answers
//! [`Model::chat`] answers a conversation with the model's own chat template; [`Model::generate`] continues a text. Both give a
//! [`Generate`], which takes sampling parameters, stop strings, a JSON schema or a grammar, and ends with
//! [`send`](Generate::send) for the whole [`Answer`] or [`stream`](Generate::stream) for its [`Event`]s. With the feature
//! `async`, `stream_async` gives a `futures_core::Stream` that runs on any runtime.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let model = zonda::Model::open("mock")?;
//! let schema = serde_json::json!({
//!     "type": "object",
//!     "properties": {"celsius": {"type": "integer", "minimum": -50, "maximum": 50}},
//!     "required": ["celsius"],
//!     "additionalProperties": false,
//! });
//! let answer = model.generate("The weather as JSON: ").json_schema(schema).seed(1).send()?;
//! let weather: serde_json::Value = serde_json::from_str(&answer.text)?;
//! assert!(weather["celsius"].is_i64());
//! # Ok(())
//! # }
//! ```
//!
//! With [`Generate::tools`] the model may call your functions. [`Answer::tool_calls`] contains its calls,
//! [`Answer::message`] is the message for continuing the conversation, and [`Message::tool`] passes a call's result:
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let model = zonda::Model::open("mock")?;
//! use zonda::{Message, Tool, ToolChoice};
//!
//! let place = serde_json::json!({
//!     "type": "object",
//!     "properties": {"place": {"enum": ["sea", "hills"]}},
//!     "required": ["place"],
//!     "additionalProperties": false,
//! });
//! let weather = Tool::function("weather", "Tells the weather at a place", place);
//! let mut conversation = vec![Message::user("How is the weather at the sea?")];
//! let request = model.chat(conversation.clone()).tools([weather]).tool_choice(ToolChoice::Required);
//! let answer = request.seed(1).send()?;
//! conversation.push(answer.message());
//! for call in &answer.tool_calls {
//!     let arguments: serde_json::Value = serde_json::from_str(&call.arguments)?;
//!     conversation.push(Message::tool(&call.id, format!("sunny at the {}", arguments["place"])));
//! }
//! assert_eq!(conversation.last().map(|message| message.role.as_str()), Some("tool"));
//! # Ok(())
//! # }
//! ```
//!
//! A [`Model`] is shared by reference: requests from several threads are batched and computed together.
//!
//! # Errors
//! [`Error`] describes the failure; [`Error::advice`] says what to do about it, if that is known.
//!
//! # Features
//!
//! | Feature | What it adds |
//! |---|---|
//! | `native` (default) | the pure-Rust backend, on the processor |
//! | `hub` (default) | downloads by name |
//! | `llama-cpp` | the llama.cpp backend; with `cuda`, `metal`, `rocm` or `vulkan` on GPUs |
//! | `mlx` | the MLX backend |
//! | `async` | answers as async streams |
//!
//! More
//! * [`Model::from_backend`] runs your own backend behind the same engine: see `examples/custom_backend`.
//! * [`Model::engine`] is the engine underneath, and [`engine`] its crate: scheduling, sampling, tokenizers, model files.

mod backend;
mod error;
mod generate;
mod located;
mod model;
mod options;
mod plan;
mod start;
pub mod store;
mod text;
mod text_map;
pub mod tools;
mod units;

#[cfg(feature = "async")]
mod async_stream;

#[cfg(feature = "async")]
pub use async_stream::AsyncStream;
pub use backend::{BackendKind, DeviceStatus, Fit, MAX_THREADS, Status, choose, open as open_backend, unfit};
#[cfg(feature = "native")]
pub use backend::{calibrate, reference};
pub use error::{Detail, Error, Result};
pub use generate::{Answer, Generate, Stream};
pub use located::Located;
pub use model::{Model, ModelBuilder};
pub use options::{Device, OpenOptions, Quantization};
pub use plan::per_token as kv_bytes_per_token;
pub use start::Sharing;
pub use store::Store;
pub use text::{open_files, open_files_for, open_tokenizer, text_of};
pub use tools::{Tool, ToolCall, ToolChoice};
pub use units::human_bytes;

pub use zonda_engine as engine;
pub use zonda_engine::forward::{Backend, BackendError, BackendInfo, Limits};
pub use zonda_engine::load::{Model as ModelFiles, ModelSpec};
pub use zonda_engine::prompt_cache::CacheLocation;
pub use zonda_engine::tokenize::{ChatTemplate, Message, Tokenizer};
pub use zonda_engine::{
    Engine, Event, FinishReason, Generation, Grammar, Keep, Outcome, Prompt, Request, SamplingParams,
    Speculate, TextProcessor, Timing, TokenId, Usage,
};
pub use zonda_kernels::attention::KvType;

/// The names of the native backend's instruction sets.
pub const ISAS: [&str; 4] = zonda_kernels::Isa::NAMES;
