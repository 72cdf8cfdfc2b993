//! Tokens to text events: detokenising, stop strings, finish reasons.

pub mod detokenize;
mod event;
mod figures;
mod stop;
mod text;

pub use detokenize::Detokenizer;
pub use event::{Event, FinishReason, Outcome, Timing, Usage};
pub use figures::Figures;
pub use stop::StopStrings;
pub use text::TextStream;
