//! `zonda perplexity`: how well a model predicts a text. The figure is `zonda_bench::eval::perplexity`'s.

use crate::args::{BackendArgs, JsonArg, ModelArg};
use crate::context::Context;
use crate::error::{Advice as _, Usage, advised};
use crate::output::{self, Progress, Spinner};
use anyhow::Context as _;
use clap::Args;
use serde_json::json;
use std::io::Read as _;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Instant;
use zonda_bench::eval::perplexity::{PerplexityError, WINDOW, Windows};

/// How well a model predicts a text: perplexity and its error
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  zonda perplexity -m smollm2-135m -f testdata/text/mixed.txt\n  \
    zonda perplexity -m model.gguf -f text.txt --kv-type q8_0 --chunks 16 --json\n\n\
    Works like llama.cpp's tool of that name: the text is cut into windows of --ctx tokens (default 512), each begins with BOS \
    if the model has one, and the tokens of its second half are scored. Lower is better; figures of different \
    vocabularies or windows can't be compared.")]
pub struct Perplexity {
    #[command(flatten)]
    model: ModelArg,
    /// The text, UTF-8; `-` is standard input.
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
    /// Maximum number of windows [default: all].
    #[arg(long, value_name = "N")]
    chunks: Option<NonZeroUsize>,
    #[command(flatten)]
    json: JsonArg,
    #[command(flatten)]
    backend: BackendArgs,
}

impl Perplexity {
    pub fn run(self, context: &Context) -> anyhow::Result<()> {
        let text = read(&self.file)?;
        let located = context.store()?.locate(&self.model.model)?;
        let kind = zonda::choose(self.backend.backend, &located)?;
        let mut options = self.backend.open.options(None);
        let length = *options.ctx.get_or_insert(WINDOW);
        let model = zonda::open_files_for(kind, &located)?;
        let Some(words) = zonda::text_of(model.as_deref())? else {
            return Err(advised(
                format!("{} has no tokenizer", located.name),
                "put tokenizer.json, tokenizer.model or tekken.json into its folder",
            ));
        };
        let most = self.chunks.map(NonZeroUsize::get);
        let windows = Windows::of(&text, &words.tokenizer, length, most).map_err(|error| match error {
            PerplexityError::Window(_) => Usage(format!("--ctx: {error}")).into(),
            PerplexityError::TooShort { .. } => {
                advised(format!("{}: {error}", self.file.display()), "give a longer text, or a smaller --ctx")
            }
            error => error.into(),
        })?;
        let spinner = Spinner::start(format!("loading {}", located.name), context.quiet);
        let mut backend = zonda::open_backend(kind, model.as_ref(), &options)?;
        drop(spinner);

        let count = windows.tokens().len();
        let began = Instant::now();
        let progress = Progress::steps("perplexity", count as u64, context.quiet);
        let mut follow = |done: usize, so_far: zonda_bench::eval::perplexity::Perplexity| {
            progress.step(done as u64, &format!("{:.3} ± {:.3} so far", so_far.ppl, so_far.stderr));
        };
        let found = windows
            .measure(&mut *backend, &mut |_| Ok(()), &mut follow)
            .advise("`zonda verify` tells a damaged model from a faulty backend")?;
        progress.finish();

        let info = backend.info();
        if self.json.json {
            return output::json(&json!({
                "ppl": found.ppl,
                "stderr": found.stderr,
                "tokens": found.tokens,
                "windows": count,
                "window_tokens": length,
                "seconds": began.elapsed().as_secs_f64(),
                "model": located.name,
                "backend": kind.name(),
                "backend_info": info,
            }));
        }
        output::print(&format!(
            "perplexity {:.4} ± {:.4}: {} tokens scored in {count} windows of {length}; {} {}, KV cache {}\n",
            found.ppl, found.stderr, found.tokens, info.name, info.weights, info.kv_type
        ))
    }
}

/// The text of a file, or of standard input for `-`.
///
/// # Errors
/// If it can't be read or is not UTF-8.
pub fn read(path: &Path) -> anyhow::Result<String> {
    let bytes = if path == Path::new("-") {
        let mut bytes = Vec::new();
        std::io::stdin().read_to_end(&mut bytes).map(|_| bytes)
    } else {
        std::fs::read(path)
    };
    let bytes =
        bytes.with_context(|| path.display().to_string()).advise("give -f a text file that can be read")?;
    let invalid = |e: std::string::FromUtf8Error| format!("byte {} is invalid", e.utf8_error().valid_up_to());
    String::from_utf8(bytes).map_err(|e| {
        advised(
            format!("{}: expected UTF-8; {}", path.display(), invalid(e)),
            "convert it, for example with iconv",
        )
    })
}
