//! Turns a child's report into a row of the record.

use crate::analyse::stats::quantile;
use crate::record::config::BenchConfig;
use crate::record::process::{LoadReport, RunReport};
use crate::record::row::{Row, Status, acceptance};
use crate::record::timeline::rate;

/// A row with subject and work but without figures. `load` is the load report of the subject's last process.
pub fn empty(
    config: &BenchConfig,
    load: Option<&LoadReport>,
    subject: usize,
    work: usize,
    run: usize,
    status: Status,
) -> Row {
    let s = &config.subjects[subject];
    Row {
        order: None,
        subject,
        key: s.key(load.map(|l| l.backend.weights.clone()).filter(|w| !w.is_empty())),
        scenario: config.work[work].name(),
        tokens: config.work[work].max_tokens(),
        run,
        load_ms: load.filter(|_| status == Status::Ok).map(|l| l.load_ms),
        status,
        synthetic: s.synthetic,
        measured_at: "engine".into(),
        total_ms: None,
        ttft_ms: None,
        tpt_ms: None,
        throughput: None,
        generated: None,
        prompt_tokens: None,
        cached_tokens: None,
        prefill_tps: None,
        decode_tps: None,
        prefill_share: None,
        decode_share: None,
        read_bytes_per_s: None,
        read_mean_bytes_per_s: None,
        itl_ms: None,
        peak_rss_mb: None,
        usage: None,
        outlier: false,
        drafted_tokens: s.speculates().then_some(0),
        accepted_tokens: None,
        acceptance: None,
        finish_reason: None,
        prompt_sha256: None,
        timeline: None,
        ids: Vec::new(),
        text: String::new(),
    }
}

/// Checks that the run did the requested work.
pub fn check_length(report: &RunReport, asked: usize, natural: bool) -> Result<(), String> {
    let (n, reason) = (report.timeline.tokens(), report.finish_reason.as_str());
    let fits = match reason {
        "length" => n == asked,
        "stop" => natural && n <= asked,
        _ => false,
    };
    if fits { Ok(()) } else { Err(format!("{n} of {asked} tokens, then it ended: {reason}")) }
}

/// A row with the figures of a good run. `prompt_only`: a `pp` test, whose one output token is not a measurement.
///
/// With speculation the row has the number of drafted tokens, which is 0 if there was nothing worth drafting.
pub fn filled(row: Row, report: RunReport, prompt_only: bool) -> Row {
    let speculates = row.drafted_tokens.is_some();
    let line = &report.timeline;
    let mut gaps = line.gaps_ms();
    gaps.sort_by(f64::total_cmp);
    let uncached = report.prompt_tokens.saturating_sub(report.cached_tokens);
    Row {
        total_ms: line.total_ms(),
        ttft_ms: line.ttft_ms(),
        tpt_ms: line.tpt_ms(),
        throughput: line.throughput().filter(|_| !prompt_only),
        generated: Some(line.tokens()),
        prompt_tokens: Some(report.prompt_tokens),
        cached_tokens: Some(report.cached_tokens),
        prefill_tps: rate(uncached as f64, report.prefill_ms).filter(|&r| r > 0.0),
        decode_tps: line.decode_tps(),
        itl_ms: (!gaps.is_empty()).then(|| [0.5, 0.9, 0.99].map(|q| quantile(&gaps, q))),
        peak_rss_mb: report.usage.peak_rss.map(|bytes| bytes as f64 / f64::from(1 << 20)),
        usage: Some(report.usage),
        drafted_tokens: speculates.then_some(report.drafted_tokens),
        accepted_tokens: speculates.then_some(report.accepted_tokens),
        acceptance: acceptance(report.accepted_tokens, report.drafted_tokens),
        finish_reason: Some(report.finish_reason),
        prompt_sha256: Some(report.prompt_sha256),
        timeline: Some(report.timeline),
        ids: report.ids,
        text: report.text,
        ..row
    }
}
