//! The cost of a step by the number of tokens it verifies: measured when the backend opens, and corrected by every step.

use std::time::Duration;

/// Token counts in the table; larger counts follow its slope.
const COUNTS: usize = 64;
/// Assumed cost of each further token before any measurement, as a share of a step.
const UNKNOWN_SLOPE: f64 = 0.15;
/// The rate at which the common level (machine speed, context length) follows the measured steps.
const LEVEL_RATE: f64 = 0.1;
/// The rate at which the cost of a single count follows them.
const SHAPE_RATE: f64 = 0.03;

/// The time of a step by the number of tokens it computes, with logits for each.
#[derive(Clone, Debug)]
pub struct Costs {
    /// Relative cost by tokens − 1. `[COUNTS]`
    shape: Vec<f64>,
    /// Seconds that a 1 in `shape` stands for.
    level: f64,
    /// A step has been measured.
    known: bool,
}

impl Default for Costs {
    fn default() -> Costs {
        let shape = (0..COUNTS).map(|i| 1.0 + UNKNOWN_SLOPE * i as f64).collect();
        Costs { shape, level: 1.0, known: false }
    }
}

impl Costs {
    /// From measured `(tokens, time)`, in ascending order. Values between are interpolated, values beyond follow the overall
    /// slope. The cost never falls with more tokens.
    pub fn measured(points: &[(usize, Duration)]) -> Costs {
        let mut points: Vec<(f64, f64)> =
            points.iter().map(|(n, took)| (*n as f64, took.as_secs_f64().max(1e-9))).collect();
        for i in 1..points.len() {
            points[i].1 = points[i].1.max(points[i - 1].1);
        }
        let (Some(&first), Some(&last)) = (points.first(), points.last()) else { return Costs::default() };
        let at = |n: f64| {
            let next = points.iter().position(|p| p.0 >= n).unwrap_or(points.len() - 1).max(1);
            match (points.get(next - 1), points.get(next)) {
                (Some(a), Some(b)) => a.1 + (b.1 - a.1) * (n - a.0) / (b.0 - a.0),
                _ => first.1 * (1.0 + UNKNOWN_SLOPE * (n - first.0)),
            }
        };
        // The slope of the whole curve: two neighbours differ by chance.
        let slope = (last.1 - first.1) / (last.0 - first.0).max(1.0);
        let beyond =
            |n: f64| if n > last.0 && points.len() > 1 { last.1 + slope * (n - last.0) } else { at(n) };
        let shape = (1..=COUNTS).map(|n| beyond(n as f64).max(first.1) / first.1).collect();
        Costs { shape, level: first.1, known: true }
    }

    /// Seconds of a step with this many tokens.
    pub fn of(&self, tokens: usize) -> f64 {
        let i = tokens.max(1) - 1;
        let shape = self.shape.get(i).copied().unwrap_or_else(|| {
            let last = self.shape[COUNTS - 1];
            last + (last - self.shape[0]) / (COUNTS - 1) as f64 * (i + 1 - COUNTS) as f64
        });
        shape * self.level
    }

    /// Records the time of a step of decodes. An outlier counts as at most twice the estimate.
    pub fn took(&mut self, tokens: usize, took: Duration) {
        let took = took.as_secs_f64();
        if !self.known {
            self.known = true;
            self.level *= took.max(1e-9) / self.of(tokens);
            return;
        }
        let ratio = (took / self.of(tokens)).clamp(0.5, 2.0);
        self.level *= 1.0 + LEVEL_RATE * (ratio - 1.0);
        if let Some(shape) = self.shape.get_mut(tokens.max(1) - 1) {
            *shape *= 1.0 + SHAPE_RATE * (ratio - 1.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(x: f64) -> Duration {
        Duration::from_secs_f64(x / 1e3)
    }

    fn close(a: f64, ms: f64) -> bool {
        (a * 1e3 - ms).abs() < 0.02 * ms
    }

    #[test]
    fn costs_are_interpolated_and_extrapolated() {
        let costs = Costs::measured(&[(1, ms(10.0)), (2, ms(10.0)), (6, ms(14.0)), (17, ms(42.0))]);
        for (tokens, expected) in
            [(1, 10.0), (2, 10.0), (4, 12.0), (6, 14.0), (17, 42.0), (33, 74.0), (97, 202.0)]
        {
            assert!(close(costs.of(tokens), expected), "{tokens}: {}", costs.of(tokens));
        }
    }

    #[test]
    fn noise_never_makes_more_tokens_cheaper() {
        let costs = Costs::measured(&[(1, ms(10.0)), (2, ms(9.0)), (3, ms(11.0))]);
        assert!(close(costs.of(2), 10.0));
        assert!(close(Costs::measured(&[(1, ms(8.0))]).of(5), 8.0 * 1.6));
    }

    #[test]
    fn steps_correct_the_costs() {
        let mut costs = Costs::measured(&[(1, ms(10.0)), (5, ms(10.0))]);
        for _ in 0..300 {
            costs.took(1, ms(20.0));
            costs.took(5, ms(60.0));
        }
        assert!(close(costs.of(1), 20.0) && close(costs.of(5), 60.0), "{} {}", costs.of(1), costs.of(5));
        // A single step delayed by a second changes little.
        costs.took(1, ms(1000.0));
        assert!(costs.of(1) < 0.0245);
        let mut unknown = Costs::default();
        unknown.took(1, ms(5.0));
        assert!(close(unknown.of(1), 5.0));
    }
}
