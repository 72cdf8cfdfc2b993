//! `zonda tokenize`: text to token ids and pieces.

use crate::args::{JsonArg, ModelArg};
use crate::context::Context;
use crate::error::{Usage, advised};
use crate::output;
use anyhow::Context as _;
use clap::Args;
use serde_json::json;
use std::io::{IsTerminal as _, Read as _};
use std::path::PathBuf;
use zonda_engine::tokenize::Encode;

/// Convert text to token ids
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  zonda tokenize -m smollm2-135m 'Hello, wind'\n  \
    zonda tokenize -m tokenizer.model --file text.txt --json\n\n\
    MODEL may also be a vocabulary-only GGUF, a tokenizer.json, a SentencePiece tokenizer.model or a tekken.json.")]
pub struct Tokenize {
    #[command(flatten)]
    model: ModelArg,
    /// The text; if absent, it is read from --file or standard input.
    #[arg(conflicts_with = "file")]
    text: Option<String>,
    /// Read the text from a file.
    #[arg(long)]
    file: Option<PathBuf>,
    /// Treat control tokens in the text, such as <|im_end|>, as plain characters.
    #[arg(long)]
    no_special: bool,
    /// Begin with the model's BOS token.
    #[arg(long)]
    bos: bool,
    #[command(flatten)]
    json: JsonArg,
}

impl Tokenize {
    pub fn run(self, context: &Context) -> anyhow::Result<()> {
        let text = match (self.text, &self.file) {
            (Some(text), _) => text,
            (None, Some(path)) => utf8(std::fs::read(path).with_context(|| path.display().to_string())?)
                .with_context(|| path.display().to_string())?,
            (None, None) => {
                if std::io::stdin().is_terminal() {
                    return Err(Usage(
                        "no text: give it as an argument, with --file, or on standard input".into(),
                    )
                    .into());
                }
                let mut bytes = Vec::new();
                std::io::stdin().read_to_end(&mut bytes).context("standard input")?;
                utf8(bytes).context("standard input")?
            }
        };
        let tokenizer = zonda::open_tokenizer(&context.store()?.locate(&self.model.model)?)?;
        if self.bos && tokenizer.bos().is_none() {
            return Err(advised("this vocabulary has no BOS token", "leave --bos out"));
        }
        let ids = tokenizer.encode(&text, Encode { add_bos: self.bos, parse_special: !self.no_special })?;
        let pieces: Vec<_> = ids.iter().map(|&id| tokenizer.piece(id)).collect();
        if self.json.json {
            return output::json(&json!({ "ids": ids, "pieces": pieces }));
        }
        let lines = ids.iter().zip(&pieces).map(|(id, piece)| format!("{id:>7}  {piece:?}\n"));
        output::print(&lines.collect::<String>())
    }
}

fn utf8(bytes: Vec<u8>) -> anyhow::Result<String> {
    String::from_utf8(bytes).context("expected UTF-8")
}
