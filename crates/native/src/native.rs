//! [`Native`]: a model opened on the CPU.

use crate::buffers::Buffers;
use crate::kv::KvCache;
use crate::options::NativeOptions;
use crate::rope::Angles;
use crate::weights::Weights;
use std::sync::Arc;
use zonda_engine::forward::{BackendError, Limits};
use zonda_engine::load::{Model, ModelSpec};
use zonda_kernels::{Isa, Pool};

/// A model opened on the CPU.
#[derive(Debug)]
pub struct Native {
    pub(crate) spec: ModelSpec,
    pub(crate) limits: Limits,
    pub(crate) isa: Isa,
    pub(crate) pool: Pool,
    pub(crate) weights: Weights,
    pub(crate) angles: Vec<Angles>,
    pub(crate) kv: KvCache,
    pub(crate) buffers: Buffers,
}

/// A pool with this many threads, or one per physical core.
///
/// # Errors
/// If the system can't start them.
pub(crate) fn pool(threads: Option<usize>) -> Result<Pool, BackendError> {
    let threads = threads.unwrap_or_else(zonda_machine::cpus::default_threads);
    Pool::start_threads(threads)
        .map_err(|e| BackendError::Failed(format!("the system does not start {threads} threads: {e}")))
}

impl Native {
    /// Loads a model: checks that every weight is finite and packs the matrices, on all threads. The calling thread
    /// becomes one of the pool's, so this is called on the thread that will run the model.
    ///
    /// # Errors
    /// If the model's tensors don't fit its spec, hold NaN or infinity, or don't fit into memory; or if the options don't fit the
    /// model.
    pub fn open(model: &Arc<Model>, options: &NativeOptions) -> Result<Native, BackendError> {
        let spec = model.spec.clone();
        let isa = options.isa.unwrap_or_else(Isa::best);
        let pool = pool(options.threads)?;
        let limits = options.limits(&spec)?;
        let weights = Weights::load(model, isa, &pool, options)?;
        let kv = KvCache::new(&spec, &limits, options.kv_type)?;
        let angles = Angles::all(&spec, limits.context);
        let mut buffers = Buffers::default();
        buffers.attention.reserve(&spec, &limits);
        Ok(Native { spec, limits, isa, pool, weights, angles, kv, buffers })
    }
}
