//! `zonda bench`: measures backends over scenarios. This file decides what to measure; the crate `zonda-bench` measures
//! it.

use crate::args::Speculation;
use crate::args::{DraftArgs, How, JsonArg, OpenArgs};
use crate::cmd::bench_compare::Compare;
use crate::cmd::bench_report::Report;
use crate::cmd::bench_serve::BenchServe;
use crate::console::note;
use crate::context::Context;
use crate::error::{Interrupted, Usage, advised};
use crate::interrupt;
use crate::output::{self, Progress as Bar};
use anyhow::Context as _;
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::ffi::OsString;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use zonda::{BackendKind, Located, Store};
use zonda_bench::eval::quality;
use zonda_bench::record::{QualityText, Row, Status};
use zonda_bench::report::redact_paths::PathRedactor;
use zonda_bench::{BenchConfig, Launcher, Plan, Progress, Runs, Scenario, Subject, Update, Work};
use zonda_convert::convert;
use zonda_engine::load::{Format, Model};
use zonda_engine::{Speculate, printable, printable_lines};
use zonda_kernels::DType;

/// The model that is measured unless one is named, and its SafeTensors form.
const DEFAULT_MODEL: &str = "smollm2-135m";
const DEFAULT_F32: &str = "smollm2-135m-f32";

/// Measure backends: latency and throughput over scenarios
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  zonda bench\n  \
    zonda bench -m model.gguf -m folder/ --scenario short,code --runs 5\n  \
    zonda bench -m model.gguf --pp 512 --tg 128\n  \
    zonda bench -m model.gguf --speculate off,ngram --scenario edit,code\n\n\
    Without -m it measures smollm2-135m as GGUF and, converted once, as SafeTensors (f32), and the mock backend, which \
    shows the harness's own overhead. Each backend runs in a process of its own, one at a time. First the machine's limits \
    are measured and each backend is compared with the reference logits (kept for the next time); --quick skips both."
)]
pub struct Bench {
    #[command(subcommand)]
    then: Option<Then>,
    /// A model; may be repeated [default: smollm2-135m in GGUF and SafeTensors form].
    #[arg(short, long = "model", value_name = "MODEL")]
    models: Vec<OsString>,
    /// Backends, separated by commas [default: all in this build].
    #[arg(long, value_delimiter = ',', value_name = "A,B", value_parser = crate::args::values::backend())]
    backend: Vec<BackendKind>,
    /// Scenarios: short, medium, code, long, edit, or paths of .toml files, separated by commas [default: the first four].
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    scenario: Vec<String>,
    /// Number of runs of each scenario.
    #[arg(long, value_name = "N", default_value_t = 3, conflicts_with = "until_ci")]
    runs: usize,
    /// Repeat until the 95% interval of every median is within ± PCT percent of it: at least 5 runs, at most 50.
    #[arg(long, value_name = "PCT", value_parser = percent)]
    until_ci: Option<f64>,
    /// Restrict each process to the cores that its threads run on, and report whether other processes may use them.
    #[arg(long)]
    isolate: bool,
    /// Only time the runs: skip measuring the machine's limits and comparing each backend with the reference logits.
    #[arg(long)]
    quick: bool,
    /// Also measure each backend's perplexity on this text, and its distance from the reference logits.
    #[arg(long, value_name = "TEXT")]
    quality: Option<PathBuf>,
    /// Let the model stop by itself; otherwise every answer has the scenario's length.
    #[arg(long)]
    natural: bool,
    /// Measure with the prefix cache filled; otherwise every run computes its whole prompt.
    #[arg(long)]
    cached: bool,
    /// Measure the prefill of N random tokens, as llama-bench does; without --scenario, only this is measured.
    #[arg(long, value_delimiter = ',', value_name = "N")]
    pp: Vec<usize>,
    /// Measure N single-token steps from an empty context; without --scenario, only this is measured.
    #[arg(long, value_delimiter = ',', value_name = "N")]
    tg: Vec<usize>,
    /// Speculative decoding: off, ngram or draft; several, separated by commas, are compared [default: off].
    #[arg(long, value_name = "HOW", value_delimiter = ',')]
    speculate: Vec<How>,
    /// Folder for results.csv, results.json, report.md and report.html [default: results/DATE-TIME].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Seed of the order of runs and of the random prompts.
    #[arg(long, value_name = "N", default_value_t = 42)]
    seed: u64,
    #[command(flatten)]
    json: JsonArg,
    #[command(flatten)]
    open: OpenArgs,
    #[command(flatten)]
    draft: DraftArgs,
}

/// Subcommands that compare or report recorded results, or measure a server.
#[derive(Debug, Subcommand)]
enum Then {
    Compare(Compare),
    Serve(BenchServe),
    Report(Report),
}

impl Bench {
    pub fn run(self, context: &Context) -> anyhow::Result<()> {
        match self.then {
            Some(Then::Compare(compare)) => return compare.run(),
            Some(Then::Serve(serve)) => return serve.run(context),
            Some(Then::Report(report)) => return report.run(context),
            None => {}
        }
        let work = self.work()?;
        let store = context.store()?;
        let subjects = self.subjects(&store, context.quiet)?;
        let config = BenchConfig {
            subjects,
            work,
            runs: self.until_ci.map_or(Runs::Fixed(self.runs), Runs::until_ci),
            seed: self.seed,
            natural: self.natural,
            cached: self.cached,
            peaks: !self.quick,
            gate: !self.quick,
            gate_cache: Some(store.home().join("agreement")),
            isolate: self.isolate,
            quality: self.quality_text()?,
            ..BenchConfig::default()
        };
        let plan = Plan::new(config).map_err(|e| Usage(e.to_string()))?;
        let launcher = Launcher::current_exe().context("finding this program's own file")?;

        let out = self.out.unwrap_or_else(zonda_bench::report::default_out);
        zonda_bench::report::prepare(&out)?; // fails early, not after an hour of measuring

        let graceful = interrupt::graceful();
        let mut follower = Follower::new(context.quiet, self.json.json);
        let record = redactor(&store).redact_record(zonda_bench::run(&plan, &launcher, &mut follower)?);
        follower.bar.finish_and_clear();
        drop(graceful);

        let written = zonda_bench::write_all(&out, &record)?;
        if self.json.json {
            output::json_text(&zonda_bench::report::json::to_string(&record)?)?;
        } else {
            let (width, colour) = output::terminal();
            output::styled(&zonda_bench::render_table(&record, width, colour))?;
        }
        if !context.quiet {
            let files: Vec<_> = written.iter().map(|p| p.display().to_string()).collect();
            note!("written: {}", files.join(", "));
            note!("report: {}", out.join("report.html").display());
        }
        let failed = record.rows.iter().filter(|row| row.status != Status::Ok).count();
        match failed {
            _ if record.partial => Err(Interrupted.into()),
            0 => Ok(()),
            _ => Err(advised(
                format!("{failed} of {} runs failed", record.rows.len()),
                "the table and results.json say why each did",
            )),
        }
    }

    /// The text of `--quality`.
    fn quality_text(&self) -> anyhow::Result<Option<QualityText>> {
        let Some(path) = &self.quality else { return Ok(None) };
        super::perplexity::read(path)?; // fails early if the text can't be read
        Ok(Some(quality::text_of(path).with_context(|| path.display().to_string())?))
    }

    /// The work of every subject.
    fn work(&self) -> anyhow::Result<Vec<Work>> {
        let find =
            |name: &String| Scenario::find(name).map(Work::Scenario).map_err(|e| Usage(e.to_string()).into());
        let pp = self.pp.iter().map(|&n| Work::Prompt(n));
        let tg = self.tg.iter().map(|&n| Work::Generate(n));
        let counted: Vec<_> = pp.chain(tg).collect();
        let mut work = if self.scenario.is_empty() && counted.is_empty() {
            Scenario::builtin().into_iter().map(Work::Scenario).collect()
        } else {
            self.scenario.iter().map(find).collect::<anyhow::Result<Vec<_>>>()?
        };
        work.extend(counted);
        Ok(work)
    }

    /// Every backend with every model that it can run.
    fn subjects(&self, store: &Store, quiet: bool) -> anyhow::Result<Vec<Subject>> {
        for kind in &self.backend {
            kind.check_available()?;
        }
        let wanted = |kind: BackendKind| self.backend.is_empty() || self.backend.contains(&kind);
        let mock_only = self.backend == [BackendKind::Mock];
        let mut models = self.models.iter().map(|m| store.locate(m)).collect::<zonda::Result<Vec<_>>>()?;
        if models.is_empty() && !mock_only {
            models = default_models(store, quiet)?;
        }
        let named_mock = models.iter().any(|m| m.path.is_none());
        let speculations = self.speculations(store)?;
        let mut subjects = Vec::new();
        // If both backends and models were named, every pair is run and reports why it can't; otherwise only pairs that
        // fit.
        let named = !self.backend.is_empty() && !self.models.is_empty();
        for &kind in BackendKind::AVAILABLE.iter().filter(|&&k| wanted(k) && k != BackendKind::Mock) {
            for model in models.iter().filter(|m| m.path.is_some()) {
                let why_not = match kind.reads(model) {
                    true => zonda::unfit(kind, model).map(|why| format!(": {why}")),
                    false => Some(", which does not read its format".to_owned()),
                };
                match why_not.filter(|_| !named) {
                    None => subjects.extend(self.in_forms(kind, model, &speculations)),
                    Some(_) if quiet => {}
                    Some(why) => note!("not measured: {} on {}{why}", model.name, kind.name()),
                }
            }
        }
        if wanted(BackendKind::Mock) || named_mock {
            let mock = Located { name: "mock".into(), path: None };
            subjects.push(self.subject(BackendKind::Mock, &mock, &Speculation::default()));
        }
        Ok(subjects)
    }

    /// The kinds of speculation to compare.
    fn speculations(&self, store: &Store) -> anyhow::Result<Vec<Speculation>> {
        let hows = match self.speculate[..] {
            [] if self.draft.draft.is_some() => &[How::Draft][..],
            [] => &[How::Off],
            ref given => given,
        };
        let form = |how: &How| {
            let found = self.draft.speculation(store, *how)?;
            // Only a subject that uses the draft model loads it.
            Ok(if *how == How::Draft { found } else { Speculation { draft: None, ..found } })
        };
        let mut found = hows.iter().map(form).collect::<anyhow::Result<Vec<_>>>()?;
        for off in found.iter_mut().filter(|s| s.how == Speculate::Off) {
            *off = Speculation::default();
        }
        Ok(found)
    }

    /// A backend with a model, once for each kind of speculation. Several kinds are distinguished in the model's name.
    fn in_forms(&self, kind: BackendKind, model: &Located, speculations: &[Speculation]) -> Vec<Subject> {
        let mut subjects: Vec<_> = speculations.iter().map(|s| self.subject(kind, model, s)).collect();
        if subjects.len() > 1 {
            for (subject, form) in
                subjects.iter_mut().zip(speculations).filter(|(_, s)| s.how != Speculate::Off)
            {
                subject.model = format!("{}+{}", subject.model, form.how.name());
            }
        }
        subjects
    }

    fn subject(&self, kind: BackendKind, model: &Located, speculation: &Speculation) -> Subject {
        let options = match kind {
            BackendKind::Mock => Default::default(),
            _ => speculation.apply(self.open.options(None)).to_map(),
        };
        // Children are started in this folder, but a record is read elsewhere.
        let path = model.path.as_ref().map(|p| std::path::absolute(p).unwrap_or_else(|_| p.clone()));
        let format = path.as_ref().map(|p| Format::of(p).to_string());
        Subject {
            backend: kind.name().to_owned(),
            model: model.name.clone(),
            path,
            format,
            synthetic: kind == BackendKind::Mock,
            options,
        }
    }
}

/// Replaces personal folders in the record, which other people may read.
fn redactor(store: &Store) -> PathRedactor {
    let named = std::env::var_os("ZONDA_HOME").is_some_and(|home| !home.is_empty());
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let models = named.then(|| (absolute(store.home()), "$ZONDA_HOME"));
    let home = dirs::home_dir().map(|home| (home, "~"));
    let here = std::env::current_dir().ok().map(|here| (here, "."));
    PathRedactor::new(models.into_iter().chain(home).chain(here))
}

/// The default model and the same weights as SafeTensors, which are converted at the first use and kept.
fn default_models(store: &Store, quiet: bool) -> anyhow::Result<Vec<Located>> {
    let gguf = store.locate(DEFAULT_MODEL)?;
    let source = gguf.path.clone().context("a model in a file")?;
    let folder = store.made(DEFAULT_F32, |out| {
        let _scratch = out.parent().map(|work| interrupt::scratch(work.to_owned()));
        let bar = Bar::bytes(format!("converting {DEFAULT_MODEL} to SafeTensors"), 0, quiet);
        convert(&Model::open(&source)?, out, DType::F32, &mut |done, total| bar.set(done, total))?;
        bar.finish();
        anyhow::Ok(format!("converted from {DEFAULT_MODEL}"))
    })?;
    Ok(vec![gguf, Located { name: DEFAULT_F32.to_owned(), path: Some(folder) }])
}

/// Shows how far the experiment is: a bar on a terminal, a line per run elsewhere.
struct Follower {
    bar: ProgressBar,
    plain: bool,
    quiet: bool,
    /// Whether warnings are shown at once; otherwise only the table at the end has them.
    warns: bool,
}

impl Follower {
    fn new(quiet: bool, warns: bool) -> Follower {
        let plain = !std::io::stderr().is_terminal();
        let target = if plain || quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(None, target);
        if let Ok(style) = ProgressStyle::with_template("[{bar:24}] {pos}/{len} {elapsed} {msg}") {
            bar.set_style(style.progress_chars("=> "));
        }
        if !plain && !quiet {
            bar.enable_steady_tick(Duration::from_secs(1));
        }
        Follower { bar, plain, quiet, warns }
    }

    /// Sets the text beside the bar.
    fn show(&self, message: &str) {
        self.bar.set_message(printable(message).into_owned());
    }

    fn say(&self, line: &str) {
        match (self.quiet, self.plain) {
            (true, _) => {}
            (false, true) => note!("{line}"),
            (false, false) => self.bar.println(printable_lines(line).as_ref()),
        }
    }
}

impl Progress for Follower {
    fn update(&mut self, update: Update<'_>) {
        match update {
            Update::Planned { runs } => self.bar.set_length(runs as u64),
            Update::Peaks => self.show("measuring the machine's peaks"),
            Update::Comparing(subject) => {
                self.show(&format!("comparing {} with the reference logits", subject.label()));
            }
            Update::Quality(subject) => {
                self.show(&format!("measuring the quality of {}", subject.label()));
            }
            Update::Loading(subject) => self.show(&format!("loading {}", subject.label())),
            Update::WarmUp(subject) => self.show(&format!("warming up {}", subject.label())),
            Update::Running { subject, work, run, .. } => {
                self.show(&format!("{} {work}, run {run}", subject.label()));
            }
            Update::Tokens(_) => {}
            Update::Row(row) => {
                self.bar.inc(1);
                if self.plain || row.status != Status::Ok {
                    self.say(&line(row));
                }
            }
            Update::Warning(warning) if self.warns => self.say(&format!("warning: {warning}")),
            Update::Warning(_) => {}
        }
    }

    fn interrupted(&self) -> bool {
        interrupt::pressed()
    }
}

/// A percentage between 0 and 100.
fn percent(text: &str) -> Result<f64, String> {
    let number = text.trim_end_matches('%').parse::<f64>().ok().filter(|pct| *pct > 0.0 && *pct < 100.0);
    number.ok_or_else(|| "expected a percentage between 0 and 100".to_owned())
}

/// One run in one line.
fn line(row: &Row) -> String {
    let name = format!("{} {} {} run {}", row.key.name.backend, row.key.name.model, row.scenario, row.run);
    match (&row.status, row.total_ms) {
        (Status::Ok, Some(total)) => {
            format!("{name}: {} tokens in {total:.0} ms", row.generated.unwrap_or(0))
        }
        (status, _) => format!("{name}: {status}"),
    }
}
