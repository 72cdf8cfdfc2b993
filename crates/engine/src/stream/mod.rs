//! Tokens to text events: detokenising, stop strings, finish reasons.

pub mod detokenize;

pub use detokenize::Detokenizer;
