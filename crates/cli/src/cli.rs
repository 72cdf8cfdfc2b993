//! The command line: its commands and the global flags.

use crate::cmd;
use clap::builder::styling::{AnsiColor, Styles};
use clap::{Parser, Subcommand};

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Yellow.on_default().bold())
    .usage(AnsiColor::Yellow.on_default().bold())
    .literal(AnsiColor::Cyan.on_default())
    .placeholder(AnsiColor::Cyan.on_default());

/// Runs Mistral-class language models on your own hardware, and measures them honestly.
#[derive(Debug, Parser)]
#[command(
    name = "zonda",
    version,
    styles = STYLES,
    after_help = "Example:\n  zonda run -m smollm2-135m 'What is a warm wind called?'\n\n\
        MODEL is a .gguf file, a folder with config.json and SafeTensors, a name that `zonda pull` knows \
        (smollm2-135m), a Hub repository (ORG/NAME or ORG/NAME:FILE.gguf), or mock.\n\n\
        Environment: ZONDA_HOME (folder for models), ZONDA_OFFLINE=1 (no downloads), HF_TOKEN, HF_ENDPOINT, \
        HF_HOME, NO_COLOR."
)]
pub struct Cli {
    /// More log messages on standard error; `-vv`: all of them.
    #[arg(short, long, global = true, action = clap::ArgAction::Count, conflicts_with = "quiet")]
    pub verbose: u8,

    /// No progress and no statistics, only errors.
    #[arg(short, long, global = true)]
    pub quiet: bool,

    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    Run(cmd::run::Run),
    Chat(cmd::chat::Chat),
    Bench(cmd::bench::Bench),
    Serve(cmd::serve::Serve),
    Pull(cmd::pull::Pull),
    List(cmd::list::List),
    Rm(cmd::rm::Rm),
    Inspect(cmd::inspect::Inspect),
    Tokenize(cmd::tokenize::Tokenize),
    Detokenize(cmd::detokenize::Detokenize),
    Logits(cmd::logits::Logits),
    Perplexity(cmd::perplexity::Perplexity),
    Verify(cmd::verify::Verify),
    Synth(cmd::synth::Synth),
    Convert(cmd::convert::Convert),
    Quantize(cmd::quantize::Quantize),
    Doctor(cmd::doctor::Doctor),
    Recommend(cmd::recommend::Recommend),
    Completions(cmd::completions::Completions),
    /// One backend of `bench`, in its own process.
    #[command(name = "__bench-child", hide = true)]
    BenchChild,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;
    use zonda::SamplingParams;
    use zonda::engine::SamplingDefaults;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_shows_an_example() {
        for command in Cli::command().get_subcommands().filter(|c| !c.is_hide_set()) {
            let help = command.get_after_help().map(|h| h.to_string()).unwrap_or_default();
            assert!(help.contains(&format!("zonda {}", command.get_name())), "{}", command.get_name());
        }
    }

    #[test]
    fn defaults_are_the_engines() {
        let cli = Cli::try_parse_from(["zonda", "run", "-m", "mock", "hi"]).unwrap();
        let Command::Run(run) = cli.command else { panic!("not run") };
        assert_eq!(run.sampling.params(SamplingDefaults::default()), SamplingParams::default());
    }
}
