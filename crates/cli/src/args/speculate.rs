//! Speculative decoding: where drafts come from.

use crate::error::Usage;
use clap::{Args, ValueEnum};
use std::ffi::OsString;
use std::path::PathBuf;
use zonda::{OpenOptions, Speculate, Store};

/// The speculation that the flags select, with the draft model located.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Speculation {
    /// Where drafts come from.
    pub how: Speculate,
    /// The draft model's file or folder; `mock`: the mock.
    pub draft: Option<PathBuf>,
    /// Maximum tokens of a draft; `None`: the engine's default.
    pub most: Option<usize>,
    /// Minimum tokens of a draft.
    pub least: Option<usize>,
}

impl Speculation {
    /// Options with this speculation.
    pub fn apply(&self, options: OpenOptions) -> OpenOptions {
        let (draft, draft_max, draft_min) = (self.draft.clone(), self.most, self.least);
        OpenOptions { speculate: self.how, draft, draft_max, draft_min, ..options }
    }
}

/// Whether and how to decode speculatively.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Speculation")]
pub struct SpeculateArgs {
    /// Speculative decoding: draft tokens and verify several in one step, which does not change the answer. Drafts come from
    /// the text so far (ngram) or from the model of --draft (draft) [default: off; draft if --draft is given].
    #[arg(long, value_name = "HOW")]
    pub speculate: Option<How>,
    #[command(flatten)]
    pub draft: DraftArgs,
}

/// The draft model, and how long drafts are.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Speculation")]
pub struct DraftArgs {
    /// The draft model: a smaller one with the same tokenizer.
    #[arg(long, value_name = "MODEL")]
    pub draft: Option<OsString>,

    /// Maximum tokens of a draft; the number used depends on how many are accepted and what they cost [default: 16].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=63))]
    pub draft_max: Option<u16>,

    /// Minimum tokens of a draft, even if they don't save time; for experiments [default: 0].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(0..=63))]
    pub draft_min: Option<u16>,
}

/// `--speculate`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum How {
    /// Not at all
    Off,
    /// From the prompt and the answer so far
    Ngram,
    /// With a draft model
    Draft,
}

impl SpeculateArgs {
    /// The speculation that the flags select. Locates the draft model.
    ///
    /// # Errors
    /// If the draft model is not found, or is needed and not named.
    pub fn speculation(&self, store: &Store) -> anyhow::Result<Speculation> {
        let how = self.speculate.unwrap_or(if self.draft.draft.is_some() { How::Draft } else { How::Off });
        self.draft.speculation(store, how)
    }
}

impl DraftArgs {
    /// Speculation of the given kind.
    ///
    /// # Errors
    /// As [`SpeculateArgs::speculation`].
    pub fn speculation(&self, store: &Store, how: How) -> anyhow::Result<Speculation> {
        let how = match how {
            How::Off => Speculate::Off,
            How::Ngram => Speculate::Ngram,
            How::Draft if self.draft.is_none() => {
                return Err(Usage(
                    "`--speculate draft` needs a draft model: name one with --draft MODEL".into(),
                )
                .into());
            }
            How::Draft => Speculate::Draft,
        };
        let draft = self.draft.as_ref().map(|model| store.locate(model)).transpose()?;
        // Child processes and readers of a record may run in other folders.
        let path = |l: zonda::Located| {
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
