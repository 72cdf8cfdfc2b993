//! [`ModelSpec`]: what a model is, whatever file it came from. Options are data: there is no type per architecture.

use std::fmt;

/// The architectures Zonda runs. They differ only in the options below; the name is kept for display and for
/// writing files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // the published names
pub enum Architecture {
    Llama,
    Mistral,
    Mixtral,
    Qwen2,
    Qwen3,
    Qwen3Moe,
}

impl fmt::Display for Architecture {
    /// Hugging Face's `model_type`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Architecture::Llama => "llama",
            Architecture::Mistral => "mistral",
            Architecture::Mixtral => "mixtral",
            Architecture::Qwen2 => "qwen2",
            Architecture::Qwen3 => "qwen3",
            Architecture::Qwen3Moe => "qwen3_moe",
        })
    }
}

/// What a decoder-only transformer of the Llama family is: its shapes and its options.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelSpec {
    /// The family's published name.
    pub architecture: Architecture,
    /// The model's own name, if its file gives one.
    pub name: Option<String>,
    /// Rows of the embedding and the output head.
    pub vocab_size: usize,
    /// Longest context the model was made for, in tokens.
    pub context_length: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Transformer layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads; `heads` is a multiple of it (GQA).
    pub kv_heads: usize,
    /// Width of a head; `heads * head_dim` need not equal `hidden_size`.
    pub head_dim: usize,
    /// Width of the dense feed-forward layer (of one expert: see [`Moe::ffn_size`]).
    pub ffn_size: usize,
    /// RMSNorm's epsilon.
    pub norm_eps: f32,
    /// Rotary position embedding.
    pub rope: Rope,
    /// Per layer, how many positions back (itself included) attention sees; `None`: all. `[layers]`
    pub windows: Vec<Option<usize>>,
    /// Q, K and V have biases (Qwen2).
    pub qkv_bias: bool,
    /// Q and K are RMS-normalised per head before RoPE (Qwen3).
    pub qk_norm: bool,
    /// The output head is the embedding matrix.
    pub tied_embeddings: bool,
    /// Mixture of experts instead of the dense feed-forward layer.
    pub moe: Option<Moe>,
}

/// Expert routing: the router's softmax over all experts picks `used` of them per token.
#[derive(Clone, Debug, PartialEq)]
pub struct Moe {
    /// Experts per layer.
    pub experts: usize,
    /// Experts run per token.
    pub used: usize,
    /// Width of one expert's feed-forward layer.
    pub ffn_size: usize,
    /// The picked experts' weights are scaled to sum to 1.
    pub normalize: bool,
}

/// Rotary position embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Base frequency.
    pub theta: f32,
    /// Which values of a head turn together.
    pub pairing: RopePairing,
    /// How frequencies are stretched for long contexts.
    pub scaling: RopeScaling,
}

/// Which values of a head form a pair. GGUF files of the llama family have Q and K permuted for `Adjacent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopePairing {
    /// `(i, i + head_dim/2)`: Hugging Face, and GGUF of Qwen.
    Halves,
    /// `(2i, 2i + 1)`: GGUF of Llama, Mistral, Mixtral.
    Adjacent,
}

/// How RoPE frequencies are stretched. Formulas as in `transformers`' `modeling_rope_utils`.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // the published parameter names
pub enum RopeScaling {
    None,
    Linear {
        factor: f32,
    },
    Llama3 {
        factor: f32,
        low_freq_factor: f32,
        high_freq_factor: f32,
        original_context: usize,
    },
    /// YaRN (arXiv 2309.00071). `attention_factor` multiplies cos and sin (already resolved from `mscale` & co.).
    Yarn {
        factor: f32,
        original_context: usize,
        beta_fast: f32,
        beta_slow: f32,
        attention_factor: f32,
        truncate: bool,
    },
    /// Each frequency is divided by its factor, `[head_dim / 2]`: GGUF's `rope_freqs.weight`.
    Factors(Vec<f32>),
}

impl ModelSpec {
    /// Query heads that share one key/value head.
    pub fn group(&self) -> usize {
        self.heads / self.kv_heads
    }
}
