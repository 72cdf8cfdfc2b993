//! `zonda verify`: checks a model's files, and compares backends with each other. `zonda_bench::eval::verify` does the work;
//! this file chooses the backends and prints the result.

use crate::args::{JsonArg, ModelArg, OpenArgs};
use crate::cmd::bench_child::Child;
use crate::context::Context;
use crate::error::{Usage, advised};
use crate::output::{self, Spinner};
use clap::Args;
use serde_json::json;
use std::fmt::Write as _;
use std::num::NonZeroUsize;
use zonda::{BackendKind, Located};
use zonda_bench::Subject;
use zonda_bench::eval::comparison::NEAR_TIE;
use zonda_bench::eval::verify::{self, Check, Pair, Verified, VerifyPlan};
use zonda_bench::record::{LogitsBounds, LogitsSummary};
use zonda_engine::load::Model;

/// Check a model's files, and backends against each other on real prompts
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  zonda verify -m smollm2-135m --backend native,llama-cpp\n  \
    zonda verify -m smollm2-135m --exact --json\n\n\
    The first backend answers a built-in set of requests. The others read the same tokens, and all logits are compared: the \
    share of positions with the same best token, the KL divergence of the distributions, and the largest difference between two \
    logits. A near tie is a position at which the reference's best token leads by less than 0.2 nats: rounding decides it. \
    Exit code 1 if a check fails or a bound is broken.")]
pub struct Verify {
    #[command(flatten)]
    model: ModelArg,
    /// Backends, separated by commas; all are compared with the first [default: all in this build that read the model].
    #[arg(long, value_delimiter = ',', value_name = "A,B", value_parser = crate::args::values::backend())]
    backend: Vec<BackendKind>,
    /// Compare with the reference too: the same weights as f32, with f32 activations, keys and values. It shows which backend
    /// causes a difference.
    #[arg(long)]
    exact: bool,
    /// Positions to compare; the last answer is read to its end.
    #[arg(long, value_name = "N", default_value = "1500")]
    positions: NonZeroUsize,
    /// Maximum tokens of an answer.
    #[arg(long, value_name = "N", default_value_t = 64)]
    answer: usize,
    /// Minimum share of positions with the same best token, near ties excluded, in percent.
    #[arg(long, value_name = "PCT", default_value_t = 100.0 * LogitsBounds::default().top1_decided)]
    min_top1: f64,
    /// Maximum mean KL divergence, in nats.
    #[arg(long, value_name = "NATS", default_value_t = LogitsBounds::default().kl_mean)]
    max_kl: f64,
    #[command(flatten)]
    json: JsonArg,
    #[command(flatten)]
    open: OpenArgs,
}

impl Verify {
    pub fn run(self, context: &Context) -> anyhow::Result<()> {
        let located = context.store()?.locate(&self.model.model)?;
        let kinds = self.kinds(&located)?;
        let bounds = self.bounds()?;
        let mut checks = Vec::new();
        let mut verified = Verified::default();
        if let Some(model_context) = self.files(context, &located, &mut checks) {
            let plan = self.plan(&located, &kinds, model_context, bounds);
            let mut spinner = None;
            verified = verify::compare(&Child, &plan, &mut |name| {
                spinner.take(); // before the next one starts
                spinner = Some(Spinner::start(format!("computing logits with {name}"), context.quiet));
            });
        }
        checks.append(&mut verified.checks);
        self.report(&located, verified.positions, &checks, &verified.pairs)?;
        verdict(&checks, &verified.pairs)
    }

    fn kinds(&self, located: &Located) -> anyhow::Result<Vec<BackendKind>> {
        if self.backend.is_empty() {
            let all = BackendKind::AVAILABLE.iter().copied();
            return Ok(all.filter(|kind| kind.reads(located)).collect());
        }
        Ok(self
            .backend
            .iter()
            .map(|&kind| zonda::choose(Some(kind), located))
            .collect::<zonda::Result<_>>()?)
    }

    fn bounds(&self) -> anyhow::Result<LogitsBounds> {
        if !(0.0..=100.0).contains(&self.min_top1) {
            return Err(Usage(format!("--min-top1: expected 0 to 100, found {}", self.min_top1)).into());
        }
        let at_least_none = self.max_kl >= 0.0; // false for NaN too
        if !at_least_none {
            return Err(Usage(format!("--max-kl: expected 0 or more, found {}", self.max_kl)).into());
        }
        Ok(LogitsBounds {
            top1_decided: self.min_top1 / 100.0,
            kl_mean: self.max_kl,
            ..LogitsBounds::default()
        })
    }

    fn plan(
        &self,
        located: &Located,
        kinds: &[BackendKind],
        model_context: usize,
        bounds: LogitsBounds,
    ) -> VerifyPlan {
        let subject = |kind: &BackendKind| Subject {
            backend: kind.name().to_owned(),
            model: located.name.clone(),
            path: located.path.clone(),
            format: None,
            synthetic: *kind == BackendKind::Mock,
            options: match kind {
                BackendKind::Mock => Default::default(),
                _ => self.open.options(None).to_map(),
            },
        };
        VerifyPlan {
            subjects: kinds.iter().map(subject).collect(),
            reference: self.exact && located.path.is_some(),
            positions: self.positions.get(),
            answer: self.answer,
            context: self.open.options(None).ctx,
            model_context,
            bounds,
        }
    }

    /// Checks the files. Returns the longest context of the model; `None` if the model can't be run.
    fn files(&self, context: &Context, located: &Located, checks: &mut Vec<Check>) -> Option<usize> {
        let Some(path) = &located.path else { return Some(usize::MAX) };
        let said = |error: anyhow::Error| format!("{error:#}");
        let _spinner = Spinner::start(format!("reading {}", located.name), context.quiet);
        let sums = context.store().and_then(|store| Ok(store.check(&self.model.model)?));
        let sums = sums.map(|sums| sums.unwrap_or_else(|| "no checksum is known for a path".to_owned()));
        checks.push(Check::new("files", sums.map_err(said)));
        let model = match Model::open(path) {
            Ok(model) => std::sync::Arc::new(model),
            Err(error) => {
                checks.push(Check::new("tensors", Err(error.to_string())));
                return None;
            }
        };
        let text = zonda::text_of(Some(&model)).map_err(|error| error.sentence());
        let text = text.as_ref().map(Option::as_ref).map_err(Clone::clone);
        let (found, runs) = verify::check_model(&model, text);
        checks.extend(found);
        runs.then_some(model.spec.context_length)
    }

    fn report(
        &self,
        located: &Located,
        positions: usize,
        checks: &[Check],
        pairs: &[Pair],
    ) -> anyhow::Result<()> {
        if self.json.json {
            return output::json(&json!({
                "model": located.name,
                "positions": positions,
                "near_tie_nats": NEAR_TIE,
                "bounds": self.bounds()?,
                "checks": checks,
                "pairs": pairs,
            }));
        }
        let mut out = String::new();
        for check in checks {
            let mark = if check.ok { "ok    " } else { "FAILED" };
            let _ = writeln!(out, "{mark} {:<22} {}", check.name, check.detail);
        }
        for pair in pairs {
            let mark = if pair.broken.is_empty() { "ok    " } else { "FAILED" };
            let _ = writeln!(
                out,
                "\n{mark} {} against {}, {} positions",
                pair.other, pair.reference, pair.found.positions
            );
            for line in figures(&pair.found) {
                let _ = writeln!(out, "         {line}");
            }
        }
        output::print(&out)
    }
}

/// A comparison as lines of text.
fn figures(found: &LogitsSummary) -> Vec<String> {
    let near = found.positions - found.decided;
    let near = format!("{near} near ties (a lead below {NEAR_TIE} nats)");
    let apart = match found.top1_decided {
        None => near,
        Some(top1) => format!("{:.2}% without {near}", 100.0 * top1),
    };
    vec![
        format!(
            "same best token  {:.2}%; {apart}; largest lead lost {:.2}, noise of the lead {:.3}",
            100.0 * found.top1,
            found.largest_lead_lost,
            found.lead_noise
        ),
        format!(
            "KL divergence    {:.5} nats on average, 99% below {:.4}, {:.4} at most",
            found.kl_mean, found.kl_p99, found.kl_max
        ),
        format!(
            "logits           at most {:.3} apart; their standard deviation is {:.4}",
            found.max_abs_diff, found.spread
        ),
    ]
}

/// The first thing that is wrong, and how many more there are.
fn verdict(checks: &[Check], pairs: &[Pair]) -> anyhow::Result<()> {
    let failed = checks.iter().filter(|c| !c.ok).map(|c| format!("{}: {}", c.name, c.detail));
    let broken = pairs
        .iter()
        .flat_map(|p| p.broken.iter().map(move |b| format!("{} and {}: {b}", p.reference, p.other)));
    let mut wrong = failed.chain(broken);
    let Some(first) = wrong.next() else { return Ok(()) };
    let more = match wrong.count() {
        0 => String::new(),
        n => format!(" ({n} more)"),
    };
    Err(advised(
        format!("{first}{more}"),
        "`--exact` shows which backend is further from the reference logits; `--isa scalar` is native's plainest form",
    ))
}
