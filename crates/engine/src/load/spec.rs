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
    Qwen2Moe,
    Ministral3,
    Gemma2,
    Gemma3,
    Granite,
    SmolLm3,
    Olmo2,
    Olmo3,
    Cohere2,
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
            Architecture::Qwen2Moe => "qwen2_moe",
            Architecture::Ministral3 => "ministral3",
            Architecture::Gemma2 => "gemma2",
            Architecture::Gemma3 => "gemma3_text",
            Architecture::Granite => "granite",
            Architecture::SmolLm3 => "smollm3",
            Architecture::Olmo2 => "olmo2",
            Architecture::Olmo3 => "olmo3",
            Architecture::Cohere2 => "cohere2",
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
    /// Rotary position embedding; [`ModelSpec::rope_of`] says what each layer has.
    pub rope: Rope,
    /// Per layer, how many positions back (itself included) attention sees; `None`: all. `[layers]`
    pub windows: Vec<Option<usize>>,
    /// Q, K and V have biases (Qwen2).
    pub qkv_bias: bool,
    /// Q and K are RMS-normalised before RoPE, per head unless [`Extras::qk_norm_whole`] (Qwen3).
    pub qk_norm: bool,
    /// The output head is the embedding matrix.
    pub tied_embeddings: bool,
    /// Mixture of experts instead of the dense feed-forward layer.
    pub moe: Option<Moe>,
    /// What it computes beyond that.
    pub extras: Extras,
}

/// What a model computes that Llama does not. The default is nothing, and what is off costs nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct Extras {
    /// RoPE of the layers with a window, where it is not [`ModelSpec::rope`] (Gemma 3, OLMo 3).
    pub window_rope: Option<Rope>,
    /// Layers without RoPE (SmolLM3, Cohere 2).
    pub no_rope: Vec<usize>,
    /// The kind of all norms except those of Q and K.
    pub norm: Norm,
    /// Where a layer's norms are.
    pub norms: NormPlacement,
    /// Q and K are normalised over all heads at once (OLMo 2).
    pub qk_norm_whole: bool,
    /// Multiplies embeddings.
    pub embedding_scale: f32,
    /// Multiplies what each half of a layer adds to the residual stream.
    pub residual_scale: f32,
    /// Multiplies attention scores; `None`: `1 / sqrt(head_dim)`.
    pub attention_scale: Option<f32>,
    /// Multiplies logits.
    pub logit_scale: f32,
    /// Scaled scores become `cap · tanh(score / cap)` before the softmax (Gemma 2).
    pub attention_softcap: Option<f32>,
    /// The same for logits.
    pub final_softcap: Option<f32>,
    /// Of the feed-forward layer's gate.
    pub activation: Activation,
    /// Multiplies queries after RoPE, more at later positions (Ministral 3).
    pub query_temperature: Option<QueryTemperature>,
}

impl Default for Extras {
    fn default() -> Extras {
        Extras {
            window_rope: None,
            no_rope: Vec::new(),
            norm: Norm::Rms,
            norms: NormPlacement::Before,
            qk_norm_whole: false,
            embedding_scale: 1.0,
            residual_scale: 1.0,
            attention_scale: None,
            logit_scale: 1.0,
            attention_softcap: None,
            final_softcap: None,
            activation: Activation::Silu,
            query_temperature: None,
        }
    }
}

/// How rows are normalised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Norm {
    /// By their root mean square.
    Rms,
    /// By their mean and variance, without a bias (Cohere).
    Layer,
}

/// Where a layer normalises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormPlacement {
    /// What each half reads.
    Before,
    /// What each half adds to the residual stream (OLMo 2).
    After,
    /// Both (Gemma 2, Gemma 3).
    Both,
    /// Both halves read one normalised input, and their outputs are added together (Cohere).
    Parallel,
}

/// The function of the feed-forward layer's gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x / (1 + e^−x)`
    Silu,
    /// GELU in its approximation by tanh.
    GeluTanh,
}

/// The factor `1 + beta · ln(1 + ⌊position / step⌋)` of queries.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QueryTemperature {
    /// How much it grows.
    pub beta: f32,
    /// Positions with the same factor.
    pub step: usize,
}

impl QueryTemperature {
    /// The factor at a position.
    pub fn at(&self, position: usize) -> f32 {
        1.0 + self.beta * ((1 + position / self.step) as f32).ln()
    }
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
    /// Width of an expert that every token runs, times the sigmoid of a gate (Qwen2-MoE).
    pub shared: Option<usize>,
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

    /// RoPE of a layer; `None`: it has none.
    pub fn rope_of(&self, layer: usize) -> Option<&Rope> {
        let windowed = self.windows[layer].and(self.extras.window_rope.as_ref());
        (!self.extras.no_rope.contains(&layer)).then(|| windowed.unwrap_or(&self.rope))
    }

    /// What attention scores are multiplied by.
    pub fn score_scale(&self) -> f32 {
        self.extras.attention_scale.unwrap_or_else(|| 1.0 / (self.head_dim as f32).sqrt())
    }
}
