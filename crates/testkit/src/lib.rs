//! Shared by the tests of several crates: models too large to commit ([`models`]), models that only llama.cpp runs ([`foreign`]),
//! golden logits ([`goldens`]) and tests of the rules of the `Backend` trait ([`rules`]).
//!
//! Only tests depend on this crate; it is never published.

pub mod foreign;
pub mod goldens;
pub mod models;
pub mod rules;
