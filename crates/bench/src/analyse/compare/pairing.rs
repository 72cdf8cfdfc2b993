//! Which subjects of two records are the same.

use super::result::Missing;
use crate::record::results::Record;
use crate::record::subject::Subject;
use std::collections::BTreeSet;

/// Which subjects of the two records are the same: by backend, model name and format, and by options if several match. Those
/// without a partner, or with another model under the same name, are reported as missing.
pub(super) fn subjects(a: &Record, b: &Record) -> (Vec<(usize, usize)>, Vec<Missing>) {
    let key = |s: &Subject| (s.backend.clone(), s.model.clone(), s.format.clone());
    let same = |s: &Subject, record: &Record| -> Vec<usize> {
        (0..record.config.subjects.len()).filter(|&i| key(&record.config.subjects[i]) == key(s)).collect()
    };
    let (mut pairs, mut missing, mut found) = (Vec::new(), Vec::new(), BTreeSet::new());
    for (i, s) in a.config.subjects.iter().enumerate() {
        let mut others = same(s, b);
        if others.len() > 1 || same(s, a).len() > 1 {
            others.retain(|&o| b.config.subjects[o].options == s.options);
        }
        let why = match others[..] {
            [o] => match other_files(a, i, b, o) {
                None => {
                    pairs.push((i, o));
                    found.insert(o);
                    continue;
                }
                Some(why) => {
                    found.insert(o);
                    why
                }
            },
            [] => "only A has it".into(),
            _ => "B has several of that name".into(),
        };
        missing.push(Missing { what: s.label(), why, broke: false });
    }
    for (_, s) in b.config.subjects.iter().enumerate().filter(|(o, _)| !found.contains(o)) {
        if !missing.iter().any(|m| m.what == s.label()) {
            missing.push(Missing { what: s.label(), why: "only B has it".into(), broke: false });
        }
    }
    (pairs, missing)
}

/// Why the models are not the same, if their files differ.
fn other_files(a: &Record, sa: usize, b: &Record, sb: usize) -> Option<String> {
    let sums = |record: &Record, subject| {
        let files = record.models.iter().find(|m| m.subject == subject)?;
        Some(files.files.iter().map(|f| (f.bytes, f.sha256.clone())).collect::<BTreeSet<_>>())
    };
    let differ = sums(a, sa).zip(sums(b, sb)).is_some_and(|(a, b)| a != b);
    differ.then(|| "the model's files differ (SHA-256)".into())
}

/// How the options of two subjects differ, if they do.
pub(super) fn differing_options(a: &Subject, b: &Subject) -> Option<String> {
    let list = |s: &Subject| s.options.iter().map(|(k, v)| format!("{k} {v}")).collect::<Vec<_>>().join(", ");
    let said = |list: String| if list.is_empty() { "none".to_owned() } else { list };
    (a.options != b.options)
        .then(|| format!("{}: options {} in A, {} in B", b.label(), said(list(a)), said(list(b))))
}
