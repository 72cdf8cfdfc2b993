//! The distance between two computations of one model, from their logits at the same positions.
//!
//! Two backends that round differently never give equal logits. The comparison uses what matters to a reader of the text: the
//! best token (top-1), and the distance between the distributions of the next token (KL divergence).

use crate::record::comparison::LogitsSummary;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A position is a near tie if the reference's best token leads the second by less than this, in nats: the second is more than
/// 0.8 times as probable, and rounding decides which comes first. It is slightly more than [`LogitsSummary::lead_noise`] of
/// backends that round activations to 8 bits, 0.15 to 0.19 on SmolLM2-135M (`docs/backends.md`). It is a constant because the
/// noise of the comparison itself would excuse a wrong backend.
pub const NEAR_TIE: f64 = 0.2;

/// Two rows that can't be compared.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // each variant's message names its fields
pub enum ComparisonError {
    #[error("position {position}: {reference} logits against {other}")]
    Lengths { position: usize, reference: usize, other: usize },
    #[error("position {position}: the {side} logit of token {token} is NaN or infinite")]
    NonFinite { position: usize, side: &'static str, token: usize },
}

/// The comparison at one position.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Position {
    /// Whether both have the same best token; among equals the lowest id is the best.
    pub same_best: bool,
    /// The reference's logit of its best token minus that of its second: the logarithm of the ratio of their probabilities,
    /// in nats.
    pub lead: f64,
    /// The difference of the other's logits of the same two tokens; its difference from `lead` is noise.
    pub other_lead: f64,
    /// KL divergence of the other's distribution from the reference's, `Σ p (ln p − ln q)`, in nats.
    pub kl: f64,
    /// The largest difference of two logits.
    pub max_abs_diff: f64,
    /// Variance of the differences of logits. It ignores a shift of all logits, which changes no probability.
    pub variance: f64,
    /// Variance of the reference's logits.
    pub signal: f64,
}

impl Position {
    /// Compares two rows of logits, `[vocab]` each.
    ///
    /// # Errors
    /// If their lengths differ, or one has NaN or infinity; the error names `position`.
    pub fn compare(reference: &[f32], other: &[f32], position: usize) -> Result<Position, ComparisonError> {
        if reference.len() != other.len() || reference.is_empty() {
            let (reference, other) = (reference.len(), other.len());
            return Err(ComparisonError::Lengths { position, reference, other });
        }
        for (side, row) in [("reference's", reference), ("other's", other)] {
            if let Some(token) = row.iter().position(|l| !l.is_finite()) {
                return Err(ComparisonError::NonFinite { position, side, token });
            }
        }
        let (best, second) = best_two(reference);
        let difference = |row: &[f32]| f64::from(row[best]) - f64::from(row[second]);
        let (norm_p, norm_q) = (log_sum_exp(reference), log_sum_exp(other));
        let (mut kl, mut max_abs_diff, mut sum, mut squares) = (0.0, 0.0f64, 0.0, 0.0);
        let (mut own_sum, mut own_squares) = (0.0, 0.0);
        for (&p, &q) in reference.iter().zip(other) {
            let (p, q) = (f64::from(p), f64::from(q));
            let (log_p, log_q) = (p - norm_p, q - norm_q);
            kl += log_p.exp() * (log_p - log_q);
            max_abs_diff = max_abs_diff.max((p - q).abs());
            sum += p - q;
            squares += (p - q) * (p - q);
            own_sum += p;
            own_squares += p * p;
        }
        let n = reference.len() as f64;
        let around_mean = |sum: f64, squares: f64| (squares / n - (sum / n) * (sum / n)).max(0.0);
        Ok(Position {
            same_best: best == best_two(other).0,
            lead: difference(reference),
            other_lead: difference(other),
            // Rounding can give a value slightly below 0.
            kl: kl.max(0.0),
            max_abs_diff,
            variance: around_mean(sum, squares),
            signal: around_mean(own_sum, own_squares),
        })
    }
}

/// Indices of the two largest logits, among equals the lowest first; the same index twice for a single logit.
fn best_two(row: &[f32]) -> (usize, usize) {
    let (mut best, mut second) = (0, usize::from(row.len() > 1));
    if row[second] > row[best] {
        (best, second) = (second, best);
    }
    for (i, &logit) in row.iter().enumerate().skip(2) {
        if logit > row[best] {
            (best, second) = (i, best);
        } else if logit > row[second] {
            second = i;
        }
    }
    (best, second)
}

/// `ln Σ e^l`
fn log_sum_exp(row: &[f32]) -> f64 {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = row.iter().map(|&l| (f64::from(l) - f64::from(max)).exp()).sum();
    f64::from(max) + sum.ln()
}

/// Comparisons at many positions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LogitsComparison {
    positions: Vec<Position>,
}

impl LogitsComparison {
    /// Adds a position: rows of logits, `[vocab]` each.
    ///
    /// # Errors
    /// As [`Position::compare`].
    pub fn add(&mut self, reference: &[f32], other: &[f32]) -> Result<(), ComparisonError> {
        self.positions.push(Position::compare(reference, other, self.positions.len())?);
        Ok(())
    }

    /// All positions in order.
    pub fn positions(&self) -> &[Position] {
        &self.positions
    }

    /// Summarises all positions; `None` if nothing was compared.
    pub fn summary(&self) -> Option<LogitsSummary> {
        LogitsSummary::of(&self.positions)
    }
}

impl LogitsSummary {
    /// Summarises some positions; `None` if there are none.
    pub fn of<'a>(positions: impl IntoIterator<Item = &'a Position>) -> Option<LogitsSummary> {
        let all: Vec<_> = positions.into_iter().collect();
        let n = all.len();
        let share = |of: &[&Position]| {
            (!of.is_empty()).then(|| of.iter().filter(|p| p.same_best).count() as f64 / of.len() as f64)
        };
        let decided: Vec<_> = all.iter().copied().filter(|p| p.lead >= NEAR_TIE).collect();
        let mut kl: Vec<f64> = all.iter().map(|p| p.kl).collect();
        kl.sort_by(f64::total_cmp);
        let largest = |figure: fn(&Position) -> f64| all.iter().map(|p| figure(p)).fold(0.0, f64::max);
        let mean = |figure: fn(&Position) -> f64| all.iter().map(|p| figure(p)).sum::<f64>() / n as f64;
        Some(LogitsSummary {
            positions: n,
            top1: share(&all)?,
            decided: decided.len(),
            top1_decided: share(&decided),
            largest_lead_lost: largest(|p| if p.same_best { 0.0 } else { p.lead }),
            lead_noise: mean(|p| (p.other_lead - p.lead).powi(2)).sqrt(),
            kl_mean: mean(|p| p.kl),
            kl_se: (n > 1).then(|| {
                let middle = mean(|p| p.kl);
                let squares = all.iter().map(|p| (p.kl - middle).powi(2)).sum::<f64>();
                (squares / (n - 1) as f64 / n as f64).sqrt()
            }),
            kl_p99: kl[(n * 99).div_ceil(100).clamp(1, n) - 1],
            kl_max: largest(|p| p.kl),
            max_abs_diff: largest(|p| p.max_abs_diff),
            spread: mean(|p| p.variance).sqrt(),
            // For constant logits, any difference counts as infinitely large.
            error: match (mean(|p| p.variance), mean(|p| p.signal)) {
                (0.0, _) => 0.0,
                (differences, logits) => (differences / logits.max(f64::MIN_POSITIVE)).sqrt(),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::comparison::LogitsBounds;

    #[test]
    fn equal_rows_agree_and_a_shift_changes_only_the_difference() {
        let row = [1.0f32, 3.0, 2.5, -4.0];
        let same = Position::compare(&row, &row, 0).unwrap();
        assert_eq!((same.same_best, same.lead, same.kl, same.max_abs_diff), (true, 0.5, 0.0, 0.0));
        let shifted = Position::compare(&row, &row.map(|l| l + 2.0), 0).unwrap();
        assert!(shifted.same_best && shifted.kl < 1e-12 && shifted.variance < 1e-12);
        assert_eq!(shifted.max_abs_diff, 2.0);
    }

    /// p = (3/4, 1/4), q = (1/4, 3/4): KL = 3/4 ln 3 + 1/4 ln 1/3 = ln 3 / 2.
    #[test]
    fn kl_by_hand() {
        let (p, q) = ([3f32.ln() + 50.0, 50.0], [-7.0, 3f32.ln() - 7.0]);
        let found = Position::compare(&p, &q, 0).unwrap();
        assert!((found.kl - 3f64.ln() / 2.0).abs() < 1e-5, "{found:?}");
        assert!(!found.same_best && (found.lead - 3f64.ln()).abs() < 1e-5);
    }

    #[test]
    fn near_ties_are_distinguished_from_disagreements() {
        let mut agreement = LogitsComparison::default();
        assert_eq!(agreement.summary(), None);
        agreement.add(&[5.0, 0.0, 0.0], &[4.0, 0.0, 1.0]).unwrap();
        agreement.add(&[1.0, 0.9, 0.0], &[0.9, 1.0, 0.0]).unwrap();
        agreement.add(&[2.0, 0.0, 0.0], &[0.0, 2.0, 0.0]).unwrap();
        agreement.add(&[0.0, 7.0, 0.0], &[0.0, 7.0, 0.0]).unwrap();
        let summary = agreement.summary().unwrap();
        assert_eq!((summary.positions, summary.top1), (4, 0.5));
        assert_eq!((summary.decided, summary.top1_decided), (3, Some(2.0 / 3.0)));
        assert_eq!((summary.largest_lead_lost, summary.max_abs_diff), (2.0, 2.0));
        assert_eq!(summary.kl_p99, summary.kl_max);
        let broken = LogitsBounds::default().broken(&summary);
        assert!(broken.len() == 2 && broken[0].contains("66.67%"), "{broken:?}");
        assert!(LogitsBounds { top1_decided: 0.6, kl_mean: 9.0, error: None }.broken(&summary).is_empty());
        let nothing = LogitsSummary { top1_decided: Some(f64::NAN), kl_mean: f64::NAN, ..summary };
        assert_eq!(LogitsBounds::default().broken(&nothing).len(), 2);
        let ties = LogitsSummary { top1_decided: None, kl_mean: 0.0, ..summary };
        assert!(LogitsBounds::default().broken(&ties).is_empty());
    }

    #[test]
    fn incomparable_rows_are_errors() {
        let mut agreement = LogitsComparison::default();
        agreement.add(&[1.0, 2.0], &[1.0, 2.0]).unwrap();
        let lengths = ComparisonError::Lengths { position: 1, reference: 2, other: 1 };
        assert_eq!(agreement.add(&[1.0, 2.0], &[1.0]), Err(lengths));
        for bad in [f32::NAN, f32::INFINITY] {
            let error = ComparisonError::NonFinite { position: 1, side: "other's", token: 1 };
            assert_eq!(agreement.add(&[1.0, 2.0], &[1.0, bad]), Err(error));
        }
        assert_eq!(agreement.positions().len(), 1);
    }
}
