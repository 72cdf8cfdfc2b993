//! `zonda logits`: the logits of every position of a token sequence, for comparing implementations.

use crate::args::{BackendArgs, JsonArg, ModelArg, token_ids};
use crate::context::Context;
use crate::error::Advice as _;
use crate::npy;
use crate::output::{self, Progress, Spinner};
use anyhow::Context as _;
use clap::Args;
use serde_json::json;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use zonda_engine::TokenId;
use zonda_engine::files::Output;
use zonda_engine::forward::{Backend, Batch, Logits as Matrix, Span, Want};

/// Tokens in one forward call, which bounds the memory for their logits.
const CHUNK: usize = 64;

/// Write the logits of every position as NumPy .npy
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  zonda logits -m smollm2-135m --ids 19556,28,3769 --out logits.npy\n\n\
    The file holds float32 of shape [tokens, vocab]. Token ids are taken as they are: no BOS is added, no tokenizer \
    is needed. The context is as long as the ids unless --ctx says otherwise.")]
pub struct Logits {
    #[command(flatten)]
    model: ModelArg,
    /// The token ids, separated by commas.
    #[arg(long, value_parser = ids, value_name = "IDS")]
    ids: Ids,
    /// The file to write.
    #[arg(short, long, value_name = "F.npy")]
    out: PathBuf,
    #[command(flatten)]
    json: JsonArg,
    #[command(flatten)]
    backend: BackendArgs,
}

/// A list of ids as one argument.
#[derive(Clone, Debug)]
struct Ids(Vec<TokenId>);

fn ids(text: &str) -> Result<Ids, String> {
    let ids = token_ids(text)?;
    if ids.is_empty() { Err("expected at least one token id".to_owned()) } else { Ok(Ids(ids)) }
}

impl Logits {
    pub fn run(self, context: &Context) -> anyhow::Result<()> {
        let file = Output::create(&self.out)
            .with_context(|| self.out.display().to_string())
            .advise("choose a file in an existing folder that can be written to")?;
        let located = context.store()?.locate(&self.model.model)?;
        let kind = zonda::choose(self.backend.backend, &located)?;
        let model = zonda::open_files_for(kind, &located)?;
        let mut options = self.backend.open.options(None);
        options.ctx = options.ctx.or(Some(self.ids.0.len()));
        let spinner = Spinner::start(format!("loading {}", located.name), context.quiet);
        let mut backend = zonda::open_backend(kind, model.as_ref(), &options)?;
        drop(spinner);
        let vocab = backend.spec().vocab_size;
        let shape = [self.ids.0.len(), vocab];
        write(&mut *backend, &self.ids.0, file, &self.out, context.quiet)?;
        if self.json.json {
            return output::json(&json!({ "shape": shape, "path": self.out.display().to_string() }));
        }
        output::print(&format!("{}: float32 [{}, {vocab}]\n", self.out.display(), shape[0]))
    }
}

/// Runs the tokens through the backend and writes each chunk's rows as they come. The file appears when it is complete.
fn write(
    backend: &mut dyn Backend,
    ids: &[TokenId],
    out: Output,
    path: &Path,
    quiet: bool,
) -> anyhow::Result<()> {
    let named = || path.display().to_string();
    let vocab = backend.spec().vocab_size;
    let mut file = BufWriter::new(out);
    npy::write_header(&mut file, ids.len(), vocab).with_context(named)?;
    let total = (ids.len() * vocab * 4) as u64;
    let progress = Progress::bytes("computing logits", total, quiet);
    let mut logits = Matrix::new();
    let mut start = 0;
    for tokens in ids.chunks(CHUNK.min(backend.limits().batch_tokens)) {
        let span = Span { slot: 0, start, tokens, want: Want::All };
        backend.forward(&Batch { spans: vec![span] }, &mut logits)?;
        for row in 0..logits.rows() {
            let values = logits.row(row);
            if !values.iter().all(|v| v.is_finite()) {
                return Err(anyhow::anyhow!(
                    "the logits of position {} hold a NaN or an infinity",
                    start + row
                ))
                .advise("the model's weights or the backend may be faulty: compare with --isa scalar");
            }
            npy::write_values(&mut file, values).with_context(named)?;
        }
        start += tokens.len();
        progress.set((start * vocab * 4) as u64, total);
    }
    progress.finish();
    file.into_inner().map_err(|e| e.into_error()).and_then(Output::finish).with_context(named)
}
