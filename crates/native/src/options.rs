//! What can be chosen when a model is opened.

use std::str::FromStr;
use zonda_engine::forward::{BackendError, Limits};
use zonda_engine::load::{LayerTensor, ModelSpec, TensorRole};
use zonda_kernels::attention::{KvType, PAGE};
use zonda_kernels::{DType, Isa};

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
    pub quantize: Option<Quantize>,
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

/// What float weights are quantised to while loading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantize {
    /// Every matrix Q8_0.
    Q8_0,
    /// Every matrix Q4_0, the output head Q8_0.
    Q4_0,
    /// Q4_K with Q6_K where it pays most: the head, and half of V and the down projections.
    Q4KM,
}

impl FromStr for Quantize {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s.to_ascii_lowercase().as_str() {
            "q8_0" => Ok(Quantize::Q8_0),
            "q4_0" => Ok(Quantize::Q4_0),
            "q4_k_m" => Ok(Quantize::Q4KM),
            _ => Err(format!("cannot quantize to {s:?} while loading; expected one of q8_0, q4_0, q4_k_m")),
        }
    }
}

impl Quantize {
    /// The type for a matrix, or `None` to leave it as stored (routers, which are small and decide much).
    pub(crate) fn dtype(self, role: TensorRole, layers: usize, cols: usize) -> Option<DType> {
        let head = matches!(role, TensorRole::Output | TensorRole::TokenEmbedding);
        let wanted = match (self, role) {
            (_, TensorRole::Layer(_, LayerTensor::Router)) => return None,
            (Quantize::Q8_0, _) => DType::Q8_0,
            (Quantize::Q4_0, _) if head => DType::Q8_0,
            (Quantize::Q4_0, _) => DType::Q4_0,
            (Quantize::Q4KM, _) if head => DType::Q6_K,
            (
                Quantize::Q4KM,
                TensorRole::Layer(l, LayerTensor::V | LayerTensor::FfnDown | LayerTensor::ExpertDown(_)),
            ) if more_bits(l, layers) => DType::Q6_K,
            (Quantize::Q4KM, _) => DType::Q4_K,
        };
        // a row that is no multiple of 256 gets the next simple type; one that is no multiple of 32 stays as it is
        let fits = |t: DType| cols.is_multiple_of(t.block_len());
        let simple = if wanted == DType::Q6_K { DType::Q8_0 } else { DType::Q5_0 };
        [wanted, simple].into_iter().find(|&t| fits(t))
    }
}

/// The layers whose V and down projections get more bits: the first and last eighth, and every third between.
fn more_bits(layer: usize, layers: usize) -> bool {
    let eighth = layers / 8;
    layer < eighth || layer >= 7 * layers / 8 || (layer - eighth) % 3 == 2
}
