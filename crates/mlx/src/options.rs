//! The options for opening a model.

use std::fmt;
use std::str::FromStr;
use zonda_engine::forward::{BackendError, Limits};
use zonda_engine::load::ModelSpec;

/// The KV cache grows by this many tokens at a time: the page size in [`Limits`].
pub(crate) const KV_STEP: usize = 256;

/// Options of [`crate::Mlx::open`]. The default suits one conversation on the CPU.
#[derive(Clone, Debug)]
pub struct MlxOptions {
    /// The device.
    pub device: Device,
    /// Threads of the BLAS for matrix products on the CPU; `None`: one per available CPU. Set for the whole process.
    pub threads: Option<usize>,
    /// The type of the computation and of unquantised matrices. `None`: on a GPU the model's own type; on the CPU, where MLX's f32
    /// products are several times faster than others, f32 if the model fits into a third of the memory, else its own type.
    pub compute: Option<Compute>,
    /// The type of the KV cache; `None`: the type of the computation.
    pub kv_type: Option<KvType>,
    /// Quantises float weights while loading, and computes with the quantised ones.
    pub quantize: Option<Quantization>,
    /// Whether quantised weights are converted to floats; `None`: on the CPU, if they fit into a third of the memory. The computed
    /// function is the same in both cases.
    pub dequantize: Option<bool>,
    /// Sequences held at once.
    pub slots: usize,
    /// Longest sequence in tokens; `None`: the model's context, at most [`Limits::DEFAULT_CONTEXT`].
    pub context: Option<usize>,
    /// KV cache size of all slots together, in tokens; `None`: every slot can fill its context.
    pub kv_tokens: Option<usize>,
    /// Tokens in one batch.
    pub batch_tokens: usize,
}

/// The device of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// The CPU.
    Cpu,
    /// The GPU: Metal on macOS, CUDA on Linux. An error if there is none.
    Gpu,
}

/// The type of the computation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the published names
pub enum Compute {
    F32,
    F16,
    BF16,
}

/// The type of the KV cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the published names
pub enum KvType {
    F32,
    F16,
}

impl FromStr for KvType {
    type Err = String;

    fn from_str(name: &str) -> Result<KvType, String> {
        match name {
            "f32" => Ok(KvType::F32),
            "f16" => Ok(KvType::F16),
            other => Err(format!("KV cache type {other:?}; the mlx backend has f16 and f32")),
        }
    }
}

/// How float weights are quantised while loading: MLX's affine quantisation, with a scale and a bias per group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quantization {
    /// Bits per value.
    pub bits: usize,
    /// Values that share a scale and a bias.
    pub group_size: usize,
}

impl Quantization {
    /// The values of `--quantize`.
    pub const NAMES: [&str; 2] = ["q4", "q8"];
}

impl FromStr for Quantization {
    type Err = String;

    fn from_str(name: &str) -> Result<Quantization, String> {
        match name {
            "q4" => Ok(Quantization { bits: 4, group_size: 64 }),
            "q8" => Ok(Quantization { bits: 8, group_size: 64 }),
            other => Err(format!("the mlx backend quantises to q4 or q8 (groups of 64), not to {other}")),
        }
    }
}

impl fmt::Display for Quantization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "q{}_g{}", self.bits, self.group_size)
    }
}

impl MlxOptions {
    pub(crate) fn threads(&self) -> usize {
        self.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |n| n.get())).max(1)
    }

    pub(crate) fn limits(&self, spec: &ModelSpec) -> Result<Limits, BackendError> {
        Limits::paged(spec, self.context, self.slots, self.batch_tokens, self.kv_tokens, KV_STEP)
    }
}

impl Default for MlxOptions {
    fn default() -> Self {
        MlxOptions {
            device: Device::Cpu,
            threads: None,
            compute: None,
            kv_type: None,
            quantize: None,
            dequantize: None,
            slots: 1,
            context: None,
            kv_tokens: None,
            batch_tokens: 512,
        }
    }
}
