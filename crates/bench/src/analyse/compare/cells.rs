//! Comparing the cells of two subjects, figure by figure.

use super::result::{Compared, Metric, Missing, Options, Side};
use crate::analyse::stats;
use crate::record::results::Record;
use crate::record::row::Status;
use crate::record::statistic::{Ratio, Stats};
use crate::record::summary::Cell;
use std::collections::BTreeMap;

/// Every figure that two subjects share.
pub(super) fn cells(
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

/// A figure of all good runs, by block.
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

/// Marks the rows that are slower by more than allowed. The mock's never count.
pub(super) fn find_regressions(rows: &mut [Compared], options: &Options) {
    let tested: Vec<usize> = (0..rows.len()).filter(|&i| rows[i].p.is_some() && !rows[i].synthetic).collect();
    let p: Vec<f64> = tested.iter().filter_map(|&i| rows[i].p).collect();
    for (i, holds) in tested.into_iter().zip(stats::holm(&p)) {
        rows[i].regression = holds && rows[i].ratio < 1.0 - options.regression_pct / 100.0;
    }
}
