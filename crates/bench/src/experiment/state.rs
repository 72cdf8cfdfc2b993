//! The state of a running experiment.

use crate::experiment::plan::Plan;
use crate::experiment::process::{ChildError, ChildProcess, Launcher};
use crate::experiment::progress::{Progress, Update, Watcher};
use crate::experiment::protocol::{FromChild, ToChild};
use crate::record::comparison::GateResult;
use crate::record::config::BenchConfig;
use crate::record::peaks::Roofline;
use crate::record::process::Process;
use crate::record::quality::Quality;
use crate::record::row::Row;
use crate::record::warning::Warning;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Why the blocks end early.
pub(super) enum Stop {
    Interrupted,
    Launch(std::io::Error),
}

pub(super) struct Experiment<'a> {
    pub plan: &'a Plan,
    pub config: &'a BenchConfig,
    pub launcher: &'a Launcher,
    pub progress: &'a mut dyn Progress,
    /// Each subject's model files. `[subjects]`
    pub files: Vec<Vec<PathBuf>>,
    pub rows: Vec<Row>,
    pub processes: Vec<Process>,
    pub warnings: Vec<Warning>,
    /// Why a (subject, work) is not retried.
    pub given_up: BTreeMap<(usize, usize), String>,
    pub runs_begun: usize,
    pub roofline: Roofline,
    /// Measures the read bandwidth before and after runs; `None` if it isn't measured, or failed.
    pub meter: Option<ChildProcess>,
    /// Whether a model is so large that the bandwidth of large memory is measured.
    pub large: bool,
    pub agreement: Vec<GateResult>,
    pub quality: Vec<Quality>,
}

impl Experiment<'_> {
    pub fn warn(&mut self, warning: Warning) {
        self.progress.update(Update::Warning(&warning));
        self.warnings.push(warning);
    }

    /// Records that a limit could not be measured; everything else still is.
    pub fn no_peaks(&mut self, answer: Result<FromChild, ChildError>) -> Result<(), Stop> {
        let why = match answer {
            Err(ChildError::Interrupted) => return Err(Stop::Interrupted),
            Ok(FromChild::Failed { why }) => why,
            Ok(other) => format!("unexpected answer: {other:?}"),
            Err(error) => error.to_string(),
        };
        self.roofline.why = Some(why.clone());
        self.warn(Warning::NoPeaks { why });
        Ok(())
    }

    /// The current read bandwidth of all threads, in bytes per second; `None` for the mock, or if it can't be measured.
    pub fn read_memory(&mut self, subject: usize) -> Result<Option<f64>, Stop> {
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
}
