//! Anthropic's Messages API, as a translation: a request becomes a chat ([`crate::openai::turn`]), and the chat's answer becomes
//! content blocks and events.

pub mod answer;
pub mod blocks;
pub mod create;
pub mod error;
pub mod events;
pub mod request;
pub mod tools;

/// The path of the API. Everything below it answers errors in Anthropic's form.
pub const PATH: &str = "/v1/messages";
