//! The bounds of the equivalence gate, depending on how a backend holds the weights, and the number of positions to compare.

use crate::record::comparison::{LogitsBounds, LogitsSummary};
use crate::record::peaks::LARGE;

/// Maximum number of tokens on which backends are compared; a prefix shared by passages counts once.
pub const POSITIONS: usize = 512;

/// Minimum number, for large models.
pub(crate) const FEWEST: usize = 192;

/// Tokens of each passage that are read one by one, like a generated answer.
pub const ANSWER: usize = 8;

/// Minimum number of positions without a near tie for the best token to count; random weights leave few.
pub(crate) const FEWEST_DECIDED: usize = 50;

/// The bounds for a backend, depending on how it holds the weights. `docs/methodology.md` has this table with the measured
/// figures.
pub fn bound(held: &str, quantize: Option<&str>, kv_type: &str) -> LogitsBounds {
    let bounds = |top1_decided, kl_mean, error| LogitsBounds { top1_decided, kl_mean, error: Some(error) };
    let small = |name: &str| name.starts_with("q4");
    match (quantize, held.split('+').next().unwrap_or_default()) {
        // Weights other than the file's: four or eight bits per value.
        (Some(asked), _) if small(asked) => bounds(0.70, 0.5, 0.6),
        _ if kv_type == "q4_0" => bounds(0.80, 0.15, 0.4),
        (Some(_), _) => bounds(0.97, 0.02, 0.1),
        _ if kv_type == "q8_0" => bounds(0.97, 0.02, 0.1),
        // Activations unrounded, or rounded to 16 bits.
        (None, "f32" | "f16") => bounds(0.99, 0.002, 0.03),
        (None, "bf16") => bounds(0.98, 0.005, 0.05),
        // Activations rounded to 8 bits.
        (None, _) => bounds(0.98, 0.01, 0.1),
    }
}

/// The number of tokens on which a model is compared, since all of them take minutes with a 7B. Above 1 GiB it decreases with
/// the model's size, down to `FEWEST`.
pub fn positions(model_bytes: u64) -> usize {
    let by_size = POSITIONS as u64 * LARGE / model_bytes.max(LARGE);
    (by_size as usize).max(FEWEST)
}

/// The bounds that a comparison breaks. The best token counts only if enough positions are decided.
pub(crate) fn broken(found: &LogitsSummary, bound: &LogitsBounds) -> Vec<String> {
    let few = found.decided < FEWEST_DECIDED;
    let found = LogitsSummary { top1_decided: found.top1_decided.filter(|_| !few), ..*found };
    bound.broken(&found)
}
