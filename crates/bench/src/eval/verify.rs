//! Checks a model's files, and compares backends with each other on the evaluation prompts (`zonda verify`).
//!
//! The first backend answers the prompts. Every other backend, and the reference if requested, reads the same tokens. Each is
//! compared with the reference and with the first backend.

use super::comparison::ComparisonError;
use super::logits_file::{FileComparison, LogitsWriter};
use super::prompts::{EvalPrompt, WalkError};
use crate::host::Host;
use crate::record::comparison::{LogitsBounds, LogitsSummary};
use crate::record::subject::Subject;
use serde::Serialize;
use std::fs::File;
use std::io::Seek as _;
use zonda_engine::forward::BackendInfo;
use zonda_engine::load::{Model, check_finite};
use zonda_engine::{TextProcessor, TokenId};

/// The name of the reference in checks and pairs.
pub const REFERENCE: &str = "reference";

/// The plan of a verification.
#[derive(Clone, Debug)]
pub struct VerifyPlan {
    /// The backends, with one model. The first answers the prompts.
    pub subjects: Vec<Subject>,
    /// Whether to compare with the reference too.
    pub reference: bool,
    /// Positions to compare; the last prompt is read to its end.
    pub positions: usize,
    /// Maximum number of tokens per answer.
    pub answer: usize,
    /// The context in tokens; `None`: that of the longest prompt and answer, at most [`VerifyPlan::model_context`].
    pub context: Option<usize>,
    /// The longest context of the model, in tokens.
    pub model_context: usize,
    /// The bounds that every pair must keep.
    pub bounds: LogitsBounds,
}

/// One check and its result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Its name: `tensors`, `logits of native`.
    pub name: String,
    /// Whether it passed.
    pub ok: bool,
    /// The finding, or the reason for the failure.
    pub detail: String,
}

impl Check {
    /// The check `name` with its result.
    pub fn new(name: impl Into<String>, result: Result<String, String>) -> Check {
        let ok = result.is_ok();
        let (Ok(detail) | Err(detail)) = result;
        Check { name: name.into(), ok, detail }
    }
}

/// Two backends compared.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Pair {
    /// The reference, or the first backend.
    pub reference: String,
    /// The backend compared with it.
    pub other: String,
    /// The comparison.
    #[serde(flatten)]
    pub found: LogitsSummary,
    /// The bounds that it breaks, in words.
    pub broken: Vec<String>,
}

/// The comparison of all backends.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verified {
    /// Positions compared.
    pub positions: usize,
    /// The backends' logits; the reference first.
    pub checks: Vec<Check>,
    /// Every pair.
    pub pairs: Vec<Pair>,
}

/// Checks the tensors, the weights and the tokenizer of a model. The second value is whether the model can be run.
pub fn check_model(model: &Model, text: Result<Option<&TextProcessor>, String>) -> (Vec<Check>, bool) {
    let count = model.tensors().len();
    let shapes = model.check().map(|()| format!("{count} tensors, all present with the expected shapes"));
    let tensors = Check::new("tensors", shapes.map_err(|e| e.to_string()));
    if !tensors.ok {
        return (vec![tensors], false);
    }
    let finite = model.spec.roles().try_for_each(|role| check_finite(&model.tensor(role)?));
    let weights = finite.map(|()| "no NaN, no infinity".to_owned()).map_err(|e| e.to_string());
    let tokenizer = text.and_then(|text| describe(text, model.spec.vocab_size));
    (vec![tensors, Check::new("weights", weights), Check::new("tokenizer", tokenizer)], true)
}

/// Checks that the tokenizer fits the model, and describes it.
fn describe(text: Option<&TextProcessor>, vocab: usize) -> Result<String, String> {
    let Some(text) = text else { return Ok("none: the prompts are random token ids".to_owned()) };
    let tokens = text.tokenizer.vocab_size();
    if tokens > vocab {
        return Err(format!("the tokenizer has {tokens} tokens, the model has logits for only {vocab}"));
    }
    let template = if text.template.is_some() { "with" } else { "without" };
    Ok(format!("{tokens} tokens, {template} chat template"))
}

/// Compares all backends. `follow` gets the name of each one before it starts.
pub fn compare(host: &(dyn Host + Sync), plan: &VerifyPlan, follow: &mut dyn FnMut(&str)) -> Verified {
    let mut verified = Verified::default();
    let mut prompts = Vec::new();
    // Later backends are compared with these: the reference, then the first backend.
    let mut kept: Vec<(String, File)> = Vec::new();
    for (i, subject) in plan.subjects.iter().enumerate() {
        let name = &subject.backend;
        follow(name);
        let keep = i == 0 && (plan.reference || plan.subjects.len() > 1);
        // A backend pins the thread that opens it, so each has its own thread.
        let walked = std::thread::scope(|scope| {
            let walk = || walk(host, plan, subject, &mut prompts, &kept, keep);
            let thread = std::thread::Builder::new().name("zonda-verify".into()).spawn_scoped(scope, walk);
            let thread = thread.map_err(|e| format!("the system does not start a thread: {e}"))?;
            thread.join().unwrap_or_else(|_| Err("the backend panicked".to_owned()))
        });
        let detail = walked.as_ref().map(Walked::describe).map_err(Clone::clone);
        verified.checks.push(Check::new(format!("logits of {name}"), detail));
        let Ok(walked) = walked else {
            if i == 0 {
                return verified;
            }
            continue;
        };
        for ((reference, _), found) in kept.iter().zip(walked.compared) {
            verified.pairs.extend(found.map(|found| pair(reference, name, found, &plan.bounds)));
        }
        kept.extend(walked.rows.map(|rows| (name.clone(), rows)));
        if i == 0 && plan.reference {
            follow(REFERENCE);
            let rows = &kept[0].1;
            let computed = reference(host, subject, &prompts, rows, plan.subjects.len() > 1);
            let detail = computed.as_ref().map(|computed| computed.detail.clone()).map_err(Clone::clone);
            verified.checks.insert(0, Check::new(format!("logits of {REFERENCE}"), detail));
            if let Ok(computed) = computed {
                verified.pairs.extend(computed.found.map(|found| pair(REFERENCE, name, found, &plan.bounds)));
                computed.rows.into_iter().for_each(|rows| kept.insert(0, (REFERENCE.to_owned(), rows)));
            }
        }
    }
    verified.positions = prompts.iter().map(EvalPrompt::len).sum();
    verified
}

fn pair(reference: &str, other: &str, found: LogitsSummary, bounds: &LogitsBounds) -> Pair {
    Pair { reference: reference.to_owned(), other: other.to_owned(), found, broken: bounds.broken(&found) }
}

/// A backend's run through the prompts.
struct Walked {
    info: BackendInfo,
    vocab: usize,
    positions: usize,
    /// Its rows, if they are kept.
    rows: Option<File>,
    /// The comparison with each of the kept files.
    compared: Vec<Option<LogitsSummary>>,
}

impl Walked {
    fn describe(&self) -> String {
        let BackendInfo { version, device, weights, kv_type, .. } = &self.info;
        format!(
            "[{}, {}], no NaN, no infinity; version {version}, on {device}, weights {weights}, KV cache {kv_type}",
            self.positions, self.vocab
        )
    }
}

/// Opens the backend and runs the prompts. The first one (`prompts` is empty) chooses the prompts and answers them.
fn walk(
    host: &dyn Host,
    plan: &VerifyPlan,
    subject: &Subject,
    prompts: &mut Vec<EvalPrompt>,
    kept: &[(String, File)],
    keep: bool,
) -> Result<Walked, String> {
    let first = prompts.is_empty();
    let (text, vocab) = host.text(subject)?;
    let todo = if first {
        EvalPrompt::all(text.as_ref(), vocab).map_err(|e| e.to_string())?
    } else {
        std::mem::take(prompts)
    };
    let longest = todo.iter().map(|p| p.prompt.len()).max().unwrap_or(0) + plan.answer;
    let context = plan.context.unwrap_or(longest.min(plan.model_context));
    let mut backend = host.backend(subject, context)?;
    let ends: &[TokenId] = text.as_ref().map_or(&[], |text| text.tokenizer.end_tokens());
    let mut references = kept.iter().map(|(_, file)| rewound(file)).collect::<Result<Vec<_>, _>>()?;
    let mut own = keep.then(scratch).transpose()?;
    let mut positions = 0;
    for mut prompt in todo {
        if first && positions >= plan.positions {
            break;
        }
        let mut on_logits = |row: &[f32]| {
            let position = positions;
            positions += 1;
            if let Some(token) = row.iter().position(|logit| !logit.is_finite()) {
                let error = ComparisonError::NonFinite { position, side: "backend's", token };
                return Err(error.to_string());
            }
            references.iter_mut().try_for_each(|reference| reference.add(row))?;
            own.as_mut().map_or(Ok(()), |own| own.write(row))
        };
        let extend = first.then_some((plan.answer, ends));
        prompt.walk(&mut *backend, extend, &mut on_logits).map_err(|error| match error {
            WalkError::Backend(error) => error.to_string(),
            WalkError::Refused(why) => why,
        })?;
        prompts.push(prompt);
    }
    Ok(Walked {
        info: backend.info(),
        vocab: backend.spec().vocab_size,
        positions,
        rows: own.map(LogitsWriter::finish).transpose()?,
        compared: references.iter().map(FileComparison::summary).collect(),
    })
}

/// The reference's logits, compared with the first backend's.
struct Computed {
    detail: String,
    found: Option<LogitsSummary>,
    rows: Option<File>,
}

fn reference(
    host: &dyn Host,
    subject: &Subject,
    prompts: &[EvalPrompt],
    first: &File,
    keep: bool,
) -> Result<Computed, String> {
    let sequences: Vec<Vec<TokenId>> = prompts.iter().map(EvalPrompt::tokens).collect();
    let mut comparison = rewound(first)?;
    let mut own = keep.then(scratch).transpose()?;
    let (mut positions, mut vocab) = (0, 0);
    let form = host.reference(subject, &sequences, &mut |row| {
        positions += 1;
        vocab = row.len();
        comparison.add_reference(row)?;
        own.as_mut().map_or(Ok(()), |own| own.write(row))
    })?;
    Ok(Computed {
        detail: format!("[{positions}, {vocab}], no NaN, no infinity; {form}"),
        found: comparison.summary(),
        rows: own.map(LogitsWriter::finish).transpose()?,
    })
}

/// An unnamed temporary file for logits, which is deleted with the process.
fn scratch() -> Result<LogitsWriter, String> {
    let file = tempfile::tempfile().map_err(|e| format!("can't create a file for logits: {e}"))?;
    Ok(LogitsWriter::new(file))
}

/// Compares with a file from its beginning.
fn rewound(mut file: &File) -> Result<FileComparison, String> {
    let io = |e: std::io::Error| format!("can't read logits: {e}");
    file.rewind().map_err(io)?;
    Ok(FileComparison::new(file.try_clone().map_err(io)?))
}
