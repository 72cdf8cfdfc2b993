//! One file per command: its flags, and what it does.

pub mod completions;
pub mod inspect;
pub mod list;
pub mod pull;
pub mod rm;
