//! The engine: everything between a prompt and a stream of text except the matrix products.
//!
//! One module per step, in the order in which a request passes through them. A module uses earlier ones only:
//!
//! * [`load`] opens a model file or folder and describes it ([`load::ModelSpec`]);
//! * [`tokenize`] turns text and chats into token ids and back;
//! * [`schedule`] decides which tokens of which sequences go into the next step (pure: no I/O, no clock);
//! * [`speculate`] drafts the next tokens, so that one step can compute several;
//! * [`forward`] is the boundary to the backends: the [`forward::Backend`] trait turns tokens into logits;
//! * [`sample`] turns logits into the next token;
//! * [`stream`] turns tokens into text events, stop strings and finish reasons;
//! * [`worker`] is the loop that runs schedule → forward → sample → stream on one thread, behind an [`Engine`].
//!
//! Beside them: [`request`] is what a caller asks for (prompt, sampling, limits), [`quant`] the types of a quantised model's
//! tensors, [`prompt_cache`] stores prompts on disk, [`mock`] is a backend for tests.
//!
//! # Features
//! * `grammar` (default): output that follows a JSON schema, a grammar or a regular expression;
//! * `hf-tokenizers` (default): tokenizers in `tokenizer.json`.
//!
//! # Example
//! The mock backend needs no model. Other backends are started in the same way.
//!
//! ```
//! use zonda_engine::mock::{Mock, MockOptions};
//! use zonda_engine::{Engine, EngineConfig, Event, FinishReason, Prompt, Request, SamplingParams, TextProcessor};
//!
//! let open = || Ok(Box::new(Mock::new(MockOptions::default())) as _);
//! let engine = Engine::start(open, Some(TextProcessor::mock()), EngineConfig::default())?;
//!
//! let mut request = Request::new(Prompt::Text("What is warm and fast?".into()), 12);
//! request.sampling = SamplingParams::greedy();
//!
//! let mut answer = String::new();
//! for event in engine.submit(request)? {
//!     match event {
//!         Event::Tokens { text, .. } => answer.push_str(&text),
//!         Event::Finished(outcome) => {
//!             assert!(matches!(outcome.reason, FinishReason::Length | FinishReason::Stop));
//!             // The mock's tokens are words.
//!             assert_eq!(outcome.usage.completion_tokens, answer.split_whitespace().count());
//!         }
//!         _ => {}
//!     }
//! }
//! assert!(!answer.is_empty());
//! # Ok::<(), zonda_engine::EngineError>(())
//! ```

mod batch;
pub mod files;
pub mod forward;
mod hash;
pub mod load;
pub mod mock;
mod printable;
pub mod prompt_cache;
pub mod quant;
pub mod request;
pub mod sample;
pub mod schedule;
pub mod speculate;
pub mod stream;
pub mod tokenize;
pub mod worker;

pub use printable::{printable, printable_json, printable_lines};
pub use prompt_cache::PromptCacheConfig;
pub use request::{Backlog, Keep, Prompt, Request, RequestError};
pub use sample::{Grammar, SamplingDefaults, SamplingParams};
pub use schedule::Occupancy;
pub use speculate::Speculate;
pub use stream::{Event, FinishReason, Outcome, Timing, Usage};
pub use tokenize::TextProcessor;
pub use worker::{
    Canceller, Completion, DraftModel, Engine, EngineConfig, EngineError, Extras, Generation, Parallel,
    Places, Prepared,
};

/// A token's number in the model's vocabulary.
pub type TokenId = u32;
