//! The machine's peaks, measured in the same experiment, and the shares of them that speeds reach.

use crate::record::model_cost::{Arithmetic, ModelCost};
use crate::record::peaks::{LARGE, Peaks, Rate, Roofline};
use crate::record::process::Process;
use crate::record::row::Row;
use crate::record::warning::Warning;

/// A larger difference between the peaks before and after, in percent, causes a warning.
const DIFFER_PCT: f64 = 15.0;

/// Read bandwidth of memory in bytes per second. If the cores share a path to memory with other tenants, their common bandwidth
/// changes from minute to minute, while that of a single core does not.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reading {
    /// The bandwidth without contention: one core's rate times the number of threads.
    pub cores: f64,
    /// The bandwidth of all threads together.
    pub together: f64,
}

impl Roofline {
    /// The better of both measurements, figure by figure, since a disturbed measurement does not show the limit.
    pub fn best(&self) -> Option<Peaks> {
        let (a, b) = match (&self.before, &self.after) {
            (Some(a), Some(b)) => (a, b),
            (one, other) => return one.clone().or(other.clone()),
        };
        let max = |a: Rate, b: Rate| Rate {
            one_core: a.one_core.max(b.one_core),
            all_threads: a.all_threads.max(b.all_threads),
        };
        let both = |a: Option<Rate>, b: Option<Rate>| a.zip(b).map(|(a, b)| max(a, b));
        Some(Peaks {
            threads: a.threads,
            instruction_set: a.instruction_set.clone(),
            read_bytes_per_s: max(a.read_bytes_per_s, b.read_bytes_per_s),
            read_large_bytes_per_s: both(a.read_large_bytes_per_s, b.read_large_bytes_per_s),
            int8_ops_per_s: max(a.int8_ops_per_s, b.int8_ops_per_s),
            bf16_ops_per_s: both(a.bf16_ops_per_s, b.bf16_ops_per_s),
            f32_ops_per_s: max(a.f32_ops_per_s, b.f32_ops_per_s),
        })
    }

    /// A warning for every peak that changed between the two measurements.
    pub fn warnings(&self) -> Vec<Warning> {
        let (Some(a), Some(b)) = (&self.before, &self.after) else { return Vec::new() };
        let changed = named(a).into_iter().zip(named(b)).filter_map(|((what, before), (_, after))| {
            let pct = 100.0 * (after / before - 1.0);
            (pct.abs() > DIFFER_PCT).then(|| Warning::PeaksDiffer { what: what.into(), pct })
        });
        changed.collect()
    }
}

/// The limits that a machine's peaks set for a model.
pub trait Limits {
    /// The peak for a type of arithmetic, in operations per second with all threads.
    fn ops_per_s(&self, arithmetic: Arithmetic) -> f64;

    /// Prompt tokens per second if only the products with weights took time, at their arithmetic peak.
    fn prefill_limit(&self, cost: &ModelCost) -> f64;

    /// Generated tokens per second if the weights and the keys and values of `position` tokens were read at the full bandwidth;
    /// `now` as in [`Limits::reading`].
    fn decode_limit(&self, cost: &ModelCost, position: f64, now: Option<f64>) -> f64;

    /// The read bandwidth for the weights of a model; `now` is the bandwidth of all threads around a run, from half a GiB.
    fn reading(&self, cost: &ModelCost, now: Option<f64>) -> Reading;
}

impl Limits for Peaks {
    fn ops_per_s(&self, arithmetic: Arithmetic) -> f64 {
        let rate = match arithmetic {
            Arithmetic::Int8 => self.int8_ops_per_s,
            Arithmetic::Bf16 => self.bf16_ops_per_s.unwrap_or(self.f32_ops_per_s),
            Arithmetic::F32 => self.f32_ops_per_s,
        };
        rate.all_threads
    }

    fn prefill_limit(&self, cost: &ModelCost) -> f64 {
        self.ops_per_s(cost.arithmetic) / cost.prefill_ops()
    }

    fn decode_limit(&self, cost: &ModelCost, position: f64, now: Option<f64>) -> f64 {
        self.reading(cost, now).together / cost.decode_bytes_at(position)
    }

    fn reading(&self, cost: &ModelCost, now: Option<f64>) -> Reading {
        let large = self.read_large_bytes_per_s.filter(|_| cost.decode_bytes > LARGE);
        let rate = large.unwrap_or(self.read_bytes_per_s);
        let cores = rate.all_threads.max(rate.one_core * self.threads as f64);
        // Each core reads large memory more slowly, so `now` may exceed what the cores can reach.
        let together = now.map_or(rate.all_threads, |now| if large.is_some() { now.min(cores) } else { now });
        Reading { cores: cores.max(together), together }
    }
}

/// The peaks with all threads, by name.
fn named(peaks: &Peaks) -> Vec<(&'static str, f64)> {
    let bf16 = peaks.bf16_ops_per_s.map(|rate| ("bf16 arithmetic", rate.all_threads));
    let large = peaks.read_large_bytes_per_s.map(|rate| ("read bandwidth of 4 GiB", rate.all_threads));
    let fixed = [
        ("read bandwidth", peaks.read_bytes_per_s.all_threads),
        ("int8 arithmetic", peaks.int8_ops_per_s.all_threads),
        ("f32 arithmetic", peaks.f32_ops_per_s.all_threads),
    ];
    fixed.into_iter().chain(bf16).chain(large).collect()
}

/// Adds to every row the share of its limits that it reached. Only CPU runs have limits, and a model that fits the last-level
/// cache has no decode limit, since it is not read from memory.
pub fn place(rows: &mut [Row], processes: &[Process], peaks: &Peaks, cache_bytes: u64) {
    for row in rows {
        let load = processes.iter().rev().filter(|p| p.subject == row.subject).find_map(|p| p.load.as_ref());
        let Some(cost) = load.filter(|l| l.backend.device == "cpu").and_then(|l| l.cost) else { continue };
        row.prefill_share = row.prefill_tps.map(|tps| tps / peaks.prefill_limit(&cost));
        // The mean position of the tokens after the first, since each reads the keys and values of all tokens before it.
        let position = row.prompt_tokens.zip(row.generated).map(|(p, n)| p as f64 + n as f64 / 2.0);
        // The tokens of a draft share one reading of the weights, so this limit does not apply.
        let reads = cost.decode_bytes > cache_bytes && row.drafted_tokens.is_none();
        let decode = row.decode_tps.zip(position).filter(|_| reads);
        row.decode_share =
            decode.map(|(tps, position)| tps / peaks.decode_limit(&cost, position, row.read_bytes_per_s));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peaks(read: f64) -> Peaks {
        let rate = |all| Rate { one_core: all / 2.0, all_threads: all };
        Peaks {
            threads: 2,
            instruction_set: "avx512".into(),
            read_bytes_per_s: rate(read),
            read_large_bytes_per_s: Some(rate(60e9)),
            int8_ops_per_s: rate(2e12),
            bf16_ops_per_s: None,
            f32_ops_per_s: rate(5e11),
        }
    }

    /// The design's own example: 7.24 B parameters in Q4_0.
    #[test]
    fn limits_by_hand() {
        let cost = ModelCost {
            parameters: 7_240_000_000,
            prefill_parameters: 7_000_000_000,
            decode_parameters: 7_110_000_000,
            decode_bytes: 4_000_000_000,
            kv_bytes: 131_072,
            arithmetic: Arithmetic::Int8,
        };
        let peaks = peaks(70e9);
        assert!((peaks.prefill_limit(&cost) - 2e12 / 14e9).abs() < 1e-9);
        assert!(
            (peaks.decode_limit(&cost, 0.0, None) - 15.0).abs() < 1e-9,
            "at the bandwidth of large memory"
        );
        assert!(peaks.decode_limit(&cost, 4096.0, None) < 13.5);
        let small = ModelCost { decode_bytes: 700_000_000, ..cost };
        assert!((peaks.decode_limit(&small, 0.0, None) - 100.0).abs() < 1e-9);
        let reading = |cost, now| peaks.reading(cost, now);
        assert_eq!(
            reading(&small, Some(40e9)),
            Reading { cores: 70e9, together: 40e9 },
            "other programs read too"
        );
        assert_eq!(reading(&small, Some(80e9)), Reading { cores: 80e9, together: 80e9 });
        assert_eq!(reading(&cost, Some(50e9)), Reading { cores: 60e9, together: 50e9 });
        assert_eq!(
            reading(&cost, Some(70e9)),
            Reading { cores: 60e9, together: 60e9 },
            "no more than of 4 GiB"
        );
        assert_eq!(
            peaks.ops_per_s(Arithmetic::Bf16),
            5e11,
            "without a bf16 instruction it is computed as f32"
        );
    }

    #[test]
    fn the_better_measurement_is_used_and_a_change_is_reported() {
        let roofline =
            Roofline { before: Some(peaks(70e9)), after: Some(peaks(50e9)), ..Roofline::default() };
        assert_eq!(roofline.best(), Some(peaks(70e9)));
        let warnings = roofline.warnings();
        assert!(
            matches!(&warnings[..], [Warning::PeaksDiffer { what, pct }] if what == "read bandwidth" && (*pct + 28.6).abs() < 0.1),
            "{warnings:?}"
        );
        let alone = Roofline { after: None, ..roofline };
        assert_eq!((alone.best(), alone.warnings()), (Some(peaks(70e9)), Vec::new()));
    }
}
