//! Compares a record with its predictions, cell by cell: those from the built-in shares alone, and those from other records.

use crate::analyse::predict::efficiency::{Efficiency, Speed};
use crate::analyse::predict::past::{ErrorSpread, Errors, Past, Recorded, RecordedCell};
use crate::record::results::Record;
use crate::record::subject::SubjectName;
use serde::Serialize;

/// The predictions for a record, and their errors.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Check {
    /// Cells that ran on the CPU, in the record's order.
    pub cells: Vec<CheckedCell>,
    /// The errors of the built-in shares.
    pub built_in: Errors,
    /// The errors of predictions from other records of the machine, with built-in shares where they have none; `None` without
    /// such records.
    pub others: Option<Errors>,
}

/// A cell of the record.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CheckedCell {
    /// Backend and model.
    #[serde(flatten)]
    pub name: SubjectName,
    /// `gguf`, `safetensors`, `mlx`.
    pub format: Option<String>,
    /// How the weights were held.
    pub weights: String,
    /// The scenario.
    pub scenario: String,
    /// Prompt tokens.
    pub prompt_tokens: Option<usize>,
    /// Generated tokens.
    pub generated: Option<usize>,
    /// Good runs.
    pub runs: usize,
    /// The read bandwidth of all threads around its runs, in bytes per second; `None` if the record doesn't have it.
    pub read_bytes_per_s: Option<f64>,
    /// Prefill; `None` if the prompt is too short for a rate.
    pub prefill: Option<CheckedRate>,
    /// Decode, likewise.
    pub decode: Option<CheckedRate>,
}

/// A measured rate and its predictions, in tokens per second.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct CheckedRate {
    /// Median of the runs.
    pub measured: f64,
    /// From the built-in shares; `None` if they don't cover the backend with such weights.
    pub built_in: Option<PredictedRate>,
    /// From other records.
    pub others: Option<PredictedRate>,
}

/// A prediction in tokens per second, and predicted ÷ measured − 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct PredictedRate {
    /// Predicted.
    pub tps: f64,
    /// Predicted ÷ measured − 1.
    pub error: f64,
}

impl Check {
    /// Compares a record with predictions from the built-in shares and from `others`, which may include the record itself.
    pub fn of(record: Record, others: impl IntoIterator<Item = (String, Record)>) -> Check {
        let it = |r: &Record| (&r.started, &r.finished) == (&record.started, &record.finished);
        let others: Vec<_> = others.into_iter().filter(|(_, r)| !it(r)).collect();
        let others = Past::of(&record.machine, others);
        let built_in = Past::default();
        let recorded = Recorded::of(String::new(), record);
        let cells: Vec<CheckedCell> = recorded.seen().map(|s| checked(&s, &built_in, &others)).collect();
        let errors = |guess: fn(&CheckedRate) -> Option<PredictedRate>| {
            let of = |held: fn(&CheckedCell) -> Option<CheckedRate>| {
                let guesses = cells.iter().filter_map(|c| guess(&held(c)?));
                ErrorSpread::of(&guesses.map(|g| g.error.abs()).collect::<Vec<_>>())
            };
            Errors { prefill: of(|c| c.prefill), decode: of(|c| c.decode) }
        };
        let (built_in, by_others) = (errors(|h| h.built_in), errors(|h| h.others));
        Check { built_in, others: (!others.is_empty()).then_some(by_others), cells }
    }
}

fn checked(cell: &RecordedCell<'_>, built_in: &Past, others: &Past) -> CheckedCell {
    let by = |past: &Past| {
        let shares = past.shares(&cell.cell.key.name.backend, cell.base(), cell.large(), None);
        shares.and_then(|(shares, _): (Efficiency, _)| cell.predict(shares))
    };
    let (built_in, others) = (by(built_in), Some(others).filter(|o| !o.is_empty()).and_then(by));
    let held = |measured: Option<f64>, of: fn(Speed) -> f64| {
        let measured = measured?;
        let guess = |speed: Option<Speed>| {
            let tps = of(speed?);
            Some(PredictedRate { tps, error: tps / measured - 1.0 })
        };
        Some(CheckedRate { measured, built_in: guess(built_in), others: guess(others) })
    };
    let of = cell.cell;
    CheckedCell {
        name: of.key.name.clone(),
        format: of.key.format.clone(),
        weights: cell.load.backend.weights.clone(),
        scenario: of.scenario.clone(),
        prompt_tokens: of.prompt_tokens,
        generated: of.generated,
        runs: of.runs,
        read_bytes_per_s: cell.read_bytes_per_s(),
        prefill: held(cell.prefill_tps(), |s| s.prefill_tps),
        decode: held(cell.decode_tps(), |s| s.decode_tps),
    }
}
