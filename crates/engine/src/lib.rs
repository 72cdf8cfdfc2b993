//! The engine: everything between a prompt and a stream of text that does not multiply matrices.
//!
//! One room per step, in the order a request walks through them:
//!
//! * [`load`] opens a model file or folder and says what it is ([`load::ModelSpec`]);
//! * [`request`] is what a caller asks for: prompt, sampling, limits;
//! * [`tokenize`] turns text and chats into token ids and back;
//! * [`schedule`] decides which tokens of which sequences go into the next step (pure: no I/O, no clock);
//! * [`speculate`] guesses what comes next, so that one step can compute several tokens;
//! * [`forward`] is the cut: the [`forward::Backend`] trait turns tokens into logits;
//! * [`sample`] turns logits into the next token;
//! * [`stream`] turns tokens into text events, stop strings and finish reasons;
//! * [`worker`] is the loop that runs schedule → forward → sample → stream on one thread, behind an [`Engine`];
//! * [`make`] writes models: convert, synth.
//!
//! The engine never multiplies a matrix: that is behind [`forward::Backend`].
//!
//! # Example
//! The mock backend needs no model. Any other is started the same way.
//!
//! ```
//! use zonda_engine::forward::mock::{Mock, MockOptions};
//! use zonda_engine::{Engine, EngineConfig, Event, FinishReason, Prompt, Request, SamplingParams, Text};
//!
//! let open = || Ok(Box::new(Mock::new(MockOptions::default())) as _);
//! let engine = Engine::start(open, Some(Text::mock()), EngineConfig::default())?;
//!
//! let mut request = Request::new(Prompt::Text("What is warm and fast?".into()), 12);
//! request.sampling = SamplingParams::greedy();
//!
//! let mut answer = String::new();
//! for event in engine.submit(request)? {
//!     match event {
//!         Event::Tokens { text, .. } => answer.push_str(&text),
//!         Event::Dropped { .. } => unreachable!("the request's context_shift is off"),
//!         Event::Finished(outcome) => {
//!             assert!(matches!(outcome.reason, FinishReason::Length | FinishReason::Stop));
//!             // The mock's tokens are words.
//!             assert_eq!(outcome.usage.completion_tokens, answer.split_whitespace().count());
//!         }
//!     }
//! }
//! assert!(!answer.is_empty());
//! # Ok::<(), zonda_engine::EngineError>(())
//! ```

pub mod forward;
pub mod load;
pub mod make;
pub mod prompt_cache;
pub mod request;
pub mod sample;
pub mod schedule;
pub mod speculate;
pub mod stream;
pub mod tokenize;
pub mod worker;

pub use prompt_cache::PromptCacheConfig;
pub use request::{Backlog, Keep, Prompt, Request, RequestError, Text};
pub use sample::{Grammar, SamplingParams};
pub use schedule::Occupancy;
pub use speculate::{DraftModel, Speculate};
pub use stream::{Event, FinishReason, Outcome, Timing, Usage};
pub use worker::{
    Canceller, Completion, Engine, EngineConfig, EngineError, Extras, Generation, Parallel, Places, Prepared,
};

/// A token's number in the model's vocabulary.
pub type TokenId = u32;
