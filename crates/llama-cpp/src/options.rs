//! The options for opening a model.

use std::fmt;
use std::str::FromStr;
use zonda_engine::forward::{BackendError, Limits};
use zonda_engine::load::ModelSpec;

/// Options of [`crate::LlamaCpp::open`]. The default suits one conversation on the CPU.
#[derive(Clone, Debug)]
pub struct LlamaCppOptions {
    /// The device.
    pub device: Device,
    /// Worker threads; `None`: one per CPU in [`LlamaCppOptions::cpus`], or per available CPU if that is empty.
    pub threads: Option<usize>,
    /// CPUs to pin the threads to, one each. Ignored if there are fewer than threads; empty: threads are not pinned.
    pub cpus: Vec<usize>,
    /// The type of the KV cache.
    pub kv_type: KvType,
    /// Flash attention: one pass over keys and values without storing the scores. On the CPU llama.cpp rounds the scores to 16
    /// bits for every KV type; use `false` to compare logits closely.
    pub flash_attention: bool,
    /// Maps the file instead of reading it. Weights that llama.cpp repacks are copied in both cases.
    pub mmap: bool,
    /// Sequences held at once.
    pub slots: usize,
    /// Longest sequence in tokens; `None`: the model's context, at most [`Limits::DEFAULT_CONTEXT`].
    pub context: Option<usize>,
    /// KV cache size of all slots together, in tokens; `None`: every slot can fill its context.
    pub kv_tokens: Option<usize>,
    /// Tokens in one batch.
    pub batch_tokens: usize,
}

/// The device of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// The CPU only, even in a build with GPU support.
    Cpu,
    /// The GPUs that llama.cpp finds; an error if there are none.
    Gpu {
        /// The number of layers on them, counting the output head as one; `None`: all.
        layers: Option<usize>,
    },
}

/// The type of the KV cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // ggml's names
pub enum KvType {
    F32,
    F16,
    Q8_0,
    Q4_0,
}

impl KvType {
    /// All of them.
    pub const ALL: [KvType; 4] = [KvType::F16, KvType::Q8_0, KvType::Q4_0, KvType::F32];

    /// The name on the command line and in records.
    pub fn name(self) -> &'static str {
        match self {
            KvType::F32 => "f32",
            KvType::F16 => "f16",
            KvType::Q8_0 => "q8_0",
            KvType::Q4_0 => "q4_0",
        }
    }
}

impl fmt::Display for KvType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for KvType {
    type Err = String;

    fn from_str(name: &str) -> Result<KvType, String> {
        KvType::ALL
            .into_iter()
            .find(|t| t.name() == name)
            .ok_or_else(|| format!("KV cache type {name:?}; expected f16, q8_0, q4_0 or f32"))
    }
}

impl LlamaCppOptions {
    pub(crate) fn threads(&self) -> usize {
        let system = || std::thread::available_parallelism().map_or(1, |n| n.get());
        self.threads.unwrap_or_else(|| if self.cpus.is_empty() { system() } else { self.cpus.len() }).max(1)
    }

    /// The limits of a model. llama.cpp uses 32-bit counts, so larger figures are refused.
    pub(crate) fn limits(&self, spec: &ModelSpec, max_slots: usize) -> Result<Limits, BackendError> {
        let context = Limits::context_of(spec, self.context)?;
        if self.slots == 0 || self.slots > max_slots {
            return unsupported(format!("{} slots; llama.cpp takes 1 to {max_slots}", self.slots));
        }
        let kv_tokens = self.kv_tokens.unwrap_or(context.saturating_mul(self.slots));
        for (what, found) in [("tokens a batch", self.batch_tokens), ("tokens of KV cache", kv_tokens)] {
            // Leaves room for rounding up to llama.cpp's pages of 256 tokens.
            const MOST: usize = i32::MAX as usize - 255;
            if found == 0 || found > MOST {
                return unsupported(format!("{found} {what}; llama.cpp takes 1 to {MOST}"));
            }
        }
        let (slots, batch_tokens) = (self.slots, self.batch_tokens);
        Ok(Limits { slots, batch_tokens, context, kv_tokens, kv_page: 1 })
    }
}

impl Default for LlamaCppOptions {
    fn default() -> Self {
        LlamaCppOptions {
            device: Device::Cpu,
            threads: None,
            cpus: Vec::new(),
            kv_type: KvType::F16,
            flash_attention: true,
            mmap: true,
            slots: 1,
            context: None,
            kv_tokens: None,
            batch_tokens: 512,
        }
    }
}

fn unsupported<T>(why: String) -> Result<T, BackendError> {
    Err(BackendError::Unsupported(why))
}
