//! Speeds, and the shares of the machine's peaks behind them.

use serde::Serialize;

/// Tokens a second.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Speed {
    /// Prompt tokens.
    pub prefill_tps: f64,
    /// Generated tokens.
    pub decode_tps: f64,
}

/// The shares of the machine's peaks that products and reading come to, 0 to 1, with the other costs taken off.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Efficiency {
    /// Of the peak of arithmetic.
    pub prefill: f64,
    /// Of what the cores would read if none hindered another.
    pub decode: f64,
}
