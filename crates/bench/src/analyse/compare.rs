//! Compares two records, or the subjects of one record: which figures are faster, slower or undecided.
//!
//! Runs of two records are independent, so their means are compared (Welch, on the log scale). Subjects of
//! one record ran in the same blocks, so they are compared in pairs, which removes what slowed a block as a whole.

use crate::analyse::stats;
use crate::record::peaks::Peaks;
use crate::record::results::Record;
use crate::record::row::{Row, Status};
use crate::record::statistic::{Ratio, Stats, Verdict};
use crate::record::subject::{Subject, SubjectKey};
use crate::record::summary::Cell;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// Peaks of two machines' measurements that differ by more than this, in percent, are told: a difference of that size may
/// be the machine's.
const PEAKS_PCT: f64 = 5.0;

/// How to compare.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// A slowdown by more than this many percent is a regression, if it is significant.
    pub regression_pct: f64,
    /// Compare records of different machines too.
    pub any_machine: bool,
}

/// A figure that is compared. All are tokens a second: more is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Output tokens / total latency.
    Throughput,
    /// Prefill rate.
    PrefillTps,
    /// Decode rate.
    DecodeTps,
}

/// One side of a comparison.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Side {
    /// Good runs.
    pub runs: usize,
    /// Their median, in tokens/s.
    pub median: f64,
    /// 95% interval of the median; `None` for fewer than three runs.
    pub ci95: Option<[f64; 2]>,
}

/// One figure of one subject on one scenario, on both sides.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Compared {
    /// The subject on side B.
    #[serde(flatten)]
    pub key: SubjectKey,
    /// The scenario's name.
    pub scenario: String,
    /// The figure.
    pub metric: Metric,
    /// The mock's: what the harness costs.
    pub synthetic: bool,
    /// The first record, or the first subject.
    pub a: Side,
    /// The second.
    pub b: Side,
    /// B over A: above 1, B is faster. A ratio of geometric means, or the geometric mean of the pairs' ratios.
    pub ratio: f64,
    /// 95% interval of the ratio; `None` with fewer than two runs on a side.
    pub ci95: Option<[f64; 2]>,
    /// How likely so large a difference would be if there were none.
    pub p: Option<f64>,
    /// Whether runs were compared in pairs.
    pub paired: bool,
    /// What that says of B.
    pub verdict: Verdict,
    /// Whether the 95% intervals of the two medians overlap; `None` if one has none.
    pub overlap: Option<bool>,
    /// B is slower by more than was allowed, and that holds for all rows together (Holm's correction at 5%).
    pub regression: bool,
}

impl Compared {
    /// `native · smollm2-135m (gguf, q4_1), short, decode_tps`.
    pub fn name(&self) -> String {
        format!("{}, {}, {}", self.key, self.scenario, self.metric.name())
    }
}

impl Metric {
    /// Its key in records.
    pub fn name(self) -> &'static str {
        match self {
            Metric::Throughput => "throughput",
            Metric::PrefillTps => "prefill_tps",
            Metric::DecodeTps => "decode_tps",
        }
    }

    const ALL: [Metric; 3] = [Metric::Throughput, Metric::PrefillTps, Metric::DecodeTps];

    fn of(self, row: &Row) -> Option<f64> {
        match self {
            Metric::Throughput => row.throughput,
            Metric::PrefillTps => row.prefill_tps,
            Metric::DecodeTps => row.decode_tps,
        }
    }
}

/// Something that is on one side only, or can't be compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Missing {
    /// A subject, or a subject and a scenario.
    pub what: String,
    /// Why it is not compared.
    pub why: String,
    /// It was good on side A and failed, or computes wrongly, on side B: a regression of its own.
    pub broke: bool,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// Every figure that both sides have.
    pub rows: Vec<Compared>,
    /// What could not be compared, and why.
    pub missing: Vec<Missing>,
    /// What must be known to read it.
    pub notes: Vec<String>,
}

impl Comparison {
    /// Every regression in a few words: figures that are slower by more than was allowed, and what broke.
    pub fn regressions(&self) -> Vec<String> {
        let slower = self
            .rows
            .iter()
            .filter(|r| r.regression)
            .map(|r| format!("{} at {:.1}% of what it was", r.name(), 100.0 * r.ratio));
        let broke = self.missing.iter().filter(|m| m.broke).map(|m| format!("{}: {}", m.what, m.why));
        slower.chain(broke).collect()
    }
}

/// Records that can't be compared.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompareError {
    /// They were measured on different machines.
    #[error("the records are from different machines: {a} and {b}")]
    Machines {
        /// The first one's.
        a: String,
        /// The second one's.
        b: String,
    },
    /// They were measured in different ways.
    #[error("the records were made in different ways: {0}")]
    Ways(&'static str),
    /// They have nothing in common.
    #[error("the records have nothing in common: {0}")]
    Nothing(String),
}

/// Compares two records, cell by cell.
///
/// # Errors
/// If they are of different machines (unless that is allowed), were made in different ways or have nothing in common.
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

/// Every figure that two subjects share.
fn cells(
    a: &Record,
    sa: usize,
    b: &Record,
    sb: usize,
    paired: bool,
    rows: &mut Vec<Compared>,
    missing: &mut Vec<Missing>,
) {
    let label = b.config.subjects[sb].label();
    for cell_a in a.summary.iter().filter(|c| c.subject == sa) {
        let name = &cell_a.scenario;
        let mut skip = |why: String, broke| {
            missing.push(Missing { what: format!("{label}, {name}"), why, broke });
        };
        let Some(cell_b) = b.summary.iter().find(|c| c.subject == sb && c.scenario == *name) else {
            skip("only A has this scenario".into(), false);
            continue;
        };
        let work = |record: &Record| record.config.work.iter().find(|w| w.name() == *name).cloned();
        if work(a) != work(b) {
            skip("the scenario's prompt or length differs".into(), false);
            continue;
        }
        if !paired && cell_a.runs > 0 && cell_b.runs > 0 && cell_a.prompt_tokens != cell_b.prompt_tokens {
            let count = |c: &Cell| c.prompt_tokens.map_or("varying".into(), |n| n.to_string());
            skip(format!("the prompt has {} tokens in A and {} in B", count(cell_a), count(cell_b)), false);
            continue;
        }
        match (cell_a.runs, cell_b.runs) {
            (0, 0) => skip("no good run on either side".into(), false),
            (0, _) => skip(format!("no good run in A: {}", reason(cell_a)), false),
            (_, 0) if b.partial => skip("B was interrupted before it".into(), false),
            (_, 0) => skip(format!("no good run in B: {}", reason(cell_b)), !paired),
            _ => {
                let of = |record: &Record, subject, metric: Metric| values(record, subject, name, metric);
                rows.extend(Metric::ALL.into_iter().filter_map(|metric| {
                    let (va, vb) = (of(a, sa, metric), of(b, sb, metric));
                    compared(cell_b, metric, &va, &vb, paired, b.config.seed)
                }));
            }
        }
    }
    for cell in b.summary.iter().filter(|c| c.subject == sb) {
        if !a.summary.iter().any(|c| c.subject == sa && c.scenario == cell.scenario) {
            let what = format!("{label}, {}", cell.scenario);
            missing.push(Missing { what, why: "only B has this scenario".into(), broke: false });
        }
    }
}

fn reason(cell: &Cell) -> &str {
    cell.why.as_deref().unwrap_or("it was not run")
}

/// A figure of every good run, by block.
fn values(record: &Record, subject: usize, scenario: &str, metric: Metric) -> BTreeMap<usize, f64> {
    let rows = record.rows.iter().filter(|r| r.subject == subject && r.scenario == scenario);
    rows.filter(|r| r.status == Status::Ok).filter_map(|r| Some((r.run, metric.of(r)?))).collect()
}

fn compared(
    cell: &Cell,
    metric: Metric,
    a: &BTreeMap<usize, f64>,
    b: &BTreeMap<usize, f64>,
    paired: bool,
    seed: u64,
) -> Option<Compared> {
    let list = |side: &BTreeMap<usize, f64>| side.values().copied().collect::<Vec<_>>();
    let (va, vb) = (list(a), list(b));
    let (ratio, p) = if paired {
        let logs: Vec<f64> = a.iter().filter_map(|(run, a)| Some((b.get(run)? / a).ln())).collect();
        (Ratio::of_logs(&logs)?, stats::paired_p(&logs))
    } else {
        (Ratio::unpaired(&va, &vb)?, stats::unpaired_p(&va, &vb))
    };
    let side = |values: &[f64]| {
        let stats = Stats::of(values, seed)?;
        Some(Side { runs: stats.n, median: stats.median, ci95: stats.ci95 })
    };
    let (side_a, side_b) = (side(&va)?, side(&vb)?);
    let overlap = side_a.ci95.zip(side_b.ci95).map(|(a, b)| a[0] <= b[1] && b[0] <= a[1]);
    Some(Compared {
        key: cell.key.clone(),
        scenario: cell.scenario.clone(),
        metric,
        synthetic: cell.synthetic,
        a: side_a,
        b: side_b,
        ratio: ratio.ratio,
        ci95: ratio.ci95,
        p,
        paired,
        verdict: ratio.verdict(),
        overlap,
        regression: false,
    })
}

/// Marks the rows that are slower by more than is allowed. The mock's never count.
fn find_regressions(rows: &mut [Compared], options: &Options) {
    let tested: Vec<usize> = (0..rows.len()).filter(|&i| rows[i].p.is_some() && !rows[i].synthetic).collect();
    let p: Vec<f64> = tested.iter().filter_map(|&i| rows[i].p).collect();
    for (i, holds) in tested.into_iter().zip(stats::holm(&p)) {
        rows[i].regression = holds && rows[i].ratio < 1.0 - options.regression_pct / 100.0;
    }
}

/// Which subjects of the two records are the same: by backend, model's name and format, and by options where that leaves
/// several. Those without a partner, or with another model under the same name, are missing.
fn subjects(a: &Record, b: &Record) -> (Vec<(usize, usize)>, Vec<Missing>) {
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

/// Says so if the model is another one under the same name.
fn other_files(a: &Record, sa: usize, b: &Record, sb: usize) -> Option<String> {
    let sums = |record: &Record, subject| {
        let files = record.models.iter().find(|m| m.subject == subject)?;
        Some(files.files.iter().map(|f| (f.bytes, f.sha256.clone())).collect::<BTreeSet<_>>())
    };
    let differ = sums(a, sa).zip(sums(b, sb)).is_some_and(|(a, b)| a != b);
    differ.then(|| "the model's files differ (SHA-256)".into())
}

/// What of the function a subject computes wrongly, as the gate said.
fn wrong(record: &Record, subject: usize) -> Option<String> {
    let agreed = record.agreement.iter().find(|a| a.subject == subject && a.within == Some(false))?;
    Some(agreed.why.join("; "))
}

fn differing_options(a: &Subject, b: &Subject) -> Option<String> {
    let list = |s: &Subject| s.options.iter().map(|(k, v)| format!("{k} {v}")).collect::<Vec<_>>().join(", ");
    let said = |list: String| if list.is_empty() { "none".to_owned() } else { list };
    (a.options != b.options)
        .then(|| format!("{}: options {} in A, {} in B", b.label(), said(list(a)), said(list(b))))
}

/// The machine in a few words: equal for the same machine.
fn machine(record: &Record) -> String {
    let m = &record.machine;
    let cores = m.physical_cores.unwrap_or(m.logical_cores);
    let quota = m.cgroup_cpus.map(|n| format!(", a quota of {n}")).unwrap_or_default();
    format!("{} ({}), {cores} cores{quota}", m.cpu.as_deref().unwrap_or("an unnamed processor"), m.arch)
}

/// What must be known to read the comparison.
fn notes(a: &Record, b: &Record) -> Vec<String> {
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
