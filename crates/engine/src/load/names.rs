//! The names of tensors in each format.

use super::fused::{FusedLocation, Outputs};
use super::spec::{Architecture, ModelSpec, NormPlacement};
use super::{LayerTensor, TensorRole};

/// Where a role's tensor is stored.
#[derive(Debug, PartialEq, Eq)]
pub enum TensorLocation {
    /// As a tensor of this name.
    Whole(String),
    /// As one plane of a tensor with all experts: the tensor's name and the expert.
    Plane(String, usize),
    /// As part of one plane of such a tensor, with rows as columns.
    Fused(FusedLocation),
}

impl TensorLocation {
    /// Whether a tensor of this name is needed for it.
    fn has(&self, name: &str) -> bool {
        match self {
            TensorLocation::Whole(own) | TensorLocation::Plane(own, _) => own == name,
            TensorLocation::Fused(fused) => {
                matches!(name.strip_prefix(&fused.name), Some("" | "_blocks" | "_scales"))
            }
        }
    }
}

/// The locations of a role in GGUF files, the usual one first. (llama.cpp used to store each expert separately.)
pub fn gguf(role: TensorRole, architecture: Architecture) -> Vec<TensorLocation> {
    let whole = |name: &str| vec![TensorLocation::Whole(name.to_owned())];
    let (layer, tensor) = match role {
        TensorRole::TokenEmbedding => return whole("token_embd.weight"),
        TensorRole::OutputNorm => return whole("output_norm.weight"),
        TensorRole::Output => return whole("output.weight"),
        TensorRole::Layer(layer, tensor) => (layer, tensor),
    };
    let expert = |what: &str, e: usize| {
        vec![
            TensorLocation::Plane(format!("blk.{layer}.{what}_exps.weight"), e),
            TensorLocation::Whole(format!("blk.{layer}.{what}.{e}.weight")),
        ]
    };
    let bias = |what: &str, e: usize| vec![TensorLocation::Plane(format!("blk.{layer}.{what}_exps.bias"), e)];
    let suffix = match tensor {
        LayerTensor::ExpertGate(e) => return expert("ffn_gate", e),
        LayerTensor::ExpertUp(e) => return expert("ffn_up", e),
        LayerTensor::ExpertDown(e) => return expert("ffn_down", e),
        LayerTensor::ExpertGateBias(e) => return bias("ffn_gate", e),
        LayerTensor::ExpertUpBias(e) => return bias("ffn_up", e),
        LayerTensor::ExpertDownBias(e) => return bias("ffn_down", e),
        LayerTensor::AttnNorm => "attn_norm.weight",
        LayerTensor::Q => "attn_q.weight",
        LayerTensor::QBias => "attn_q.bias",
        LayerTensor::K => "attn_k.weight",
        LayerTensor::KBias => "attn_k.bias",
        LayerTensor::V => "attn_v.weight",
        LayerTensor::VBias => "attn_v.bias",
        LayerTensor::AttnOut => "attn_output.weight",
        LayerTensor::AttnOutBias => "attn_output.bias",
        LayerTensor::Sinks => "attn_sinks.weight",
        LayerTensor::AttnPostNorm => "post_attention_norm.weight",
        LayerTensor::QNorm => "attn_q_norm.weight",
        LayerTensor::KNorm => "attn_k_norm.weight",
        LayerTensor::FfnNorm if architecture == Architecture::GptOss => "post_attention_norm.weight",
        LayerTensor::FfnNorm => "ffn_norm.weight",
        LayerTensor::FfnPostNorm => "post_ffw_norm.weight",
        LayerTensor::FfnGate => "ffn_gate.weight",
        LayerTensor::FfnUp => "ffn_up.weight",
        LayerTensor::FfnDown => "ffn_down.weight",
        LayerTensor::Router => "ffn_gate_inp.weight",
        LayerTensor::RouterBias => "ffn_gate_inp.bias",
        LayerTensor::RouterCorrection => "exp_probs_b.bias",
        LayerTensor::SharedRouter => "ffn_gate_inp_shexp.weight",
        LayerTensor::SharedGate => "ffn_gate_shexp.weight",
        LayerTensor::SharedUp => "ffn_up_shexp.weight",
        LayerTensor::SharedDown => "ffn_down_shexp.weight",
    };
    whole(&format!("blk.{layer}.{suffix}"))
}

/// The Hugging Face name of a role's tensor; of one with all experts where there is no other.
pub fn hugging_face(role: TensorRole, architecture: Architecture) -> String {
    let (layer, tensor) = match role {
        TensorRole::TokenEmbedding => return "model.embed_tokens.weight".to_owned(),
        TensorRole::OutputNorm => return "model.norm.weight".to_owned(),
        TensorRole::Output => return "lm_head.weight".to_owned(),
        TensorRole::Layer(layer, tensor) => (layer, tensor),
    };
    let mixtral = architecture == Architecture::Mixtral;
    let expert = |e: usize, mixtral_name: &str, name: &str| match mixtral {
        true => format!("model.layers.{layer}.block_sparse_moe.experts.{e}.{mixtral_name}.weight"),
        false => format!("model.layers.{layer}.mlp.experts.{e}.{name}.weight"),
    };
    let gpt_oss = architecture == Architecture::GptOss;
    let llama4 = architecture == Architecture::Llama4;
    let block = if llama4 { "feed_forward" } else { "mlp" };
    let fused = |name: &str| format!("model.layers.{layer}.{block}.experts.{name}");
    let shared = |name: &str| match architecture {
        Architecture::Qwen2Moe | Architecture::Llama4 => {
            format!("model.layers.{layer}.{block}.shared_expert.{name}.weight")
        }
        _ => format!("model.layers.{layer}.mlp.shared_experts.{name}.weight"),
    };
    let suffix = match tensor {
        LayerTensor::ExpertGate(_) | LayerTensor::ExpertUp(_) if gpt_oss || llama4 => {
            return fused("gate_up_proj");
        }
        LayerTensor::ExpertDown(_) if gpt_oss || llama4 => return fused("down_proj"),
        LayerTensor::ExpertGateBias(_) | LayerTensor::ExpertUpBias(_) => return fused("gate_up_proj_bias"),
        LayerTensor::ExpertDownBias(_) => return fused("down_proj_bias"),
        LayerTensor::ExpertGate(e) => return expert(e, "w1", "gate_proj"),
        LayerTensor::ExpertUp(e) => return expert(e, "w3", "up_proj"),
        LayerTensor::ExpertDown(e) => return expert(e, "w2", "down_proj"),
        LayerTensor::Router if mixtral => "block_sparse_moe.gate.weight",
        LayerTensor::Router if gpt_oss => "mlp.router.weight",
        LayerTensor::Router if llama4 => "feed_forward.router.weight",
        LayerTensor::FfnGate if llama4 => "feed_forward.gate_proj.weight",
        LayerTensor::FfnUp if llama4 => "feed_forward.up_proj.weight",
        LayerTensor::FfnDown if llama4 => "feed_forward.down_proj.weight",
        LayerTensor::RouterBias if gpt_oss => "mlp.router.bias",
        LayerTensor::Router => "mlp.gate.weight",
        LayerTensor::SharedRouter => "mlp.shared_expert_gate.weight",
        LayerTensor::RouterBias => "mlp.gate.bias",
        LayerTensor::RouterCorrection => "mlp.gate.e_score_correction_bias",
        LayerTensor::SharedGate => return shared("gate_proj"),
        LayerTensor::SharedUp => return shared("up_proj"),
        LayerTensor::SharedDown => return shared("down_proj"),
        LayerTensor::AttnNorm => "input_layernorm.weight",
        LayerTensor::Q => "self_attn.q_proj.weight",
        LayerTensor::QBias => "self_attn.q_proj.bias",
        LayerTensor::K => "self_attn.k_proj.weight",
        LayerTensor::KBias => "self_attn.k_proj.bias",
        LayerTensor::V => "self_attn.v_proj.weight",
        LayerTensor::VBias => "self_attn.v_proj.bias",
        LayerTensor::AttnOut => "self_attn.o_proj.weight",
        LayerTensor::AttnOutBias => "self_attn.o_proj.bias",
        LayerTensor::Sinks => "self_attn.sinks",
        LayerTensor::QNorm => "self_attn.q_norm.weight",
        LayerTensor::KNorm => "self_attn.k_norm.weight",
        // Models with a norm behind attention call that one by the name that Llama gives the norm of the other half.
        LayerTensor::AttnPostNorm => "post_attention_layernorm.weight",
        LayerTensor::FfnNorm if gemma(architecture) => "pre_feedforward_layernorm.weight",
        LayerTensor::FfnNorm => "post_attention_layernorm.weight",
        LayerTensor::FfnPostNorm => "post_feedforward_layernorm.weight",
        LayerTensor::FfnGate => "mlp.gate_proj.weight",
        LayerTensor::FfnUp => "mlp.up_proj.weight",
        LayerTensor::FfnDown => "mlp.down_proj.weight",
    };
    format!("model.layers.{layer}.{suffix}")
}

fn gemma(architecture: Architecture) -> bool {
    matches!(architecture, Architecture::Gemma2 | Architecture::Gemma3)
}

/// What is added to a tensor of a Hugging Face folder to get the one that the forward pass uses: Gemma's norms are stored as
/// gains less 1. GGUF files hold the gains.
pub fn hugging_face_offset(role: TensorRole, architecture: Architecture) -> f32 {
    use LayerTensor::{AttnNorm, AttnPostNorm, FfnNorm, FfnPostNorm, KNorm, QNorm};
    let norm = matches!(
        role,
        TensorRole::OutputNorm
            | TensorRole::Layer(_, AttnNorm | AttnPostNorm | FfnNorm | FfnPostNorm | QNorm | KNorm)
    );
    if norm && gemma(architecture) { 1.0 } else { 0.0 }
}

/// The locations of a role in a folder: under the Hugging Face name, or, for an expert, as a plane of the tensor in which
/// `mlx-lm` stacks all experts of a layer.
pub fn folder(role: TensorRole, architecture: Architecture) -> Vec<TensorLocation> {
    let whole = TensorLocation::Whole(hugging_face(role, architecture));
    let block = if architecture == Architecture::Mixtral { "block_sparse_moe" } else { "mlp" };
    let stacked = |layer: usize, name: &str, e: usize| {
        TensorLocation::Plane(format!("model.layers.{layer}.{block}.switch_mlp.{name}.weight"), e)
    };
    if let (TensorRole::Layer(_, tensor), Architecture::GptOss | Architecture::Llama4) = (role, architecture)
        && let Some((expert, outputs)) = fused(tensor, architecture)
    {
        let name = hugging_face(role, architecture);
        return vec![TensorLocation::Fused(FusedLocation { name, expert, outputs })];
    }
    match role {
        TensorRole::Layer(layer, LayerTensor::ExpertGate(e)) => vec![whole, stacked(layer, "gate_proj", e)],
        TensorRole::Layer(layer, LayerTensor::ExpertUp(e)) => vec![whole, stacked(layer, "up_proj", e)],
        TensorRole::Layer(layer, LayerTensor::ExpertDown(e)) => vec![whole, stacked(layer, "down_proj", e)],
        _ => vec![whole],
    }
}

/// The expert of a tensor in a fused one, and the outputs that are its rows.
fn fused(tensor: LayerTensor, architecture: Architecture) -> Option<(usize, Outputs)> {
    use LayerTensor::*;
    let (gate, up) = match architecture {
        Architecture::Llama4 => (Outputs::First, Outputs::Second),
        _ => (Outputs::Even, Outputs::Odd),
    };
    match tensor {
        ExpertGate(e) | ExpertGateBias(e) => Some((e, gate)),
        ExpertUp(e) | ExpertUpBias(e) => Some((e, up)),
        ExpertDown(e) | ExpertDownBias(e) => Some((e, Outputs::All)),
        _ => None,
    }
}

/// The layer and the rest of a tensor's name: `blk.3.attn_q.weight` is layer 3, `attn_q.weight`.
fn split_layer<'a>(name: &'a str, prefix: &str) -> Option<(usize, &'a str)> {
    let (number, rest) = name.strip_prefix(prefix)?.split_once('.')?;
    Some((number.parse().ok()?, rest))
}

/// An expert's number in what follows a layer's: 3 in `block_sparse_moe.experts.3.w1.weight`.
fn expert_number(rest: &str) -> Option<usize> {
    rest.split('.').find_map(|piece| piece.parse().ok())
}

/// Whether the forward pass uses a GGUF tensor, or can ignore it without changing the result.
pub(super) fn knows_gguf(name: &str, spec: &ModelSpec) -> bool {
    let places = |role| gguf(role, spec.architecture).iter().any(|place| place.has(name));
    let Some((layer, rest)) = split_layer(name, "blk.") else {
        // The frequency factors are part of the spec.
        return name == "rope_freqs.weight" || OUTER.into_iter().any(places);
    };
    // Frequencies that older converters stored and that follow from the spec.
    rest == "attn_rot_embd.weight" || spec.has_tensor(layer, expert_number(rest), places)
}

/// Whether a Hugging Face tensor has a place in the forward pass, or may be ignored without changing it.
pub(super) fn knows_hugging_face(name: &str, spec: &ModelSpec) -> bool {
    let place = |role| folder(role, spec.architecture).iter().any(|place| place.has(name));
    let Some((layer, rest)) = split_layer(name, "model.layers.") else {
        return name == "model.rotary_emb.inv_freq" || OUTER.into_iter().any(place);
    };
    rest == "self_attn.rotary_emb.inv_freq" || spec.has_tensor(layer, expert_number(rest), place)
}

/// [`knows_hugging_face`] for a folder that MLX quantised: a matrix has scales and biases beside it.
pub(super) fn knows_mlx(name: &str, spec: &ModelSpec) -> bool {
    let module = name.strip_suffix(".scales").or(name.strip_suffix(".biases"));
    let of_matrix = module.map(|module| format!("{module}.weight"));
    knows_hugging_face(of_matrix.as_deref().unwrap_or(name), spec)
}

/// The roles outside the layers.
const OUTER: [TensorRole; 3] = [TensorRole::TokenEmbedding, TensorRole::OutputNorm, TensorRole::Output];

impl ModelSpec {
    /// Every tensor the model has, in the order the forward pass uses them; [`TensorRole::Output`] only where it is
    /// not the embedding.
    pub fn roles(&self) -> impl Iterator<Item = TensorRole> {
        let layer = move |layer| {
            let moe = self.experts_of(layer);
            let (experts, bias) = moe.map_or((0, false), |moe| (moe.experts, moe.bias));
            let of_expert = move |e| expert_tensors(e, bias);
            let tensors = self.layer_tensors(layer).into_iter().chain((0..experts).flat_map(of_expert));
            tensors.map(move |tensor| TensorRole::Layer(layer, tensor))
        };
        let head = (!self.tied_embeddings).then_some(TensorRole::Output);
        std::iter::once(TensorRole::TokenEmbedding)
            .chain((0..self.layers).flat_map(layer))
            .chain([TensorRole::OutputNorm])
            .chain(head)
    }

    /// The shape a tensor must have, row-major.
    pub fn shape(&self, role: TensorRole) -> Vec<usize> {
        let (hidden, head) = (self.hidden_size, self.head_dim);
        let (q, kv) = (self.heads * head, self.kv_heads * head);
        let (experts, expert_ffn) = self.moe.as_ref().map_or((0, 0), |moe| (moe.experts, moe.ffn_size));
        let shared = self.moe.as_ref().and_then(|moe| moe.shared).map_or(0, |shared| shared.ffn_size);
        let tensor = match role {
            TensorRole::TokenEmbedding | TensorRole::Output => return vec![self.vocab_size, hidden],
            TensorRole::OutputNorm => return vec![hidden],
            TensorRole::Layer(_, tensor) => tensor,
        };
        match tensor {
            LayerTensor::AttnNorm
            | LayerTensor::AttnOutBias
            | LayerTensor::ExpertDownBias(_)
            | LayerTensor::AttnPostNorm
            | LayerTensor::FfnNorm
            | LayerTensor::FfnPostNorm => vec![hidden],
            LayerTensor::Q => vec![q, hidden],
            LayerTensor::QBias => vec![q],
            LayerTensor::K | LayerTensor::V => vec![kv, hidden],
            LayerTensor::KBias | LayerTensor::VBias => vec![kv],
            LayerTensor::AttnOut => vec![hidden, q],
            LayerTensor::Sinks => vec![self.heads],
            LayerTensor::QNorm if self.extras.qk_norm_whole => vec![q],
            LayerTensor::KNorm if self.extras.qk_norm_whole => vec![kv],
            LayerTensor::QNorm | LayerTensor::KNorm => vec![head],
            LayerTensor::FfnGate | LayerTensor::FfnUp => vec![self.ffn_size, hidden],
            LayerTensor::FfnDown => vec![hidden, self.ffn_size],
            LayerTensor::Router => vec![experts, hidden],
            LayerTensor::RouterBias | LayerTensor::RouterCorrection => vec![experts],
            LayerTensor::ExpertGate(_) | LayerTensor::ExpertUp(_) => vec![expert_ffn, hidden],
            LayerTensor::ExpertDown(_) => vec![hidden, expert_ffn],
            LayerTensor::ExpertGateBias(_) | LayerTensor::ExpertUpBias(_) => vec![expert_ffn],
            LayerTensor::SharedRouter => vec![1, hidden],
            LayerTensor::SharedGate | LayerTensor::SharedUp => vec![shared, hidden],
            LayerTensor::SharedDown => vec![hidden, shared],
        }
    }

    /// A layer's tensors, without its experts'.
    fn layer_tensors(&self, layer: usize) -> Vec<LayerTensor> {
        use LayerTensor::*;
        let norms = self.extras.norms;
        let (before, after) =
            (norms != NormPlacement::After, matches!(norms, NormPlacement::After | NormPlacement::Both));
        let mut tensors = Vec::new();
        tensors.extend(before.then_some(AttnNorm));
        tensors.extend([Q, K, V]);
        if self.qkv_bias {
            tensors.extend([QBias, KBias, VBias]);
        }
        if self.qk_norm {
            tensors.extend([QNorm, KNorm]);
        }
        tensors.push(AttnOut);
        tensors.extend(self.extras.attention_out_bias.then_some(AttnOutBias));
        tensors.extend(self.extras.sinks.then_some(Sinks));
        tensors.extend(after.then_some(AttnPostNorm));
        tensors.extend((before && norms != NormPlacement::Parallel).then_some(FfnNorm));
        match self.experts_of(layer) {
            Some(moe) => {
                tensors.push(Router);
                tensors.extend(moe.router.bias.then_some(RouterBias));
                tensors.extend(moe.router.correction.then_some(RouterCorrection));
                if let Some(shared) = moe.shared {
                    tensors.extend(shared.gated.then_some(SharedRouter));
                    tensors.extend([SharedGate, SharedUp, SharedDown]);
                }
            }
            None => tensors.extend([FfnGate, FfnUp, FfnDown]),
        }
        tensors.extend(after.then_some(FfnPostNorm));
        tensors
    }

    /// Whether a tensor of this layer (and of this expert) satisfies `is_it`.
    fn has_tensor(&self, layer: usize, expert: Option<usize>, is_it: impl Fn(TensorRole) -> bool) -> bool {
        let moe = self.experts_of(layer);
        let (experts, bias) = moe.map_or((0, false), |moe| (moe.experts, moe.bias));
        let expert = match expert {
            _ if experts == 0 => None,
            Some(e) => Some(e).filter(|&e| e < experts),
            None => Some(0), // a tensor that holds all experts
        };
        layer < self.layers
            && self
                .layer_tensors(layer)
                .into_iter()
                .chain(expert.into_iter().flat_map(|e| expert_tensors(e, bias)))
                .any(|tensor| is_it(TensorRole::Layer(layer, tensor)))
    }
}

/// The tensors of one expert, with or without biases.
fn expert_tensors(e: usize, bias: bool) -> impl Iterator<Item = LayerTensor> {
    use LayerTensor::*;
    let biases = bias.then_some([ExpertGateBias(e), ExpertUpBias(e), ExpertDownBias(e)]);
    [ExpertGate(e), ExpertUp(e), ExpertDown(e)].into_iter().chain(biases.into_iter().flatten())
}
