//! The equivalence gate: before anything is timed, each backend is compared with the highest-precision form of the same
//! weights, on identical token ids. A backend outside its bounds is measured and shown, but not ranked.
//!
//! The form is the file's own weights as f32 with f32 activations, keys and values, so the gate judges a backend's
//! arithmetic, not the loss from quantising the file. With `--quantize`, which changes the weights at load, the distance
//! includes that loss.

use crate::eval::bounds::{bound, broken, positions};
use crate::eval::reference::{CompareSpec, ReferenceSpec};
use crate::experiment::plan::Plan;
use crate::experiment::process::{ChildError, ChildProcess, Launcher};
use crate::experiment::progress::{Progress, Update, Watcher};
use crate::experiment::protocol::{FromChild, ToChild};
use crate::record::comparison::GateResult;
use crate::record::results::{ModelFile, ModelFiles};
use crate::record::subject::Subject;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use zonda_engine::forward::BackendInfo;

/// Part of the key of cached comparisons; raised when the comparison changes.
const VERSION: u32 = 2;

/// Compares every subject that is not synthetic, unless an earlier experiment cached the comparison.
///
/// # Errors
/// If the user interrupts, or no process can be started.
pub(crate) fn run(
    plan: &Plan,
    launcher: &Launcher,
    program: Option<&str>,
    models: &[ModelFiles],
    progress: &mut dyn Progress,
) -> Result<Vec<GateResult>, ChildError> {
    let config = plan.config();
    // Subjects with the same weights share their reference logits.
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
    all: Vec<GateResult>,
}

impl Gate<'_> {
    fn subject(&self, i: usize) -> &Subject {
        &self.plan.config().subjects[i]
    }

    /// The file in which a subject's comparison is cached; `None` without a cache or the program's checksum.
    fn kept_at(&self, i: usize, program: Option<&str>) -> Option<PathBuf> {
        let folder = self.plan.config().gate_cache.as_ref()?;
        let s = self.subject(i);
        let files: &[ModelFile] = &self.models.iter().find(|m| m.subject == i)?.files;
        let parts = serde_json::to_vec(&(VERSION, program?, files, &s.backend, &s.options)).ok()?;
        Some(folder.join(format!("{}.json", crate::files::hex(Sha256::new().chain_update(parts)))))
    }

    /// Subjects with the same weights: computes the reference logits once, then compares each subject with them.
    fn group(&mut self, todo: &[(usize, Option<PathBuf>)]) -> Result<(), ChildError> {
        let Some((first, _)) = todo.first() else { return Ok(()) };
        let scratch = match tempfile::tempdir() {
            Ok(folder) => folder,
            Err(error) => {
                return self.not_compared(todo, &format!("a folder for the reference logits: {error}"));
            }
        };
        let file = scratch.path().join("reference.f32");
        let subject = self.subject(*first).clone();
        let files = self.models.iter().filter(|m| m.subject == *first).flat_map(|m| &m.files);
        let tokens = positions(files.map(|f| f.bytes).sum());
        let spec = ReferenceSpec { subject, positions: tokens, file: file.clone() };
        let (form, prompts) = match self.ask(*first, &ToChild::Reference(spec)) {
            Ok(FromChild::Reference { form, prompts }) => (form, prompts),
            Ok(FromChild::Failed { why }) => return self.not_compared(todo, &why),
            Ok(other) => return self.not_compared(todo, &format!("unexpected answer: {other:?}")),
            Err(ChildError::Interrupted) => return Err(ChildError::Interrupted),
            Err(error) => {
                return self.not_compared(todo, &format!("computing the reference logits: {error}"));
            }
        };
        for (i, kept_at) in todo {
            let subject = self.subject(*i).clone();
            let quantize = subject.options.get("quantize").cloned();
            let spec = CompareSpec { subject, prompts: prompts.clone(), file: file.clone() };
            let answer = self.ask(*i, &ToChild::Compare(spec));
            let result = |found, bound, within, why| GateResult {
                subject: *i,
                reference: form.clone(),
                tokens,
                found,
                bound,
                within: Some(within),
                why,
                earlier: false,
            };
            let wrong = |why: String| result(None, bound("", None, ""), false, vec![why]);
            self.all.push(match answer {
                Err(ChildError::Interrupted) => return Err(ChildError::Interrupted),
                Ok(FromChild::Compared { found, backend }) => {
                    let BackendInfo { weights, kv_type, .. } = &*backend;
                    let bound = bound(weights, quantize.as_deref(), kv_type);
                    let why = broken(&found, &bound);
                    let agreed = result(Some(*found), bound, why.is_empty(), why);
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
            self.all.push(GateResult {
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

    /// Sends one command to a new process.
    fn ask(&mut self, i: usize, question: &ToChild) -> Result<FromChild, ChildError> {
        self.progress.update(Update::Comparing(&self.plan.config().subjects[i]));
        ask(self.launcher, question, self.plan.timeout(), self.progress)
    }
}

/// Starts a process, sends it one command, and ends it.
///
/// # Errors
/// If there is no answer. A program that can't be started counts as died.
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

/// Reads a cached comparison and judges it again by its bounds.
fn read(path: &Path, subject: usize) -> Option<GateResult> {
    let kept: GateResult = serde_json::from_str(&fs::read_to_string(path).ok()?).ok()?;
    let why = broken(&kept.found?, &kept.bound);
    Some(GateResult { subject, within: Some(why.is_empty()), why, earlier: true, ..kept })
}

/// Caches a comparison. If that fails, the next experiment compares again.
fn write(path: &Path, agreed: &GateResult) {
    let kept = serde_json::to_vec(agreed).map_err(std::io::Error::other).and_then(|json| {
        fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
        zonda_engine::files::write(path, &json)
    });
    if let Err(error) = kept {
        tracing::debug!(path = %path.display(), %error, "a comparison could not be kept");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::bounds::POSITIONS;
    use crate::eval::comparison::LogitsComparison;

    #[test]
    fn a_cached_comparison_is_read_back_as_an_earlier_one() {
        let mut agreement = LogitsComparison::default();
        agreement.add(&[1.0, 2.0], &[1.0, 2.0]).unwrap();
        let made = GateResult {
            subject: 3,
            reference: "reference".into(),
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
        assert_eq!(read(&path, 1), Some(GateResult { subject: 1, earlier: true, ..made }));
        fs::write(&path, "{").unwrap();
        assert_eq!(read(&path, 1), None);
    }
}
