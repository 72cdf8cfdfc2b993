//! Zonda's front door: opens a language model and generates text, chats and JSON.

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
mod units;

#[cfg(feature = "async")]
mod async_stream;

#[cfg(feature = "async")]
pub use async_stream::AsyncStream;
pub use backend::{BackendKind, DeviceStatus, Status, choose, open as open_backend};
#[cfg(feature = "native")]
pub use backend::{calibrate, exact};
pub use error::{Detail, Error, Result};
pub use generate::{Answer, Generate, Stream};
pub use located::Located;
pub use model::{Model, ModelBuilder};
pub use options::{Device, OpenOptions, Quantization};
pub use plan::per_token as kv_bytes_per_token;
pub use start::Sharing;
pub use store::Store;
pub use text::{open_files, open_tokenizer, text_of};
pub use units::human_bytes;

pub use zonda_engine as engine;
pub use zonda_engine::forward::{Backend, BackendError, BackendInfo, Limits};
pub use zonda_engine::load::{Model as ModelFiles, ModelSpec};
pub use zonda_engine::prompt_cache::Place;
pub use zonda_engine::tokenize::{ChatTemplate, Message, Tokenizer};
pub use zonda_engine::{
    Engine, Event, FinishReason, Generation, Grammar, Keep, Outcome, Prompt, Request, SamplingParams,
    Speculate, Text, Timing, TokenId, Usage,
};
pub use zonda_kernels::attention::KvType;

/// The names of the native backend's instruction sets.
pub const ISAS: [&str; 4] = zonda_kernels::Isa::NAMES;
