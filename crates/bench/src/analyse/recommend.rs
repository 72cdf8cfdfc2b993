//! The recommendation: sentences, each computed from the figures. The mock is never recommended.

use crate::record::config::{BenchConfig, Work};
use crate::record::figure;
use crate::record::quality::Quality;
use crate::record::statistic::{Ratio, TIE, Verdict};
use crate::record::summary::{Cell, Rank};
use std::collections::BTreeSet;

/// At most this many undecided subjects are named.
const NAMED: usize = 3;
/// Perplexities that differ by less than this share count as equal.
pub const ALIKE: f64 = 0.005;

/// The recommendation in sentences, one paragraph per shape.
pub fn recommendation(
    cells: &[Cell],
    ranking: &[Rank],
    quality: &[Quality],
    config: &BenchConfig,
) -> Vec<String> {
    let shapes: BTreeSet<&str> = ranking.iter().map(|r| r.shape.as_str()).collect();
    if shapes.is_empty() {
        return vec!["No real backend finished a scenario, so there is nothing to recommend.".into()];
    }
    shapes
        .into_iter()
        .map(|shape| {
            let group: Vec<&Rank> = ranking.iter().filter(|r| r.shape == shape).collect();
            let mut sentences = group_sentences(&group, cells, config);
            sentences.extend(quality_sentence(&group, quality));
            sentences.join(" ")
        })
        .collect()
}

fn group_sentences(group: &[&Rank], cells: &[Cell], config: &BenchConfig) -> Vec<String> {
    let best = group[0];
    let over = best.scenarios.join(", ");
    let mut sentences = Vec::new();
    let lead = format!("{} tokens/s (geometric mean of the medians over {over})", figure(best.score_tps));
    match group.get(1) {
        None => sentences
            .push(format!("{} reaches {lead}; no other subject of its shape was measured.", name(best))),
        Some(second) if second.verdict == Some(Verdict::Less) => {
            sentences.push(format!("Use {}: {lead}, {} {}.", name(best), times(best, second), name(second)));
        }
        Some(_) => sentences.push(format!("{} leads with {lead}.", name(best))),
    }
    let with = |verdict| group.iter().filter(move |r| r.verdict == Some(verdict)).map(|r| name(r));
    let tied: Vec<String> = with(Verdict::Tie).collect();
    if !tied.is_empty() {
        let verb = if tied.len() == 1 { "is" } else { "are" };
        sentences.push(format!(
            "{} {verb} within {:.0}% of it: no relevant difference.",
            tied.join(", "),
            100.0 * TIE
        ));
    }
    let mut open: Vec<String> = with(Verdict::Undecided).collect();
    if open.len() > NAMED {
        let more = open.split_off(NAMED).len();
        open.push(format!("{more} more"));
    }
    if !open.is_empty() {
        sentences.push(format!(
            "These runs do not show whether it is faster than {}: the interval of the ratio is too wide. More runs (--runs) \
             narrow it.",
            open.join(", ")
        ));
    }
    let longest = config.work.iter().filter_map(|w| match w {
        Work::Scenario(s) => Some((s.nominal_prompt_tokens, s.name.as_str())),
        _ => None,
    });
    if let Some((_, scenario)) = longest.max()
        && let Some(quickest) = quickest(group, cells, scenario)
        && quickest.0.subject != best.subject
    {
        sentences.push(format!(
            "For long prompts, {} has the lower TTFT: {} ms in {scenario}, compared with {} ms.",
            name(quickest.0),
            figure(quickest.1),
            figure(quickest.2)
        ));
    }
    let memory = |r: &Rank| {
        let peaks = cells.iter().filter(|c| c.subject == r.subject).filter_map(|c| c.peak_rss_mb.as_ref());
        peaks.map(|p| p.max).reduce(f64::max)
    };
    let least = group.iter().filter_map(|r| Some((memory(r)?, *r))).min_by(|a, b| a.0.total_cmp(&b.0));
    if let (Some((needs, least)), Some(bests)) = (least, memory(best))
        && least.subject != best.subject
        && needs < 0.9 * bests
    {
        sentences.push(format!(
            "{} needs the least memory: {} MiB, compared with {} MiB.",
            name(least),
            figure(needs),
            figure(bests)
        ));
    }
    sentences
}

/// The quality loss of the fastest subject, if two or more perplexities on one text are known.
fn quality_sentence(group: &[&Rank], quality: &[Quality]) -> Option<String> {
    let of = |r: &Rank| quality.iter().find(|q| q.subject == r.subject);
    let ppl = |r: &Rank| of(r).and_then(|q| q.ppl);
    let measured: Vec<(&Rank, f64)> = group.iter().filter_map(|&r| Some((r, ppl(r)?))).collect();
    let &(finest, lowest) =
        measured.iter().min_by(|a, b| a.1.total_cmp(&b.1)).filter(|_| measured.len() > 1)?;
    let best = group[0];
    let (text, fastest) = (&of(best)?.text, ppl(best)?);
    let cost = fastest / lowest - 1.0;
    Some(if cost < ALIKE {
        format!(
            "{} has no loss of quality: its perplexity on {text} is {fastest:.2}, the lowest {lowest:.2}.",
            name(best)
        )
    } else {
        format!(
            "The speed costs quality: on {text} the perplexity of {} is {fastest:.2}, {:.1}% above the {lowest:.2} of {}, \
             which reaches {:.2} times the tokens/s.",
            name(best),
            100.0 * cost,
            name(finest),
            finest.score_tps / best.score_tps
        )
    })
}

/// The subject with the lowest median TTFT of a scenario, that TTFT, and the TTFT of the best-ranked subject.
fn quickest<'a>(group: &[&'a Rank], cells: &[Cell], scenario: &str) -> Option<(&'a Rank, f64, f64)> {
    let ttft = |r: &Rank| {
        let cell = cells.iter().find(|c| c.subject == r.subject && c.scenario == scenario)?;
        cell.ttft_ms.as_ref().map(|s| s.median)
    };
    let first = ttft(group[0])?;
    let (least, who) =
        group.iter().filter_map(|r| Some((ttft(r)?, *r))).min_by(|a, b| a.0.total_cmp(&b.0))?;
    (least < first * (1.0 - TIE)).then_some((who, least, first))
}

/// `3.29 times (3.20 to 3.38) as fast as`.
fn times(best: &Rank, other: &Rank) -> String {
    match other.against_best {
        Some(Ratio { ratio, ci95: Some([low, high]), .. }) => {
            format!("{:.2} times ({:.2} to {:.2}) as fast as", 1.0 / ratio, 1.0 / high, 1.0 / low)
        }
        _ => format!("{:.2} times as fast as", best.score_tps / other.score_tps),
    }
}

fn name(r: &Rank) -> String {
    r.key.to_string()
}
