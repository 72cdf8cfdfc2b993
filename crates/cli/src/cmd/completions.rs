//! `zonda completions`: shell completions.

use crate::{cli::Cli, output};
use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

/// Print shell completions
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  zonda completions bash > ~/.local/share/bash-completion/completions/zonda"
)]
pub struct Completions {
    /// The shell to complete for.
    shell: Shell,
}

impl Completions {
    pub fn run(self) -> anyhow::Result<()> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "zonda", &mut script);
        output::print(&String::from_utf8(script)?)
    }
}
