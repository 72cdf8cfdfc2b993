//! The child's side of the equivalence gate: writes reference logits to a file, and compares a backend with them.

use super::bounds::ANSWER;
use super::logits_file::{FileComparison, LogitsWriter};
use super::prompts::{EvalPrompt, WalkError};
use crate::host::Host;
use crate::record::comparison::LogitsSummary;
use crate::record::subject::Subject;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::path::PathBuf;
use zonda_engine::TokenId;
use zonda_engine::forward::BackendInfo;

/// A request for reference logits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReferenceSpec {
    /// The subject whose model is computed.
    pub subject: Subject,
    /// Maximum number of positions to compute.
    pub positions: usize,
    /// The file for the logits: rows of `f32`, little-endian, in order.
    pub file: PathBuf,
}

/// A request to compare a backend with reference logits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CompareSpec {
    /// Backend, model, options.
    pub subject: Subject,
    /// The prompts that `write` returned.
    pub prompts: Vec<EvalPrompt>,
    /// The file of [`ReferenceSpec`].
    pub file: PathBuf,
}

/// Writes the reference logits of a subject's weights. Returns a description of the reference, and the prompts.
///
/// # Errors
/// One sentence.
pub(crate) fn write(host: &dyn Host, spec: &ReferenceSpec) -> Result<(String, Vec<EvalPrompt>), String> {
    let (text, vocab) = host.text(&spec.subject)?;
    let prompts =
        EvalPrompt::fixed(text.as_ref(), vocab, spec.positions, ANSWER).map_err(|e| e.to_string())?;
    let sequences: Vec<Vec<TokenId>> = prompts.iter().map(EvalPrompt::tokens).collect();
    let file = File::create(&spec.file).map_err(|e| format!("can't create a file for logits: {e}"))?;
    let mut out = LogitsWriter::new(file);
    let form = host.reference(&spec.subject, &sequences, &mut |row| out.write(row))?;
    out.finish()?;
    Ok((form, prompts))
}

/// Runs the prompts through a backend and compares its logits with those of the file.
///
/// # Errors
/// One sentence.
pub(crate) fn compare(host: &dyn Host, spec: &CompareSpec) -> Result<(LogitsSummary, BackendInfo), String> {
    let file = File::open(&spec.file).map_err(|e| format!("can't read logits: {e}"))?;
    let mut comparison = FileComparison::new(file);
    let longest = spec.prompts.iter().map(EvalPrompt::len).max().unwrap_or(1);
    let mut backend = host.backend(&spec.subject, longest)?;
    for (i, prompt) in spec.prompts.clone().iter_mut().enumerate() {
        // The first tokens of a chat template are the same for all prompts and count once.
        let known = spec.prompts[..i].iter().map(|earlier| common(earlier, prompt)).max().unwrap_or(0);
        let mut position = 0;
        let mut on_logits = |row: &[f32]| {
            position += 1;
            if position <= known { comparison.skip(row.len()) } else { comparison.add(row) }
        };
        prompt.walk(&mut *backend, None, &mut on_logits).map_err(|error| match error {
            WalkError::Backend(error) => error.to_string(),
            WalkError::Refused(why) => why,
        })?;
    }
    let found = comparison.summary().ok_or("there are no positions to compare")?;
    Ok((found, backend.info()))
}

/// The length of the common prefix of two prompts, in tokens.
fn common(a: &EvalPrompt, b: &EvalPrompt) -> usize {
    a.tokens().iter().zip(&b.tokens()).take_while(|(a, b)| a == b).count()
}
