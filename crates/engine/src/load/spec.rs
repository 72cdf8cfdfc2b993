//! [`ModelSpec`]: what a model is, whatever file it came from. Options are data: there is no type per architecture.

use std::fmt;

use super::mla::Mla;
pub use super::moe::Moe;
pub use zonda_kernels::elementwise::Activation;

/// One row per architecture: its name here, and `model_type` and class in Hugging Face's `config.json`.
macro_rules! architectures {
    ($($name:ident $model_type:literal $class:literal;)*) => {
        /// The architectures Zonda runs. They differ only in the options below; the name is kept for display and for
        /// writing files.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[allow(missing_docs)] // the published names
        pub enum Architecture {
            $($name,)*
            /// One that only other programs run: see [`super::Model::open_any`].
            Other,
        }

        impl Architecture {
            /// The architecture of a `model_type`.
            pub(super) fn of_model_type(name: &str) -> Option<Architecture> {
                match name {
                    $($model_type => Some(Architecture::$name),)*
                    _ => None,
                }
            }

            /// Hugging Face's `model_type`.
            pub fn model_type(self) -> &'static str {
                match self {
                    $(Architecture::$name => $model_type,)*
                    Architecture::Other => "other",
                }
            }

            /// Hugging Face's class of causal language models; empty for [`Architecture::Other`].
            pub fn class(self) -> &'static str {
                match self {
                    $(Architecture::$name => $class,)*
                    Architecture::Other => "",
                }
            }
        }
    };
}

architectures! {
    Llama "llama" "LlamaForCausalLM";
    Mistral "mistral" "MistralForCausalLM";
    Mixtral "mixtral" "MixtralForCausalLM";
    Qwen2 "qwen2" "Qwen2ForCausalLM";
    Qwen3 "qwen3" "Qwen3ForCausalLM";
    Qwen3Moe "qwen3_moe" "Qwen3MoeForCausalLM";
    Qwen2Moe "qwen2_moe" "Qwen2MoeForCausalLM";
    Ministral3 "ministral3" "Ministral3ForCausalLM";
    Gemma2 "gemma2" "Gemma2ForCausalLM";
    Gemma3 "gemma3_text" "Gemma3ForCausalLM";
    Granite "granite" "GraniteForCausalLM";
    SmolLm3 "smollm3" "SmolLM3ForCausalLM";
    Olmo2 "olmo2" "Olmo2ForCausalLM";
    Olmo3 "olmo3" "Olmo3ForCausalLM";
    Cohere2 "cohere2" "Cohere2ForCausalLM";
    DeepSeekV2 "deepseek_v2" "DeepseekV2ForCausalLM";
    DeepSeekV3 "deepseek_v3" "DeepseekV3ForCausalLM";
    Mistral4 "mistral4" "Mistral4ForCausalLM";
    Glm4Moe "glm4_moe" "Glm4MoeForCausalLM";
    GptOss "gpt_oss" "GptOssForCausalLM";
    Llama4 "llama4_text" "Llama4ForCausalLM";
    Phi3 "phi3" "Phi3ForCausalLM";
    Glm "glm" "GlmForCausalLM";
    Glm4 "glm4" "Glm4ForCausalLM";
    GraniteMoe "granitemoe" "GraniteMoeForCausalLM";
    GraniteMoeShared "granitemoeshared" "GraniteMoeSharedForCausalLM";
    GraniteMoeHybrid "granitemoehybrid" "GraniteMoeHybridForCausalLM";
}

impl Architecture {
    /// Whether Q, K and V of every model of this architecture have biases.
    pub fn qkv_bias(self) -> bool {
        matches!(self, Architecture::Qwen2 | Architecture::Qwen2Moe | Architecture::GptOss)
    }

    /// Whether its attention is multi-head latent attention.
    pub fn latent(self) -> bool {
        use Architecture::{DeepSeekV2, DeepSeekV3, Mistral4};
        matches!(self, DeepSeekV2 | DeepSeekV3 | Mistral4)
    }

    /// Whether its files may end with layers that predict further tokens, which are not run.
    pub(super) fn predicts(self) -> bool {
        matches!(self, Architecture::DeepSeekV3 | Architecture::Glm4Moe)
    }

    /// Whether Q and K of every model of this architecture are normalised.
    pub fn qk_norm(self) -> bool {
        use Architecture::{Gemma3, Olmo2, Olmo3, Qwen3, Qwen3Moe};
        matches!(self, Qwen3 | Qwen3Moe | Gemma3 | Olmo2 | Olmo3)
    }

    /// The value of `attention_bias` where a config.json doesn't have it, if that key says whether Q, K and V have biases; `None`:
    /// the family says it.
    pub fn qkv_bias_by_key(self) -> Option<bool> {
        match self {
            Architecture::Glm | Architecture::Glm4 => Some(true),
            Architecture::Glm4Moe => Some(false),
            _ => None,
        }
    }

    /// Granite, of whatever kind: embeddings, halves of layers, scores and logits are scaled.
    pub fn granite(self) -> bool {
        use Architecture::{Granite, GraniteMoe, GraniteMoeHybrid, GraniteMoeShared};
        matches!(self, Granite | GraniteMoe | GraniteMoeShared | GraniteMoeHybrid)
    }

    /// The share of a head that RoPE turns, where the file does not say it; `None`: heads of this family turn whole.
    pub fn rotary_share(self) -> Option<f64> {
        match self {
            Architecture::Phi3 => Some(1.0),
            Architecture::Glm | Architecture::Glm4 | Architecture::Glm4Moe => Some(0.5),
            _ => None,
        }
    }
}

impl fmt::Display for Architecture {
    /// Hugging Face's `model_type`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.model_type())
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
    /// Mixture of experts instead of the dense feed-forward layer, in the layers that [`ModelSpec::experts_of`] names.
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
    /// Multi-head latent attention (DeepSeek, Mistral Small 4).
    pub mla: Option<Mla>,
    /// Each head has a score of its own that takes a share of the softmax and gives nothing (gpt-oss).
    pub sinks: bool,
    /// Attention's output projection has a bias (gpt-oss).
    pub attention_out_bias: bool,
    /// The windows are chunks of the context: a token sees those before it in its own (Llama 4).
    pub chunked_windows: bool,
    /// Q and K are RMS-normalised behind RoPE, per head and without a weight, in the layers that have RoPE (Llama 4).
    pub norm_behind_rope: bool,
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
            mla: None,
            sinks: false,
            attention_out_bias: false,
            chunked_windows: false,
            norm_behind_rope: false,
        }
    }
}

impl Extras {
    /// What every model of an architecture computes beyond Llama, with this hidden size and these windows, `[layers]`.
    pub fn of(architecture: Architecture, hidden: usize, windows: &[Option<usize>]) -> Extras {
        let plain = Extras::default();
        match architecture {
            Architecture::Gemma2 | Architecture::Gemma3 => Extras {
                norms: NormPlacement::Both,
                embedding_scale: (hidden as f32).sqrt(),
                activation: Activation::GeluTanh,
                ..plain
            },
            Architecture::Glm4 => Extras { norms: NormPlacement::Both, ..plain },
            Architecture::Olmo2 | Architecture::Olmo3 => {
                Extras { norms: NormPlacement::After, qk_norm_whole: true, ..plain }
            }
            Architecture::Cohere2 => Extras {
                norm: Norm::Layer,
                norms: NormPlacement::Parallel,
                no_rope: (0..windows.len()).filter(|&l| windows[l].is_none()).collect(),
                ..plain
            },
            Architecture::Llama4 => Extras { chunked_windows: true, ..plain },
            Architecture::GptOss => Extras {
                sinks: true,
                attention_out_bias: true,
                activation: Activation::Clamped { alpha: 1.702, limit: 7.0 },
                ..plain
            },
            _ => plain,
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
    /// Both (Gemma 2, Gemma 3, GLM-4).
    Both,
    /// Both halves read one normalised input, and their outputs are added together (Cohere).
    Parallel,
}

/// The factor `1 + beta · ln(1 + ⌊(position + offset) / step⌋)` of queries.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QueryTemperature {
    /// How much it grows.
    pub beta: f32,
    /// Positions with the same factor.
    pub step: usize,
    /// Added to positions.
    pub offset: usize,
    /// Only layers without RoPE have it (Llama 4).
    pub no_rope_only: bool,
}

impl QueryTemperature {
    /// The factor at a position.
    pub fn at(&self, position: usize) -> f32 {
        1.0 + self.beta * ((1 + (position + self.offset) / self.step) as f32).ln()
    }
}

/// Rotary position embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Base frequency.
    pub theta: f32,
    /// Which values of a head turn together.
    pub pairing: RopePairing,
    /// How many values of a head turn, an even number: the first ones (Phi-4-mini, GLM), or those behind the latent in multi-head
    /// latent attention. `None`: all.
    pub width: Option<usize>,
    /// How frequencies are stretched for long contexts.
    pub scaling: RopeScaling,
}

/// Which values of a head form a pair. GGUF files of the llama family have Q and K permuted for `Adjacent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopePairing {
    /// `(i, i + width/2)`: Hugging Face, and GGUF of Qwen.
    Halves,
    /// `(2i, 2i + 1)`: GGUF of Llama, Mistral, Mixtral; GLM and Cohere in both formats.
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
    /// Each frequency is divided by its factor, `[width / 2]`: GGUF's `rope_freqs.weight`.
    Factors(Vec<f32>),
    /// LongRoPE (arXiv 2402.13753): as [`RopeScaling::Factors`], with two sets of factors, of which [`LongRope::factors`]
    /// chooses. `attention_factor` multiplies cos and sin, whichever set is used.
    Long(LongRope),
}

/// The parameters of LongRoPE (Phi-3, Phi-4-mini).
#[derive(Clone, Debug, PartialEq)]
pub struct LongRope {
    /// Divisors of the frequencies for contexts up to the original one, `[width / 2]`.
    pub short: Vec<f32>,
    /// For longer ones, `[width / 2]`.
    pub long: Vec<f32>,
    /// The context that the model was first trained with, in tokens.
    pub original_context: usize,
    /// Multiplies cos and sin.
    pub attention_factor: f32,
}

impl LongRope {
    /// The factors for sequences of up to `context` tokens: the long ones where it exceeds the original context.
    ///
    /// The choice is made once, when a model is opened, as in llama.cpp, so that keys which are cached at different lengths fit
    /// each other. `transformers` chooses by the length of each sequence: the same as opening the model with that context.
    pub fn factors(&self, context: usize) -> &[f32] {
        if self.is_long(context) { &self.long } else { &self.short }
    }

    /// Whether the long factors are used for this context.
    pub fn is_long(&self, context: usize) -> bool {
        context > self.original_context
    }

    /// The attention factor that follows from how much longer than the original context the model's own is.
    pub fn default_attention_factor(factor: f64, original_context: usize) -> f64 {
        if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / (original_context as f64).ln()).sqrt() }
    }
}

impl ModelSpec {
    /// Query heads that share one key/value head.
    pub fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// The mixture of experts of a layer; `None`: it has a dense feed-forward layer.
    pub fn experts_of(&self, layer: usize) -> Option<&Moe> {
        self.moe.as_ref().filter(|moe| layer >= moe.dense_layers && (layer + 1).is_multiple_of(moe.step))
    }

    /// RoPE of a layer; `None`: it has none.
    pub fn rope_of(&self, layer: usize) -> Option<&Rope> {
        let windowed = self.windows[layer].and(self.extras.window_rope.as_ref());
        (!self.extras.no_rope.contains(&layer)).then(|| windowed.unwrap_or(&self.rope))
    }

    /// Values of a head that RoPE turns.
    pub fn rope_dim(&self) -> usize {
        self.rope.width.unwrap_or(self.head_dim)
    }

    /// Whether the KV cache has one vector per position and KV head, which is both key and value.
    pub fn values_are_keys(&self) -> bool {
        self.extras.mla.is_some()
    }

    /// Values in the KV cache for each token.
    pub fn kv_values_per_token(&self) -> usize {
        let both = if self.values_are_keys() { 1 } else { 2 };
        both * self.layers * self.kv_heads * self.head_dim
    }

    /// What attention scores are multiplied by.
    pub fn score_scale(&self) -> f32 {
        self.extras.attention_scale.unwrap_or_else(|| 1.0 / (self.head_dim as f32).sqrt())
    }
}
