//! What records of this machine say: the shares of its ceilings that backends reached, what was measured of a form, and
//! how far predictions were off.

use super::{Efficiency, Form, Overhead, Speed, base};
use crate::ceilings::{LARGE, Peaks};
use crate::facts::Facts;
use crate::machine::Machine;
use crate::record::{Cell, LoadReport, Record};
use crate::stats::{Stats, median};
use serde::Serialize;

/// Fewest prompt tokens, and generated tokens, of a cell that says something about a rate: shorter ones measure starting.
const FEWEST_PROMPT: usize = 64;
const FEWEST_GENERATED: usize = 16;
/// The prompt that figures are shown for, as in llama-bench's pp512.
pub const PROMPT: usize = 512;

/// The records of one machine, the newest first.
#[derive(Clone, Debug, Default)]
pub struct Past {
    records: Vec<(String, Record)>,
}

/// Where a share comes from.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "from", rename_all = "snake_case")]
pub enum Basis {
    /// The built-in table, measured on another machine.
    BuiltIn,
    /// Records of this machine.
    Record {
        /// The record that the prefill share is of; `None`: the built-in table.
        prefill: Option<String>,
        /// Likewise of decode.
        decode: Option<String>,
    },
}

/// What a record has of a form.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Measured {
    /// Prompt tokens a second of the cell whose prompt is nearest to [`PROMPT`].
    pub prefill_tps: Option<f64>,
    /// Generated tokens a second, likewise.
    pub decode_tps: Option<f64>,
    /// Highest resident memory in MiB of all cells.
    pub peak_rss_mb: Option<f64>,
    /// The record.
    pub record: String,
}

/// How far predictions were off: the median over the records' cells of |predicted / measured − 1|, each predicted without
/// the record that it is of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Error {
    /// Of prefill; `None` without a cell.
    pub prefill: Option<f64>,
    /// Of decode.
    pub decode: Option<f64>,
    /// Cells behind the first.
    pub prefill_cells: usize,
    /// Cells behind the second.
    pub decode_cells: usize,
}

impl Past {
    /// Keeps the records that were measured on `machine` by an optimised build; each comes with a name to be called by.
    pub fn of(machine: &Machine, records: impl IntoIterator<Item = (String, Record)>) -> Past {
        let mut records: Vec<_> = records
            .into_iter()
            .filter(|(_, r)| !r.program.debug_build && same(machine, &r.machine))
            .collect();
        records.sort_by(|a, b| b.1.started.cmp(&a.1.started));
        Past { records }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The ceilings of the newest record that has them: what a busy machine can't measure now.
    pub fn peaks(&self) -> Option<Peaks> {
        self.records.iter().find_map(|(_, r)| r.ceilings.best())
    }

    /// The shares for a form in a backend, and where they come from. `None` if nothing is known.
    pub fn efficiency(&self, backend: &str, form: &Form) -> Option<(Efficiency, Basis)> {
        self.shares(backend, form.base(), form.facts.decode_bytes > LARGE, None)
    }

    /// Likewise by type and size, as if the record of index `without` weren't there. Records of models of the same size
    /// class come first: memory above 1 GiB is read at another speed.
    fn shares(
        &self,
        backend: &str,
        base: &str,
        large: bool,
        without: Option<usize>,
    ) -> Option<(Efficiency, Basis)> {
        let newest = |share: fn(&Seen<'_>) -> Option<f64>| {
            [large, !large].into_iter().find_map(|large| {
                let mut others = self.records.iter().enumerate().filter(|(i, _)| Some(*i) != without);
                others.find_map(|(_, (name, record))| {
                    let shares = seen(record).filter(|s| {
                        s.cell.backend == backend
                            && s.base() == base
                            && (s.facts.decode_bytes > LARGE) == large
                    });
                    let shares: Vec<f64> = shares.filter_map(|s| share(&s)).collect();
                    median(&shares).map(|share| (share, name.clone()))
                })
            })
        };
        let (prefill, decode) = (newest(|s| s.prefill_share()), newest(|s| s.decode_share()));
        let built_in = Efficiency::built_in(backend, base);
        let either = |found: &Option<(f64, String)>, table: Option<f64>| {
            found.as_ref().map(|(share, _)| *share).or(table)
        };
        let efficiency = Efficiency {
            prefill: either(&prefill, built_in.map(|e| e.prefill))?,
            decode: either(&decode, built_in.map(|e| e.decode))?,
        };
        let basis = match (prefill, decode) {
            (None, None) => Basis::BuiltIn,
            (prefill, decode) => Basis::Record { prefill: prefill.map(|p| p.1), decode: decode.map(|d| d.1) },
        };
        Some((efficiency, basis))
    }

    /// What the newest record that has the form says of it.
    pub fn measured(&self, backend: &str, form: &Form) -> Option<Measured> {
        self.records.iter().find_map(|(name, record)| {
            let cells: Vec<Seen<'_>> = seen(record)
                .filter(|s| {
                    s.cell.backend == backend
                        && s.cell.format.as_deref() == Some(form.format.as_str())
                        && s.load.shape == form.shape
                        && s.facts.decode_bytes == form.facts.decode_bytes
                })
                .collect();
            let nearest = |pick: fn(&Seen<'_>) -> Option<f64>| {
                let near =
                    cells.iter().filter_map(|s| Some((s.cell.prompt_tokens?.abs_diff(PROMPT), pick(s)?)));
                near.min_by_key(|(far, _)| *far).map(|(_, tps)| tps)
            };
            let rss = cells.iter().filter_map(|s| s.cell.peak_rss_mb.as_ref()).map(|s| s.max);
            let measured = Measured {
                prefill_tps: nearest(|s| s.prefill_tps()),
                decode_tps: nearest(|s| s.decode_tps()),
                peak_rss_mb: rss.reduce(f64::max),
                record: name.clone(),
            };
            (measured.prefill_tps.is_some() || measured.decode_tps.is_some()).then_some(measured)
        })
    }

    /// How far off predictions were.
    pub fn error(&self) -> Error {
        let (mut prefill, mut decode) = (Vec::new(), Vec::new());
        for (i, (_, record)) in self.records.iter().enumerate() {
            for cell in seen(record) {
                let large = cell.facts.decode_bytes > LARGE;
                let Some((shares, _)) = self.shares(&cell.cell.backend, cell.base(), large, Some(i)) else {
                    continue;
                };
                let Some(predicted) = cell.predict(shares) else { continue };
                let off = |predicted: f64, measured: f64| (predicted / measured - 1.0).abs();
                prefill.extend(cell.prefill_tps().and_then(|m| Some(off(predicted.0?, m))));
                decode.extend(cell.decode_tps().and_then(|m| Some(off(predicted.1?, m))));
            }
        }
        Error {
            prefill: median(&prefill),
            decode: median(&decode),
            prefill_cells: prefill.len(),
            decode_cells: decode.len(),
        }
    }
}

/// Whether two descriptions are of one machine, as far as speed goes. Memory differs by what a kernel keeps for itself.
fn same(a: &Machine, b: &Machine) -> bool {
    let memory = a.memory_bytes.abs_diff(b.memory_bytes) <= a.memory_bytes / 20;
    let of =
        |m: &Machine| (m.cpu.clone(), m.arch.clone(), m.physical_cores, m.logical_cores, m.cpu_flags.clone());
    memory && of(a) == of(b)
}

/// A cell of a record with what was loaded for it: only what ran on the processor, and is known.
struct Seen<'a> {
    cell: &'a Cell,
    load: &'a LoadReport,
    facts: Facts,
    overhead: Overhead,
}

fn seen(record: &Record) -> impl Iterator<Item = Seen<'_>> {
    record.summary.iter().filter(|c| !c.synthetic && c.runs > 0).filter_map(|cell| {
        let load = record.processes.iter().rev().filter(|p| p.subject == cell.subject);
        let load = load.filter_map(|p| p.load.as_ref()).find(|l| l.backend.device == "cpu")?;
        Some(Seen { cell, load, facts: load.facts?, overhead: Overhead::of_shape(&load.shape)? })
    })
}

fn middle(stats: &Option<Stats>) -> Option<f64> {
    stats.as_ref().map(|s| s.median).filter(|m| *m > 0.0)
}

impl Seen<'_> {
    fn base(&self) -> &str {
        base(&self.load.backend.weights)
    }

    fn prefill_tps(&self) -> Option<f64> {
        middle(&self.cell.prefill_tps).filter(|_| self.cell.prompt_tokens.is_some_and(|n| n >= FEWEST_PROMPT))
    }

    fn decode_tps(&self) -> Option<f64> {
        middle(&self.cell.decode_tps).filter(|_| self.cell.generated.is_some_and(|n| n >= FEWEST_GENERATED))
    }

    /// Seconds that a token's products take at the peak: the record's share is of that.
    fn ideal_prefill(&self) -> Option<f64> {
        Some(middle(&self.cell.prefill_share)? / self.prefill_tps()?)
    }

    fn ideal_decode(&self) -> Option<f64> {
        Some(middle(&self.cell.decode_share)? / self.decode_tps()?)
    }

    fn prefill_share(&self) -> Option<f64> {
        share_of(self.ideal_prefill()?, self.prefill_tps()?, self.overhead.prefill_s)
    }

    fn decode_share(&self) -> Option<f64> {
        share_of(self.ideal_decode()?, self.decode_tps()?, self.overhead.decode_s)
    }

    /// What would have been said of prefill and of decode under the record's own ceilings.
    fn predict(&self, shares: Efficiency) -> Option<(Option<f64>, Option<f64>)> {
        let prefill = self.ideal_prefill().map(|t| 1.0 / (t / shares.prefill + self.overhead.prefill_s));
        let decode = self.ideal_decode().map(|t| 1.0 / (t / shares.decode + self.overhead.decode_s));
        (prefill.is_some() || decode.is_some()).then_some((prefill, decode))
    }
}

/// The share of the ceiling when the overhead is taken off; `None` if nothing is left, since then the overhead is wrong.
fn share_of(ideal_s: f64, tps: f64, overhead_s: f64) -> Option<f64> {
    let left = 1.0 / tps - overhead_s;
    (left > 0.0).then(|| ideal_s / left).filter(|share| share.is_finite() && *share > 0.0)
}

/// A prediction beside what was measured: the ratio of the first to the second, for prefill and decode.
pub fn ratios(predicted: Speed, measured: &Measured) -> [Option<f64>; 2] {
    [
        measured.prefill_tps.map(|m| predicted.prefill_tps / m),
        measured.decode_tps.map(|m| predicted.decode_tps / m),
    ]
}
