//! Summarises rows: statistics per cell, outliers, warnings, the ranking. The mock is never ranked.

use crate::analyse::stats::{geometric_mean, median, outliers, quantile};
use crate::record::comparison::GateResult;
use crate::record::config::{BenchConfig, Work};
use crate::record::process::Process;
use crate::record::row::{Row, Status, acceptance};
use crate::record::statistic::{Ratio, Stats, Verdict};
use crate::record::summary::{Cell, Overhead, Rank, Unranked};
use crate::record::warning::Warning;
use std::collections::{BTreeMap, BTreeSet};

/// Half the range above this share of the median, in percent, causes a warning.
const WIDE_PCT: f64 = 10.0;

/// Statistics of every subject on every piece of work, in the plan's order.
pub fn cells(config: &BenchConfig, rows: &[Row]) -> Vec<Cell> {
    let mut cells = Vec::new();
    for (subject, s) in config.subjects.iter().enumerate() {
        for work in &config.work {
            let name = work.name();
            let all: Vec<&Row> = rows.iter().filter(|r| r.subject == subject && r.scenario == name).collect();
            let good: Vec<&Row> = all.iter().copied().filter(|r| r.status == Status::Ok).collect();
            let stats = |pick: fn(&Row) -> Option<f64>| {
                let values: Vec<f64> = good.iter().filter_map(|r| pick(r)).collect();
                Stats::of(&values, config.seed)
            };
            cells.push(Cell {
                subject,
                key: s.key(all.iter().find_map(|r| r.key.quant.clone())),
                scenario: name,
                synthetic: s.synthetic,
                runs: good.len(),
                failed: all.len() - good.len(),
                why: all.iter().find(|r| r.status != Status::Ok).map(|r| r.status.to_string()),
                prompt_tokens: agreed(good.iter().map(|r| r.prompt_tokens)),
                generated: agreed(good.iter().map(|r| r.generated)),
                ttft_ms: stats(|r| r.ttft_ms),
                tpt_ms: stats(|r| r.tpt_ms),
                total_ms: stats(|r| r.total_ms),
                throughput: stats(|r| r.throughput),
                prefill_tps: stats(|r| r.prefill_tps),
                decode_tps: stats(|r| r.decode_tps),
                peak_rss_mb: stats(|r| r.peak_rss_mb),
                itl_ms: pooled_gaps(&good),
                prefill_share: stats(|r| r.prefill_share),
                decode_share: stats(|r| r.decode_share),
                read_bytes_per_s: stats(|r| r.read_bytes_per_s),
                read_mean_bytes_per_s: stats(|r| r.read_mean_bytes_per_s),
                load_ms: stats(|r| r.load_ms),
                cold_start_ms: None,
                cpu_ms: stats(|r| r.usage?.cpu_ms),
                switches: stats(|r| {
                    let usage = r.usage?;
                    Some((usage.voluntary_switches? + usage.involuntary_switches?) as f64)
                }),
                energy_j: stats(|r| r.usage?.energy_j),
                acceptance: pooled_acceptance(&good),
                not_ranked: None,
            });
        }
    }
    cells
}

/// Adds each subject's cold start to its cells.
pub fn starts(cells: &mut [Cell], processes: &[Process]) {
    for cell in cells {
        let cold = processes.iter().filter(|p| p.subject == cell.subject && p.temperature() == Some("cold"));
        cell.cold_start_ms = median(&cold.filter_map(|p| p.first_token_ms).collect::<Vec<_>>());
    }
}

fn agreed(mut values: impl Iterator<Item = Option<usize>>) -> Option<usize> {
    let first = values.next()??;
    values.all(|v| v == Some(first)).then_some(first)
}

fn pooled_acceptance(rows: &[&Row]) -> Option<f64> {
    let sum = |count: fn(&Row) -> Option<usize>| rows.iter().filter_map(|r| count(r)).sum();
    acceptance(sum(|r| r.accepted_tokens), sum(|r| r.drafted_tokens))
}

fn pooled_gaps(rows: &[&Row]) -> Option<[f64; 3]> {
    let mut gaps: Vec<f64> =
        rows.iter().filter_map(|r| r.timeline.as_ref()).flat_map(|t| t.gaps_ms()).collect();
    gaps.sort_by(f64::total_cmp);
    (!gaps.is_empty()).then(|| [0.5, 0.9, 0.99].map(|q| quantile(&gaps, q)))
}

/// Marks the rows whose tokens/s are far from the others in their cell.
fn mark_outliers(rows: &mut [Row]) -> Vec<(usize, f64)> {
    let mut groups: BTreeMap<(usize, String), Vec<usize>> = BTreeMap::new();
    for (i, row) in rows.iter().enumerate().filter(|(_, r)| r.headline().is_some()) {
        groups.entry((row.subject, row.scenario.clone())).or_default().push(i);
    }
    let mut marked = Vec::new();
    for group in groups.into_values() {
        let values: Vec<f64> = group.iter().filter_map(|&i| rows[i].headline()).collect();
        let middle = median(&values).unwrap_or(f64::NAN);
        for ((i, far), value) in group.iter().zip(outliers(&values)).zip(&values) {
            rows[*i].outlier = far;
            if far {
                marked.push((*i, value / middle));
            }
        }
    }
    marked
}

/// Marks the outliers, and returns the warnings that a reader of the rows needs.
pub fn warnings(config: &BenchConfig, processes: &[Process], rows: &mut [Row]) -> Vec<Warning> {
    let mut warnings: Vec<Warning> = mark_outliers(rows)
        .into_iter()
        .filter(|&(i, _)| !rows[i].synthetic)
        .map(|(i, times)| Warning::Outlier {
            subject: config.subjects[rows[i].subject].label(),
            scenario: rows[i].scenario.clone(),
            run: rows[i].run,
            times,
        })
        .collect();
    let rows = &*rows;
    let scenarios = config.work.iter().filter(|w| matches!(w, Work::Scenario(_)));
    let shapes = shapes(processes);
    let without_tokenizer = |p: &&Process| p.load.as_ref().is_some_and(|l| !l.has_tokenizer);
    let random: BTreeSet<usize> = processes.iter().filter(without_tokenizer).map(|p| p.subject).collect();
    let real = |r: &&Row| !r.synthetic && r.status == Status::Ok;
    for work in scenarios.clone() {
        let name = work.name();
        // The first good run of each subject; later runs have the same prompts.
        let mut firsts: BTreeMap<usize, &Row> = BTreeMap::new();
        for row in rows.iter().filter(real).filter(|r| r.scenario == name) {
            firsts.entry(row.subject).or_insert(row);
        }
        let label = |subject: usize| config.subjects[subject].label();
        // Models of different shapes are not ranked together, so their prompts may differ.
        let mut alike: BTreeMap<_, Vec<&Row>> = BTreeMap::new();
        for (subject, row) in &firsts {
            alike.entry(shapes.get(subject)).or_default().push(row);
        }
        for rows in alike.into_values() {
            let counts: BTreeSet<_> = rows.iter().map(|r| r.prompt_tokens).collect();
            if counts.len() > 1 {
                let counts =
                    rows.iter().map(|r| (label(r.subject), r.prompt_tokens.unwrap_or_default())).collect();
                warnings.push(Warning::UnequalPrompts { scenario: name.clone(), counts });
            }
        }
        // Random ids differ for another reason.
        firsts.retain(|subject, _| !random.contains(subject));
        for (&a, first) in &firsts {
            let differs = |b: usize, second: &Row| {
                b > a && shapes.get(&a) == shapes.get(&b) && first.prompt_sha256 != second.prompt_sha256
            };
            if let Some((&b, _)) = firsts.iter().find(|(b, row)| differs(**b, row)) {
                warnings.push(Warning::SameModelDifferentIds {
                    scenario: name.clone(),
                    first: label(a),
                    second: label(b),
                });
            }
        }
    }
    if scenarios.count() > 0 {
        let label = |s: usize| config.subjects[s].label();
        warnings.extend(random.into_iter().map(|s| Warning::RandomPrompt { subject: label(s) }));
    }
    for cell in cells(config, rows).iter().filter(|c| !c.synthetic) {
        if let Some(pct) = cell.headline().and_then(Stats::spread_pct).filter(|&p| p > WIDE_PCT) {
            let subject = config.subjects[cell.subject].label();
            warnings.push(Warning::WideSpread { subject, scenario: cell.scenario.clone(), pct });
        }
    }
    warnings
}

/// The model shape of each subject that opened.
fn shapes(processes: &[Process]) -> BTreeMap<usize, String> {
    processes.iter().filter_map(|p| Some((p.subject, p.load.as_ref()?.shape.clone()))).collect()
}

/// Ranks the subjects of each model shape whose cells [`judge`] did not mark, by the geometric mean of their median tokens/s
/// over the scenarios that all of them finished.
pub fn ranking(config: &BenchConfig, cells: &[Cell], processes: &[Process], rows: &[Row]) -> Vec<Rank> {
    let mut groups: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (subject, shape) in shapes(processes) {
        let counts = |c: &&Cell| c.subject == subject && c.headline().is_some() && c.not_ranked.is_none();
        let finished_any = cells.iter().any(|c| counts(&c));
        if !config.subjects[subject].synthetic && finished_any {
            groups.entry(shape).or_default().push(subject);
        }
    }
    let median_of = |subject: usize, scenario: &str| {
        let cell = cells.iter().find(|c| c.subject == subject && c.scenario == scenario)?;
        cell.headline().map(|s| s.median)
    };
    let mut ranking = Vec::new();
    for (shape, subjects) in groups {
        let scenarios: Vec<String> = config
            .work
            .iter()
            .map(Work::name)
            .filter(|name| subjects.iter().all(|&s| median_of(s, name).is_some()))
            .collect();
        let mut scored: Vec<(f64, usize)> = subjects
            .iter()
            .filter_map(|&s| {
                let medians: Vec<f64> = scenarios.iter().filter_map(|name| median_of(s, name)).collect();
                Some((geometric_mean(&medians)?, s))
            })
            .collect();
        scored.sort_by(|a, b| b.0.total_cmp(&a.0));
        for (i, &(score_tps, subject)) in scored.iter().enumerate() {
            let s = &config.subjects[subject];
            let against_best = if i == 0 {
                None
            } else {
                Ratio::of_logs(&paired_logs(rows, subject, scored[0].1, &scenarios))
            };
            ranking.push(Rank {
                rank: i + 1,
                subject,
                key: s.key(cells.iter().find(|c| c.subject == subject).and_then(|c| c.key.quant.clone())),
                shape: shape.clone(),
                score_tps,
                verdict: (i > 0).then(|| against_best.map_or(Verdict::Undecided, |r| r.verdict())),
                against_best,
                scenarios: scenarios.clone(),
            });
        }
    }
    ranking
}

/// For each block in which both subjects finished every scenario: the mean logarithm of the ratio of their tokens/s over the
/// scenarios.
fn paired_logs(rows: &[Row], subject: usize, other: usize, scenarios: &[String]) -> Vec<f64> {
    let speeds: BTreeMap<(usize, usize, &str), f64> =
        rows.iter().filter_map(|r| Some(((r.subject, r.run, r.scenario.as_str()), r.headline()?))).collect();
    let runs: BTreeSet<usize> = rows.iter().map(|r| r.run).collect();
    let block = |run: usize| {
        let logs = scenarios.iter().map(|name| {
            let of = |subject| speeds.get(&(subject, run, name.as_str()));
            Some((of(subject)? / of(other)?).ln())
        });
        let logs: Vec<f64> = logs.collect::<Option<_>>()?;
        (!logs.is_empty()).then(|| logs.iter().sum::<f64>() / logs.len() as f64)
    };
    runs.into_iter().filter_map(block).collect()
}

/// The overhead of the harness, from the mock's cells; `None` without a good run of the mock.
pub fn overhead(cells: &[Cell]) -> Option<Overhead> {
    let mocks: Vec<&Cell> = cells.iter().filter(|c| c.synthetic && c.runs > 0).collect();
    let of = |pick: fn(&Cell) -> &Option<Stats>| {
        median(&mocks.iter().filter_map(|c| pick(c).as_ref()).map(|s| s.median).collect::<Vec<_>>())
    };
    Some(Overhead {
        ttft_ms: of(|c| &c.ttft_ms)?,
        per_token_us: 1e3 * of(|c| &c.tpt_ms)?,
        runs: mocks.iter().map(|c| c.runs).sum(),
    })
}

/// Marks the cells of subjects that are out of bounds, and lists these subjects.
pub fn judge(cells: &mut [Cell], agreed: &[GateResult]) -> Vec<Unranked> {
    let mut unranked: Vec<Unranked> = Vec::new();
    for cell in cells {
        let wrong = agreed.iter().find(|a| a.subject == cell.subject && a.within == Some(false));
        let Some(why) = wrong.map(|a| a.why.join("; ")) else { continue };
        cell.not_ranked = Some(why.clone());
        let listed = unranked.iter().any(|u| u.subject == cell.subject);
        if !listed && cell.headline().is_some() {
            unranked.push(Unranked { subject: cell.subject, key: cell.key.clone(), why });
        }
    }
    unranked
}
