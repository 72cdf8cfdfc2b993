//! The engine's backend trait: information and limits, forward passes, and the contents of the KV cache.

use crate::native::Native;
use zonda_engine::forward::{Backend, BackendError, BackendInfo, Batch, Limits, Logits, Slot};
use zonda_engine::load::ModelSpec;

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
        self.weights.check_file()?;
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
