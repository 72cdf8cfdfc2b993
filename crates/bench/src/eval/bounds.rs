//! The bounds of the equivalence gate: what a backend must keep, by how it holds the weights, and on how many positions.

use crate::record::comparison::{LogitsBounds, LogitsSummary};
use crate::record::peaks::LARGE;

/// Most tokens on which backends are compared; those of a beginning that passages have in common count once.
pub const POSITIONS: usize = 512;

/// Fewest, of large models.
pub(crate) const FEWEST: usize = 192;

/// Of each passage, tokens that are read one by one, as a generated answer is.
pub const ANSWER: usize = 8;

/// Fewest positions without a near tie for the best token to count: random weights leave few.
pub(crate) const FEWEST_DECIDED: usize = 50;

/// What a backend must keep, by how it holds the weights. The one table of bounds; `docs/methodology.md` gives it with what
/// was measured.
pub fn bound(held: &str, quantize: Option<&str>, kv_type: &str) -> LogitsBounds {
    let bounds = |top1_decided, kl_mean, error| LogitsBounds { top1_decided, kl_mean, error: Some(error) };
    let small = |name: &str| name.starts_with("q4");
    match (quantize, held.split('+').next().unwrap_or_default()) {
        // other weights than the file's: four bits a value, or eight
        (Some(asked), _) if small(asked) => bounds(0.70, 0.5, 0.6),
        _ if kv_type == "q4_0" => bounds(0.80, 0.15, 0.4),
        (Some(_), _) => bounds(0.97, 0.02, 0.1),
        _ if kv_type == "q8_0" => bounds(0.97, 0.02, 0.1),
        // activations as they are, or rounded to 16 bits
        (None, "f32" | "f16") => bounds(0.99, 0.002, 0.03),
        (None, "bf16") => bounds(0.98, 0.005, 0.05),
        // activations rounded to 8 bits
        (None, _) => bounds(0.98, 0.01, 0.1),
    }
}

/// How many tokens a model is compared on: all of them costs a 7B minutes. Models above 1 GiB get so many fewer as they are
/// larger, down to `FEWEST`.
pub fn positions(model_bytes: u64) -> usize {
    let by_size = POSITIONS as u64 * LARGE / model_bytes.max(LARGE);
    (by_size as usize).max(FEWEST)
}

/// What of its bound a comparison breaks. The best token counts only where enough positions are decided.
pub(crate) fn broken(found: &LogitsSummary, bound: &LogitsBounds) -> Vec<String> {
    let few = found.decided < FEWEST_DECIDED;
    let found = LogitsSummary { top1_decided: found.top1_decided.filter(|_| !few), ..*found };
    bound.broken(&found)
}
