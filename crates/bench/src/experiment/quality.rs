//! The parent's side of the quality measurement: each subject in a separate process.

use crate::eval::quality::QualitySpec;
use crate::experiment::gate::ask;
use crate::experiment::plan::Plan;
use crate::experiment::process::{ChildError, Launcher};
use crate::experiment::progress::{Progress, Update};
use crate::experiment::protocol::{FromChild, ToChild};
use crate::record::{Quality, QualityText};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Measures every subject that is not synthetic.
///
/// # Errors
/// If the user interrupts.
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
        let file = scratch.as_ref().ok().map(|folder| folder.path().join("reference.f32"));
        let (reference, no_reference) = match question(group[0], file.clone(), true)? {
            FromChild::QualityReference { form } => (Some(form), None),
            FromChild::Failed { why } => (None, Some(format!("no reference logits: {why}"))),
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
                name: subjects[i].name(),
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
