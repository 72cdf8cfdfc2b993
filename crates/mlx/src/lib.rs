//! The MLX backend: Apple's array library, on Metal (macOS), on the processor or on CUDA (Linux).
//!
//! * [`options`] is what can be chosen at opening;
//! * `sys` and `shim.h` bridge the operations of MLX that are used; `safe` is the only file that calls them;
//! * `weights` brings a model's tensors, of any format, into MLX's arrays, `regroup` those that ggml quantised;
//! * `cache` holds keys and values, one growing pair of arrays a layer and slot;
//! * `forward` is the main path: embed → layers → head; `experts` is the feed-forward half of mixtures.
//!
//! A step notes all its operations and has MLX compute them at once. Tokens of all slots go through the projections
//! together; attention is per slot, each with its own cache. A token's logits may differ in the last bits with what else
//! is in the batch: matrix products pick kernels by the number of rows.
//!
//! MLX's streams belong to threads, so a model is opened, used and dropped on one.

mod cache;
mod experts;
mod forward;
pub mod options;
mod regroup;
mod safe;
mod sys;
mod weights;

pub use options::{Compute, Device, KvType, MlxOptions, Quantization};

use cache::Cache;
use safe::{Array, Dtype, Ops};
use weights::{WeightFormat, Weights};
use zonda_engine::forward::{Backend, BackendError, BackendInfo, Batch, Limits, Logits, Slot};
use zonda_engine::load::{Model, ModelSpec};

/// A model opened by MLX.
#[derive(Debug)]
pub struct Mlx {
    spec: ModelSpec,
    limits: Limits,
    info: BackendInfo,
    ops: Ops,
    weights: Weights,
    cache: Cache,
    /// Positions per radian, `[head_dim / 2]`
    periods: Array,
    /// What scores are multiplied by.
    scale: f32,
    /// The type that is computed in.
    compute: Dtype,
}

/// The GPU that [`Device::Gpu`] would use, if this MLX has one.
pub fn gpu() -> Option<String> {
    safe::gpu()
}

impl Mlx {
    /// Loads a model of any format, checking that every weight is finite. It belongs to the calling thread.
    ///
    /// # Errors
    /// If the model's tensors don't fit its spec, hold NaN or infinity, or don't fit into memory; if there is no GPU where
    /// one was asked for; or if the library that is loaded is not the version this was compiled against.
    pub fn open(model: &Model, options: &MlxOptions) -> Result<Mlx, BackendError> {
        let spec = model.spec.clone();
        let limits = options.limits(&spec)?;
        let version = version()?;
        let gpu = options.device == Device::Gpu;
        let device = match (gpu, safe::gpu()) {
            (false, _) => "cpu".to_owned(),
            (true, Some(name)) => name,
            (true, None) => return Err(BackendError::Unsupported(no_gpu())),
        };
        let ops = Ops::new(gpu)?;
        let (threads, blas) = safe::set_blas_threads(options.threads());
        let format = WeightFormat::new(model, options, gpu);
        let weights = Weights::load(model, &ops, &format)?;
        let kv_type = options.kv_type.map_or(format.compute, |kv_type| match kv_type {
            KvType::F16 => Dtype::F16,
            KvType::F32 => Dtype::F32,
        });
        let (frequencies, magnitude) = spec.rope.frequencies(spec.head_dim);
        let periods: Vec<f32> = frequencies.iter().map(|f| 1.0 / f).collect();
        let info = BackendInfo {
            name: "mlx".to_owned(),
            version: if gpu || blas.is_empty() { version } else { format!("{version} ({blas})") },
            device,
            isa: String::new(),
            threads: if gpu { 1 } else { threads },
            weights: weights.describe(),
            kv_type: safe::name(kv_type).to_owned(),
        };
        Ok(Mlx {
            periods: ops.floats(&periods, &[periods.len()])?,
            // YaRN multiplies both sides of every score by its magnitude
            scale: magnitude * magnitude / (spec.head_dim as f32).sqrt(),
            compute: format.compute,
            cache: Cache::new(&spec, limits, kv_type),
            spec,
            limits,
            info,
            ops,
            weights,
        })
    }
}

impl Backend for Mlx {
    fn info(&self) -> BackendInfo {
        self.info.clone()
    }

    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn forward(&mut self, batch: &Batch<'_>, out: &mut Logits) -> Result<(), BackendError> {
        batch.check(&self.limits, self.spec.vocab_size, |slot| self.cache.len(slot))?;
        self.cache.check_room(batch)?;
        self.step(batch, out)?;
        self.cache.commit(batch);
        Ok(())
    }

    fn truncate(&mut self, slot: Slot, len: usize) -> Result<usize, BackendError> {
        self.limits.check_slot(slot)?;
        Ok(self.cache.truncate(slot, len))
    }

    fn share_prefix(&mut self, from: Slot, to: Slot, len: usize) -> Result<usize, BackendError> {
        self.limits.check_slot(from)?;
        self.limits.check_empty(to, |to| self.cache.len(to))?;
        Ok(self.cache.share(from, to, len))
    }
}

/// The version of the MLX that is loaded.
///
/// # Errors
/// If it is another one than this program was compiled against: signatures and layouts change between patch releases.
pub fn version() -> Result<String, BackendError> {
    let (loaded, compiled) = safe::versions();
    if loaded == compiled {
        return Ok(loaded);
    }
    Err(BackendError::Unsupported(format!(
        "the MLX library that was loaded is version {loaded}, and this program was compiled against {compiled}; \
         point LD_LIBRARY_PATH (macOS: DYLD_LIBRARY_PATH) at MLX {compiled}"
    )))
}

/// Why [`Device::Gpu`] is refused where [`gpu`] finds none.
pub fn no_gpu() -> String {
    let wheel = match std::env::consts::OS {
        "macos" => "MLX uses one through Metal, on Apple silicon",
        _ => "the wheel mlx-cuda-13 holds the library for NVIDIA's, which LD_LIBRARY_PATH can name",
    };
    format!("the MLX library that was loaded finds no GPU; {wheel}")
}
