//! Tokens to text events: detokenising, stop strings, finish reasons.

mod event;
mod figures;
mod stop;
mod text;

pub use event::{Event, FinishReason, Outcome, Timing, Usage};
pub use figures::Figures;
pub use stop::StopStrings;
pub use text::TextStream;
