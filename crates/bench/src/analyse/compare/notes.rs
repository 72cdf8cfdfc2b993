//! Facts about two records that a reader of their comparison must know.

use crate::record::peaks::Peaks;
use crate::record::results::Record;

/// A difference of the measured peaks above this, in percent, is noted: speed differences of that size may come from the
/// machine.
const PEAKS_PCT: f64 = 5.0;

/// The machine in a few words: equal for the same machine.
pub(super) fn machine(record: &Record) -> String {
    let m = &record.machine;
    let cores = m.physical_cores.unwrap_or(m.logical_cores);
    let quota = m.cgroup_cpus.map(|n| format!(", a quota of {n}")).unwrap_or_default();
    format!("{} ({}), {cores} cores{quota}", m.cpu.as_deref().unwrap_or("an unnamed processor"), m.arch)
}

/// Notes on the comparison of A with B.
pub(super) fn notes(a: &Record, b: &Record) -> Vec<String> {
    let mut notes = Vec::new();
    for (side, record) in [("A", a), ("B", b)] {
        if record.partial {
            notes.push(format!("{side} was interrupted and is partial"));
        }
        if record.program.debug_build {
            notes.push(format!("{side} was measured with a debug build"));
        }
    }
    if let Some((a, b)) = a.roofline.best().zip(b.roofline.best()) {
        let changed = |what: &str, of: fn(&Peaks) -> f64| {
            let pct = 100.0 * (of(&b) / of(&a) - 1.0);
            (pct.abs() > PEAKS_PCT).then(|| {
                format!(
                    "the machine changed: {what} was {pct:+.0}% in B; speed differences of that size may come from it"
                )
            })
        };
        notes.extend(changed("read bandwidth", |p| p.read_bytes_per_s.all_threads));
        notes.extend(changed("int8 arithmetic", |p| p.int8_ops_per_s.all_threads));
        notes.extend(changed("f32 arithmetic", |p| p.f32_ops_per_s.all_threads));
    }
    notes
}
