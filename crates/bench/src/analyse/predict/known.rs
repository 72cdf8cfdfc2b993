//! What is known without a record: the shares of a machine's ceilings that each backend reached where it was measured,
//! and what a token costs it beside products and reading. Every figure says where it was measured; what was not measured
//! is not here. All of it is of one machine, two cores of a Zen 5 server with AVX-512 (VNNI, BF16): `docs/recommend.md`
//! has the measurements, and how a share follows from each.

use super::{Dims, Efficiency};

/// The 7B of `docs/kernels.md`.
const KERNELS_7B: &str = "docs/kernels.md: Mistral-7B's shape, prompt of 512";
/// Whole model from a product alone.
const KERNELS_TYPES: &str = "docs/kernels.md: the product alone, by Q4_0's ratio of model to product";
/// The committed record.
const RECORD_135M: &str = "benchmarks/record/amd-epyc-zen5-2c/2026-11-24: SmolLM2-135M";
/// The same model in a later run.
const LATER_135M: &str = "docs/recommend.md: SmolLM2-135M, pp512 and tg128";
/// Q4_0's share, for types that the same kernels read as fast.
const AS_Q4_0: &str = "docs/kernels.md: as Q4_0 on Mistral-7B's shape";
/// Peers' rates by type.
const BY_TYPE: &str = "docs/recommend.md: Mistral-7B's shape, by its ratio to Q4_0 in one run";

/// Shares of the ceilings, with where each was measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Known {
    /// The shares.
    pub share: Efficiency,
    /// Where prefill's was measured, and where decode's.
    pub measured: [&'static str; 2],
}

/// The shares of a backend with weights of a type; `None` if neither the type nor one whose kernel is alike was measured.
pub fn shares(backend: &str, base: &str) -> Option<Known> {
    let known = |prefill, from, decode, decode_from| {
        Some(Known { share: Efficiency { prefill, decode }, measured: [from, decode_from] })
    };
    match (backend, base) {
        ("native", "q4_0") => known(0.67, KERNELS_7B, 0.84, KERNELS_7B),
        ("native", "q4_k") => known(0.58, KERNELS_7B, 0.82, KERNELS_TYPES),
        ("native", "q8_0") => known(0.65, KERNELS_7B, 0.80, KERNELS_7B),
        ("native", "q4_1") => known(0.60, LATER_135M, 0.84, AS_Q4_0),
        ("native", "q5_0" | "q5_1") => known(0.62, KERNELS_TYPES, 0.84, AS_Q4_0),
        ("native", "q5_k") => known(0.58, KERNELS_TYPES, 0.82, KERNELS_TYPES),
        ("native", "q6_k" | "q3_k" | "q2_k") => known(0.48, KERNELS_TYPES, 0.82, KERNELS_TYPES),
        ("native", "bf16") => known(0.70, KERNELS_7B, 0.73, KERNELS_7B),
        ("native", "f32" | "f16") => known(0.74, RECORD_135M, 0.85, LATER_135M),
        ("llama-cpp", "q4_0") => known(0.26, KERNELS_7B, 0.53, KERNELS_7B),
        ("llama-cpp", "q4_k" | "q5_k" | "q6_k") => known(0.235, KERNELS_7B, 0.50, BY_TYPE),
        ("llama-cpp", "q8_0") => known(0.137, KERNELS_7B, 0.43, BY_TYPE),
        ("llama-cpp", "q4_1") => known(0.051, RECORD_135M, 0.53, AS_Q4_0),
        ("llama-cpp", "bf16") => known(0.48, KERNELS_7B, 0.71, KERNELS_7B),
        ("mlx", "f32") => known(0.156, RECORD_135M, 0.15, RECORD_135M),
        _ => None,
    }
}

/// What a token costs a backend beside the products and reading the weights. Measured as [`RECORD_135M`] says, a layer of
/// the native backend as [`LATER_135M`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Costs {
    /// Seconds a layer adds to a generated token: starting its threads again and again.
    layer_s: f64,
    /// Seconds a value of a layer's width adds to a prompt token: norms, activations, quantising.
    value_s: f64,
    /// Share of the `f32` peak that a prompt's attention runs at.
    attention: f64,
    /// Share of what the cores would read that keys and values are read at.
    pub kv: f64,
}

impl Costs {
    /// Of a backend that nothing is known of: none, so that a record's shares have all in them.
    const NONE: Costs = Costs { layer_s: 0.0, value_s: 0.0, attention: f64::INFINITY, kv: f64::INFINITY };

    pub fn of(backend: &str) -> Costs {
        match backend {
            "native" => Costs { layer_s: 14e-6, value_s: 2.3e-9, attention: 0.50, kv: 0.41 },
            "llama-cpp" => Costs { layer_s: 83e-6, value_s: 2.3e-9, attention: 0.24, kv: 0.10 },
            "mlx" => Costs { attention: 0.04, kv: 0.06, ..Costs::NONE },
            _ => Costs::NONE,
        }
    }

    /// Seconds of a prompt token beside products, in a prompt of so many tokens; `peak`: `f32` operations a second.
    pub fn prefill_s(&self, dims: Dims, prompt: f64, peak: f64) -> f64 {
        // scores and weighted values of half the prompt: a multiply-add each
        let attention = 4.0 * (dims.layers * dims.attention_width) as f64 * prompt / 2.0;
        (dims.layers * dims.width) as f64 * self.value_s + attention / (peak * self.attention)
    }

    /// Seconds that starting threads adds to a generated token.
    pub fn layers_s(&self, dims: Dims) -> f64 {
        dims.layers as f64 * self.layer_s
    }
}
