//! Comparing two records, or the subjects of one.

use super::cells::{cells, find_regressions};
use super::notes::{machine, notes};
use super::pairing::{differing_options, subjects};
use super::result::{CompareError, Comparison, Missing, Options};
use crate::record::results::Record;

/// Compares two records, cell by cell.
///
/// # Errors
/// If they are from different machines (unless that is allowed), were measured in different ways or have nothing in common.
pub fn compare(a: &Record, b: &Record, options: &Options) -> Result<Comparison, CompareError> {
    let (machine_a, machine_b) = (machine(a), machine(b));
    let mut notes = notes(a, b);
    if machine_a != machine_b {
        if !options.any_machine {
            return Err(CompareError::Machines { a: machine_a, b: machine_b });
        }
        notes.push(format!("A was measured on {machine_a}, B on {machine_b}"));
    }
    if a.config.natural != b.config.natural {
        return Err(CompareError::Ways("in one of them the model could end its answers (--natural)"));
    }
    if a.config.cached != b.config.cached {
        return Err(CompareError::Ways("one of them was measured with a filled prefix cache (--cached)"));
    }
    let (pairs, mut missing) = subjects(a, b);
    let mut rows = Vec::new();
    for (sa, sb) in pairs {
        notes.extend(differing_options(&a.config.subjects[sa], &b.config.subjects[sb]));
        if let Some(why) = wrong(b, sb).filter(|_| wrong(a, sa).is_none()) {
            let what = b.config.subjects[sb].label();
            missing.push(Missing { what, why: format!("in B it is outside its bounds: {why}"), broke: true });
        }
        cells(a, sa, b, sb, false, &mut rows, &mut missing);
    }
    if rows.is_empty() {
        let reasons: Vec<String> = missing.iter().map(|m| format!("{}: {}", m.what, m.why)).collect();
        return Err(CompareError::Nothing(reasons.join("; ")));
    }
    find_regressions(&mut rows, options);
    Ok(Comparison { rows, missing, notes })
}

/// Compares every other subject of a record with its first one, in pairs of runs of the same block.
///
/// # Errors
/// If there are fewer than two subjects with figures.
pub fn within(record: &Record, options: &Options) -> Result<Comparison, CompareError> {
    let real: Vec<usize> =
        (0..record.config.subjects.len()).filter(|&s| !record.config.subjects[s].synthetic).collect();
    let (mut rows, mut missing) = (Vec::new(), Vec::new());
    let notes = real.first().map(|&s| format!("A is {}", record.config.subjects[s].label()));
    for &other in real.iter().skip(1) {
        cells(record, real[0], record, other, true, &mut rows, &mut missing);
    }
    if rows.is_empty() {
        return Err(CompareError::Nothing(
            "a single record needs two backends or models with figures".into(),
        ));
    }
    find_regressions(&mut rows, options);
    Ok(Comparison { rows, missing, notes: notes.into_iter().collect() })
}

/// Why the gate found a subject outside its bounds; `None` if it did not.
fn wrong(record: &Record, subject: usize) -> Option<String> {
    let agreed = record.agreement.iter().find(|a| a.subject == subject && a.within == Some(false))?;
    Some(agreed.why.join("; "))
}
