//! Where a model's reasoning goes.

use clap::{Args, ValueEnum};

/// Where a model's reasoning goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ReasoningFormat {
    /// Apart from the answer.
    #[default]
    Auto,
    /// The same; llama.cpp's name for it.
    Deepseek,
    /// Into the answer, with its marks.
    None,
}

/// `--reasoning-format`
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct ReasoningArgs {
    /// Where the reasoning of a model goes that thinks before it answers: apart from the answer, or (`none`) into it as the model
    /// writes it.
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = ReasoningFormat::Auto, hide_possible_values = true)]
    pub reasoning_format: ReasoningFormat,
}

impl ReasoningArgs {
    /// Whether the reasoning is apart from the answer.
    pub fn separate(self) -> bool {
        self.reasoning_format != ReasoningFormat::None
    }
}
