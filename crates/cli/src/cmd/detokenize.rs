//! `zonda detokenize`: token ids to text.

use crate::args::{JsonArg, ModelArg, token_ids};
use crate::context::Context;
use crate::error::{Usage, advised};
use crate::output;
use anyhow::Context as _;
use clap::Args;
use serde_json::json;
use std::io::Read as _;

/// Convert token ids to text
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  zonda detokenize -m smollm2-135m 19556,28,3769")]
pub struct Detokenize {
    #[command(flatten)]
    model: ModelArg,
    /// The ids, separated by commas or spaces; if absent or `-`, they are read from standard input.
    ids: Vec<String>,
    /// Leave control tokens out.
    #[arg(long)]
    skip_special: bool,
    #[command(flatten)]
    json: JsonArg,
}

impl Detokenize {
    pub fn run(self, context: &Context) -> anyhow::Result<()> {
        let mut text = self.ids.join(",");
        if text.is_empty() || text == "-" {
            text.clear();
            std::io::stdin().read_to_string(&mut text).context("standard input")?;
        }
        let ids = token_ids(&text).map_err(Usage)?;
        let tokenizer = zonda::open_tokenizer(&context.store()?.locate(&self.model.model)?)?;
        let size = tokenizer.vocab_size();
        if let Some(id) = ids.iter().find(|&&id| id as usize >= size) {
            return Err(advised(
                format!("token id {id} is outside the vocabulary of {size}"),
                "use ids that `zonda tokenize` prints for this model",
            ));
        }
        let text = tokenizer.decode(&ids, self.skip_special);
        if self.json.json { output::json(&json!({ "text": text })) } else { output::data(&(text + "\n")) }
    }
}
