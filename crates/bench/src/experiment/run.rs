//! The experiment, seen from the parent: block after block, one child process at a time.
//!
//! Nothing that happens to a child ends the experiment: a crash, a hang, an error or a load that fails becomes a row
//! that says why, and the rest goes on. What failed once is not tried again in later blocks.

mod visit;

use crate::BenchError;
use crate::ceilings::{self, Ceilings};
use crate::conditions::Watch;
use crate::files;
use crate::gate;
use crate::isolate;
use crate::machine::Machine;
use crate::plan::{BenchConfig, Plan, Runs};
use crate::process::{ChildError, ChildProcess, Launcher};
use crate::progress::{Progress, Update, Watcher};
use crate::protocol::{FromChild, ToChild};
use crate::quality::{self, Quality};
use crate::recommend;
use crate::record::*;
use crate::stats::Stats;
use crate::summary;
use crate::warning::{Noted, Warning};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

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
        meter: None,
        large: false,
        agreement: Vec::new(),
        quality: Vec::new(),
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
    let recommendation = recommend::recommendation(&summary, &ranking, &x.quality, config);
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
        quality: x.quality,
        recommendation,
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
    /// Reads memory before and after runs; `None` if that isn't measured, or failed.
    meter: Option<ChildProcess>,
    /// A model is so large that reading large memory is measured.
    large: bool,
    agreement: Vec<gate::Agreed>,
    quality: Vec<Quality>,
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
        if let Some(text) = self.config.quality.as_ref().filter(|_| real) {
            let measured = quality::run(self.plan, self.launcher, text, self.progress);
            self.quality = measured.map_err(|_| Stop::Interrupted)?;
            let config = self.config;
            let missing = self.quality.iter().filter_map(|q| q.warning(config)).collect::<Vec<_>>();
            missing.into_iter().for_each(|warning| self.warn(warning));
        }
        if self.ceilings.before.is_some() {
            self.start_meter()?;
        }
        self.blocks()?;
        self.meter.take().into_iter().for_each(ChildProcess::quit);
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
        let answer = gate::ask(self.launcher, &question, self.plan.timeout(), self.progress);
        match answer {
            Ok(FromChild::Peaks(peaks)) => Ok(Some(*peaks)),
            other => self.no_peaks(other).map(|()| None),
        }
    }

    /// A limit could not be measured: the rest is.
    fn no_peaks(&mut self, answer: Result<FromChild, ChildError>) -> Result<(), Stop> {
        let why = match answer {
            Err(ChildError::Interrupted) => return Err(Stop::Interrupted),
            Ok(FromChild::Failed { why }) => why,
            Ok(other) => format!("unexpected answer: {other:?}"),
            Err(error) => error.to_string(),
        };
        self.ceilings.why = Some(why.clone());
        self.warn(Warning::NoPeaks { why });
        Ok(())
    }

    /// The process that reads memory before and after runs. It sleeps meanwhile, and keeps its half a GiB.
    fn start_meter(&mut self) -> Result<(), Stop> {
        let mut meter = ChildProcess::start(self.launcher).map_err(Stop::Launch)?;
        match meter.greet(self.plan.timeout(), &mut Watcher(self.progress)) {
            Ok(()) => self.meter = Some(meter),
            Err(error) => self.no_peaks(Err(error))?,
        }
        Ok(())
    }

    /// What all threads read of memory now, in bytes a second; `None` for what has no limits, or if it can't be measured.
    fn read_memory(&mut self, subject: usize) -> Result<Option<f64>, Stop> {
        let subject = &self.config.subjects[subject];
        let Some(meter) = self.meter.as_mut().filter(|_| !subject.synthetic) else { return Ok(None) };
        let question = ToChild::Read(subject.clone());
        match meter.ask(&question, self.plan.timeout(), &mut Watcher(self.progress)) {
            Ok(FromChild::Read { bytes_per_s }) => Ok(Some(bytes_per_s)),
            other => {
                self.meter = None;
                self.no_peaks(other).map(|()| None)
            }
        }
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
}

fn now() -> String {
    let now = OffsetDateTime::now_utc().replace_nanosecond(0).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    now.format(&Rfc3339).unwrap_or_default()
}
