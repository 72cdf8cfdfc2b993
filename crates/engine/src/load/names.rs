//! The names of tensors in each format.

use super::spec::{Architecture, ModelSpec, NormPlacement};
use super::{LayerTensor, TensorRole};

/// Where a role's tensor is stored.
#[derive(Debug, PartialEq, Eq)]
pub enum TensorLocation {
    /// As a tensor of this name.
    Whole(String),
    /// As one plane of a tensor with all experts: the tensor's name and the expert.
    Plane(String, usize),
}

/// The locations of a role in GGUF files, the usual one first. (llama.cpp used to store each expert separately.)
pub fn gguf(role: TensorRole) -> Vec<TensorLocation> {
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
    let suffix = match tensor {
        LayerTensor::ExpertGate(e) => return expert("ffn_gate", e),
        LayerTensor::ExpertUp(e) => return expert("ffn_up", e),
        LayerTensor::ExpertDown(e) => return expert("ffn_down", e),
        LayerTensor::AttnNorm => "attn_norm.weight",
        LayerTensor::Q => "attn_q.weight",
        LayerTensor::QBias => "attn_q.bias",
        LayerTensor::K => "attn_k.weight",
        LayerTensor::KBias => "attn_k.bias",
        LayerTensor::V => "attn_v.weight",
        LayerTensor::VBias => "attn_v.bias",
        LayerTensor::AttnOut => "attn_output.weight",
        LayerTensor::AttnPostNorm => "post_attention_norm.weight",
        LayerTensor::QNorm => "attn_q_norm.weight",
        LayerTensor::KNorm => "attn_k_norm.weight",
        LayerTensor::FfnNorm => "ffn_norm.weight",
        LayerTensor::FfnPostNorm => "post_ffw_norm.weight",
        LayerTensor::FfnGate => "ffn_gate.weight",
        LayerTensor::FfnUp => "ffn_up.weight",
        LayerTensor::FfnDown => "ffn_down.weight",
        LayerTensor::Router => "ffn_gate_inp.weight",
        LayerTensor::SharedRouter => "ffn_gate_inp_shexp.weight",
        LayerTensor::SharedGate => "ffn_gate_shexp.weight",
        LayerTensor::SharedUp => "ffn_up_shexp.weight",
        LayerTensor::SharedDown => "ffn_down_shexp.weight",
    };
    whole(&format!("blk.{layer}.{suffix}"))
}

/// The Hugging Face name of a role's tensor.
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
    let suffix = match tensor {
        LayerTensor::ExpertGate(e) => return expert(e, "w1", "gate_proj"),
        LayerTensor::ExpertUp(e) => return expert(e, "w3", "up_proj"),
        LayerTensor::ExpertDown(e) => return expert(e, "w2", "down_proj"),
        LayerTensor::Router if mixtral => "block_sparse_moe.gate.weight",
        LayerTensor::Router => "mlp.gate.weight",
        LayerTensor::SharedRouter => "mlp.shared_expert_gate.weight",
        LayerTensor::SharedGate => "mlp.shared_expert.gate_proj.weight",
        LayerTensor::SharedUp => "mlp.shared_expert.up_proj.weight",
        LayerTensor::SharedDown => "mlp.shared_expert.down_proj.weight",
        LayerTensor::AttnNorm => "input_layernorm.weight",
        LayerTensor::Q => "self_attn.q_proj.weight",
        LayerTensor::QBias => "self_attn.q_proj.bias",
        LayerTensor::K => "self_attn.k_proj.weight",
        LayerTensor::KBias => "self_attn.k_proj.bias",
        LayerTensor::V => "self_attn.v_proj.weight",
        LayerTensor::VBias => "self_attn.v_proj.bias",
        LayerTensor::AttnOut => "self_attn.o_proj.weight",
        LayerTensor::QNorm => "self_attn.q_norm.weight",
        LayerTensor::KNorm => "self_attn.k_norm.weight",
        // Models with a norm after attention give it the name that Llama uses for the norm before the feed-forward
        // half.
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
    match role {
        TensorRole::Layer(layer, LayerTensor::ExpertGate(e)) => vec![whole, stacked(layer, "gate_proj", e)],
        TensorRole::Layer(layer, LayerTensor::ExpertUp(e)) => vec![whole, stacked(layer, "up_proj", e)],
        TensorRole::Layer(layer, LayerTensor::ExpertDown(e)) => vec![whole, stacked(layer, "down_proj", e)],
        _ => vec![whole],
    }
}

/// The layer and the rest of a tensor's name: `blk.3.attn_q.weight` is layer 3, `attn_q.weight`.
fn split_layer<'a>(name: &'a str, prefix: &str) -> Option<(usize, &'a str)> {
    let (number, rest) = name.strip_prefix(prefix)?.split_once('.')?;
    Some((number.parse().ok()?, rest))
}

/// An expert's number in the rest of a tensor's name: 3 in `block_sparse_moe.experts.3.w1.weight`.
fn expert_number(rest: &str) -> Option<usize> {
    rest.split('.').find_map(|piece| piece.parse().ok())
}

/// Whether the forward pass uses a GGUF tensor, or can ignore it without changing the result.
pub(super) fn knows_gguf(name: &str, spec: &ModelSpec) -> bool {
    let places = |role| {
        gguf(role).into_iter().any(|place| match place {
            TensorLocation::Whole(n) | TensorLocation::Plane(n, _) => n == name,
        })
    };
    let Some((layer, rest)) = split_layer(name, "blk.") else {
        // The frequency factors are part of the spec.
        return name == "rope_freqs.weight" || OUTER.into_iter().any(places);
    };
    // Frequencies that older converters stored and that follow from the spec.
    rest == "attn_rot_embd.weight" || spec.has_tensor(layer, expert_number(rest), places)
}

/// Whether the forward pass uses a Hugging Face tensor, or can ignore it without changing the result.
pub(super) fn knows_hugging_face(name: &str, spec: &ModelSpec) -> bool {
    let place = |role| {
        folder(role, spec.architecture).into_iter().any(|place| match place {
            TensorLocation::Whole(n) | TensorLocation::Plane(n, _) => n == name,
        })
    };
    let Some((layer, rest)) = split_layer(name, "model.layers.") else {
        return name == "model.rotary_emb.inv_freq" || OUTER.into_iter().any(place);
    };
    rest == "self_attn.rotary_emb.inv_freq" || spec.has_tensor(layer, expert_number(rest), place)
}

/// As [`knows_hugging_face`], for a folder quantised by MLX: each matrix also has scales and biases.
pub(super) fn knows_mlx(name: &str, spec: &ModelSpec) -> bool {
    let module = name.strip_suffix(".scales").or(name.strip_suffix(".biases"));
    let of_matrix = module.map(|module| format!("{module}.weight"));
    knows_hugging_face(of_matrix.as_deref().unwrap_or(name), spec)
}

/// The roles outside the layers.
const OUTER: [TensorRole; 3] = [TensorRole::TokenEmbedding, TensorRole::OutputNorm, TensorRole::Output];

impl ModelSpec {
    /// Every tensor of the model, in the order in which the forward pass uses them; [`TensorRole::Output`] only if it
    /// is not the embedding.
    pub fn roles(&self) -> impl Iterator<Item = TensorRole> {
        let experts = self.moe.as_ref().map_or(0, |moe| moe.experts);
        let layer = move |layer| {
            let tensors = self.layer_tensors().into_iter().chain((0..experts).flat_map(expert_tensors));
            tensors.map(move |tensor| TensorRole::Layer(layer, tensor))
        };
        let head = (!self.tied_embeddings).then_some(TensorRole::Output);
        std::iter::once(TensorRole::TokenEmbedding)
            .chain((0..self.layers).flat_map(layer))
            .chain([TensorRole::OutputNorm])
            .chain(head)
    }

    /// The required shape of a tensor, row-major.
    pub fn shape(&self, role: TensorRole) -> Vec<usize> {
        let (hidden, head) = (self.hidden_size, self.head_dim);
        let (q, kv) = (self.heads * head, self.kv_heads * head);
        let (experts, expert_ffn) = self.moe.as_ref().map_or((0, 0), |moe| (moe.experts, moe.ffn_size));
        let shared = self.moe.as_ref().and_then(|moe| moe.shared).unwrap_or(0);
        let tensor = match role {
            TensorRole::TokenEmbedding | TensorRole::Output => return vec![self.vocab_size, hidden],
            TensorRole::OutputNorm => return vec![hidden],
            TensorRole::Layer(_, tensor) => tensor,
        };
        match tensor {
            LayerTensor::AttnNorm
            | LayerTensor::AttnPostNorm
            | LayerTensor::FfnNorm
            | LayerTensor::FfnPostNorm => vec![hidden],
            LayerTensor::Q => vec![q, hidden],
            LayerTensor::QBias => vec![q],
            LayerTensor::K | LayerTensor::V => vec![kv, hidden],
            LayerTensor::KBias | LayerTensor::VBias => vec![kv],
            LayerTensor::AttnOut => vec![hidden, q],
            LayerTensor::QNorm if self.extras.qk_norm_whole => vec![q],
            LayerTensor::KNorm if self.extras.qk_norm_whole => vec![kv],
            LayerTensor::QNorm | LayerTensor::KNorm => vec![head],
            LayerTensor::FfnGate | LayerTensor::FfnUp => vec![self.ffn_size, hidden],
            LayerTensor::FfnDown => vec![hidden, self.ffn_size],
            LayerTensor::Router => vec![experts, hidden],
            LayerTensor::ExpertGate(_) | LayerTensor::ExpertUp(_) => vec![expert_ffn, hidden],
            LayerTensor::ExpertDown(_) => vec![hidden, expert_ffn],
            LayerTensor::SharedRouter => vec![1, hidden],
            LayerTensor::SharedGate | LayerTensor::SharedUp => vec![shared, hidden],
            LayerTensor::SharedDown => vec![hidden, shared],
        }
    }

    /// A layer's tensors, without those of experts.
    fn layer_tensors(&self) -> Vec<LayerTensor> {
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
        tensors.extend(after.then_some(AttnPostNorm));
        tensors.extend((before && norms != NormPlacement::Parallel).then_some(FfnNorm));
        match &self.moe {
            Some(moe) => {
                tensors.push(Router);
                let shared = moe.shared.map(|_| [SharedRouter, SharedGate, SharedUp, SharedDown]);
                tensors.extend(shared.into_iter().flatten());
            }
            None => tensors.extend([FfnGate, FfnUp, FfnDown]),
        }
        tensors.extend(after.then_some(FfnPostNorm));
        tensors
    }

    /// Whether a tensor of this layer (and of this expert) satisfies `is_it`.
    fn has_tensor(&self, layer: usize, expert: Option<usize>, is_it: impl Fn(TensorRole) -> bool) -> bool {
        let experts = self.moe.as_ref().map_or(0, |moe| moe.experts);
        let expert = match expert {
            _ if experts == 0 => None,
            Some(e) => Some(e).filter(|&e| e < experts),
            None => Some(0), // a tensor that holds all experts
        };
        layer < self.layers
            && self
                .layer_tensors()
                .into_iter()
                .chain(expert.into_iter().flat_map(expert_tensors))
                .any(|tensor| is_it(TensorRole::Layer(layer, tensor)))
    }
}

/// The tensors of one expert.
fn expert_tensors(e: usize) -> [LayerTensor; 3] {
    [LayerTensor::ExpertGate(e), LayerTensor::ExpertUp(e), LayerTensor::ExpertDown(e)]
}
