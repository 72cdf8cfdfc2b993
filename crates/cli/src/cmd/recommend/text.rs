//! The result as a table and sentences.

use super::choice::Choice;
use super::rank::{MOST_LOSS, WORTH};
use crate::output::human_bytes;
use std::fmt::Write as _;
use zonda_bench::analyse::predict::QUALITY;
use zonda_bench::analyse::predict::past::{ErrorSpread, Errors, MeasuredRate, PROMPT, Past, Source};
use zonda_bench::machine::Machine;
use zonda_bench::record::Peaks;
use zonda_bench::record::figure;

pub(super) fn text(machine: &Machine, peaks: &Peaks, past: &Past, subjects: &[Vec<Choice>]) -> String {
    let mut out = String::new();
    let read = peaks.read_large_bytes_per_s.unwrap_or(peaks.read_bytes_per_s).all_threads / 1e9;
    let bf16 =
        peaks.bf16_ops_per_s.map_or(String::new(), |r| format!(", {:.2} TFLOPS bf16", r.all_threads / 1e12));
    let _ = writeln!(
        out,
        "This machine: {read:.1} GB/s read, {:.2} TOPS int8{bf16}, {:.2} TFLOPS f32; {} of memory available.",
        peaks.int8_ops_per_s.all_threads / 1e12,
        peaks.f32_ops_per_s.all_threads / 1e12,
        human_bytes(machine.room().0),
    );
    let _ = writeln!(out, "{}", past_sentence(past.len(), past.error()));
    for choices in subjects {
        table(&mut out, choices);
    }
    out
}

fn past_sentence(records: usize, error: Errors) -> String {
    let off = |what: &str, off: ErrorSpread| {
        let percent = |share: f64| format!("{:.0}%", 100.0 * share);
        let (median, worst) = (off.median.map(percent)?, off.worst.map(percent)?);
        Some(format!("{what} {median} in the median of {} cells, {worst} at worst", off.cells))
    };
    let offs: Vec<_> =
        [off("prefill", error.prefill), off("decode", error.decode)].into_iter().flatten().collect();
    let from = "predictions use built-in shares, measured on a 2-core Zen 5 machine with AVX-512";
    match (records, offs.as_slice()) {
        (0, _) => format!("No record of this machine: {from}; `zonda bench` makes one."),
        (n, []) => format!("Records of this machine: {n}, with no share of a limit in them: {from}."),
        (n, offs) => {
            format!(
                "Records of this machine: {n}. When each is predicted without itself, the errors are: {}.",
                offs.join("; ")
            )
        }
    }
}

fn table(out: &mut String, choices: &[Choice]) {
    let Some(first) = choices.first() else { return };
    let _ = writeln!(
        out,
        "\n{}, context {}; tokens/s after a prompt of {}:\n",
        first.model,
        first.context,
        PROMPT.min(first.context)
    );
    let head = [
        "",
        "backend",
        "format",
        "quant",
        "decode",
        "prefill",
        "memory",
        "shares",
        "measured decode, prefill",
        "perplexity",
        "",
    ];
    let mut rows: Vec<Vec<String>> = vec![head.map(str::to_owned).to_vec()];
    for c in choices.iter().filter(|c| c.fits) {
        let tps = |v: Option<f64>| v.map_or("unknown".to_owned(), figure);
        let measured = c.measured.as_ref().map_or("-".to_owned(), |m| {
            format!("{}, {}", compared(m.decode.as_ref()), compared(m.prefill.as_ref()))
        });
        rows.push(vec![
            if c.recommended { "*" } else { "" }.to_owned(),
            c.backend.to_owned(),
            c.format.clone(),
            c.quant.clone(),
            tps(c.decode_tps),
            tps(c.prefill_tps),
            human_bytes(c.memory_bytes),
            match c.basis.as_ref().map(|b| (&b.decode, &b.prefill)) {
                None => "-",
                Some((Source::Record { .. }, Source::Record { .. })) => "records",
                Some((Source::BuiltIn { .. }, Source::BuiltIn { .. })) => "built in",
                Some(_) => "both",
            }
            .to_owned(),
            measured,
            c.quality.as_ref().map_or("-".to_owned(), |q| format!("{:.2} ({:+.1}%)", q.ppl, 100.0 * q.loss)),
            c.needs.as_ref().map_or(String::new(), |needs| format!("needs {needs}")),
        ]);
    }
    // An empty column is left out.
    if choices.iter().all(|c| c.quality.is_none()) {
        rows.iter_mut().for_each(|row| drop(row.remove(head.len() - 2)));
    }
    let width = |i: usize| rows.iter().map(|r| r[i].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
    for row in rows.iter().filter(|_| choices.iter().any(|c| c.fits)) {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, w)| format!("{cell:w$}")).collect();
        let _ = writeln!(out, "{}", cells.join("  ").trim_end());
    }
    for c in choices {
        if let Some(why) = &c.why {
            let _ = writeln!(out, "  doesn't fit: {} in {} on {}: {why}", c.format, c.quant, c.backend);
        }
    }
    let Some(best) = choices.iter().find(|c| c.recommended) else {
        let _ = writeln!(out, "\nNothing can be recommended: none of these fits and has a known speed.");
        return;
    };
    let _ = writeln!(
        out,
        "\n* the fastest decode{}, or better quality within {:.0}% of it; by quality: {}.",
        if best.ready { " among the models here" } else { "" },
        100.0 * WORTH,
        QUALITY.join(", ")
    );
    if let Some(measured) = choices.iter().find_map(|c| c.quality.as_ref()) {
        let _ = writeln!(
            out,
            "Perplexities were measured on {} ({}) and are shown with their excess over the lowest; they take \
             precedence over that order, and a choice above {:.0}% is not recommended for its speed.",
            measured.text,
            measured.record,
            100.0 * MOST_LOSS
        );
    }
    if let (Some(shares), Some(basis)) = (best.shares, &best.basis) {
        let _ = writeln!(
            out,
            "Its predicted speed is {:.0}% of the cores' read bandwidth in decode ({}) and {:.0}% of their arithmetic peak \
             in prefill ({}).",
            100.0 * shares.decode,
            source(&basis.decode),
            100.0 * shares.prefill,
            source(&basis.prefill)
        );
    }
    let get = best.needs.as_ref().map_or(String::new(), |needs| format!(" (get {needs} first)"));
    let _ = writeln!(out, "Run{get}:\n  {}", best.command);
}

/// `514 (+3%)`: measured, and how far the prediction was off.
fn compared(rate: Option<&MeasuredRate>) -> String {
    let Some(rate) = rate else { return "-".to_owned() };
    match rate.error {
        Some(error) => format!("{} ({:+.0}%)", figure(rate.tps), 100.0 * error),
        None => figure(rate.tps),
    }
}

fn source(source: &Source) -> String {
    match source {
        Source::Record { record } => record.clone(),
        Source::BuiltIn { measured } => format!("built in, {measured}"),
    }
}
