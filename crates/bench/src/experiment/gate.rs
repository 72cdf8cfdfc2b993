//! The equivalence gate: before anything is timed, each backend is compared with the highest-precision form of the same
//! weights, on identical token ids. Who is out of bounds is measured and shown, and not ranked.
//!
//! The form is the file's own weights as f32 with f32 activations, keys and values, so what is judged is a backend's
//! arithmetic, not what quantising the file cost. Only `--quantize`, which changes the weights at load, has that in it.

use crate::agreement::{Bounds, Summary};
use crate::ceilings::LARGE;
use crate::plan::{BenchConfig, Plan, Subject};
use crate::process::{ChildError, ChildProcess, Launcher};
use crate::progress::{Progress, Update, Watcher};
use crate::protocol::{CompareSpec, FromChild, ReferenceSpec, ToChild};
use crate::record::{Cell, ModelFile, ModelFiles};
use crate::warning::Warning;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use zonda_engine::forward::BackendInfo;

/// Most tokens on which backends are compared; those of a beginning that passages have in common count once.
pub const POSITIONS: usize = 512;
/// Fewest, of large models.
const FEWEST: usize = 192;
/// Of each passage, tokens that are read one by one, as a generated answer is.
pub const ANSWER: usize = 8;
/// Fewest positions without a near tie for the best token to count: random weights leave few.
const FEWEST_DECIDED: usize = 50;
/// Part of the key of kept comparisons; raised when what is compared changes.
const VERSION: u32 = 2;

/// How a subject compares with the highest-precision form of its weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Agreed {
    /// Index into [`crate::BenchConfig::subjects`].
    pub subject: usize,
    /// What it was compared with.
    pub reference: String,
    /// Tokens that the comparison was to take: fewer for large models.
    #[serde(default)]
    pub tokens: usize,
    /// The comparison; `None` if there is none, which `why` explains.
    pub found: Option<Summary>,
    /// What it has to keep.
    pub bound: Bounds,
    /// Whether it does; `None` if it could not be compared through no fault of its own.
    pub within: Option<bool>,
    /// What it breaks, or why it could not be compared; empty if it is within its bounds.
    pub why: Vec<String>,
    /// The comparison was made in an earlier experiment with the same program, files and options.
    pub earlier: bool,
}

impl Agreed {
    /// The warning that this is worth, if any.
    pub fn warning(&self, config: &BenchConfig) -> Option<Warning> {
        let subject = config.subjects[self.subject].label();
        let why = self.why.join("; ");
        match self.within {
            Some(true) => None,
            Some(false) => Some(Warning::Disagrees { subject, why }),
            None => Some(Warning::NotCompared { subject, why }),
        }
    }
}

/// A subject that has figures and no place in the ranking.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Unranked {
    /// Index into [`crate::BenchConfig::subjects`].
    pub subject: usize,
    /// The backend.
    pub backend: String,
    /// The model's name.
    pub model: String,
    /// As in [`crate::record::Row::format`].
    pub format: Option<String>,
    /// As in [`crate::record::Row::quant`].
    pub quant: Option<String>,
    /// Why.
    pub why: String,
}

/// What a backend must keep, by how it holds the weights. The one table of bounds; `docs/methodology.md` gives it with what
/// was measured.
pub fn bound(held: &str, quantize: Option<&str>, kv_type: &str) -> Bounds {
    let bounds = |top1_decided, kl_mean, error| Bounds { top1_decided, kl_mean, error: Some(error) };
    let small = |name: &str| name.starts_with("q4");
    match (quantize, held.split('+').next().unwrap_or_default()) {
        // other weights than the file's: four bits a value, or eight
        (Some(asked), _) if small(asked) => bounds(0.70, 0.5, 0.6),
        _ if kv_type == "q4_0" => bounds(0.80, 0.15, 0.4),
        (Some(_), _) => bounds(0.97, 0.02, 0.1),
        _ if kv_type == "q8_0" => bounds(0.97, 0.02, 0.1),
        // activations as they are, or rounded to 16 bits
        (None, "f32" | "f16") => bounds(0.99, 0.002, 0.03),
        (None, "bf16") => bounds(0.98, 0.005, 0.05),
        // activations rounded to 8 bits
        (None, _) => bounds(0.98, 0.01, 0.1),
    }
}

/// How many tokens a model is compared on: all of them costs a 7B minutes. Models above 1 GiB get so many fewer as they are
/// larger, down to `FEWEST`.
pub fn positions(model_bytes: u64) -> usize {
    let by_size = POSITIONS as u64 * LARGE / model_bytes.max(LARGE);
    (by_size as usize).max(FEWEST)
}

/// What of its bound a comparison breaks. The best token counts only where enough positions are decided.
pub(crate) fn broken(found: &Summary, bound: &Bounds) -> Vec<String> {
    let few = found.decided < FEWEST_DECIDED;
    let found = Summary { top1_decided: found.top1_decided.filter(|_| !few), ..*found };
    bound.broken(&found)
}

/// Compares every subject that is not synthetic; one whose comparison is kept from an earlier experiment is not run.
///
/// # Errors
/// If the person interrupts, or no process can be started.
pub(crate) fn run(
    plan: &Plan,
    launcher: &Launcher,
    program: Option<&str>,
    models: &[ModelFiles],
    progress: &mut dyn Progress,
) -> Result<Vec<Agreed>, ChildError> {
    let config = plan.config();
    // subjects with the same weights share their exact logits
    let mut groups: BTreeMap<(Option<&Path>, &str), Vec<usize>> = BTreeMap::new();
    for (i, s) in config.subjects.iter().enumerate().filter(|(_, s)| !s.synthetic) {
        groups.entry((s.path.as_deref(), s.model.as_str())).or_default().push(i);
    }
    let mut gate = Gate { plan, launcher, models, progress, all: Vec::new() };
    for subjects in groups.into_values() {
        let keys: Vec<_> = subjects.iter().map(|&s| gate.kept_at(s, program)).collect();
        let mut todo = Vec::new();
        for (&subject, key) in subjects.iter().zip(keys) {
            match key.as_deref().and_then(|path| read(path, subject)) {
                Some(earlier) => gate.all.push(earlier),
                None => todo.push((subject, key)),
            }
        }
        gate.group(&todo)?;
    }
    gate.all.sort_by_key(|a| a.subject);
    Ok(gate.all)
}

struct Gate<'a> {
    plan: &'a Plan,
    launcher: &'a Launcher,
    models: &'a [ModelFiles],
    progress: &'a mut dyn Progress,
    all: Vec<Agreed>,
}

impl Gate<'_> {
    fn subject(&self, i: usize) -> &Subject {
        &self.plan.config().subjects[i]
    }

    /// The file in which a subject's comparison is kept; `None` if it can't be told apart from others.
    fn kept_at(&self, i: usize, program: Option<&str>) -> Option<PathBuf> {
        let folder = self.plan.config().gate_cache.as_ref()?;
        let s = self.subject(i);
        let files: &[ModelFile] = &self.models.iter().find(|m| m.subject == i)?.files;
        let parts = serde_json::to_vec(&(VERSION, program?, files, &s.backend, &s.options)).ok()?;
        Some(folder.join(format!("{}.json", crate::files::hex(Sha256::new().chain_update(parts)))))
    }

    /// Subjects with the same weights: the exact logits once, then each against them.
    fn group(&mut self, todo: &[(usize, Option<PathBuf>)]) -> Result<(), ChildError> {
        let Some((first, _)) = todo.first() else { return Ok(()) };
        let scratch = match tempfile::tempdir() {
            Ok(folder) => folder,
            Err(error) => return self.not_compared(todo, &format!("a folder for exact logits: {error}")),
        };
        let file = scratch.path().join("exact.f32");
        let subject = self.subject(*first).clone();
        let files = self.models.iter().filter(|m| m.subject == *first).flat_map(|m| &m.files);
        let tokens = positions(files.map(|f| f.bytes).sum());
        let spec = ReferenceSpec { subject, positions: tokens, file: file.clone() };
        let (form, passages) = match self.ask(*first, &ToChild::Reference(spec)) {
            Ok(FromChild::Reference { form, passages }) => (form, passages),
            Ok(FromChild::Failed { why }) => return self.not_compared(todo, &why),
            Ok(other) => return self.not_compared(todo, &format!("unexpected answer: {other:?}")),
            Err(ChildError::Interrupted) => return Err(ChildError::Interrupted),
            Err(error) => return self.not_compared(todo, &format!("computing exact logits: {error}")),
        };
        for (i, kept_at) in todo {
            let subject = self.subject(*i).clone();
            let quantize = subject.options.get("quantize").cloned();
            let spec = CompareSpec { subject, passages: passages.clone(), file: file.clone() };
            let answer = self.ask(*i, &ToChild::Compare(spec));
            let wrong = |why: String| {
                let bound = bound("", None, "");
                let (found, within, why) = (None, Some(false), vec![why]);
                Agreed {
                    subject: *i,
                    reference: form.clone(),
                    tokens,
                    found,
                    bound,
                    within,
                    why,
                    earlier: false,
                }
            };
            self.all.push(match answer {
                Err(ChildError::Interrupted) => return Err(ChildError::Interrupted),
                Ok(FromChild::Compared { found, backend }) => {
                    let BackendInfo { weights, kv_type, .. } = &*backend;
                    let bound = bound(weights, quantize.as_deref(), kv_type);
                    let why = broken(&found, &bound);
                    let within = Some(why.is_empty());
                    let (reference, found) = (form.clone(), Some(*found));
                    let agreed =
                        Agreed { subject: *i, reference, tokens, found, bound, within, why, earlier: false };
                    if let Some(path) = kept_at {
                        write(path, &agreed);
                    }
                    agreed
                }
                Ok(FromChild::Failed { why }) => wrong(why),
                Ok(other) => wrong(format!("unexpected answer: {other:?}")),
                Err(error) => wrong(error.to_string()),
            });
        }
        Ok(())
    }

    fn not_compared(&mut self, todo: &[(usize, Option<PathBuf>)], why: &str) -> Result<(), ChildError> {
        for (subject, _) in todo {
            self.all.push(Agreed {
                subject: *subject,
                reference: "none".into(),
                tokens: 0,
                found: None,
                bound: bound("", None, ""),
                within: None,
                why: vec![why.into()],
                earlier: false,
            });
        }
        Ok(())
    }

    /// One question to a process of its own.
    fn ask(&mut self, i: usize, question: &ToChild) -> Result<FromChild, ChildError> {
        self.progress.update(Update::Comparing(&self.plan.config().subjects[i]));
        ask(self.launcher, question, self.plan.timeout(), self.progress)
    }
}

/// Starts a process, asks it one thing, and ends it.
///
/// # Errors
/// What keeps the answer from coming; a program that can't be started counts as one that died.
pub(crate) fn ask(
    launcher: &Launcher,
    question: &ToChild,
    timeout: std::time::Duration,
    progress: &mut dyn Progress,
) -> Result<FromChild, ChildError> {
    let mut child = ChildProcess::start(launcher)
        .map_err(|e| ChildError::Died(format!("can't start {}: {e}", launcher.program.display())))?;
    child.greet(timeout, &mut Watcher(progress))?;
    let answer = child.ask(question, timeout, &mut Watcher(progress))?;
    child.quit();
    Ok(answer)
}

/// A comparison that was kept. Its bounds are today's.
fn read(path: &Path, subject: usize) -> Option<Agreed> {
    let kept: Agreed = serde_json::from_str(&fs::read_to_string(path).ok()?).ok()?;
    let why = broken(&kept.found?, &kept.bound);
    Some(Agreed { subject, within: Some(why.is_empty()), why, earlier: true, ..kept })
}

/// Keeps a comparison; one that can't be kept is made again.
fn write(path: &Path, agreed: &Agreed) {
    let kept = serde_json::to_vec(agreed).map_err(std::io::Error::other).and_then(|json| {
        fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
        fs::write(path, json)
    });
    if let Err(error) = kept {
        tracing::debug!(path = %path.display(), %error, "a comparison could not be kept");
    }
}

/// Marks the cells of subjects that are out of bounds, and lists these subjects.
pub fn judge(cells: &mut [Cell], agreed: &[Agreed]) -> Vec<Unranked> {
    let mut unranked: Vec<Unranked> = Vec::new();
    for cell in cells {
        let wrong = agreed.iter().find(|a| a.subject == cell.subject && a.within == Some(false));
        let Some(why) = wrong.map(|a| a.why.join("; ")) else { continue };
        cell.not_ranked = Some(why.clone());
        let listed = unranked.iter().any(|u| u.subject == cell.subject);
        if !listed && cell.headline().is_some() {
            unranked.push(Unranked {
                subject: cell.subject,
                backend: cell.backend.clone(),
                model: cell.model.clone(),
                format: cell.format.clone(),
                quant: cell.quant.clone(),
                why,
            });
        }
    }
    unranked
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agreement::Agreement;

    /// Logits of random weights are nearly uniform: any backend's divergence is small, a wrong one's differences are not.
    #[test]
    fn a_wrong_backend_is_caught_where_logits_are_nearly_uniform() {
        let mut rng = crate::rng::Rng::new(5, 5);
        let mut row = |scale: f32| -> Vec<f32> {
            (0..500).map(|_| scale * (rng.bits() as f32 / u64::MAX as f32 - 0.5)).collect()
        };
        let (mut right, mut wrong) = (Agreement::default(), Agreement::default());
        for _ in 0..100 {
            let reference = row(0.2);
            let close: Vec<f32> = reference.iter().zip(row(0.002)).map(|(a, b)| a + b).collect();
            right.add(&reference, &close).unwrap();
            wrong.add(&reference, &row(0.2)).unwrap();
        }
        let (right, wrong) = (right.summary().unwrap(), wrong.summary().unwrap());
        let bound = bound("q4_0", None, "f16");
        assert!(wrong.kl_mean < bound.kl_mean && wrong.decided < FEWEST_DECIDED, "{wrong:?}");
        assert_eq!(broken(&right, &bound), Vec::<String>::new());
        let broken = broken(&wrong, &bound);
        assert!(broken.len() == 1 && broken[0].contains("differences of logits 1.4"), "{broken:?}");
    }

    #[test]
    fn large_models_are_compared_on_fewer_tokens() {
        assert_eq!([0, 1 << 20, LARGE].map(positions), [POSITIONS; 3]);
        assert_eq!([2 * LARGE, 4 * LARGE, 100 * LARGE].map(positions), [256, FEWEST, FEWEST]);
    }

    #[test]
    fn bounds_widen_with_what_is_rounded() {
        let kl = |held, quantize, kv| bound(held, quantize, kv).kl_mean;
        assert!(kl("f32", None, "f16") < kl("bf16", None, "f16"));
        assert!(kl("bf16", None, "f16") < kl("q4_k+q6_k", None, "f16"));
        assert!(kl("q4_k+q6_k", None, "f16") < kl("q8_0", Some("q8_0"), "f16"));
        assert!(kl("q8_0", Some("q8_0"), "f16") < kl("q8_0", Some("q8_0"), "q4_0"));
        assert!(kl("q8_0", Some("q8_0"), "q4_0") < kl("q4_0", Some("q4_k_m"), "f16"));
    }

    #[test]
    fn a_kept_comparison_is_read_back_as_an_earlier_one() {
        let mut agreement = Agreement::default();
        agreement.add(&[1.0, 2.0], &[1.0, 2.0]).unwrap();
        let made = Agreed {
            subject: 3,
            reference: "exact".into(),
            tokens: POSITIONS,
            found: agreement.summary(),
            bound: bound("f32", None, "f32"),
            within: Some(true),
            why: Vec::new(),
            earlier: false,
        };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gate").join("x.json");
        write(&path, &made);
        assert_eq!(read(&path, 1), Some(Agreed { subject: 1, earlier: true, ..made }));
        fs::write(&path, "{").unwrap();
        assert_eq!(read(&path, 1), None);
    }
}
