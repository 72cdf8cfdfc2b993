//! The MLX backend: Apple's array library, on Metal (macOS), the CPU or CUDA (Linux).
//!
//! * [`options`]: the options for opening a model;
//! * `sys` and `shim.h` bridge the MLX operations in use; `safe` is the only file that calls them;
//! * `weights` holds a model's tensors as MLX's arrays; `loader` reads them, of any format, in the form that `format` decides;
//!   `regroup` converts ggml's quantised types;
//! * `cache` is the KV cache: one growing pair of arrays per layer and slot;
//! * `forward` is the main path: embed → layers → head; `attention`, with `rope`, and `ffn` are the halves of a layer.
//!
//! A step builds a graph of all its operations, which MLX then evaluates at once. The projections process the tokens of all
//! slots together; attention is per slot, with its own cache. The last bits of a token's logits may depend on the rest of the
//! batch: matrix products choose kernels by the number of rows.
//!
//! MLX's streams belong to threads, so a model must be opened, used and dropped on one thread.

mod attention;
mod cache;
mod ffn;
mod format;
mod forward;
mod loader;
pub mod options;
mod regroup;
mod rope;
mod safe;
mod sys;
mod weights;

pub use options::{Compute, Device, KvType, MlxOptions, Quantization};

use cache::Cache;
use format::WeightFormat;
use rope::Turn;
use safe::{Array, Dtype, Ops};
use weights::Weights;
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
    /// Each kind of RoPE in the model.
    turns: Vec<Turn>,
    /// Weights of the norm of Q and K behind RoPE, `[head_dim]`, if the model has one.
    ones: Option<Array>,
    /// The type of the computation.
    compute: Dtype,
}

/// The GPU that [`Device::Gpu`] would use, if there is one.
pub fn gpu() -> Option<String> {
    safe::gpu()
}

/// Why MLX can't run a model of this kind; `None`: it can.
pub fn unsupported(spec: &ModelSpec) -> Option<String> {
    let groups = spec.moe.as_ref().is_some_and(|moe| moe.router.groups.is_some());
    let missing = if spec.extras.mla.is_some() {
        "multi-head latent attention"
    } else if groups {
        "groups of experts"
    } else if spec.extras.sinks && spec.extras.attention_softcap.is_some() {
        "attention sinks beside an attention softcap"
    } else {
        return None;
    };
    Some(format!(
        "MLX does not run models with {missing}, and this is {}; the native backend runs it",
        spec.architecture
    ))
}

impl Mlx {
    /// Loads a model of any format, checking that every weight is finite. It belongs to the calling thread.
    ///
    /// # Errors
    /// If the model's tensors don't fit its spec, contain NaN or infinity, or don't fit into memory; if a GPU was requested and
    /// there is none; or if the loaded library is not the version this was compiled against.
    pub fn open(model: &Model, options: &MlxOptions) -> Result<Mlx, BackendError> {
        let spec = model.spec.clone();
        if let Some(why) = unsupported(&spec) {
            return Err(BackendError::Unsupported(why));
        }
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
        let turns = Turn::all(&ops, &spec, format.compute, limits.context)?;
        let ones = || ops.as_type(&ops.floats(&vec![1.0; spec.head_dim], &[spec.head_dim])?, format.compute);
        let ones = spec.extras.norm_behind_rope.then(ones).transpose()?;
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
            turns,
            ones,
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

/// The version of the loaded MLX library.
///
/// # Errors
/// If it differs from the version this program was compiled against: signatures and layouts change between patch releases.
pub fn version() -> Result<String, BackendError> {
    let (loaded, compiled) = safe::versions();
    if loaded == compiled {
        return Ok(loaded);
    }
    Err(BackendError::Unsupported(format!(
        "the loaded MLX library is version {loaded}, but this program was compiled against {compiled}; \
         point LD_LIBRARY_PATH (macOS: DYLD_LIBRARY_PATH) at MLX {compiled}"
    )))
}

/// Why [`Device::Gpu`] is refused if [`gpu`] finds none.
pub fn no_gpu() -> String {
    let wheel = match std::env::consts::OS {
        "macos" => "MLX uses one through Metal, on Apple silicon",
        _ => "the wheel mlx-cuda-13 holds the library for NVIDIA's, which LD_LIBRARY_PATH can name",
    };
    format!("the loaded MLX library finds no GPU; {wheel}")
}
