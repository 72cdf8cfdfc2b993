//! [`Choice`]: one way to run a model: its size, its predicted and measured speed, its quality, its command.

use serde::Serialize;
use zonda_bench::analyse::predict::Efficiency;
use zonda_bench::analyse::predict::past::{Basis, Measured, MeasuredQuality};

/// A way to run a model.
#[derive(Serialize)]
pub(super) struct Choice {
    pub model: String,
    pub backend: &'static str,
    pub format: String,
    pub quant: String,
    pub weights: String,
    pub context: usize,
    pub weights_bytes: u64,
    pub kv_bytes: u64,
    pub memory_bytes: u64,
    pub fits: bool,
    /// The reason why it doesn't fit.
    pub why: Option<String>,
    pub prefill_tps: Option<f64>,
    pub decode_tps: Option<f64>,
    /// The shares of the machine's limits that the prediction uses, and where they come from.
    pub shares: Option<Efficiency>,
    pub basis: Option<Basis>,
    pub measured: Option<Measured>,
    /// The measured quality, if a record has it.
    pub quality: Option<MeasuredQuality>,
    /// Whether the model is on this machine in this form.
    pub ready: bool,
    pub needs: Option<String>,
    pub command: String,
    pub recommended: bool,
}
