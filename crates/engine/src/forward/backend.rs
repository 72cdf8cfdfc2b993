//! The [`Backend`] trait: one loaded model that turns token ids into logits.

use super::logits::Logits;
use crate::batch::{Batch, BatchError, Limits, Slot};
use crate::load::ModelSpec;

/// One loaded model. Synchronous, opened, used and dropped on one worker thread, so it need not be `Send`.
pub trait Backend {
    /// What runs the model: name, version, device, instruction set, threads.
    fn info(&self) -> BackendInfo;

    /// What the model is: shapes, context, options.
    fn spec(&self) -> &ModelSpec;

    /// How much fits: slots, tokens a batch, KV tokens.
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

    /// Keeps at most `len` tokens of a slot; returns how many survived (0 empties the slot and frees its KV room).
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

    /// Appends the keys and values of a slot's first `len` tokens to `out`, in a layout of the backend's own that begins with
    /// its version; returns of how many. 0 tokens of an empty slot ask whether it can.
    ///
    /// # Errors
    /// [`BackendError::Unsupported`] where it can't; if the slot does not exist or holds less.
    fn export_kv(&mut self, _slot: Slot, _len: usize, _out: &mut Vec<u8>) -> Result<usize, BackendError> {
        Err(no_export(&self.info().name))
    }

    /// Makes the empty slot start with the first `len` tokens of an export; returns how many it holds then.
    ///
    /// # Errors
    /// As [`Backend::export_kv`]; if the slot is not empty, there is no KV room, or `from` is no export of this model and KV
    /// type. Changes nothing then.
    fn import_kv(&mut self, _slot: Slot, _len: usize, _from: &[u8]) -> Result<usize, BackendError> {
        Err(no_export(&self.info().name))
    }
}

fn no_export(backend: &str) -> BackendError {
    BackendError::Unsupported(format!(
        "the {backend} backend does not hand out its KV cache, so prompts can't be kept on disk with it; native and \
         llama-cpp do"
    ))
}

/// What runs a model, for records and reports.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct BackendInfo {
    /// The backend's name on the command line: `native`, `llama-cpp`, `mlx`, `mock`.
    pub name: String,
    /// The backend's own version.
    pub version: String,
    /// What it computes on: `cpu`, or a GPU's name.
    pub device: String,
    /// The instruction set in use, such as `avx512`; empty where it means nothing.
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
pub enum BackendError {
    /// The batch breaks the trait's rules; nothing was changed.
    #[error("invalid batch: {0}")]
    Batch(#[from] BatchError),
    /// A slot number outside `0..slots`.
    #[error("slot {slot} does not exist; this backend has {slots} slots")]
    NoSuchSlot {
        /// The slot asked for.
        slot: Slot,
        /// How many there are.
        slots: usize,
    },
    /// The model could not be read.
    #[error(transparent)]
    Load(#[from] crate::load::LoadError),
    /// The backend can't run this model or these options; says what it was and what would work.
    #[error("{0}")]
    Unsupported(String),
    /// Something failed while running: allocation, device, foreign library.
    #[error("{0}")]
    Failed(String),
}
