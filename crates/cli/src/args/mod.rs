//! Flags that several commands share.

mod open;
mod reasoning;
mod sampling;
mod speculate;
pub mod values;

pub use open::{BackendArgs, OpenArgs};
pub use reasoning::ReasoningArgs;
pub use sampling::SamplingArgs;
pub use speculate::{DraftArgs, How, SpeculateArgs, Speculation};
pub use values::{token_ids, token_limit};

use clap::Args;
use std::ffi::OsString;
use values::keep;
use zonda::Keep;

/// `--json`
#[derive(Clone, Copy, Debug, Args)]
pub struct JsonArg {
    /// Print one JSON document on standard output, and nothing else.
    #[arg(long)]
    pub json: bool,
}

/// `-m`
#[derive(Clone, Debug, Args)]
pub struct ModelArg {
    /// The model: a path, a name, ORG/NAME[:FILE.gguf], or mock.
    #[arg(short, long, value_name = "MODEL")]
    pub model: OsString,
}

/// What happens when the context is full.
#[derive(Clone, Copy, Debug, Default, Args)]
#[command(next_help_heading = "Full context")]
pub struct ShiftArgs {
    /// When the context is full, discard half of the tokens after the kept prefix and continue; a prompt that does not fit is
    /// shortened in the same way [default: the answer ends, and such a prompt is refused].
    #[arg(long)]
    pub context_shift: bool,

    /// Size of the kept prefix: prompt tokens after the BOS token that are never discarded; -1: the whole prompt [default:
    /// the system message if it takes at most half of the context, else none].
    #[arg(long, value_name = "N", requires = "context_shift", allow_negative_numbers = true, value_parser = keep)]
    pub keep: Option<Keep>,
}

impl ShiftArgs {
    /// Which prefix is kept when the context is full; `None`: the answer ends.
    pub fn shift(&self) -> Option<Keep> {
        self.context_shift.then(|| self.keep.unwrap_or_default())
    }
}
