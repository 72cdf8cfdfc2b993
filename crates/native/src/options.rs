//! What can be chosen when a model is opened.

use zonda_engine::forward::{BackendError, Limits};
use zonda_engine::load::ModelSpec;
use zonda_engine::make::Mix;
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
    /// Sequences held at once.
    pub slots: usize,
    /// Longest sequence in tokens; `None`: the model's context, at most [`NativeOptions::DEFAULT_CONTEXT`].
    pub context: Option<usize>,
    /// KV room of all slots together, in tokens; `None`: every slot can fill its context.
    pub kv_tokens: Option<usize>,
    /// Tokens in one batch.
    pub batch_tokens: usize,
}

impl NativeOptions {
    /// Context unless told: models that allow 128k tokens would otherwise claim gigabytes of KV cache.
    pub const DEFAULT_CONTEXT: usize = 4096;

    pub(crate) fn limits(&self, spec: &ModelSpec) -> Result<Limits, BackendError> {
        let context = self.context.unwrap_or_else(|| spec.context_length.min(Self::DEFAULT_CONTEXT));
        if context == 0 || context > spec.context_length {
            return Err(BackendError::Unsupported(format!(
                "a context of {context} tokens; this model takes 1 to {}",
                spec.context_length
            )));
        }
        if self.slots == 0 || self.batch_tokens == 0 {
            return Err(BackendError::Unsupported(
                "0 slots or 0 tokens a batch; expected at least 1".to_owned(),
            ));
        }
        let whole = context.next_multiple_of(PAGE);
        let kv_tokens = self.kv_tokens.unwrap_or(whole.saturating_mul(self.slots)).next_multiple_of(PAGE);
        Ok(Limits { slots: self.slots, batch_tokens: self.batch_tokens, context, kv_tokens, kv_page: PAGE })
    }
}

impl Default for NativeOptions {
    fn default() -> Self {
        NativeOptions {
            threads: None,
            isa: None,
            kv_type: KvType::F16,
            quantize: None,
            slots: 1,
            context: None,
            kv_tokens: None,
            batch_tokens: 512,
        }
    }
}
