//! The time line of one run, and the figures computed from it.
//!
//! All times are offsets from t0, when the prompt's text was passed to the engine (before chat template and tokenising). The
//! definitions are those of the methodology: TTFT is the time of the first delivery, total latency that of the last one, and
//! TpT = (t_last − t_first)/(N − 1), so that total = TTFT + (N − 1)·TpT holds exactly.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Tokens that arrived together: `(nanoseconds since t0, number)`. A pair, because a record has thousands of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Delivery(pub u64, pub u32);

/// The arrival times of one run's tokens. Deliveries are in order, and none is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "Vec<Delivery>", into = "Vec<Delivery>")]
pub struct TimeLine(Vec<Delivery>);

/// Why a time line is invalid.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[allow(missing_docs)] // each variant's message names its fields
pub enum TimeLineError {
    #[error("delivery {index} came at {at} ns, before the one at {before} ns")]
    Backwards { index: usize, at: u64, before: u64 },
    #[error("delivery {index} has no tokens")]
    Empty { index: usize },
}

impl TimeLine {
    /// An empty time line; [`TimeLine::push`] adds deliveries.
    pub fn new() -> TimeLine {
        TimeLine::default()
    }

    /// Adds `tokens` that arrived `at` after t0.
    ///
    /// # Errors
    /// If time runs backwards or there are no tokens.
    pub fn push(&mut self, at: Duration, tokens: u32) -> Result<(), TimeLineError> {
        let at = u64::try_from(at.as_nanos()).unwrap_or(u64::MAX);
        let index = self.0.len();
        if tokens == 0 {
            return Err(TimeLineError::Empty { index });
        }
        match self.0.last() {
            Some(&Delivery(before, _)) if at < before => Err(TimeLineError::Backwards { index, at, before }),
            _ => {
                self.0.push(Delivery(at, tokens));
                Ok(())
            }
        }
    }

    /// The raw deliveries.
    pub fn deliveries(&self) -> &[Delivery] {
        &self.0
    }

    /// N: the number of tokens that arrived.
    pub fn tokens(&self) -> usize {
        self.0.iter().map(|d| d.1 as usize).sum()
    }

    /// TTFT in ms; `None` if nothing arrived.
    pub fn ttft_ms(&self) -> Option<f64> {
        self.0.first().map(|d| ms(d.0))
    }

    /// Total latency in ms: the last delivery; `None` if nothing arrived.
    pub fn total_ms(&self) -> Option<f64> {
        self.0.last().map(|d| ms(d.0))
    }

    /// TpT in ms: the mean time per token after the first; `None` for fewer than two tokens.
    pub fn tpt_ms(&self) -> Option<f64> {
        let n = self.tokens();
        let (first, last) = (self.0.first()?.0, self.0.last()?.0);
        (n > 1).then(|| ms(last - first) / (n - 1) as f64)
    }

    /// Throughput in tokens/s: N / total. `None` if nothing arrived or no time passed.
    pub fn throughput(&self) -> Option<f64> {
        rate(self.tokens() as f64, self.total_ms()?)
    }

    /// Decode rate in tokens/s: 1 / TpT. `None` for fewer than two tokens or if no time passed.
    pub fn decode_tps(&self) -> Option<f64> {
        rate(1.0, self.tpt_ms()?)
    }

    /// ITL: the raw gaps between deliveries in ms, `[deliveries − 1]`.
    pub fn gaps_ms(&self) -> Vec<f64> {
        self.0.windows(2).map(|w| ms(w[1].0 - w[0].0)).collect()
    }
}

impl TryFrom<Vec<Delivery>> for TimeLine {
    type Error = TimeLineError;
    fn try_from(list: Vec<Delivery>) -> Result<TimeLine, TimeLineError> {
        let mut line = TimeLine::new();
        for Delivery(at, tokens) in list {
            line.push(Duration::from_nanos(at), tokens)?;
        }
        Ok(line)
    }
}

impl From<TimeLine> for Vec<Delivery> {
    fn from(line: TimeLine) -> Vec<Delivery> {
        line.0
    }
}

fn ms(ns: u64) -> f64 {
    ns as f64 / 1e6
}

/// The rate per second of `count` in `ms` milliseconds; `None` if no time passed.
pub fn rate(count: f64, ms: f64) -> Option<f64> {
    (ms > 0.0).then(|| count * 1e3 / ms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn line(deliveries: &[(u64, u32)]) -> TimeLine {
        deliveries.iter().map(|&(at, n)| Delivery(at, n)).collect::<Vec<_>>().try_into().unwrap()
    }

    #[test]
    fn figures_of_a_known_run() {
        // The first token after 40 ms, then one every 10 ms: five in total.
        let l = line(&[(40_000_000, 1), (50_000_000, 1), (60_000_000, 1), (70_000_000, 1), (80_000_000, 1)]);
        assert_eq!(l.tokens(), 5);
        assert_eq!(l.ttft_ms(), Some(40.0));
        assert_eq!(l.total_ms(), Some(80.0));
        assert_eq!(l.tpt_ms(), Some(10.0));
        assert_eq!(l.decode_tps(), Some(100.0));
        assert_eq!(l.throughput(), Some(62.5));
        assert_eq!(l.gaps_ms(), [10.0; 4]);
    }

    #[test]
    fn undefined_figures_are_none_and_never_zero() {
        let none = TimeLine::new();
        assert_eq!((none.ttft_ms(), none.total_ms(), none.tpt_ms()), (None, None, None));
        assert_eq!((none.throughput(), none.decode_tps()), (None, None));
        let one = line(&[(5_000_000, 1)]);
        assert_eq!((one.ttft_ms(), one.total_ms()), (Some(5.0), Some(5.0)));
        assert_eq!((one.tpt_ms(), one.decode_tps()), (None, None));
        let instant = line(&[(0, 1), (0, 1)]);
        assert_eq!((instant.tpt_ms(), instant.decode_tps(), instant.throughput()), (Some(0.0), None, None));
    }

    #[test]
    fn invalid_time_lines_are_refused() {
        let json = |text: &str| serde_json::from_str::<TimeLine>(text);
        assert_eq!(json("[[5,1],[5,2]]").unwrap().tokens(), 3);
        assert!(json("[[5,1],[4,1]]").unwrap_err().to_string().contains("before the one at 5 ns"));
        assert!(json("[[5,0]]").unwrap_err().to_string().contains("no tokens"));
        assert!(json("[[-5,1]]").is_err());
    }

    proptest! {
        /// The identity total = TTFT + (N − 1)·TpT, also with several tokens per delivery.
        #[test]
        fn total_is_ttft_plus_the_rest(gaps in prop::collection::vec((0u64..1_000_000_000, 1u32..8), 1..200)) {
            let mut l = TimeLine::new();
            let mut at = Duration::ZERO;
            for (gap, n) in gaps {
                at += Duration::from_nanos(gap);
                l.push(at, n).unwrap();
            }
            if let Some(tpt) = l.tpt_ms() {
                let (ttft, total) = (l.ttft_ms().unwrap(), l.total_ms().unwrap());
                prop_assert!((ttft + (l.tokens() - 1) as f64 * tpt - total).abs() <= 1e-9 * total.max(1.0));
                if let Some(throughput) = l.throughput() {
                    prop_assert!((throughput * total / 1e3 - l.tokens() as f64).abs() < 1e-6);
                }
            }
            let sum: f64 = l.gaps_ms().iter().sum();
            prop_assert!((l.ttft_ms().unwrap() + sum - l.total_ms().unwrap()).abs() < 1e-6);
        }
    }
}
