//! The time of a token as a function of the share of the peak, and the inverse.

use crate::analyse::predict::built_in::Costs;
use crate::analyse::predict::dims::Dims;
use crate::analyse::roofline::{Limits as _, Reading};
use crate::record::model_cost::ModelCost;
use crate::record::peaks::Peaks;

/// The largest share of the threads' common read bandwidth that a backend reaches when reading weights (`docs/recommend.md`).
const MOST: f64 = 0.95;

/// A rate above this share of the common bandwidth is limited by it, if that is well below the bandwidth without contention:
/// it gives only a lower bound for the backend.
const BOUND: f64 = 0.85;

/// The time of a token in a backend as a function of the share of the peak, and the inverse.
#[derive(Clone, Copy, Debug)]
pub(super) struct TokenTime {
    pub cost: ModelCost,
    pub dims: Dims,
    pub costs: Costs,
}

impl TokenTime {
    /// Seconds per token in a prompt of `prompt` tokens.
    pub fn prefill_s(&self, share: f64, peaks: &Peaks, prompt: f64) -> f64 {
        self.products_s(peaks) / share + self.beside_prefill_s(peaks, prompt)
    }

    /// Seconds per token with `position` others before it.
    pub fn decode_s(&self, share: f64, reading: Reading, position: f64) -> f64 {
        self.cost.decode_bytes as f64 / rate(reading, share) + self.beside_decode_s(reading, position)
    }

    /// The share for a measured time; `None` if no time is left for products, which means that the other costs are wrong here.
    pub fn prefill_share(&self, seconds: f64, peaks: &Peaks, prompt: f64) -> Option<f64> {
        share_of(self.products_s(peaks), seconds - self.beside_prefill_s(peaks, prompt))
    }

    /// Likewise, and whether shared bandwidth was the limit: the share is then a lower bound.
    pub fn decode_share(&self, seconds: f64, reading: Reading, position: f64) -> Option<(f64, bool)> {
        let bytes = self.cost.decode_bytes as f64;
        let share = share_of(bytes / reading.cores, seconds - self.beside_decode_s(reading, position))?;
        let hindered = reading.together * MOST < BOUND * reading.cores;
        Some((share, hindered && share * reading.cores > BOUND * reading.together))
    }

    fn products_s(&self, peaks: &Peaks) -> f64 {
        1.0 / peaks.prefill_limit(&self.cost)
    }

    fn beside_prefill_s(&self, peaks: &Peaks, prompt: f64) -> f64 {
        self.costs.prefill_s(self.dims, prompt, peaks.f32_ops_per_s.all_threads)
    }

    fn beside_decode_s(&self, reading: Reading, position: f64) -> f64 {
        let kv_bytes = self.cost.kv_bytes as f64 * position;
        self.costs.layers_s(self.dims) + kv_bytes / rate(reading, self.costs.kv)
    }
}

/// Bytes per second at a share of the bandwidth without contention.
fn rate(reading: Reading, share: f64) -> f64 {
    (share * reading.cores).min(MOST * reading.together)
}

fn share_of(ideal_s: f64, took_s: f64) -> Option<f64> {
    (took_s > 0.0).then(|| (ideal_s / took_s).min(1.0)).filter(|share| *share > 0.0)
}
