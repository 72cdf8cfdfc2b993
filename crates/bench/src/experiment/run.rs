//! The parent's side of the experiment: block after block, one child process at a time.
//!
//! No failure of a child ends the experiment: a crash, a hang, an error or a failed load becomes a row with the reason, and the
//! rest continues. Work that failed once is not retried in later blocks.

use crate::analyse::recommend;
use crate::analyse::roofline;
use crate::analyse::summary;
use crate::conditions::Watch;
use crate::error::BenchError;
use crate::experiment::gate::{self, ask};
use crate::experiment::plan::Plan;
use crate::experiment::process::{ChildProcess, Launcher};
use crate::experiment::progress::{Progress, Update, Watcher};
use crate::experiment::protocol::{FromChild, ToChild};
use crate::experiment::quality;
use crate::experiment::state::{Experiment, Stop};
use crate::files;
use crate::isolate;
use crate::machine::{self, Machine};
use crate::record::config::Runs;
use crate::record::peaks::{LARGE, Peaks, Roofline};
use crate::record::process::LoadReport;
use crate::record::results::{ModelFiles, Program, Record, SCHEMA_VERSION};
use crate::record::row::Row;
use crate::record::statistic::Stats;
use crate::record::warning::{Noted, Warning};

use std::collections::{BTreeMap, BTreeSet};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// Runs an experiment.
///
/// # Errors
/// Only if no child process can be started at all; all other failures are in the record.
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
        roofline: Roofline::default(),
        meter: None,
        large: false,
        agreement: Vec::new(),
        quality: Vec::new(),
    };
    machine::check(&machine).into_iter().for_each(|warning| x.warn(warning));
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
    let peaks = x.roofline.best();
    if let Some(peaks) = &peaks {
        roofline::place(&mut x.rows, &x.processes, peaks, machine.last_cache_bytes());
    }
    let found = summary::warnings(config, &x.processes, &mut x.rows);
    let mut warnings = [disturbed, x.roofline.warnings(), x.isolation(), found].concat();
    warnings.extend(interrupted.then_some(Warning::Interrupted));
    warnings.into_iter().for_each(|warning| x.warn(warning));
    let mut summary = summary::cells(config, &x.rows);
    summary::starts(&mut summary, &x.processes);
    let unranked = summary::judge(&mut summary, &x.agreement);
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
        roofline: x.roofline,
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

impl Experiment<'_> {
    fn look_at_models(&mut self) -> Vec<ModelFiles> {
        let mut models = Vec::new();
        for (subject, s) in self.config.subjects.iter().enumerate() {
            let Some(path) = &s.path else { continue };
            // A model that can't be read fails at load, with the loader's better message.
            let Ok(files) = files::of_model(path) else { continue };
            let described = files.iter().filter_map(|f| files::describe(f).ok()).collect();
            models.push(ModelFiles { subject, files: described });
            self.files[subject] = files;
        }
        models
    }

    /// The whole experiment: the machine's peaks, the gate, the runs, the peaks again.
    fn all(&mut self, program: Option<&str>, models: &[ModelFiles]) -> Result<(), Stop> {
        // Without a real backend, limits and comparisons are meaningless.
        let real = self.config.subjects.iter().any(|s| !s.synthetic);
        let bytes = |m: &ModelFiles| m.files.iter().map(|f| f.bytes).sum::<u64>();
        self.large = models.iter().any(|m| bytes(m) > LARGE);
        if self.config.peaks && real {
            self.roofline.before = self.peaks()?;
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
        if self.roofline.before.is_some() {
            self.start_meter()?;
        }
        self.blocks()?;
        self.meter.take().into_iter().for_each(ChildProcess::quit);
        if self.config.peaks && real && self.roofline.before.is_some() {
            self.roofline.after = self.peaks()?;
        }
        Ok(())
    }

    /// Measures the machine's current peaks.
    fn peaks(&mut self) -> Result<Option<Peaks>, Stop> {
        let Some(subject) = self.config.subjects.iter().find(|s| !s.synthetic) else { return Ok(None) };
        self.progress.update(Update::Peaks);
        let large = self.large;
        let question = ToChild::Peaks { subject: subject.clone(), large };
        let answer = ask(self.launcher, &question, self.plan.timeout(), self.progress);
        match answer {
            Ok(FromChild::Peaks(peaks)) => Ok(Some(*peaks)),
            other => self.no_peaks(other).map(|()| None),
        }
    }

    /// The process that measures the read bandwidth before and after runs. It sleeps meanwhile and keeps its half a GiB.
    fn start_meter(&mut self) -> Result<(), Stop> {
        let mut meter = ChildProcess::start(self.launcher).map_err(Stop::Launch)?;
        match meter.greet(self.plan.timeout(), &mut Watcher(self.progress)) {
            Ok(()) => self.meter = Some(meter),
            Err(error) => self.no_peaks(Err(error))?,
        }
        Ok(())
    }

    /// With `--isolate`, whether the processes had their cores to themselves.
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
            for trial in self.plan.block(run) {
                self.trial(run, trial)?;
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

    /// Whether every interval that more runs can narrow is within ± `pct` percent.
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
