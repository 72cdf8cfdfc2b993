//! Speculation as the command line says it: where drafts come from, and how a draft model is opened.

use super::{BackendKind, OpenOptions, open, open_model, text_of};
use crate::store::Located;
use anyhow::Context as _;
use std::path::PathBuf;
use zonda_engine::forward::Limits;
use zonda_engine::load::Format;
use zonda_engine::{DraftModel, EngineConfig, Speculate};

/// `--speculate` and what belongs to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Speculation {
    /// Where drafts come from.
    pub how: Speculate,
    /// The draft model's file or folder; `mock`: the mock.
    pub draft: Option<PathBuf>,
    /// Most tokens of a draft; `None`: the engine's default.
    pub most: Option<usize>,
    /// Fewest, whether they pay or not.
    pub least: Option<usize>,
}

impl Speculation {
    /// What was given, as names and text.
    pub fn to_map(&self) -> impl Iterator<Item = (&'static str, Option<String>)> {
        let number = |n: Option<usize>| n.map(|n| n.to_string());
        [
            ("speculate", (self.how != Speculate::Off).then(|| self.how.name().to_owned())),
            ("draft", self.draft.as_ref().map(|path| path.display().to_string())),
            ("draft_max", number(self.most)),
            ("draft_min", number(self.least)),
        ]
        .into_iter()
    }

    /// Takes one entry of such a map; false: it is none of ours.
    ///
    /// # Errors
    /// If it is one and its value is wrong.
    pub fn take(&mut self, name: &str, value: &str) -> anyhow::Result<bool> {
        let bad = || format!("option {name} is {value:?}");
        match name {
            "speculate" => {
                let all = [Speculate::Off, Speculate::Ngram, Speculate::Draft];
                self.how = all.into_iter().find(|how| how.name() == value).with_context(bad)?;
            }
            "draft" => self.draft = Some(value.into()),
            "draft_max" => self.most = Some(value.parse().with_context(bad)?),
            "draft_min" => self.least = Some(value.parse().with_context(bad)?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// The engine's configuration with it.
    pub fn configure(&self, config: EngineConfig) -> EngineConfig {
        EngineConfig {
            speculate: self.how,
            draft_max: self.most.unwrap_or(config.draft_max),
            draft_min: self.least.unwrap_or(config.draft_min),
            ..config
        }
    }
}

impl OpenOptions {
    /// The draft model, for the backend and with the options that run the model: its files are found and looked into.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn draft_model(&self, kind: BackendKind) -> anyhow::Result<Option<DraftModel>> {
        let Some(path) = &self.speculation.draft else { return Ok(None) };
        let mock = kind == BackendKind::Mock;
        let located = Located { name: path.display().to_string(), path: (!mock).then(|| path.clone()) };
        let model = open_model(&located).context("the draft model")?;
        let text = text_of(model.as_deref()).context("the draft model")?;
        let mut options = OpenOptions { speculation: Speculation::default(), ..self.clone() };
        if let Some(model) = &model {
            let most = model.spec.context_length;
            options.ctx = Some(self.ctx.unwrap_or(Limits::DEFAULT_CONTEXT).min(most));
            if model.format == Format::Gguf {
                options.quantize = None;
            }
        }
        Ok(Some(DraftModel { open: Box::new(move || open(kind, model.as_ref(), &options)), text }))
    }
}
