//! Text to token ids and back: tokenizers of all formats, and chat templates.
//!
//! Four algorithms cover every model that the forward pass runs: byte-level BPE with listed merges or with ranks (`bpe`) and
//! SentencePiece's BPE (`spm`), both on one merge loop (`merge`), SentencePiece's Unigram (`unigram`), and, for
//! `tokenizer.json`, the crate `tokenizers` (`hf_encode`, with the feature `hf-tokenizers`). A backend's library can bring
//! another one ([`Splitter`]). Files are read in `gguf`, `hf`, `sentencepiece` and `tekken`. Turning ids back into bytes is
//! the same for all: `vocab` holds each token's bytes, [`Detokenizer`] joins them.

mod bounds;
mod bpe;
mod charsmap;
pub mod chat;
mod detokenize;
mod error;
mod files;
mod gguf;
mod guard;
#[cfg(feature = "hf-tokenizers")]
mod hf;
#[cfg(feature = "hf-tokenizers")]
mod hf_check;
#[cfg(feature = "hf-tokenizers")]
mod hf_encode;
#[cfg(feature = "hf-tokenizers")]
mod hf_least;
#[cfg(feature = "hf-tokenizers")]
mod hf_map;
mod merge;
mod mock;
mod pretokenize;
mod processor;
mod read;
mod sentencepiece;
mod settings;
mod splitter;
mod spm;
mod tekken;
mod tokenizer;
mod unigram;
mod vocab;

pub use bounds::Bounds;
pub use bpe::byte_alphabet;
pub use chat::{ChatTemplate, Message, RenderOptions, TemplateError, read_exact, write_exact};
pub use detokenize::Detokenizer;
pub use error::{MAX_TEXT, TokenizeError};
pub use gguf::eats_space;
pub use pretokenize::{Preset, preset, preset_name};
pub use processor::{ChatError, TextProcessor};
pub use sentencepiece::{Pieces, pieces};
pub use splitter::Splitter;
pub use tokenizer::{Encode, Tokenizer};
