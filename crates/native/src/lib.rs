//! The pure-Rust CPU backend: packed weights, a paged KV cache, and one forward pass whose options are data.
//!
//! * [`options`] are the options of opening a model;
//! * `weights` reads a model's tensors into panels (one row order, whatever pairing the file uses);
//! * `kv` is the cache: pages shared between slots by reference count;
//! * `rope` turns positions into angles;
//! * `forward` is the main path: embed → layers → head; `attention` and `ffn` are its two halves;
//! * `reference` is the same path in f32, one layer in memory at a time: its logits are what others are compared with.
//!
//! A token's logits do not depend on what else is in the batch, nor on the number of threads.

mod attention;
mod ffn;
mod forward;
mod kv;
pub mod options;
mod reference;
mod rope;
mod weights;

pub use options::NativeOptions;

use forward::Buffers;
use kv::KvCache;
use rope::Angles;
use std::sync::Arc;
use weights::Weights;
use zonda_engine::forward::{Backend, BackendError, BackendInfo, Batch, Limits, Logits, Slot};
use zonda_engine::load::{Model, ModelSpec};
use zonda_kernels::{Isa, Pool};

/// A model opened on the CPU.
#[derive(Debug)]
pub struct Native {
    spec: ModelSpec,
    limits: Limits,
    isa: Isa,
    pool: Pool,
    weights: Weights,
    angles: Angles,
    kv: KvCache,
    buffers: Buffers,
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
        let pool = Pool::new(options.threads.unwrap_or_else(zonda_machine::cpus::default_threads));
        let limits = options.limits(&spec)?;
        let weights = Weights::load(model, isa, &pool, options.quantize)?;
        let kv = KvCache::new(&spec, &limits, options.kv_type)?;
        let angles = Angles::new(&spec.rope, spec.head_dim);
        let mut buffers = Buffers::default();
        buffers.attention.reserve(&spec, &limits);
        Ok(Native { spec, limits, isa, pool, weights, angles, kv, buffers })
    }
}

impl Backend for Native {
    fn info(&self) -> BackendInfo {
        BackendInfo {
            name: "native".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            device: "cpu".to_owned(),
            isa: self.isa.describe().to_owned(),
            threads: self.pool.threads(),
            weights: self.weights.describe(),
            kv_type: self.kv.kv_type().name().to_owned(),
        }
    }

    fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn forward(&mut self, batch: &Batch<'_>, out: &mut Logits) -> Result<(), BackendError> {
        batch.check(&self.limits, self.spec.vocab_size, |slot| self.kv.len(slot))?;
        self.kv.reserve(batch)?;
        self.step(batch, out);
        self.kv.commit(batch);
        Ok(())
    }

    fn truncate(&mut self, slot: Slot, len: usize) -> Result<usize, BackendError> {
        self.limits.check_slot(slot)?;
        Ok(self.kv.truncate(slot, len))
    }

    fn share_prefix(&mut self, from: Slot, to: Slot, len: usize) -> Result<usize, BackendError> {
        self.limits.check_slot(from)?;
        self.limits.check_empty(to, |to| self.kv.len(to))?;
        Ok(self.kv.share(from, to, len))
    }

    fn export_kv(&mut self, slot: Slot, len: usize, out: &mut Vec<u8>) -> Result<usize, BackendError> {
        self.limits.check_slot(slot)?;
        Ok(self.kv.export(slot, len, out))
    }

    fn import_kv(&mut self, slot: Slot, len: usize, from: &[u8]) -> Result<usize, BackendError> {
        self.limits.check_empty(slot, |slot| self.kv.len(slot))?;
        self.kv.import(slot, len, from).map_err(BackendError::Failed)
    }
}
