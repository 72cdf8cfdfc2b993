//! The command line's shape: the commands, and the flags that several of them share.

use crate::backends::{self, BackendKind, OpenOptions, Speculation};
use crate::cmd;
use crate::error::Usage;
use crate::store::Store;
use clap::builder::styling::{AnsiColor, Styles};
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::ffi::OsString;
use std::num::NonZeroUsize;
use zonda_engine::{Keep, SamplingParams, Speculate, TokenId};

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
    /// One backend of `bench`, in a process of its own.
    #[command(name = "__bench-child", hide = true)]
    BenchChild,
}

/// `--json`
#[derive(Clone, Copy, Debug, Args)]
pub struct JsonArg {
    /// Print one JSON document on standard output, and nothing else there.
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

/// What runs the model, and how.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Backend")]
pub struct BackendArgs {
    /// The backend; by default the best that can load the model.
    #[arg(long)]
    pub backend: Option<BackendKind>,
    #[command(flatten)]
    pub open: OpenArgs,
}

/// How a backend is opened.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Backend")]
pub struct OpenArgs {
    /// What to compute on.
    #[arg(long, default_value = "auto")]
    pub device: Device,

    /// Layers on the GPU, the output head counted as one; the others stay on the processor (llama-cpp only) [default:
    /// all].
    #[arg(long, value_name = "N")]
    pub gpu_layers: Option<NonZeroUsize>,

    /// Threads [default: one per physical core].
    #[arg(short, long, value_name = "N")]
    pub threads: Option<NonZeroUsize>,

    /// Context length in tokens [default: the model's, at most 4096].
    #[arg(long, value_name = "N")]
    pub ctx: Option<NonZeroUsize>,

    /// Instruction set (native only), to test or compare [default: the best].
    #[arg(long, value_parser = backends::ISAS)]
    pub isa: Option<String>,

    /// Quantise a SafeTensors model's matrices at load.
    #[arg(long, value_name = "TYPE", value_parser = backends::QUANTIZATIONS)]
    pub quantize: Option<String>,

    /// Type of the KV cache [default: f16].
    #[arg(long, value_name = "TYPE", value_parser = backends::KV_TYPES)]
    pub kv_type: Option<String>,

    /// Load the model even where weights, KV cache and activations don't seem to fit into the memory that is left.
    #[arg(long)]
    pub no_memory_check: bool,
}

impl OpenArgs {
    /// The options that a backend is opened with. `seed` picks the mock's text.
    pub fn options(&self, seed: Option<u64>) -> OpenOptions {
        OpenOptions {
            device: self.device,
            gpu_layers: self.gpu_layers.map(NonZeroUsize::get),
            threads: self.threads.map(NonZeroUsize::get),
            ctx: self.ctx.map(NonZeroUsize::get),
            isa: self.isa.clone(),
            quantize: self.quantize.clone(),
            kv_type: self.kv_type.clone(),
            no_memory_check: self.no_memory_check,
            seed,
            mock_step: None,
            parallel: None,
            kv_contexts: None,
            speculation: Speculation::default(),
        }
    }
}

/// What becomes of a full context.
#[derive(Clone, Copy, Debug, Default, Args)]
#[command(next_help_heading = "Full context")]
pub struct ShiftArgs {
    /// When the context is full, drop half of what lies behind the kept front and go on; a prompt that does not fit is cut
    /// likewise [default: the answer ends there, such a prompt is refused].
    #[arg(long)]
    pub context_shift: bool,

    /// Prompt tokens after the BOS that are never dropped; -1: the whole prompt [default: the system message, where it takes
    /// at most half of the context, else none].
    #[arg(long, value_name = "N", requires = "context_shift", allow_negative_numbers = true, value_parser = keep)]
    pub keep: Option<Keep>,
}

impl ShiftArgs {
    /// What stays when the context is full; `None`: the answer ends.
    pub fn shift(&self) -> Option<Keep> {
        self.context_shift.then(|| self.keep.unwrap_or_default())
    }
}

fn keep(text: &str) -> Result<Keep, String> {
    let keep = text.parse().ok().and_then(Keep::from_count);
    keep.ok_or_else(|| "expected a number of tokens, or -1 for the whole prompt".to_owned())
}

/// A limit in tokens: at least 1, or -1 for none.
pub fn token_limit(text: &str) -> Result<usize, String> {
    let limit = if text == "-1" { Some(usize::MAX) } else { text.parse().ok().filter(|&n| n > 0) };
    limit.ok_or_else(|| "expected at least 1, or -1 for no limit".to_owned())
}

/// Whether tokens are guessed ahead.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Speculation")]
pub struct SpeculateArgs {
    /// Guess tokens ahead and verify several in one step, which changes none of them: from the text so far (ngram), or with
    /// --draft's model [default: off; draft if --draft is given].
    #[arg(long, value_name = "HOW")]
    pub speculate: Option<How>,
    #[command(flatten)]
    pub draft: DraftArgs,
}

/// How drafts are made.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Speculation")]
pub struct DraftArgs {
    /// The draft model: a smaller one with the same tokenizer.
    #[arg(long, value_name = "MODEL")]
    pub draft: Option<OsString>,

    /// Most tokens of a draft; how many there are follows from what was accepted and what it costs [default: 16].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=63))]
    pub draft_max: Option<u16>,

    /// Fewest tokens of a draft, whether they pay or not, to try and to measure [default: 0].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(0..=63))]
    pub draft_min: Option<u16>,
}

/// `--speculate`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum How {
    /// Not at all.
    Off,
    /// From the prompt and the answer so far.
    Ngram,
    /// With a draft model.
    Draft,
}

impl SpeculateArgs {
    /// What was asked for; the draft model is looked up.
    ///
    /// # Errors
    /// If there is no such model, or it is needed and not named.
    pub fn speculation(&self, store: &Store) -> anyhow::Result<Speculation> {
        let how = self.speculate.unwrap_or(if self.draft.draft.is_some() { How::Draft } else { How::Off });
        self.draft.speculation(store, how)
    }
}

impl DraftArgs {
    /// Speculation in one of its forms.
    ///
    /// # Errors
    /// As [`SpeculateArgs::speculation`].
    pub fn speculation(&self, store: &Store, how: How) -> anyhow::Result<Speculation> {
        let how = match how {
            How::Off => Speculate::Off,
            How::Ngram => Speculate::Ngram,
            How::Draft if self.draft.is_none() => {
                return Err(Usage(
                    "--speculate draft needs a draft model: name one with --draft MODEL".into(),
                )
                .into());
            }
            How::Draft => Speculate::Draft,
        };
        let draft = self.draft.as_ref().map(|model| store.locate(model)).transpose()?;
        // Children are started elsewhere, and a record is read elsewhere.
        let path = |l: crate::store::Located| {
            l.path.map_or_else(|| l.name.into(), |p| std::path::absolute(&p).unwrap_or(p))
        };
        Ok(Speculation {
            how,
            draft: draft.map(path),
            most: self.draft_max.map(usize::from),
            least: self.draft_min.map(usize::from),
        })
    }
}

/// `--device`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Device {
    /// A GPU if the backend has one.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// A GPU, or an error.
    Gpu,
}

impl Device {
    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Device::Auto => "auto",
            Device::Cpu => "cpu",
            Device::Gpu => "gpu",
        }
    }
}

/// How tokens are chosen. The defaults are llama.cpp's.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArgs {
    /// Temperature; 0 is greedy.
    #[arg(long, value_name = "T", default_value_t = 0.8, allow_negative_numbers = true)]
    pub temp: f32,

    /// Keep the K most probable tokens; 0: all.
    #[arg(long, value_name = "K", default_value_t = 40)]
    pub top_k: usize,

    /// Keep the most probable tokens that together reach P; 1: all.
    #[arg(long, value_name = "P", default_value_t = 0.95, allow_negative_numbers = true)]
    pub top_p: f32,

    /// Keep tokens at least P times as probable as the best; 0: all.
    #[arg(long, value_name = "P", default_value_t = 0.05, allow_negative_numbers = true)]
    pub min_p: f32,

    /// Locally typical sampling; 1: off.
    #[arg(long, value_name = "P", default_value_t = 1.0, allow_negative_numbers = true)]
    pub typical_p: f32,

    /// Penalty on tokens that were there; 1: off.
    #[arg(long, value_name = "X", default_value_t = 1.0, allow_negative_numbers = true)]
    pub repeat_penalty: f32,

    /// How many last tokens the penalties look at; 0: none, -1: all.
    #[arg(long, value_name = "N", default_value_t = 64, allow_negative_numbers = true,
          value_parser = clap::value_parser!(i64).range(-1..))]
    pub repeat_last_n: i64,

    /// Taken off the logit of a token that was there; 0: off.
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    pub presence_penalty: f32,

    /// Taken off a token's logit for each time it was there; 0: off.
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    pub frequency_penalty: f32,

    /// Added to a token's logit, as ID=BIAS; -inf forbids it. May be repeated.
    #[arg(long, value_name = "ID=BIAS", value_parser = logit_bias)]
    pub logit_bias: Vec<(TokenId, f32)>,

    /// Makes sampling reproducible [default: random].
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
}

impl SamplingArgs {
    /// The engine's parameters. It checks the ranges.
    pub fn params(&self) -> SamplingParams {
        SamplingParams {
            temperature: self.temp,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            typical_p: self.typical_p,
            repeat_penalty: self.repeat_penalty,
            repeat_last_n: usize::try_from(self.repeat_last_n).unwrap_or(usize::MAX),
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            logit_bias: self.logit_bias.clone(),
            seed: self.seed,
            ..SamplingParams::default()
        }
    }
}

fn logit_bias(text: &str) -> Result<(TokenId, f32), String> {
    let parsed = text.split_once('=').and_then(|(id, bias)| Some((id.parse().ok()?, bias.parse().ok()?)));
    parsed.ok_or_else(|| "expected ID=BIAS, such as 2=-inf".to_owned())
}

/// Token ids as people write them: separated by commas or spaces, perhaps in brackets.
///
/// # Errors
/// The first piece that is no id.
pub fn token_ids(text: &str) -> Result<Vec<TokenId>, String> {
    let pieces = text.split(|c: char| c == ',' || c.is_whitespace() || c == '[' || c == ']');
    let ids = pieces.filter(|p| !p.is_empty()).map(|p| p.parse().map_err(|_| p.to_owned()));
    ids.collect::<Result<_, _>>()
        .map_err(|piece| format!("expected token ids such as 1,2,3, found {piece:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

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
        assert_eq!(run.sampling.params(), SamplingParams::default());
    }

    #[test]
    fn counts_with_a_meaning_of_minus_one() {
        assert_eq!((token_limit("7"), token_limit("-1")), (Ok(7), Ok(usize::MAX)));
        assert_eq!((keep("0"), keep("-1")), (Ok(Keep::Tokens(0)), Ok(Keep::Prompt)));
        assert!(token_limit("0").is_err() && token_limit("-2").is_err() && token_limit("x").is_err());
        assert!(keep("-2").is_err() && keep("x").is_err());
    }

    #[test]
    fn ids_and_biases() {
        assert_eq!(token_ids("1,2, 3\n4 [5]"), Ok(vec![1, 2, 3, 4, 5]));
        assert_eq!(token_ids(""), Ok(vec![]));
        assert!(token_ids("1,-2").unwrap_err().contains("\"-2\""));
        assert_eq!(logit_bias("7=-inf"), Ok((7, f32::NEG_INFINITY)));
        assert!(logit_bias("7").is_err());
    }
}
