//! The experiment, seen from the parent: block after block, one child process at a time.
//!
//! Nothing that happens to a child ends the experiment: a crash, a hang, an error or a load that fails becomes a row
//! that says why, and the rest goes on. What failed once is not tried again in later blocks.

use crate::ceilings::{self, Ceilings};
use crate::conditions::Watch;
use crate::files;
use crate::gate;
use crate::isolate;
use crate::machine::Machine;
use crate::plan::{BenchConfig, Plan, Runs, Visit, WARM_PROMPT, WARM_TOKENS, Work};
use crate::process::{ChildError, ChildProcess, Launcher};
use crate::progress::{Progress, Update, Watcher};
use crate::protocol::{ChildSpec, FromChild, RunSpec, ToChild};
use crate::recommend;
use crate::record::*;
use crate::row;
use crate::stats::Stats;
use crate::summary;
use crate::warning::{Noted, Warning};
use crate::{BenchError, rng::Rng};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::time::Instant;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// Two warm-up TpT closer than this, in ms, are alike whatever their ratio (the mock takes microseconds).
const ALIKE_MS: f64 = 0.05;

/// Runs an experiment.
///
/// # Errors
/// Only if no child process can be started at all; everything else is in the record.
pub fn run(plan: &Plan, launcher: &Launcher, progress: &mut dyn Progress) -> Result<Record, BenchError> {
    let started = now();
    let config = plan.config();
    progress.update(Update::Planned { runs: config.runs.most() * config.subjects.len() * config.work.len() });
    let machine = Machine::probe();
    let program = files::describe(&launcher.program).ok().map(|f| f.sha256);
    let mut x = Experiment {
        plan,
        config,
        launcher,
        progress,
        files: vec![Vec::new(); config.subjects.len()],
        rows: Vec::new(),
        processes: Vec::new(),
        warnings: Vec::new(),
        given_up: BTreeMap::new(),
        runs_begun: 0,
        ceilings: Ceilings::default(),
        large: false,
        agreement: Vec::new(),
    };
    machine.check().into_iter().for_each(|warning| x.warn(warning));
    let models = x.look_at_models();
    let watch = Watch::begin();
    watch.warning().into_iter().for_each(|warning| x.warn(warning));
    let interrupted = match x.all(program.as_deref(), &models) {
        Ok(()) => false,
        Err(Stop::Interrupted) => true,
        Err(Stop::Launch(source)) => {
            return Err(BenchError::Launch { program: launcher.program.clone(), source });
        }
    };
    let (conditions, disturbed) = watch.end();
    let peaks = x.ceilings.best();
    if let Some(peaks) = &peaks {
        ceilings::place(&mut x.rows, &x.processes, peaks, machine.last_cache_bytes());
    }
    let found = summary::warnings(config, &x.processes, &mut x.rows);
    let mut warnings = [disturbed, x.ceilings.warnings(), x.isolation(), found].concat();
    warnings.extend(interrupted.then_some(Warning::Interrupted));
    warnings.into_iter().for_each(|warning| x.warn(warning));
    let mut summary = summary::cells(config, &x.rows);
    summary::starts(&mut summary, &x.processes);
    let unranked = gate::judge(&mut summary, &x.agreement);
    let ranking = summary::ranking(config, &summary, &x.processes, &x.rows);
    let overhead = summary::overhead(&summary);
    Ok(Record {
        schema_version: SCHEMA_VERSION,
        program: Program {
            name: env!("CARGO_PKG_NAME").into(),
            version: env!("CARGO_PKG_VERSION").into(),
            sha256: program,
            debug_build: cfg!(debug_assertions),
        },
        started,
        finished: now(),
        partial: interrupted,
        machine,
        ceilings: x.ceilings,
        conditions,
        config: config.clone(),
        models,
        agreement: x.agreement,
        recommendation: recommend::recommendation(&summary, &ranking, config),
        processes: x.processes,
        rows: x.rows,
        summary,
        ranking,
        unranked,
        overhead,
        warnings: x.warnings.into_iter().map(Noted::from).collect(),
    })
}

/// Why the blocks end early.
enum Stop {
    Interrupted,
    Launch(std::io::Error),
}

struct Experiment<'a> {
    plan: &'a Plan,
    config: &'a BenchConfig,
    launcher: &'a Launcher,
    progress: &'a mut dyn Progress,
    /// Each subject's model files. `[subjects]`
    files: Vec<Vec<PathBuf>>,
    rows: Vec<Row>,
    processes: Vec<Process>,
    warnings: Vec<Warning>,
    /// Why a (subject, work) is not tried again.
    given_up: BTreeMap<(usize, usize), String>,
    runs_begun: usize,
    ceilings: Ceilings,
    /// A model is so large that reading large memory is measured.
    large: bool,
    agreement: Vec<gate::Agreed>,
}

impl Experiment<'_> {
    fn warn(&mut self, warning: Warning) {
        self.progress.update(Update::Warning(&warning));
        self.warnings.push(warning);
    }

    fn look_at_models(&mut self) -> Vec<ModelFiles> {
        let mut models = Vec::new();
        for (subject, s) in self.config.subjects.iter().enumerate() {
            let Some(path) = &s.path else { continue };
            // A model that can't be read fails when it is loaded, with the loader's better words.
            let Ok(files) = files::of_model(path) else { continue };
            let described = files.iter().filter_map(|f| files::describe(f).ok()).collect();
            models.push(ModelFiles { subject, files: described });
            self.files[subject] = files;
        }
        models
    }

    /// Everything: the machine's peaks, the gate, the runs, the peaks again.
    fn all(&mut self, program: Option<&str>, models: &[ModelFiles]) -> Result<(), Stop> {
        // without a backend to measure there is nothing that a limit or a comparison would say
        let real = self.config.subjects.iter().any(|s| !s.synthetic);
        let bytes = |m: &ModelFiles| m.files.iter().map(|f| f.bytes).sum::<u64>();
        self.large = models.iter().any(|m| bytes(m) > ceilings::LARGE);
        if self.config.peaks && real {
            self.ceilings.before = self.peaks()?;
        }
        if self.config.gate && real {
            let compared = gate::run(self.plan, self.launcher, program, models, self.progress);
            self.agreement = compared.map_err(|_| Stop::Interrupted)?;
            let config = self.config;
            let warnings: Vec<_> = self.agreement.iter().filter_map(|a| a.warning(config)).collect();
            warnings.into_iter().for_each(|warning| self.warn(warning));
        }
        self.blocks()?;
        if self.config.peaks && real && self.ceilings.before.is_some() {
            self.ceilings.after = self.peaks()?;
        }
        Ok(())
    }

    /// What the machine can do at most, now.
    fn peaks(&mut self) -> Result<Option<ceilings::Peaks>, Stop> {
        let Some(subject) = self.config.subjects.iter().find(|s| !s.synthetic) else { return Ok(None) };
        self.progress.update(Update::Peaks);
        let large = self.large;
        let question = ToChild::Peaks { subject: subject.clone(), large };
        let why = match gate::ask(self.launcher, &question, self.plan.timeout(), self.progress) {
            Ok(FromChild::Peaks(peaks)) => return Ok(Some(*peaks)),
            Err(ChildError::Interrupted) => return Err(Stop::Interrupted),
            Ok(FromChild::Failed { why }) => why,
            Ok(other) => format!("unexpected answer: {other:?}"),
            Err(error) => error.to_string(),
        };
        self.ceilings.why = Some(why.clone());
        self.warn(Warning::NoPeaks { why });
        Ok(None)
    }

    /// Whether the processes had their cores to themselves, where that was asked for.
    fn isolation(&self) -> Vec<Warning> {
        let loads = self.processes.iter().filter_map(|p| p.load.as_ref());
        let why = |load: &LoadReport| {
            load.not_kept.clone().or_else(|| isolate::shared(load.kept_to.as_deref().unwrap_or_default()))
        };
        let reasons: BTreeSet<String> = loads.filter(|_| self.config.isolate).filter_map(why).collect();
        reasons.into_iter().map(|why| Warning::NotIsolated { why }).collect()
    }

    fn blocks(&mut self) -> Result<(), Stop> {
        for run in 1..=self.config.runs.most() {
            for visit in self.plan.block(run) {
                self.visit(run, visit)?;
            }
            if let Runs::UntilCi { pct, min, .. } = self.config.runs
                && run >= min
                && self.narrow_enough(pct)
            {
                break;
            }
        }
        Ok(())
    }

    /// Is every interval that can still be narrowed within ± `pct` percent?
    fn narrow_enough(&self, pct: f64) -> bool {
        (0..self.config.subjects.len()).all(|subject| {
            self.config.work.iter().enumerate().all(|(w, work)| {
                let values: Vec<f64> = self
                    .rows
                    .iter()
                    .filter(|r| r.subject == subject && r.scenario == work.name())
                    .filter_map(Row::headline)
                    .collect();
                self.given_up.contains_key(&(subject, w))
                    || Stats::of(&values, self.config.seed).and_then(|s| s.ci_pct()).is_some_and(|c| c <= pct)
            })
        })
    }

    /// One subject's turn: normally one child process; another one for the rest after a crash.
    fn visit(&mut self, run: usize, visit: Visit) -> Result<(), Stop> {
        let mut todo: VecDeque<usize> = VecDeque::new();
        for work in visit.work {
            match self.given_up.get(&(visit.subject, work)) {
                Some(why) => {
                    let status = Status::NotRun(why.clone());
                    let row = self.empty_row(visit.subject, work, run, status);
                    self.keep(row);
                }
                None => todo.push_back(work),
            }
        }
        while !todo.is_empty() {
            if self.progress.interrupted() {
                return Err(Stop::Interrupted);
            }
            self.processes.push(Process {
                subject: visit.subject,
                run,
                load: None,
                ready_ms: None,
                first_token_ms: None,
                file_cached: None,
                warmup: Vec::new(),
            });
            let mut child = match self.open(visit.subject) {
                Ok(child) => child,
                Err(Trouble::Stop(stop)) => return Err(stop),
                Err(Trouble::Failed(why)) => {
                    for work in todo {
                        self.fail(visit.subject, work, run, None, &why);
                    }
                    return Ok(());
                }
            };
            // After a failure nothing in that process is to be trusted: the rest gets a fresh one.
            let mut alive = true;
            while alive && let Some(work) = todo.pop_front() {
                self.runs_begun += 1;
                let order = Some(self.runs_begun);
                match self.measure(&mut child, visit.subject, work, run) {
                    Ok(mut row) => {
                        row.order = order;
                        self.keep(row);
                    }
                    Err(Trouble::Stop(stop)) => return Err(stop),
                    Err(Trouble::Failed(why)) => {
                        self.fail(visit.subject, work, run, order, &why);
                        alive = false;
                    }
                }
            }
            if alive {
                child.quit();
            }
        }
        Ok(())
    }

    /// A row that says who and what, without figures.
    fn empty_row(&self, subject: usize, work: usize, run: usize, status: Status) -> Row {
        let load = self.processes.iter().rev().find(|p| p.subject == subject).and_then(|p| p.load.as_ref());
        row::empty(self.config, load, subject, work, run, status)
    }

    fn fail(&mut self, subject: usize, work: usize, run: usize, order: Option<usize>, why: &str) {
        self.given_up.insert((subject, work), format!("it failed in run {run}: {why}"));
        let mut row = self.empty_row(subject, work, run, Status::Failed(why.into()));
        row.order = order;
        self.keep(row);
    }

    fn keep(&mut self, row: Row) {
        self.progress.update(Update::Row(&row));
        self.rows.push(row);
    }

    /// Starts a child, has it load the model, and warms it up.
    fn open(&mut self, subject: usize) -> Result<ChildProcess, Trouble> {
        let s = &self.config.subjects[subject];
        self.progress.update(Update::Loading(s));
        let first = self.processes.iter().filter(|p| p.subject == subject).count() == 1;
        let files = &self.files[subject];
        if first && self.config.cold_start {
            files::drop_from_cache(files);
        }
        let cached = files::cached_share(files);
        if let Some(share) = cached.filter(|&s| first && self.config.cold_start && s > 0.05) {
            self.warn(Warning::NotCold { subject: s.label(), cached_pct: 100.0 * share });
        }
        self.process().file_cached = cached;

        let began = Instant::now();
        let mut child = ChildProcess::start(self.launcher).map_err(|e| Trouble::Stop(Stop::Launch(e)))?;
        let timeout = self.plan.timeout();
        child.greet(timeout, &mut Watcher(self.progress)).map_err(|e| at("starting", e))?;
        let isolate = self.config.isolate;
        let spec = ChildSpec { subject: s.clone(), work: self.config.work.clone(), isolate };
        let answer = child.ask(&ToChild::Open(spec), timeout, &mut Watcher(self.progress));
        match answer.map_err(|e| at("loading", e))? {
            FromChild::Opened(load) => {
                self.process().load = Some(*load);
                self.process().ready_ms = Some(began.elapsed().as_secs_f64() * 1e3);
            }
            FromChild::Failed { why } => return Err(Trouble::Failed(format!("loading: {why}"))),
            other => return Err(Trouble::Failed(format!("unexpected answer to open: {other:?}"))),
        }
        self.warm_up(&mut child, subject).map_err(|trouble| trouble.during("warm-up"))?;
        Ok(child)
    }

    fn process(&mut self) -> &mut Process {
        self.processes.last_mut().expect("a visit enters its process before it opens it")
    }

    /// One prefill that touches every buffer, then short answers until two in a row take as long.
    fn warm_up(&mut self, child: &mut ChildProcess, subject: usize) -> Result<(), Trouble> {
        if self.config.warmup == 0 {
            return Ok(());
        }
        let prompt = |work: &Work| match work {
            Work::Scenario(s) => s.nominal_prompt_tokens,
            Work::Prompt(n) => *n,
            Work::Generate(_) => 1,
        };
        let context = self.process().load.as_ref().map_or(0, |l| l.context);
        let longest = self.config.work.iter().map(prompt).max().unwrap_or(1);
        let prefill = longest.min(WARM_PROMPT).min(context.saturating_sub(2)).max(1);
        let short = self
            .config
            .work
            .iter()
            .filter(|w| !matches!(w, Work::Prompt(_)))
            .min_by_key(|w| prompt(w))
            .cloned()
            .unwrap_or(Work::Generate(WARM_TOKENS));
        let mut last: Option<f64> = None;
        for i in 0..=self.config.warmup {
            let (work, most) = if i == 0 { (Work::Prompt(prefill), 1) } else { (short.clone(), WARM_TOKENS) };
            let tpt = self.prepare(child, subject, work, most, false)?.timeline.tpt_ms();
            if last.zip(tpt).is_some_and(|(l, t)| alike(l, t, self.config.steady_pct)) {
                return Ok(());
            }
            last = tpt;
        }
        let process = self.process();
        let (run, warmups) = (process.run, process.warmup.len());
        let label = self.config.subjects[subject].label();
        if self.config.warmup > 1 {
            self.warn(Warning::NotSteady { subject: label, run, warmups });
        }
        Ok(())
    }

    /// A run that isn't measured, kept as a warm-up of its process.
    fn prepare(
        &mut self,
        child: &mut ChildProcess,
        subject: usize,
        work: Work,
        most: usize,
        cached: bool,
    ) -> Result<RunReport, Trouble> {
        self.progress.update(Update::WarmUp(&self.config.subjects[subject]));
        let max_tokens = work.max_tokens().min(most);
        let spec = RunSpec { work, max_tokens, natural: false, cached, seed: self.config.seed };
        let report = self.request(child, spec)?;
        let process = self.process();
        if process.warmup.is_empty() {
            // the request reaches the child within a millisecond of being sent
            process.first_token_ms = process.ready_ms.zip(report.timeline.ttft_ms()).map(|(a, b)| a + b);
        }
        process.warmup.push(WarmUp {
            prompt_tokens: report.prompt_tokens,
            generated: report.timeline.tokens(),
            ttft_ms: report.timeline.ttft_ms(),
            tpt_ms: report.timeline.tpt_ms(),
        });
        Ok(report)
    }

    fn request(&mut self, child: &mut ChildProcess, spec: RunSpec) -> Result<RunReport, Trouble> {
        match child.ask(&ToChild::Run(spec), self.plan.timeout(), &mut Watcher(self.progress)) {
            Ok(FromChild::Done(report)) if report.timeline.tokens() == report.ids.len() => Ok(*report),
            Ok(FromChild::Done(report)) => Err(Trouble::Failed(format!(
                "the child process reports {} tokens but {} ids",
                report.timeline.tokens(),
                report.ids.len()
            ))),
            Ok(FromChild::Failed { why }) => Err(Trouble::Failed(why)),
            Ok(other) => Err(Trouble::Failed(format!("unexpected answer to run: {other:?}"))),
            Err(error) => Err(error.into()),
        }
    }

    /// One measured run.
    fn measure(
        &mut self,
        child: &mut ChildProcess,
        subject: usize,
        work: usize,
        run: usize,
    ) -> Result<Row, Trouble> {
        let w = &self.config.work[work];
        let (natural, cached) = (self.config.natural, self.config.cached);
        if cached {
            self.prepare(child, subject, w.clone(), 1, true).map_err(|t| t.during("priming the cache"))?;
        }
        self.progress.update(Update::Running {
            subject: &self.config.subjects[subject],
            work: w.name(),
            run,
            tokens: w.max_tokens(),
        });
        // Each block has prompts of its own where they are random, the same for every subject.
        let seed = Rng::new(self.config.seed, run as u64).bits();
        let spec = RunSpec { work: w.clone(), max_tokens: w.max_tokens(), natural, cached, seed };
        let report = self.request(child, spec)?;
        row::check_length(&report, w.max_tokens(), natural).map_err(Trouble::Failed)?;
        let row = self.empty_row(subject, work, run, Status::Ok);
        Ok(row::filled(row, report, matches!(w, Work::Prompt(_))))
    }
}

/// What kept a run from being measured.
enum Trouble {
    /// It failed: an error, a crash, a timeout, work that wasn't done.
    Failed(String),
    /// The experiment ends.
    Stop(Stop),
}

impl Trouble {
    fn during(self, what: &str) -> Trouble {
        match self {
            Trouble::Failed(why) => Trouble::Failed(format!("{what}: {why}")),
            stop => stop,
        }
    }
}

impl From<ChildError> for Trouble {
    fn from(error: ChildError) -> Trouble {
        match error {
            ChildError::Interrupted => Trouble::Stop(Stop::Interrupted),
            other => Trouble::Failed(other.to_string()),
        }
    }
}

fn at(what: &str, error: ChildError) -> Trouble {
    Trouble::from(error).during(what)
}

fn alike(a: f64, b: f64, pct: f64) -> bool {
    (a - b).abs() <= (a.max(b) * pct / 100.0).max(ALIKE_MS)
}

fn now() -> String {
    let now = OffsetDateTime::now_utc().replace_nanosecond(0).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    now.format(&Rfc3339).unwrap_or_default()
}
