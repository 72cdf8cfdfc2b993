//! What can be chosen when a model is opened.

use std::fmt;
use std::str::FromStr;
use zonda_engine::forward::{BackendError, Limits};
use zonda_engine::load::ModelSpec;

/// KV caches grow by so many tokens at a time; the page that [`Limits`] count in.
pub(crate) const KV_STEP: usize = 256;

/// Options of [`crate::Mlx::open`]. The default suits one conversation on the processor.
#[derive(Clone, Debug)]
pub struct MlxOptions {
    /// What computes.
    pub device: Device,
    /// Threads of the BLAS that multiplies on the processor; `None`: as many as the system says. Set for the whole
    /// process.
    pub threads: Option<usize>,
    /// The type that is computed in, and of matrices that are not quantised; `None`: on a GPU the model's own; on the
    /// processor, where MLX multiplies f32 several times faster than anything else, f32 if the model fits into a third of
    /// the memory so, else its own.
    pub compute: Option<Compute>,
    /// How keys and values are stored; `None`: in the type that is computed in.
    pub kv_type: Option<KvType>,
    /// Quantises float weights while loading, and computes with them as they are then.
    pub quantize: Option<Quantization>,
    /// Whether quantised weights are held as floats; `None`: on the processor, if they fit into a third of the memory so.
    /// Either way it is the same function.
    pub dequantize: Option<bool>,
    /// Sequences held at once.
    pub slots: usize,
    /// Longest sequence in tokens; `None`: the model's context, at most [`Limits::DEFAULT_CONTEXT`].
    pub context: Option<usize>,
    /// KV room of all slots together, in tokens; `None`: every slot can fill its context.
    pub kv_tokens: Option<usize>,
    /// Tokens in one batch.
    pub batch_tokens: usize,
}

/// What a model is computed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// The processor.
    Cpu,
    /// The GPU: Metal on macOS, CUDA on Linux. None is an error.
    Gpu,
}

/// What is computed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the published names
pub enum Compute {
    F32,
    F16,
    BF16,
}

/// How keys and values are stored.
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
    /// Bits of a value.
    pub bits: usize,
    /// Values that share a scale and a bias.
    pub group_size: usize,
}

impl Quantization {
    /// What `--quantize` takes.
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
