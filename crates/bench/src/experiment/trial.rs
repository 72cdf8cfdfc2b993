//! One subject's turn in a block: a child process that loads, warms up and does its work. Failures become rows.

use crate::experiment::plan::{Trial, WARM_PROMPT, WARM_TOKENS};
use crate::experiment::process::{ChildError, ChildProcess};
use crate::experiment::progress::{Update, Watcher};
use crate::experiment::protocol::{FromChild, RunSpec, ToChild};
use crate::experiment::row;
use crate::experiment::state::{Experiment, Stop};
use crate::files;
use crate::host::ChildSpec;
use crate::record::config::Work;
use crate::record::process::{Process, RunReport, WarmUp};
use crate::record::row::{Row, Status};
use crate::record::warning::Warning;
use crate::rng::Rng;
use std::collections::VecDeque;
use std::time::Instant;

/// Two warm-up TpT closer than this, in ms, count as alike regardless of their ratio (the mock takes microseconds).
const ALIKE_MS: f64 = 0.05;

impl Experiment<'_> {
    /// One subject's turn: normally one child process; after a crash another one for the rest.
    pub fn trial(&mut self, run: usize, trial: Trial) -> Result<(), Stop> {
        let mut todo: VecDeque<usize> = VecDeque::new();
        for work in trial.work {
            match self.given_up.get(&(trial.subject, work)) {
                Some(why) => {
                    let status = Status::NotRun(why.clone());
                    let row = self.empty_row(trial.subject, work, run, status);
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
                subject: trial.subject,
                run,
                load: None,
                ready_ms: None,
                first_token_ms: None,
                file_cached: None,
                warmup: Vec::new(),
            });
            let mut child = match self.open(trial.subject) {
                Ok(child) => child,
                Err(Trouble::Stop(stop)) => return Err(stop),
                Err(Trouble::Failed(why)) => {
                    for work in todo {
                        self.fail(trial.subject, work, run, None, &why);
                    }
                    return Ok(());
                }
            };
            // After a failure that process can't be trusted, so the rest gets a new one.
            let mut alive = true;
            let mut before = self.read_memory(trial.subject)?;
            while alive && let Some(work) = todo.pop_front() {
                self.runs_begun += 1;
                let order = Some(self.runs_begun);
                match self.measure(&mut child, trial.subject, work, run) {
                    Ok(mut row) => {
                        row.order = order;
                        let after = self.read_memory(trial.subject)?;
                        // A disturbed measurement does not show the limit.
                        row.read_bytes_per_s = before.into_iter().chain(after).reduce(f64::max);
                        row.read_mean_bytes_per_s =
                            before.zip(after).map(|(before, after)| (before + after) / 2.0);
                        before = after;
                        self.keep(row);
                    }
                    Err(Trouble::Stop(stop)) => return Err(stop),
                    Err(Trouble::Failed(why)) => {
                        self.fail(trial.subject, work, run, order, &why);
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

    /// A row with subject and work but without figures.
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

    /// Starts a child, makes it load the model, and warms it up.
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
        self.processes.last_mut().expect("a trial adds its process before opening it")
    }

    /// One prefill that touches every buffer, then short answers until two successive ones take the same time.
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

    /// A run that is recorded only as a warm-up of its process.
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
            // The request reaches the child within a millisecond.
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
        // Random prompts differ between blocks but are the same for every subject.
        let seed = Rng::new(self.config.seed, run as u64).bits();
        let spec = RunSpec { work: w.clone(), max_tokens: w.max_tokens(), natural, cached, seed };
        let report = self.request(child, spec)?;
        row::check_length(&report, w.max_tokens(), natural).map_err(Trouble::Failed)?;
        let row = self.empty_row(subject, work, run, Status::Ok);
        Ok(row::filled(row, report, matches!(w, Work::Prompt(_))))
    }
}

/// Why a run was not measured.
enum Trouble {
    /// It failed: an error, a crash, a timeout, or incomplete work.
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
