//! What the tests of several crates share: models too large to commit ([`models`]), golden logits ([`goldens`]) and the
//! rules of the `Backend` trait as tests ([`rules`]).
//!
//! A dependency of tests only; it is never published.

pub mod goldens;
pub mod models;
pub mod rules;
