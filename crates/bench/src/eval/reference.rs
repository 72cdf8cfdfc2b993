//! The child's side of the equivalence gate: exact logits into a file, and a backend's logits against those of a file.

use crate::agreement::Agreement;
use crate::gate::ANSWER;
use crate::host::Host;
use crate::passage::{Passage, WalkError};
use crate::protocol::{CompareSpec, FromChild, ReferenceSpec};
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use zonda_engine::TokenId;

/// Writes the exact logits of a subject's weights.
pub(crate) fn reference(host: &dyn Host, spec: &ReferenceSpec) -> Result<FromChild, String> {
    let (text, vocab) = host.text(&spec.subject)?;
    let passages = Passage::fixed(text.as_ref(), vocab, spec.positions, ANSWER).map_err(|e| e.to_string())?;
    let sequences: Vec<Vec<TokenId>> =
        passages.iter().map(|p| p.prompt.iter().chain(&p.answer).copied().collect()).collect();
    let file = File::create(&spec.file).map_err(|e| format!("a file for exact logits: {e}"))?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    let form = host.exact(&spec.subject, &sequences, &mut |row| {
        let bytes: Vec<u8> = row.iter().flat_map(|logit| logit.to_le_bytes()).collect();
        out.write_all(&bytes).map_err(|e| format!("keeping exact logits: {e}"))
    })?;
    out.flush().map_err(|e| format!("keeping exact logits: {e}"))?;
    Ok(FromChild::Reference { form, passages })
}

/// Walks a backend through the passages and compares its logits with those of the file.
pub(crate) fn compare(host: &dyn Host, spec: &CompareSpec) -> Result<FromChild, String> {
    let file = File::open(&spec.file).map_err(|e| format!("reading exact logits: {e}"))?;
    let mut reference = BufReader::with_capacity(1 << 20, file);
    let longest = spec.passages.iter().map(Passage::len).max().unwrap_or(1);
    let mut backend = host.backend(&spec.subject, longest)?;
    let mut agreement = Agreement::default();
    let (mut bytes, mut exact) = (Vec::new(), Vec::new());
    for (i, passage) in spec.passages.clone().iter_mut().enumerate() {
        // chat templates begin alike: the same tokens count once
        let known = spec.passages[..i].iter().map(|earlier| common(earlier, passage)).max().unwrap_or(0);
        let mut position = 0;
        let mut look = |row: &[f32]| {
            bytes.resize(row.len() * 4, 0);
            reference.read_exact(&mut bytes).map_err(|e| format!("reading exact logits: {e}"))?;
            position += 1;
            if position <= known {
                return Ok(());
            }
            exact.clear();
            exact.extend(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])));
            agreement.add(&exact, row).map_err(|e| e.to_string())
        };
        passage.walk(&mut *backend, None, &mut look).map_err(|error| match error {
            WalkError::Backend(error) => error.to_string(),
            WalkError::Refused(why) => why,
        })?;
    }
    let found = agreement.summary().ok_or("there was nothing to compare")?;
    Ok(FromChild::Compared { found: Box::new(found), backend: Box::new(backend.info()) })
}

/// How many tokens two passages have in common at the beginning.
fn common(a: &Passage, b: &Passage) -> usize {
    let tokens = |p: &Passage| p.prompt.iter().chain(&p.answer).copied().collect::<Vec<_>>();
    tokens(a).iter().zip(&tokens(b)).take_while(|(a, b)| a == b).count()
}
