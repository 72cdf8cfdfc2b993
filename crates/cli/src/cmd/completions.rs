//! `zonda completions`: shell completions.

use crate::output;
use clap::{Args, Command};
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
    /// Prints the completions of `command`, the whole command line.
    pub fn run(self, mut command: Command) -> anyhow::Result<()> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut command, "zonda", &mut script);
        output::data(&String::from_utf8(script)?)
    }
}
