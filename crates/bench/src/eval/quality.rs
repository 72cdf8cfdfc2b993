//! The child's side of the quality measurement (`--quality TEXT`): the perplexity of a subject on a text, and the distance
//! of its predictions from the reference logits of the same weights.

use super::logits_file::{FileComparison, LogitsWriter};
use super::perplexity::{Perplexity, WINDOW, Windows};
use crate::host::Host;
use crate::record::comparison::LogitsSummary;
use crate::record::config::QualityText;
use crate::record::subject::Subject;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::path::{Path, PathBuf};
use zonda_engine::TokenId;

/// A text with the default windows: 512 tokens each, at most 32 of them, 4 of which are compared.
///
/// # Errors
/// If the file can't be read.
pub fn text_of(path: &Path) -> std::io::Result<QualityText> {
    let sha256 = crate::files::describe(path)?.sha256;
    let path = std::path::absolute(path)?;
    Ok(QualityText { path, sha256, window: WINDOW, windows: 32, compared: 4 })
}

/// A request to measure a subject on a text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QualitySpec {
    /// Backend, model, options.
    pub subject: Subject,
    /// The text.
    pub text: QualityText,
    /// The file of reference logits: rows of `f32`, little-endian, of the scored positions of the first windows. `None`:
    /// nothing is compared.
    pub file: Option<PathBuf>,
}

/// The windows of a subject's text.
fn windows(host: &dyn Host, spec: &QualitySpec) -> Result<Windows, String> {
    let (text, _) = host.text(&spec.subject)?;
    let tokenizer = text.ok_or("the model has no tokenizer")?.tokenizer;
    let path = spec.text.path.display();
    let words = std::fs::read_to_string(&spec.text.path).map_err(|e| format!("{path}: {e}"))?;
    let windows = Windows::of(&words, &tokenizer, spec.text.window, Some(spec.text.windows));
    windows.map_err(|e| format!("{path}: {e}"))
}

/// Writes the reference logits of the scored positions of the first windows. Returns a description of the reference.
///
/// # Errors
/// One sentence.
pub(crate) fn write_reference(host: &dyn Host, spec: &QualitySpec) -> Result<String, String> {
    let windows = windows(host, spec)?;
    let compared: Vec<Vec<TokenId>> = windows.tokens().iter().take(spec.text.compared).cloned().collect();
    let path = spec.file.as_ref().ok_or("there is no folder for reference logits")?;
    let file = File::create(path).map_err(|e| format!("can't create a file for logits: {e}"))?;
    let mut out = LogitsWriter::new(file);
    let scored = windows.first_scored()..spec.text.window - 1;
    let mut position = 0;
    let form = host.reference(&spec.subject, &compared, &mut |row| {
        let at = position % spec.text.window;
        position += 1;
        if scored.contains(&at) { out.write(row) } else { Ok(()) }
    })?;
    out.finish()?;
    Ok(form)
}

/// Measures a subject's backend on the text. `follow` gets the number of scored tokens after every window.
///
/// # Errors
/// One sentence.
pub(crate) fn measure(
    host: &dyn Host,
    spec: &QualitySpec,
    follow: &mut dyn FnMut(usize),
) -> Result<(Perplexity, Option<LogitsSummary>), String> {
    let windows = windows(host, spec)?;
    let mut backend = host.backend(&spec.subject, spec.text.window)?;
    let file =
        spec.file.as_ref().map(File::open).transpose().map_err(|e| format!("can't read logits: {e}"))?;
    let mut comparison = file.map(FileComparison::new);
    let mut left = spec.text.compared * (spec.text.window - 1 - windows.first_scored());
    let mut on_logits = |row: &[f32]| match comparison.as_mut().filter(|_| left > 0) {
        None => Ok(()),
        Some(comparison) => {
            left -= 1;
            comparison.add(row)
        }
    };
    let mut on_window = |_: usize, so_far: Perplexity| follow(so_far.tokens);
    let found = windows.measure(&mut *backend, &mut on_logits, &mut on_window).map_err(|e| e.to_string())?;
    Ok((found, comparison.and_then(|comparison| comparison.summary())))
}
