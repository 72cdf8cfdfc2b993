//! Tokens to text events: stop strings, finish reasons, times.

mod event;
mod figures;
mod stop;
mod text;

pub use event::{Event, FinishReason, Outcome, Timing, Usage};
pub use figures::Figures;
pub use stop::StopStrings;
pub use text::TextStream;
