//! The [`Backend`] trait: one loaded model that turns token ids into logits.

use super::logits::Logits;
use crate::batch::{Batch, BatchError, Limits, Slot};
use crate::load::ModelSpec;

/// One loaded model. Synchronous, opened, used and dropped on one worker thread, so it need not be `Send`.
pub trait Backend {
    /// The backend's name, version, device, instruction set and threads.
    fn info(&self) -> BackendInfo;

    /// The model's shapes, context and options.
    fn spec(&self) -> &ModelSpec;

    /// The backend's capacity: slots, tokens per batch, KV tokens.
    fn limits(&self) -> Limits;

    /// Extends each span's slot with its tokens and fills logits rows for the spans that want them.
    ///
    /// Prefill, decode, speculative verification and perplexity are all this one call, with spans of different
    /// lengths. `out` is reset to one row per wanted position, in batch order.
    ///
    /// # Errors
    /// A batch that does not fit [`Backend::limits`] or whose span does not start at its slot's length is refused
    /// and changes nothing. After any other error the slots in the batch must be truncated to 0 before reuse.
    fn forward(&mut self, batch: &Batch<'_>, out: &mut Logits) -> Result<(), BackendError>;

    /// Keeps at most `len` tokens of a slot; returns how many are left. 0 empties the slot and frees its KV memory.
    ///
    /// # Errors
    /// If the slot does not exist.
    fn truncate(&mut self, slot: Slot, len: usize) -> Result<usize, BackendError>;

    /// Makes the empty slot `to` start with the first `len` tokens of slot `from`; returns how many tokens were
    /// shared (0: the backend can't, recompute).
    ///
    /// # Errors
    /// If a slot does not exist or `to` is not empty.
    fn share_prefix(&mut self, from: Slot, to: Slot, len: usize) -> Result<usize, BackendError>;

    /// Appends the keys and values of a slot's first `len` tokens to `out`, in the backend's own layout, which begins with its
    /// version; returns the number of tokens exported. Exporting 0 tokens of an empty slot tests whether the backend can export.
    ///
    /// # Errors
    /// [`BackendError::Unsupported`] if the backend can't; an error if the slot does not exist or holds fewer tokens.
    fn export_kv(&mut self, _slot: Slot, _len: usize, _out: &mut Vec<u8>) -> Result<usize, BackendError> {
        Err(no_export(&self.info().name))
    }

    /// Fills the empty slot with the first `len` tokens of an export; returns how many tokens it holds then.
    ///
    /// # Errors
    /// As [`Backend::export_kv`]; also if the slot is not empty, there is no KV memory left, or `from` is not an export of this
    /// model and KV type. The slot is unchanged then.
    fn import_kv(&mut self, _slot: Slot, _len: usize, _from: &[u8]) -> Result<usize, BackendError> {
        Err(no_export(&self.info().name))
    }
}

fn no_export(backend: &str) -> BackendError {
    BackendError::Unsupported(format!(
        "the {backend} backend can't export its KV cache, so prompts can't be stored on disk with it"
    ))
}

/// The backend that runs a model, for records and reports.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct BackendInfo {
    /// The backend's name on the command line: `native`, `llama-cpp`, `mlx`, `mock`.
    pub name: String,
    /// The backend's own version.
    pub version: String,
    /// What it computes on: `cpu`, or a GPU's name.
    pub device: String,
    /// The instruction set in use, such as `avx512`; empty if there is none to name.
    pub isa: String,
    /// Worker threads (1 for single-threaded backends).
    pub threads: usize,
    /// How the weights are held in memory: `q4_1`, `bf16`, or a mix such as `q4_k+q6_k`.
    pub weights: String,
    /// KV cache type: `f16`, `f32`.
    pub kv_type: String,
}

/// Why a backend could not open or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// The batch breaks the trait's rules; no slot was changed.
    #[error("invalid batch: {0}")]
    Batch(#[from] BatchError),
    /// A slot number outside `0..slots`.
    #[error("slot {slot} does not exist; this backend has {slots} slots")]
    NoSuchSlot {
        /// The requested slot.
        slot: Slot,
        /// The number of slots.
        slots: usize,
    },
    /// The model could not be read.
    #[error(transparent)]
    Load(#[from] crate::load::LoadError),
    /// The backend can't run this model or these options; the message says what it found and what it supports.
    #[error("{0}")]
    Unsupported(String),
    /// Something failed while running: allocation, device, foreign library.
    #[error("{0}")]
    Failed(String),
}
