//! The `zonda` command: reads the command line, runs one command, turns its result into an exit code.

mod address_space;
mod args;
mod cli;
mod cmd;
mod console;
mod context;
mod descriptors;
mod error;
mod interrupt;
mod npy;
#[cfg(feature = "otlp")]
mod otlp;
mod output;

use clap::{CommandFactory as _, Parser as _};
use cli::{Cli, Command};
use cmd::serve::LogFormat;
use context::Context;
use std::io::IsTerminal as _;
use std::process::ExitCode;
use tracing::Level;

fn main() -> ExitCode {
    // SAFETY: this is the first statement of the program, so no other thread runs.
    unsafe { address_space::turn_backtraces_off_if_limited() };
    let cli = Cli::parse();
    let serving = match &cli.command {
        Command::Serve(serve) => Some(serve.log_format()),
        _ => None,
    };
    start_log(cli.verbose, cli.quiet, serving);
    if matches!(cli.command, Command::BenchChild) {
        return cmd::bench_child::run();
    }
    let result = interrupt::install().map_err(Into::into).and_then(|()| run(cli));
    #[cfg(feature = "otlp")]
    otlp::flush();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error::report(&error),
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let context = Context { quiet: cli.quiet };
    match cli.command {
        Command::Run(command) => command.run(&context),
        Command::Chat(command) => command.run(&context),
        Command::Bench(command) => command.run(&context),
        Command::Serve(command) => command.run(&context),
        Command::Pull(command) => command.run(&context),
        Command::List(command) => command.run(&context),
        Command::Rm(command) => command.run(&context),
        Command::Inspect(command) => command.run(&context),
        Command::Tokenize(command) => command.run(&context),
        Command::Detokenize(command) => command.run(&context),
        Command::Logits(command) => command.run(&context),
        Command::Perplexity(command) => command.run(&context),
        Command::Verify(command) => command.run(&context),
        Command::Synth(command) => command.run(&context),
        Command::Convert(command) => command.run(&context),
        Command::Quantize(command) => command.run(&context),
        Command::Doctor(command) => command.run(&context),
        Command::Recommend(command) => command.run(&context),
        Command::Completions(command) => command.run(Cli::command()),
        Command::BenchChild => unreachable!("served before the signal handler is installed"),
    }
}

/// Starts the log on standard error, coloured on a terminal unless `NO_COLOR` is set. A server's log has the info level and
/// times.
fn start_log(verbose: u8, quiet: bool, serving: Option<LogFormat>) {
    let level = match (quiet, verbose) {
        (true, _) => Level::ERROR,
        (false, 0) if serving.is_none() => Level::WARN,
        (false, 0) => Level::INFO,
        (false, 1) => Level::INFO,
        (false, 2) => Level::DEBUG,
        (false, _) => Level::TRACE,
    };
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let log = tracing_subscriber::fmt()
        .with_writer(|| console::Stderr)
        .log_internal_errors(false)
        .with_ansi(colour)
        .with_max_level(level)
        .with_target(verbose > 1);
    match serving {
        None => log.without_time().init(),
        Some(LogFormat::Text) => start(log.finish()),
        Some(LogFormat::Json) => start(log.json().flatten_event(true).finish()),
    }
}

/// Starts a server's log, and exports its spans if this build can and the environment names a collector.
fn start<S>(log: S)
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a> + Send + Sync,
{
    use tracing_subscriber::util::SubscriberInitExt as _;
    #[cfg(feature = "otlp")]
    match otlp::layer() {
        Ok(Some(layer)) => return tracing_subscriber::layer::SubscriberExt::with(log, layer).init(),
        Ok(None) => {}
        Err(error) => console::note!("warning: spans are not exported: {error:#}"),
    }
    log.init();
}
