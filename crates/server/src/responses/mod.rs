//! OpenAI's Responses API, as a translation: a request becomes a chat ([`crate::openai::turn`]), and the chat's answer becomes
//! items and events.

pub mod answer;
pub mod create;
pub mod events;
pub mod items;
pub mod request;
pub mod store;
pub mod stored;
pub mod tools;
