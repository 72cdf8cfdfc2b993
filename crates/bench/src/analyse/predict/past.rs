//! Records of this machine: the shares of its peaks that backends reached, the measured speed and quality of a form, and the
//! errors of predictions.

use crate::analyse::predict::built_in;
use crate::analyse::predict::built_in::Costs;
use crate::analyse::predict::dims::Dims;
use crate::analyse::predict::efficiency::{Efficiency, Speed};
use crate::analyse::predict::form::{Form, base};
use crate::analyse::predict::token_time::TokenTime;
use crate::analyse::roofline::{Limits as _, Reading};
use crate::analyse::stats::median;
use crate::machine::Machine;
use crate::record::peaks::{LARGE, Peaks};
use crate::record::process::LoadReport;
use crate::record::quality::Quality;
use crate::record::results::Record;
use crate::record::statistic::Stats;
use crate::record::summary::Cell;
use serde::Serialize;

/// Minimum prompt tokens, and generated tokens, of a cell that is used for a rate: shorter ones mostly measure the start.
const FEWEST_PROMPT: usize = 64;
const FEWEST_GENERATED: usize = 16;
/// The prompt length for which figures are shown, as in llama-bench's pp512.
pub const PROMPT: usize = 512;

/// The records of one machine, the newest first.
#[derive(Clone, Debug, Default)]
pub struct Past {
    records: Vec<Recorded>,
}

/// A record by name.
#[derive(Clone, Debug)]
pub(super) struct Recorded {
    name: String,
    record: Record,
    /// Its own peaks; `None` if they were not measured.
    peaks: Option<Peaks>,
}

/// The source of a share.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "from", rename_all = "snake_case")]
pub enum Source {
    /// A record of this machine.
    Record {
        /// The record.
        record: String,
    },
    /// The built-in table, measured on another machine.
    BuiltIn {
        /// The document with the measurement.
        measured: &'static str,
    },
}

/// The sources of the shares behind a prediction.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Basis {
    /// Of prefill.
    pub prefill: Source,
    /// Of decode.
    pub decode: Source,
}

/// A record's measurements of a form, and the predictions for the same cells without that record, from its peaks.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Measured {
    /// Prefill of the cell whose prompt length is nearest to [`PROMPT`].
    pub prefill: Option<MeasuredRate>,
    /// Decode, likewise.
    pub decode: Option<MeasuredRate>,
    /// Highest resident memory in MiB of all cells.
    pub peak_rss_mb: Option<f64>,
    /// The record.
    pub record: String,
}

/// The quality of a form on a text, from the newest record that measured it for the model.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MeasuredQuality {
    /// Perplexity.
    pub ppl: f64,
    /// Perplexity ÷ the lowest among the model's forms in that record − 1. All forms read the same text, so differences much
    /// smaller than the standard error of one perplexity are meaningful.
    pub loss: f64,
    /// Mean KL divergence from the reference logits of the same weights, in nats.
    pub kl_mean: Option<f64>,
    /// The text's file name.
    pub text: String,
    /// The record.
    pub record: String,
}

/// A measured rate and its prediction, in tokens per second.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct MeasuredRate {
    /// The cell's prompt length.
    pub prompt_tokens: usize,
    /// Median of its runs.
    pub tps: f64,
    /// The prediction from the other records and the built-in table; `None` if they don't cover it.
    pub predicted_tps: Option<f64>,
    /// Predicted ÷ measured − 1.
    pub error: Option<f64>,
}

impl MeasuredRate {
    fn new(prompt_tokens: usize, tps: f64, predicted_tps: Option<f64>) -> MeasuredRate {
        MeasuredRate { prompt_tokens, tps, predicted_tps, error: predicted_tps.map(|p| p / tps - 1.0) }
    }
}

/// The errors of predictions: |predicted ÷ measured − 1| over the records' cells, each predicted without its own record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Errors {
    /// Of prefill.
    pub prefill: ErrorSpread,
    /// Of decode.
    pub decode: ErrorSpread,
}

/// Median and largest of some errors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct ErrorSpread {
    /// The median; `None` without a cell.
    pub median: Option<f64>,
    /// The largest.
    pub worst: Option<f64>,
    /// The number of cells.
    pub cells: usize,
}

impl ErrorSpread {
    pub(super) fn of(errors: &[f64]) -> ErrorSpread {
        ErrorSpread {
            median: median(errors),
            worst: errors.iter().copied().reduce(f64::max),
            cells: errors.len(),
        }
    }
}

impl Past {
    /// Keeps the records that were measured on `machine` by an optimised build; each has a name for display.
    pub fn of(machine: &Machine, records: impl IntoIterator<Item = (String, Record)>) -> Past {
        let mut records: Vec<_> = records
            .into_iter()
            .filter(|(_, r)| !r.program.debug_build && same(machine, &r.machine))
            .map(|(name, record)| Recorded::of(name, record))
            .collect();
        records.sort_by(|a, b| b.record.started.cmp(&a.record.started));
        Past { records }
    }

    /// The number of records.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// True if there are no records.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The peaks in the newest record that has them, since a busy machine can't measure them now.
    pub fn peaks(&self) -> Option<Peaks> {
        self.records.iter().find_map(|r| r.peaks.clone())
    }

    /// The shares for a form in a backend, and their sources. `None` if nothing is known.
    pub fn efficiency(&self, backend: &str, form: &Form) -> Option<(Efficiency, Basis)> {
        self.shares(backend, form.base(), form.cost.decode_bytes > LARGE, None)
    }

    /// Likewise by type and size, ignoring the record with index `without`. Records of models of the same size class are
    /// preferred, because memory above 1 GiB is read at another speed.
    pub(super) fn shares(
        &self,
        backend: &str,
        base: &str,
        large: bool,
        without: Option<usize>,
    ) -> Option<(Efficiency, Basis)> {
        let newest = |share: fn(&RecordedCell<'_>) -> Option<f64>| {
            [large, !large].into_iter().find_map(|large| {
                let mut others = self.records.iter().enumerate().filter(|(i, _)| Some(*i) != without);
                others.find_map(|(_, recorded)| {
                    let shares = recorded.seen().filter(|s| {
                        s.cell.key.name.backend == backend && s.base() == base && s.large() == large
                    });
                    let shares: Vec<f64> = shares.filter_map(|s| share(&s)).collect();
                    median(&shares).map(|share| (share, recorded.name.clone()))
                })
            })
        };
        let table = built_in::shares(backend, base);
        let either = |found: Option<(f64, String)>, built_in: Option<(f64, &'static str)>| match found {
            Some((share, record)) => Some((share, Source::Record { record })),
            None => built_in.map(|(share, measured)| (share, Source::BuiltIn { measured })),
        };
        let (prefill, prefill_from) =
            either(newest(|s| s.prefill_share()), table.map(|k| (k.share.prefill, k.measured[0])))?;
        let decode = either(newest(|s| s.decode_share()), table.map(|k| (k.share.decode, k.measured[1])));
        let (decode, decode_from) = decode.or_else(|| either(newest(|s| s.least_decode_share()), None))?;
        Some((Efficiency { prefill, decode }, Basis { prefill: prefill_from, decode: decode_from }))
    }

    /// The measurements of the form in the newest record that has it.
    pub fn measured(&self, backend: &str, form: &Form) -> Option<Measured> {
        self.records.iter().enumerate().find_map(|(i, recorded)| {
            let cells: Vec<RecordedCell<'_>> = recorded.seen().filter(|s| s.is(backend, form)).collect();
            let predicted = |s: &RecordedCell<'_>| self.without(i, s);
            let nearest = |pick: fn(&RecordedCell<'_>) -> Option<f64>, of: fn(Speed) -> f64| {
                let near = cells.iter().filter_map(|s| Some((s, s.cell.prompt_tokens?, pick(s)?)));
                let (s, prompt, tps) = near.min_by_key(|(_, prompt, _)| prompt.abs_diff(PROMPT))?;
                Some(MeasuredRate::new(prompt, tps, predicted(s).map(of)))
            };
            let rss = cells.iter().filter_map(|s| s.cell.peak_rss_mb.as_ref()).map(|s| s.max);
            let measured = Measured {
                prefill: nearest(|s| s.prefill_tps(), |speed| speed.prefill_tps),
                decode: nearest(|s| s.decode_tps(), |speed| speed.decode_tps),
                peak_rss_mb: rss.reduce(f64::max),
                record: recorded.name.clone(),
            };
            (measured.prefill.is_some() || measured.decode.is_some()).then_some(measured)
        })
    }

    /// The form's quality in the newest record with the quality of a model of that shape. Forms are only compared within one
    /// record, because another record may have other weights of the same shape.
    pub fn quality(&self, backend: &str, form: &Form) -> Option<MeasuredQuality> {
        let (recorded, lowest) = self.records.iter().find_map(|recorded| {
            let alike = recorded.seen().filter(|s| s.load.shape == form.shape);
            let lowest = alike.filter_map(|s| recorded.quality(&s)?.ppl).reduce(f64::min)?;
            Some((recorded, lowest))
        })?;
        let quality = recorded.seen().filter(|s| s.is(backend, form)).find_map(|s| recorded.quality(&s))?;
        let ppl = quality.ppl?;
        Some(MeasuredQuality {
            ppl,
            loss: ppl / lowest - 1.0,
            kl_mean: quality.kl_mean,
            text: quality.text.clone(),
            record: recorded.name.clone(),
        })
    }

    /// The prediction for a cell of the record with index `i` without that record.
    fn without(&self, i: usize, cell: &RecordedCell<'_>) -> Option<Speed> {
        let (shares, _) = self.shares(&cell.cell.key.name.backend, cell.base(), cell.large(), Some(i))?;
        cell.predict(shares)
    }

    /// The errors of predictions.
    pub fn error(&self) -> Errors {
        let (mut prefill, mut decode) = (Vec::new(), Vec::new());
        for (i, recorded) in self.records.iter().enumerate() {
            for cell in recorded.seen() {
                let Some(predicted) = self.without(i, &cell) else { continue };
                let off = |predicted: f64, measured: f64| (predicted / measured - 1.0).abs();
                prefill.extend(cell.prefill_tps().map(|m| off(predicted.prefill_tps, m)));
                decode.extend(cell.decode_tps().map(|m| off(predicted.decode_tps, m)));
            }
        }
        Errors { prefill: ErrorSpread::of(&prefill), decode: ErrorSpread::of(&decode) }
    }
}

/// Whether two descriptions fit the same machine, as far as speed is concerned. Memory differs by the kernel's own share.
fn same(a: &Machine, b: &Machine) -> bool {
    let memory = a.memory_bytes.abs_diff(b.memory_bytes) <= a.memory_bytes / 20;
    let of =
        |m: &Machine| (m.cpu.clone(), m.arch.clone(), m.physical_cores, m.logical_cores, m.cpu_flags.clone());
    memory && of(a) == of(b)
}

/// A cell of a record with its loaded model; only cells that ran on the CPU with a known cost.
pub(super) struct RecordedCell<'a> {
    pub(super) cell: &'a Cell,
    pub(super) load: &'a LoadReport,
    work: TokenTime,
    /// The record's own peaks; `None` if they were not measured.
    peaks: Option<&'a Peaks>,
}

impl Recorded {
    pub(super) fn of(name: String, record: Record) -> Recorded {
        Recorded { name, peaks: record.roofline.best(), record }
    }

    pub(super) fn seen(&self) -> impl Iterator<Item = RecordedCell<'_>> {
        self.record.summary.iter().filter(|c| !c.synthetic && c.runs > 0).filter_map(|cell| {
            let load = self.record.processes.iter().rev().filter(|p| p.subject == cell.subject);
            let load = load.filter_map(|p| p.load.as_ref()).find(|l| l.backend.device == "cpu")?;
            let costs = Costs::of(&cell.key.name.backend);
            let work = TokenTime { cost: load.cost?, dims: Dims::of_shape(&load.shape)?, costs };
            Some(RecordedCell { cell, load, work, peaks: self.peaks.as_ref() })
        })
    }

    fn quality(&self, seen: &RecordedCell<'_>) -> Option<&Quality> {
        self.record.quality(seen.cell.subject)
    }
}

fn middle(stats: &Option<Stats>) -> Option<f64> {
    stats.as_ref().map(|s| s.median).filter(|m| *m > 0.0)
}

impl RecordedCell<'_> {
    /// Whether it has this form and backend.
    fn is(&self, backend: &str, form: &Form) -> bool {
        self.cell.key.name.backend == backend
            && self.cell.key.format.as_deref() == Some(form.format.as_str())
            && self.load.shape == form.shape
            && self.work.cost.decode_bytes == form.cost.decode_bytes
    }

    pub(super) fn base(&self) -> &str {
        base(&self.load.backend.weights)
    }

    pub(super) fn large(&self) -> bool {
        self.work.cost.decode_bytes > LARGE
    }

    pub(super) fn prefill_tps(&self) -> Option<f64> {
        middle(&self.cell.prefill_tps).filter(|_| self.cell.prompt_tokens.is_some_and(|n| n >= FEWEST_PROMPT))
    }

    pub(super) fn decode_tps(&self) -> Option<f64> {
        middle(&self.cell.decode_tps).filter(|_| self.cell.generated.is_some_and(|n| n >= FEWEST_GENERATED))
    }

    /// Prompt tokens, and the mean position of the tokens generated after them.
    fn places(&self) -> Option<(f64, f64)> {
        let (prompt, generated) = (self.cell.prompt_tokens? as f64, self.cell.generated? as f64);
        Some((prompt, prompt + generated / 2.0))
    }

    fn prefill_share(&self) -> Option<f64> {
        self.work.prefill_share(1.0 / self.prefill_tps()?, self.peaks?, self.places()?.0)
    }

    /// The share of the bandwidth without contention; `None` if shared bandwidth was the limit.
    fn decode_share(&self) -> Option<f64> {
        self.decode().filter(|(_, bound)| !bound).map(|(share, _)| share)
    }

    /// A lower bound of that share.
    fn least_decode_share(&self) -> Option<f64> {
        self.decode().map(|(share, _)| share)
    }

    /// `None` for a model that fits the last-level cache, since it is not read from memory.
    fn decode(&self) -> Option<(f64, bool)> {
        self.cell.decode_share.as_ref()?;
        self.work.decode_share(1.0 / self.decode_tps()?, self.reading()?, self.places()?.1)
    }

    /// The read bandwidth of all threads around the cell's runs, in bytes per second; in older records the higher readings.
    pub(super) fn read_bytes_per_s(&self) -> Option<f64> {
        middle(&self.cell.read_mean_bytes_per_s).or_else(|| middle(&self.cell.read_bytes_per_s))
    }

    fn reading(&self) -> Option<Reading> {
        Some(self.peaks?.reading(&self.work.cost, self.read_bytes_per_s()))
    }

    /// The predicted prefill and decode rates under the record's own peaks.
    pub(super) fn predict(&self, shares: Efficiency) -> Option<Speed> {
        let ((prompt, position), peaks) = (self.places()?, self.peaks?);
        Some(Speed {
            prefill_tps: 1.0 / self.work.prefill_s(shares.prefill, peaks, prompt),
            decode_tps: 1.0 / self.work.decode_s(shares.decode, self.reading()?, position),
        })
    }
}
