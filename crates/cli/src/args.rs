//! The command line's shape: the commands, and the flags that several of them share.

use crate::cmd;
use clap::builder::styling::{AnsiColor, Styles};
use clap::{Args, Parser, Subcommand};

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Yellow.on_default().bold())
    .usage(AnsiColor::Yellow.on_default().bold())
    .literal(AnsiColor::Cyan.on_default())
    .placeholder(AnsiColor::Cyan.on_default());

/// Runs Mistral-class language models on the hardware you own, and measures them honestly.
#[derive(Debug, Parser)]
#[command(
    name = "zonda",
    version,
    styles = STYLES,
    after_help = "Example:\n  zonda run -m smollm2-135m 'What is a warm wind called?'\n\n\
        MODEL is a .gguf file, a folder with config.json and SafeTensors, a name that `zonda pull` knows \
        (smollm2-135m), a Hub repository (ORG/NAME or ORG/NAME:FILE.gguf), or mock.\n\n\
        Environment: ZONDA_HOME (where models live), ZONDA_OFFLINE=1 (no downloads), HF_TOKEN, HF_ENDPOINT, \
        HF_HOME, NO_COLOR."
)]
pub struct Cli {
    /// Say more on standard error; twice: everything.
    #[arg(short, long, global = true, action = clap::ArgAction::Count, conflicts_with = "quiet")]
    pub verbose: u8,

    /// No progress, no statistics: errors only.
    #[arg(short, long, global = true)]
    pub quiet: bool,

    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    Pull(cmd::pull::Pull),
    List(cmd::list::List),
    Rm(cmd::rm::Rm),
    Inspect(cmd::inspect::Inspect),
    Completions(cmd::completions::Completions),
}

/// `--json`
#[derive(Clone, Copy, Debug, Args)]
pub struct JsonArg {
    /// Print one JSON document on standard output, and nothing else there.
    #[arg(long)]
    pub json: bool,
}
