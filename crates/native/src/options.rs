//! The options of opening a model.

use zonda_engine::forward::{BackendError, Limits};
use zonda_engine::load::ModelSpec;
use zonda_engine::quant::Mix;
use zonda_kernels::Isa;
use zonda_kernels::attention::{KvType, PAGE};

/// Options of [`crate::Native::open`]. The default suits one conversation.
#[derive(Clone, Debug)]
pub struct NativeOptions {
    /// Worker threads; `None`: one per physical core allowed.
    pub threads: Option<usize>,
    /// Instruction set; `None`: the best one.
    pub isa: Option<Isa>,
    /// How keys and values are stored.
    pub kv_type: KvType,
    /// Quantises float weights while loading.
    pub quantize: Option<Mix>,
    /// Leaves the embedding in the mapped file; otherwise it is copied, and the file is not read after loading.
    pub mmap: bool,
    /// Sequences held at once.
    pub slots: usize,
    /// Longest sequence in tokens; `None`: the model's context, at most [`Limits::DEFAULT_CONTEXT`].
    pub context: Option<usize>,
    /// KV room of all slots together, in tokens; `None`: every slot can fill its context.
    pub kv_tokens: Option<usize>,
    /// Tokens in one batch.
    pub batch_tokens: usize,
}

impl NativeOptions {
    pub(crate) fn limits(&self, spec: &ModelSpec) -> Result<Limits, BackendError> {
        Limits::paged(spec, self.context, self.slots, self.batch_tokens, self.kv_tokens, PAGE)
    }
}

impl Default for NativeOptions {
    fn default() -> Self {
        NativeOptions {
            threads: None,
            isa: None,
            kv_type: KvType::F16,
            quantize: None,
            mmap: true,
            slots: 1,
            context: None,
            kv_tokens: None,
            batch_tokens: 512,
        }
    }
}
