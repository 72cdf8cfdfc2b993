//! The findings of a record as sentences, each computed from its figures. All reports share them.

use crate::eval::bounds::POSITIONS;
use crate::record::config::{Runs, Work};
use crate::record::figure;
use crate::record::results::Record;
use crate::record::row::Status;
use crate::record::statistic::Stats;
use crate::record::summary::Cell;
use crate::report::figures::{SubjectFigures, count, groups, subjects};

/// The baseline report's GGUF figures. It simulated them: its backends slept instead of computing.
pub mod baseline {
    /// Tokens per second.
    pub const TOKENS_PER_S: f64 = 38.4;
    /// Time to the first token in ms.
    pub const TTFT_MS: f64 = 74.0;
    /// Time per token in ms.
    pub const TPT_MS: f64 = 25.0;
}

/// The acceptance of drafted tokens.
fn acceptance(record: &Record) -> Option<String> {
    let speculates = |c: &&Cell| record.config.subjects.get(c.subject).is_some_and(|s| s.speculates());
    let of = |c: &Cell| match c.acceptance {
        Some(share) => format!("{:.0}% in {} ({})", share * 100.0, c.scenario, c.key.name.model),
        None => format!("nothing drafted in {} ({})", c.scenario, c.key.name.model),
    };
    let cells: Vec<String> = record.summary.iter().filter(speculates).map(of).collect();
    (!cells.is_empty()).then(|| {
        format!(
            "Tokens were drafted and verified (speculative decoding), which changes the speed and not the answer. Share of \
             drafted tokens that were accepted: {}.",
            cells.join(", ")
        )
    })
}

/// The methods of the experiment.
pub fn methodology(record: &Record) -> Vec<String> {
    let config = &record.config;
    let work: Vec<String> = config.work.iter().map(Work::name).collect();
    let runs = match config.runs {
        Runs::Fixed(1) => "once".to_owned(),
        Runs::Fixed(n) => format!("{n} times"),
        Runs::UntilCi { pct, min, max } => {
            format!("until the 95% interval of every median is within ±{pct}% ({min} to {max} times)")
        }
    };
    let mut out = vec![format!(
        "{} on {}: each ran {runs}, in randomised blocks (seed {}), one at a time, each backend in its own process.",
        count(config.subjects.len(), "backend-and-model pair"),
        work.join(", "),
        config.seed
    )];
    out.push(if config.natural {
        "The model ends its answers, so their lengths differ between backends.".into()
    } else {
        "Every answer has the length of its scenario (greedy, end-of-sequence ignored), so all backends do the same work.".into()
    });
    out.push(if config.cached {
        "The prefix cache was filled first: cached prompt tokens were not computed again.".into()
    } else {
        "The prefix cache was off: every run computed its whole prompt.".into()
    });
    out.push(
        "TTFT is the time from the submission of the prompt to the first token. TpT is the mean time per token after the \
         first. Total = TTFT + (N − 1) · TpT; throughput = N / total. Figures are medians; intervals are 95% bootstrap \
         intervals of the median (three runs or more)."
            .into(),
    );
    let compared = record.agreement.iter().filter(|a| a.found.is_some()).count();
    if compared > 0 {
        let out_of = record.agreement.iter().filter(|a| a.within == Some(false)).count();
        out.push(format!(
            "Before the timed runs, {} compared with the reference logits of the same weights; {}.",
            if compared == 1 { "one backend was".into() } else { format!("{compared} backends were") },
            match out_of {
                0 => "all are within their bounds".into(),
                1 => "one is out of bounds and not ranked".into(),
                n => format!("{n} are out of bounds and not ranked"),
            }
        ));
        let fewer = record.agreement.iter().filter(|a| (1..POSITIONS).contains(&a.tokens));
        if let Some(fewest) = fewer.filter_map(|a| Some(a.found?.positions)).min() {
            out.push(format!(
                "Large models were compared at fewer positions (at least {fewest}), so their distances are less certain."
            ));
        }
    }
    let readings = record.rows.iter().filter_map(|r| r.read_bytes_per_s);
    if let Some((low, high)) = readings.map(|r| (r, r)).reduce(|a, b| (a.0.min(b.0), a.1.max(b.1))) {
        out.push(format!(
            "Memory bandwidth was measured before and after every run; decode rates are compared with the higher of the two: \
             {} to {} GB/s.",
            figure(low / 1e9),
            figure(high / 1e9)
        ));
    }
    out.extend(acceptance(record));
    if record.partial {
        out.push("The experiment was interrupted: the figures are valid but incomplete.".into());
    }
    out
}

/// The best subject of each shape, the shares of the peaks, and failures.
pub fn insights(record: &Record) -> Vec<String> {
    let mut out = record.recommendation.clone();
    for s in subjects(record).iter().filter(|s| !s.synthetic) {
        let share = |pick: fn(&Cell) -> Option<&Stats>| {
            s.cells.iter().filter_map(|c| Some(pick(c)?.median)).reduce(f64::max)
        };
        let (prefill, decode) = (share(|c| c.prefill_share.as_ref()), share(|c| c.decode_share.as_ref()));
        let said: Vec<String> = [
            prefill.map(|p| format!("{:.0}% of the machine's arithmetic peak in prefill", 100.0 * p)),
            decode.map(|d| format!("{:.0}% of its memory bandwidth in decode", 100.0 * d)),
        ]
        .into_iter()
        .flatten()
        .collect();
        if !said.is_empty() {
            out.push(format!("{} reaches up to {}.", s.name, said.join(" and ")));
        }
    }
    let failed = record.rows.iter().filter(|r| r.status != Status::Ok).count();
    if failed > 0 {
        out.push(format!(
            "{} of {} runs have no figures; the tables give the reasons.",
            failed,
            record.rows.len()
        ));
    }
    if let Some(o) = &record.overhead {
        out.push(format!(
            "The harness itself takes {} ms to the first token and {} µs per token (measured with the mock, {}).",
            figure(o.ttft_ms),
            figure(o.per_token_us),
            count(o.runs, "run")
        ));
    }
    out
}

/// The lowest TTFT and TpT of each scenario.
pub fn latency(record: &Record) -> Vec<String> {
    let all = subjects(record);
    let mut out = Vec::new();
    for group in groups(record).into_iter().filter(|g| g.len() > 1) {
        for work in &record.config.work {
            let scenario = work.name();
            let of = |pick: fn(&Cell) -> Option<&Stats>| {
                let mut found: Vec<(f64, &str)> = group
                    .iter()
                    .filter_map(|r| {
                        let s = all.iter().find(|s| s.index == r.subject)?;
                        let cell = s.cells.iter().find(|c| c.scenario == scenario)?;
                        Some((pick(cell)?.median, s.name.as_str()))
                    })
                    .collect();
                found.sort_by(|a, b| a.0.total_cmp(&b.0));
                (found.len() > 1).then(|| (found[0], found[found.len() - 1]))
            };
            let parts: Vec<String> =
                [("lowest TTFT:", of(|c| c.ttft_ms.as_ref())), ("lowest TpT:", of(|c| c.tpt_ms.as_ref()))]
                    .into_iter()
                    .filter_map(|(what, found)| {
                        let ((low, best), (high, last)) = found?;
                        Some(format!(
                            "{what} {best} ({} ms; highest: {last}, {} ms)",
                            figure(low),
                            figure(high)
                        ))
                    })
                    .collect();
            if !parts.is_empty() {
                out.push(format!("{scenario}: {}.", parts.join("; ")));
            }
        }
    }
    out
}

/// How each subject's figures change with the scenario.
pub fn patterns(record: &Record) -> Vec<String> {
    let mut out = Vec::new();
    for s in subjects(record).iter().filter(|s| !s.synthetic) {
        let speeds: Vec<(f64, &Cell)> =
            s.cells.iter().filter_map(|c| Some((c.throughput.as_ref()?.median, *c))).collect();
        let most = speeds.iter().max_by(|a, b| a.0.total_cmp(&b.0));
        let least = speeds.iter().min_by(|a, b| a.0.total_cmp(&b.0));
        let (Some(most), Some(least)) = (most, least) else { continue };
        if speeds.len() < 2 {
            continue;
        }
        let mut text = format!(
            "{}: from {} tokens/s in {} down to {} in {}",
            s.name,
            figure(most.0),
            most.1.scenario,
            figure(least.0),
            least.1.scenario
        );
        if let Some((a, b)) = ends(s)
            && let (Some(t), Some(u)) = (&a.ttft_ms, &b.ttft_ms)
            && let (Some(p), Some(q)) = (a.prompt_tokens, b.prompt_tokens)
            && q > p
        {
            let each = (u.median - t.median) / (q - p) as f64;
            if each > 0.0 {
                text.push_str(&format!("; TTFT grows by {} ms per prompt token", figure(each)));
            }
            if let (Some(t), Some(u)) = (&a.tpt_ms, &b.tpt_ms) {
                let change = 100.0 * (u.median / t.median - 1.0);
                text.push_str(&format!(
                    "; TpT changes by {change:+.0}% from {p} to {q} prompt tokens, because more keys and values are read"
                ));
            }
        }
        out.push(text + ".");
    }
    out
}

/// The finished cells with the shortest and the longest prompt.
fn ends<'a>(s: &SubjectFigures<'a>) -> Option<(&'a Cell, &'a Cell)> {
    let with = || s.cells.iter().copied().filter(|c| c.ttft_ms.is_some() && c.prompt_tokens.is_some());
    with().min_by_key(|c| c.prompt_tokens).zip(with().max_by_key(|c| c.prompt_tokens))
}

/// Which limits of the machine the best backend of each shape reaches, and the memory it needs.
pub fn hardware(record: &Record) -> Vec<String> {
    let all = subjects(record);
    let mut out = Vec::new();
    for group in groups(record) {
        let Some(s) = all.iter().find(|s| s.index == group[0].subject) else { continue };
        let load = record.processes.iter().filter(|p| p.subject == s.index).find_map(|p| p.load.as_ref());
        if let (Some(peak), Some(load)) = (s.peak_mb(), load) {
            out.push(format!(
                "{} needs at most {} MiB of memory in these scenarios and ran on {} ({}, {}).",
                s.name,
                figure(peak),
                count(load.backend.threads, "thread"),
                load.backend.device,
                load.backend.isa
            ));
        }
        let decode = s.average(|c| c.decode_share.as_ref());
        let prefill = s.average(|c| c.prefill_share.as_ref());
        if let Some(share) = decode {
            out.push(format!(
                "Its decode rate averages {:.0}% of the memory bandwidth: {}.",
                100.0 * share,
                if share > 0.5 {
                    "faster memory or smaller weights would speed up answers; more cores would hardly help"
                } else {
                    "memory bandwidth is not the limit here"
                }
            ));
        }
        if let Some(share) = prefill {
            out.push(format!(
                "Its prefill rate averages {:.0}% of the arithmetic peak: {}.",
                100.0 * share,
                if share > 0.5 {
                    "long prompts need more or wider cores"
                } else {
                    "arithmetic is not the limit here"
                }
            ));
        }
    }
    if out.is_empty() {
        out.push("No real backend has figures, so there is no hardware recommendation.".into());
    }
    out
}

/// How the simulated baseline differs from what was measured.
pub fn against_baseline(record: &Record) -> Vec<String> {
    use baseline::{TOKENS_PER_S, TPT_MS, TTFT_MS};
    let mut out = vec![format!(
        "The simulated baseline gives GGUF {TOKENS_PER_S} tokens/s, {TTFT_MS} ms to the first token and {TPT_MS} ms per \
         token. No model ran for these figures. They name no machine, model or spread, so a difference from them is not a \
         difference in speed."
    )];
    for s in subjects(record).iter().filter(|s| !s.synthetic) {
        if s.cells.first().and_then(|c| c.key.format.as_deref()) != Some("gguf") {
            continue;
        }
        let averages = (
            s.average(|c| c.throughput.as_ref()),
            s.average(|c| c.ttft_ms.as_ref()),
            s.average(|c| c.tpt_ms.as_ref()),
        );
        if let (Some(speed), Some(ttft), Some(tpt)) = averages {
            out.push(format!(
                "{} averages {} tokens/s ({} times the simulated figure), {} ms ({} times) and {} ms per \
                 token ({} times).",
                s.name,
                figure(speed),
                figure(speed / TOKENS_PER_S),
                figure(ttft),
                figure(ttft / TTFT_MS),
                figure(tpt),
                figure(tpt / TPT_MS)
            ));
        }
    }
    let first_tokens: Vec<f64> = record
        .summary
        .iter()
        .filter(|c| !c.synthetic)
        .filter_map(|c| c.ttft_ms.as_ref())
        .map(|s| s.median)
        .collect();
    let spread =
        first_tokens.iter().copied().reduce(f64::max).zip(first_tokens.iter().copied().reduce(f64::min));
    if let Some((high, low)) = spread.filter(|(high, low)| low * 1.5 < *high) {
        out.push(format!(
            "The simulation has one TTFT for all prompts; the measured TTFT ranges from {} to {} ms over backends and \
             scenarios.",
            figure(low),
            figure(high)
        ));
    }
    out
}

/// The machine as pairs of label and text, without unknown facts.
pub fn machine(record: &Record) -> Vec<(&'static str, String)> {
    let m = &record.machine;
    let gib = |bytes: u64| format!("{:.1} GiB", bytes as f64 / (1u64 << 30) as f64);
    let mut out: Vec<(&str, String)> = Vec::new();
    let mut known =
        |label, text: Option<String>| out.extend(text.filter(|t| !t.is_empty()).map(|t| (label, t)));
    known("processor", m.cpu.clone());
    let cores = m.physical_cores.map(|n| format!("{n} cores, ")).unwrap_or_default();
    known("threads", (m.logical_cores > 0).then(|| format!("{cores}{} logical", m.logical_cores)));
    known("caches", Some(m.caches.join(", ")));
    known("instructions", Some(m.cpu_flags.join(" ")));
    known("memory", (m.memory_bytes > 0).then(|| gib(m.memory_bytes)));
    known("memory limit", m.cgroup_memory_bytes.map(gib));
    known("CPU limit", m.cgroup_cpus.map(|n| format!("{n} cores")));
    known("governor", m.governor.clone());
    known("system", m.os.clone());
    known("kernel", m.kernel.clone());
    if let Some(p) = record.roofline.best() {
        known("read bandwidth", Some(format!("{} GB/s", figure(p.read_bytes_per_s.all_threads / 1e9))));
        let large = p.read_large_bytes_per_s.map(|r| format!("{} GB/s", figure(r.all_threads / 1e9)));
        known("read bandwidth, 4 GiB", large);
        known("int8 peak", Some(format!("{} TOPS", figure(p.int8_ops_per_s.all_threads / 1e12))));
        let tera = |r: crate::record::Rate| format!("{} TFLOPS", figure(r.all_threads / 1e12));
        known("bf16 peak", p.bf16_ops_per_s.map(tera));
        known("f32 peak", Some(tera(p.f32_ops_per_s)));
    }
    known("steal time", record.conditions.steal_pct.map(|p| format!("{p:.1}%")));
    known("start, end", Some(format!("{}, {}", record.started, record.finished)));
    let build = if record.program.debug_build { ", debug build" } else { "" };
    known("program", Some(format!("{} {}{build}", record.program.name, record.program.version)));
    known("sha256", record.program.sha256.clone());
    out
}
