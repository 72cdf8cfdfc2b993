//! OpenAI's API, one file per endpoint.

pub mod answer;
pub mod chat;
pub mod chunks;
pub mod completions;
pub mod conversation;
pub mod embeddings;
pub mod messages;
pub mod models;
pub mod shared;
pub mod tokens;
pub mod turn;
pub mod written;
