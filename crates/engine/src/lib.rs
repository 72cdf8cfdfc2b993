//! The engine: everything between a prompt and a stream of text that does not multiply matrices.
//!
//! One room per step, in the order a request walks through them:
//!
//! * [`load`] opens a model file or folder and says what it is ([`load::ModelSpec`]);
//! * [`tokenize`] turns text and chats into token ids and back;
//! * [`schedule`] decides which tokens of which sequences go into the next step (pure: no I/O, no clock);
//! * [`forward`] is the cut: the [`forward::Backend`] trait turns tokens into logits;
//! * [`sample`] turns logits into the next token;
//! * [`stream`] turns tokens into text events, stop strings and finish reasons;
//! * [`worker`] is the loop that runs schedule → forward → sample → stream on one thread;
//! * [`make`] writes models: convert, synth.
//!
//! The engine never multiplies a matrix: that is behind [`forward::Backend`].

pub mod forward;
pub mod load;
pub mod make;
pub mod sample;
pub mod schedule;
pub mod stream;
pub mod tokenize;
pub mod worker;

/// A token's number in the model's vocabulary.
pub type TokenId = u32;
