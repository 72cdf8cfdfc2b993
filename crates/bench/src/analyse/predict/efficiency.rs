//! Speeds, and the shares of the machine's peaks behind them.

use serde::Serialize;

/// Tokens per second.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Speed {
    /// Prompt tokens.
    pub prefill_tps: f64,
    /// Generated tokens.
    pub decode_tps: f64,
}

/// The shares of the machine's peaks that products and reading reach, 0 to 1, after subtracting the other costs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Efficiency {
    /// The share of the arithmetic peak.
    pub prefill: f64,
    /// The share of the bandwidth that the cores would reach without contention.
    pub decode: f64,
}
