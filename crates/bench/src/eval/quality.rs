//! Quality beside speed (`--quality TEXT`): each subject's perplexity on a text, and how far its predictions there are from
//! those of the exact form of its weights. A process of its own for each, like everything that touches a backend.

use crate::agreement::{Agreement, Summary};
use crate::gate::ask;
use crate::host::Host;
use crate::perplexity::{Perplexity, WINDOW, Windows};
use crate::plan::{BenchConfig, Plan, Subject};
use crate::process::{ChildError, Launcher};
use crate::progress::{Progress, Update};
use crate::protocol::{self, FrameError, FromChild, ToChild};
use crate::summary::figure;
use crate::warning::Warning;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use zonda_engine::TokenId;

/// Which text, and how much of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct QualityText {
    /// The file, UTF-8.
    pub path: PathBuf,
    /// Its SHA-256: figures of different texts can't be compared.
    pub sha256: String,
    /// Tokens of a window.
    pub window: usize,
    /// At most so many windows.
    pub windows: usize,
    /// The first so many are compared with exact logits too.
    pub compared: usize,
}

impl QualityText {
    /// A text with the usual windows: 512 tokens, 32 of them, 4 compared.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn of(path: &Path) -> std::io::Result<QualityText> {
        let sha256 = crate::files::describe(path)?.sha256;
        let path = std::path::absolute(path)?;
        Ok(QualityText { path, sha256, window: WINDOW, windows: 32, compared: 4 })
    }
}

/// What a subject's predictions of the text are worth.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Quality {
    /// Index into [`crate::BenchConfig::subjects`].
    pub subject: usize,
    /// The backend.
    pub backend: String,
    /// The model's name.
    pub model: String,
    /// The text's file name.
    pub text: String,
    /// Perplexity: lower is better; comparable between subjects with one vocabulary.
    pub ppl: Option<f64>,
    /// Its standard error.
    pub stderr: Option<f64>,
    /// Tokens scored.
    pub tokens: Option<usize>,
    /// Mean KL divergence from the exact form of the weights on the same text, in nats.
    pub kl_mean: Option<f64>,
    /// The divergence that 99% of positions stay below.
    pub kl_p99: Option<f64>,
    /// Share of positions with the same best token, from 0 to 1.
    pub top1: Option<f64>,
    /// Positions compared.
    pub kl_positions: Option<usize>,
    /// What the exact form is.
    pub reference: Option<String>,
    /// Why a figure is missing.
    pub why: Option<String>,
}

impl Quality {
    /// The warning that a missing figure is worth.
    pub fn warning(&self, config: &BenchConfig) -> Option<Warning> {
        let why = self.why.clone()?;
        Some(Warning::NoQuality { subject: config.subjects[self.subject].label(), why })
    }

    /// `perplexity 27.17 ± 1.21, KL 0.0038 from exact`; `None` if there is neither.
    pub fn describe(&self) -> Option<String> {
        let ppl = self.ppl.map(|ppl| format!("perplexity {ppl:.2} ± {:.2}", self.stderr.unwrap_or(f64::NAN)));
        let kl = self.kl_mean.map(|kl| format!("KL {} from exact on the text", figure(kl)));
        let parts: Vec<String> = ppl.into_iter().chain(kl).collect();
        (!parts.is_empty()).then(|| parts.join(", "))
    }
}

/// What a child is asked: of this subject, on this text, with exact logits in this file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct QualitySpec {
    /// Backend, model, options.
    pub subject: Subject,
    /// The text.
    pub text: QualityText,
    /// Rows of `f32`, little-endian, of the scored positions of the first windows; `None`: nothing is compared.
    pub file: Option<PathBuf>,
}

/// Measures every subject that is not synthetic.
///
/// # Errors
/// If the person interrupts.
pub(crate) fn run(
    plan: &Plan,
    launcher: &Launcher,
    text: &QualityText,
    progress: &mut dyn Progress,
) -> Result<Vec<Quality>, ChildError> {
    let subjects = &plan.config().subjects;
    let mut groups: BTreeMap<(Option<&Path>, &str), Vec<usize>> = BTreeMap::new();
    for (i, s) in subjects.iter().enumerate().filter(|(_, s)| !s.synthetic) {
        groups.entry((s.path.as_deref(), s.model.as_str())).or_default().push(i);
    }
    let name = text.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut all = Vec::new();
    for group in groups.into_values() {
        let scratch = tempfile::tempdir();
        let mut question = |i: usize, file: Option<PathBuf>, reference: bool| {
            let spec = QualitySpec { subject: subjects[i].clone(), text: text.clone(), file };
            let question = if reference { ToChild::QualityReference(spec) } else { ToChild::Quality(spec) };
            progress.update(Update::Quality(&subjects[i]));
            match ask(launcher, &question, plan.timeout(), progress) {
                Err(ChildError::Interrupted) => Err(ChildError::Interrupted),
                Err(error) => Ok(FromChild::Failed { why: error.to_string() }),
                Ok(answer) => Ok(answer),
            }
        };
        let file = scratch.as_ref().ok().map(|folder| folder.path().join("exact.f32"));
        let (reference, no_reference) = match question(group[0], file.clone(), true)? {
            FromChild::QualityReference { form } => (Some(form), None),
            FromChild::Failed { why } => (None, Some(format!("no exact logits: {why}"))),
            other => (None, Some(format!("unexpected answer: {other:?}"))),
        };
        for i in group {
            let answer = question(i, file.clone().filter(|_| reference.is_some()), false)?;
            let (found, compared, why) = match answer {
                FromChild::Quality { found, compared } => (Some(found), compared, no_reference.clone()),
                FromChild::Failed { why } => (None, None, Some(why)),
                other => (None, None, Some(format!("unexpected answer: {other:?}"))),
            };
            let compared = compared.as_deref();
            all.push(Quality {
                subject: i,
                backend: subjects[i].backend.clone(),
                model: subjects[i].model.clone(),
                text: name.clone(),
                ppl: found.map(|f| f.ppl),
                stderr: found.map(|f| f.stderr),
                tokens: found.map(|f| f.tokens),
                kl_mean: compared.map(|s| s.kl_mean),
                kl_p99: compared.map(|s| s.kl_p99),
                top1: compared.map(|s| s.top1),
                kl_positions: compared.map(|s| s.positions),
                reference: reference.clone(),
                why,
            });
        }
    }
    all.sort_by_key(|q| q.subject);
    Ok(all)
}

/// The child's side: the windows of a subject's text.
fn windows(host: &dyn Host, spec: &QualitySpec) -> Result<Windows, String> {
    let (text, _) = host.text(&spec.subject)?;
    let tokenizer = text.ok_or("the model comes without a tokenizer")?.tokenizer;
    let path = spec.text.path.display();
    let words = std::fs::read_to_string(&spec.text.path).map_err(|e| format!("{path}: {e}"))?;
    let windows = Windows::of(&words, &tokenizer, spec.text.window, Some(spec.text.windows));
    windows.map_err(|e| format!("{path}: {e}"))
}

/// Writes the exact logits of the scored positions of the first windows.
pub(crate) fn reference(host: &dyn Host, spec: &QualitySpec) -> Result<FromChild, String> {
    let windows = windows(host, spec)?;
    let compared: Vec<Vec<TokenId>> = windows.tokens().iter().take(spec.text.compared).cloned().collect();
    let path = spec.file.as_ref().ok_or("no folder for exact logits")?;
    let kept = |e: std::io::Error| format!("keeping exact logits: {e}");
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path).map_err(kept)?);
    let scored = windows.first_scored()..spec.text.window - 1;
    let mut position = 0;
    let form = host.exact(&spec.subject, &compared, &mut |row| {
        let at = position % spec.text.window;
        position += 1;
        if !scored.contains(&at) {
            return Ok(());
        }
        let bytes: Vec<u8> = row.iter().flat_map(|logit| logit.to_le_bytes()).collect();
        out.write_all(&bytes).map_err(kept)
    })?;
    out.flush().map_err(kept)?;
    Ok(FromChild::QualityReference { form })
}

/// Reads the text with a subject's backend. `out` hears about every window, so that a slow backend is not taken for a hung
/// one; the outer error is the pipe's.
pub(crate) fn measure(
    host: &dyn Host,
    spec: &QualitySpec,
    out: &mut impl Write,
) -> Result<Result<FromChild, String>, FrameError> {
    let mut pipe = Ok(());
    let measured = measured(host, spec, &mut |tokens| {
        if pipe.is_ok() {
            pipe = protocol::write(out, &FromChild::Progress { tokens });
        }
    });
    pipe.map(|()| measured)
}

fn measured(host: &dyn Host, spec: &QualitySpec, follow: &mut dyn FnMut(usize)) -> Result<FromChild, String> {
    let windows = windows(host, spec)?;
    let mut backend = host.backend(&spec.subject, spec.text.window)?;
    let file =
        spec.file.as_ref().map(File::open).transpose().map_err(|e| format!("reading exact logits: {e}"))?;
    let mut exact = file.map(|file| BufReader::with_capacity(1 << 20, file));
    let mut left = spec.text.compared * (spec.text.window - 1 - windows.first_scored());
    let mut agreement = Agreement::default();
    let (mut bytes, mut reference) = (Vec::new(), Vec::new());
    let mut look = |row: &[f32]| {
        let Some(exact) = exact.as_mut().filter(|_| left > 0) else { return Ok(()) };
        left -= 1;
        bytes.resize(row.len() * 4, 0);
        exact.read_exact(&mut bytes).map_err(|e| format!("reading exact logits: {e}"))?;
        reference.clear();
        reference.extend(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])));
        agreement.add(&reference, row).map_err(|e| e.to_string())
    };
    let mut heard = |_: usize, so_far: Perplexity| follow(so_far.tokens);
    let found = windows.measure(&mut *backend, &mut look, &mut heard).map_err(|e| e.to_string())?;
    let compared: Option<Box<Summary>> = agreement.summary().map(Box::new);
    Ok(FromChild::Quality { found, compared })
}
