//! The names of tensors in each format.

use super::float8;
use super::fused::{FusedLocation, Outputs};
use super::mla::Mla;
use super::scales;
use super::spec::{Architecture, ModelSpec, NormPlacement};
use super::{LayerTensor, TensorRole};

/// Where a role's tensor is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TensorLocation {
    /// As a tensor of this name.
    Whole(String),
    /// As one plane of a tensor with all experts: the tensor's name and the expert.
    Plane(String, usize),
    /// As some rows of a tensor, or of a plane of it, in which the rows of several roles follow each other.
    Rows {
        /// The tensor's name.
        name: String,
        /// The expert, if the tensor has a plane for each.
        plane: Option<usize>,
        /// All roles that are in it, this one included, in order.
        roles: Vec<TensorRole>,
    },
    /// As the keys' rows of a projection of keys and values ([`LayerTensor::KeyUp`]).
    Keys(String),
    /// As the values' rows of it ([`LayerTensor::ValueUp`]).
    Values(String),
    /// As part of one plane of a tensor with all experts, with rows as columns.
    Fused(FusedLocation),
}

impl TensorLocation {
    /// The stored tensor's name.
    pub fn name(&self) -> &str {
        use TensorLocation::{Fused, Keys, Plane, Rows, Values, Whole};
        match self {
            Whole(name) | Plane(name, _) | Rows { name, .. } | Keys(name) | Values(name) => name,
            Fused(fused) => &fused.name,
        }
    }

    /// Whether a tensor of this name is needed for it.
    fn has(&self, name: &str) -> bool {
        match self {
            TensorLocation::Fused(fused) => {
                matches!(name.strip_prefix(&fused.name), Some("" | "_blocks" | "_scales"))
            }
            _ => self.name() == name,
        }
    }

    fn rows(name: String, plane: Option<usize>, layer: usize, tensors: &[LayerTensor]) -> TensorLocation {
        let roles = tensors.iter().map(|&tensor| TensorRole::Layer(layer, tensor)).collect();
        TensorLocation::Rows { name, plane, roles }
    }

    /// As an expert's gate or up in a tensor with both of all experts.
    fn gate_up(name: String, layer: usize, e: usize) -> TensorLocation {
        TensorLocation::rows(name, Some(e), layer, &[LayerTensor::ExpertGate(e), LayerTensor::ExpertUp(e)])
    }
}

/// The tensors of Q, K and V, which some files fuse, and of gate and up.
const QKV: [LayerTensor; 3] = [LayerTensor::Q, LayerTensor::K, LayerTensor::V];
const QKV_BIASES: [LayerTensor; 3] = [LayerTensor::QBias, LayerTensor::KBias, LayerTensor::VBias];
const GATE_UP: [LayerTensor; 2] = [LayerTensor::FfnGate, LayerTensor::FfnUp];

/// The locations of a role in GGUF files of a family, the usual one first. (llama.cpp used to store each expert separately, and
/// reads fused tensors of any family.)
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
    // both in one tensor, in some files
    let first = |what: &str, e: usize| {
        let mut places = expert(what, e);
        places.push(TensorLocation::gate_up(format!("blk.{layer}.ffn_gate_up_exps.weight"), layer, e));
        places
    };
    // older files have both in one tensor
    let up = |what: &str, part: fn(String) -> TensorLocation| {
        let whole = TensorLocation::Whole(format!("blk.{layer}.{what}.weight"));
        vec![whole, part(format!("blk.{layer}.attn_kv_b.weight"))]
    };
    let bias = |what: &str, e: usize| vec![TensorLocation::Plane(format!("blk.{layer}.{what}_exps.bias"), e)];
    let fused = match tensor {
        LayerTensor::Q | LayerTensor::K | LayerTensor::V => Some(("attn_qkv.weight", &QKV[..])),
        LayerTensor::QBias | LayerTensor::KBias | LayerTensor::VBias => {
            Some(("attn_qkv.bias", &QKV_BIASES[..]))
        }
        LayerTensor::FfnGate | LayerTensor::FfnUp => Some(("ffn_up.weight", &GATE_UP[..])),
        _ => None,
    };
    let suffix = match tensor {
        LayerTensor::ExpertGate(e) => return first("ffn_gate", e),
        LayerTensor::ExpertUp(e) => return first("ffn_up", e),
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
        LayerTensor::QDown => "attn_q_a.weight",
        LayerTensor::QDownNorm => "attn_q_a_norm.weight",
        LayerTensor::QUp => "attn_q_b.weight",
        LayerTensor::KvDown => "attn_kv_a_mqa.weight",
        LayerTensor::KvDownNorm => "attn_kv_a_norm.weight",
        LayerTensor::KeyUp => return up("attn_k_b", TensorLocation::Keys),
        LayerTensor::ValueUp => return up("attn_v_b", TensorLocation::Values),
        LayerTensor::AttnOutBias => "attn_output.bias",
        LayerTensor::Sinks => "attn_sinks.weight",
        LayerTensor::AttnPostNorm => "post_attention_norm.weight",
        LayerTensor::QNorm => "attn_q_norm.weight",
        LayerTensor::KNorm => "attn_k_norm.weight",
        LayerTensor::FfnNorm if matches!(architecture, Architecture::Glm4Moe | Architecture::GptOss) => {
            "post_attention_norm.weight"
        }
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
    let mut places = whole(&format!("blk.{layer}.{suffix}"));
    if let Some((suffix, tensors)) = fused {
        let rows = TensorLocation::rows(format!("blk.{layer}.{suffix}"), None, layer, tensors);
        let usual = match architecture {
            Architecture::Phi3 => true,
            Architecture::Glm | Architecture::Glm4 => GATE_UP.contains(&tensor),
            _ => false,
        };
        places.insert(if usual { 0 } else { 1 }, rows);
    }
    places
}

/// Where a Hugging Face folder of a family has a role's tensor that does not stand alone.
fn fused(role: TensorRole, architecture: Architecture) -> Option<TensorLocation> {
    use Architecture::{Glm, Glm4, GptOss, GraniteMoeHybrid, Llama4, Phi3};
    use LayerTensor::*;
    let TensorRole::Layer(layer, tensor) = role else { return None };
    let name = |suffix: &str| format!("model.layers.{layer}.{suffix}.weight");
    let rows = |suffix: &str, tensors: &[LayerTensor]| {
        Some(TensorLocation::rows(name(suffix), None, layer, tensors))
    };
    match (architecture, tensor) {
        (Phi3, Q | K | V) => rows("self_attn.qkv_proj", &QKV),
        (Phi3 | Glm | Glm4, FfnGate | FfnUp) => rows("mlp.gate_up_proj", &GATE_UP),
        (GraniteMoeHybrid, FfnGate | FfnUp) => rows("shared_mlp.input_linear", &GATE_UP),
        (granite, SharedGate | SharedUp) if granite.granite() => {
            rows("shared_mlp.input_linear", &[SharedGate, SharedUp])
        }
        (granite, ExpertGate(e) | ExpertUp(e)) if granite.granite() => {
            Some(TensorLocation::gate_up(name("block_sparse_moe.input_linear"), layer, e))
        }
        (granite, ExpertDown(e)) if granite.granite() => {
            Some(TensorLocation::Plane(name("block_sparse_moe.output_linear"), e))
        }
        (_, KeyUp) => Some(TensorLocation::Keys(hugging_face(role, architecture))),
        (_, ValueUp) => Some(TensorLocation::Values(hugging_face(role, architecture))),
        (GptOss | Llama4, _) => {
            let (expert, outputs) = outputs(tensor, architecture)?;
            let name = hugging_face(role, architecture);
            Some(TensorLocation::Fused(FusedLocation { name, expert, outputs }))
        }
        _ => None,
    }
}

/// The Hugging Face name of a role's tensor, if it stands alone, and of those with keys and values or gpt-oss's experts.
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
        LayerTensor::Router if architecture.granite() => "block_sparse_moe.router.layer.weight",
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
        LayerTensor::SharedDown if architecture.granite() => "shared_mlp.output_linear.weight",
        LayerTensor::SharedDown => return shared("down_proj"),
        LayerTensor::AttnNorm => "input_layernorm.weight",
        LayerTensor::Q => "self_attn.q_proj.weight",
        LayerTensor::QBias => "self_attn.q_proj.bias",
        LayerTensor::K => "self_attn.k_proj.weight",
        LayerTensor::KBias => "self_attn.k_proj.bias",
        LayerTensor::V => "self_attn.v_proj.weight",
        LayerTensor::VBias => "self_attn.v_proj.bias",
        LayerTensor::AttnOut => "self_attn.o_proj.weight",
        LayerTensor::QDown => "self_attn.q_a_proj.weight",
        LayerTensor::QDownNorm => "self_attn.q_a_layernorm.weight",
        LayerTensor::QUp => "self_attn.q_b_proj.weight",
        LayerTensor::KvDown => "self_attn.kv_a_proj_with_mqa.weight",
        LayerTensor::KvDownNorm => "self_attn.kv_a_layernorm.weight",
        LayerTensor::KeyUp | LayerTensor::ValueUp => "self_attn.kv_b_proj.weight",
        LayerTensor::AttnOutBias => "self_attn.o_proj.bias",
        LayerTensor::Sinks => "self_attn.sinks",
        LayerTensor::QNorm => "self_attn.q_norm.weight",
        LayerTensor::KNorm => "self_attn.k_norm.weight",
        LayerTensor::AttnPostNorm if architecture == Architecture::Glm4 => "post_self_attn_layernorm.weight",
        // Other models with a norm behind attention call that one by the name that Llama gives the norm of the other half.
        LayerTensor::AttnPostNorm => "post_attention_layernorm.weight",
        LayerTensor::FfnNorm if gemma(architecture) => "pre_feedforward_layernorm.weight",
        LayerTensor::FfnNorm => "post_attention_layernorm.weight",
        LayerTensor::FfnPostNorm if architecture == Architecture::Glm4 => "post_mlp_layernorm.weight",
        LayerTensor::FfnPostNorm => "post_feedforward_layernorm.weight",
        LayerTensor::FfnGate => "mlp.gate_proj.weight",
        LayerTensor::FfnUp => "mlp.up_proj.weight",
        LayerTensor::FfnDown if architecture == Architecture::GraniteMoeHybrid => {
            "shared_mlp.output_linear.weight"
        }
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

/// The locations of a role in a folder, the usual one first: under the Hugging Face name, alone or with others, or, for an expert,
/// as a plane of the tensor in which `mlx-lm` stacks all experts of a layer.
pub fn folder(role: TensorRole, architecture: Architecture) -> Vec<TensorLocation> {
    if let Some(place) = fused(role, architecture) {
        return vec![place];
    }
    let whole = TensorLocation::Whole(hugging_face(role, architecture));
    let TensorRole::Layer(layer, tensor) = role else { return vec![whole] };
    let block = if architecture == Architecture::Mixtral { "block_sparse_moe" } else { "mlp" };
    let stacked = |name: &str, e: usize| {
        TensorLocation::Plane(format!("model.layers.{layer}.{block}.switch_mlp.{name}.weight"), e)
    };
    // as the class of `transformers` holds them; published files have each alone, too
    let experts = |name: &str| format!("model.layers.{layer}.mlp.experts.{name}");
    let together = match tensor {
        _ if architecture != Architecture::Mistral4 => None,
        LayerTensor::ExpertGate(e) | LayerTensor::ExpertUp(e) => {
            Some(TensorLocation::gate_up(experts("gate_up_proj"), layer, e))
        }
        LayerTensor::ExpertDown(e) => Some(TensorLocation::Plane(experts("down_proj"), e)),
        _ => None,
    };
    let stacked = match tensor {
        LayerTensor::ExpertGate(e) => Some(stacked("gate_proj", e)),
        LayerTensor::ExpertUp(e) => Some(stacked("up_proj", e)),
        LayerTensor::ExpertDown(e) => Some(stacked("down_proj", e)),
        _ => None,
    };
    together.into_iter().chain([whole]).chain(stacked).collect()
}

/// The expert of a tensor in a fused one, and the outputs that are its rows.
fn outputs(tensor: LayerTensor, architecture: Architecture) -> Option<(usize, Outputs)> {
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

/// An expert's number in the rest of a tensor's name: 3 in `block_sparse_moe.experts.3.w1.weight`.
fn expert_number(rest: &str) -> Option<usize> {
    rest.split('.').find_map(|piece| piece.parse().ok())
}

/// Whether the forward pass uses a GGUF tensor, or can ignore it without changing the result.
pub(super) fn knows_gguf(name: &str, spec: &ModelSpec) -> bool {
    if let Some(weight) = scales::weight_of(name) {
        let scaled = |role| scales::scalable(role) && has_gguf(role, &weight, spec);
        return match split_layer(&weight, "blk.") {
            None => OUTER.into_iter().any(scaled),
            Some((layer, rest)) => spec.has_tensor(layer, expert_number(rest), scaled),
        };
    }
    let places = |role| has_gguf(role, name, spec);
    let Some((layer, rest)) = split_layer(name, "blk.") else {
        // The frequency factors are part of the spec.
        return FREQUENCY_FACTORS.contains(&name) || OUTER.into_iter().any(places);
    };
    // Frequencies that older converters stored and that follow from the spec.
    rest == "attn_rot_embd.weight" || spec.has_tensor(layer, expert_number(rest), places)
}

fn has_gguf(role: TensorRole, name: &str, spec: &ModelSpec) -> bool {
    gguf(role, spec.architecture).iter().any(|place| place.has(name))
}

/// Whether the forward pass uses a Hugging Face tensor, or can ignore it without changing the result.
pub(super) fn knows_hugging_face(name: &str, spec: &ModelSpec) -> bool {
    let place = |role| folder(role, spec.architecture).iter().any(|place| place.has(name));
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

/// As [`knows_hugging_face`], for a folder with matrices of one-byte floats: each of them also has scales.
pub(super) fn knows_float8(name: &str, spec: &ModelSpec) -> bool {
    knows_hugging_face(float8::weight_of(name).unwrap_or(name), spec)
}

/// GGUF's tensors with divisors of RoPE's frequencies.
const FREQUENCY_FACTORS: [&str; 3] = ["rope_freqs.weight", LONG_FACTORS[0], LONG_FACTORS[1]];
/// Those of LongRoPE: for contexts up to the original one, and for longer ones.
pub const LONG_FACTORS: [&str; 2] = ["rope_factors_short.weight", "rope_factors_long.weight"];

/// The roles outside the layers.
const OUTER: [TensorRole; 3] = [TensorRole::TokenEmbedding, TensorRole::OutputNorm, TensorRole::Output];

impl ModelSpec {
    /// Every tensor of the model, in the order in which the forward pass uses them; [`TensorRole::Output`] only if it
    /// is not the embedding.
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

    /// The required shape of a tensor, row-major.
    pub fn shape(&self, role: TensorRole) -> Vec<usize> {
        let (hidden, head) = (self.hidden_size, self.head_dim);
        let (q, kv) = (self.heads * head, self.kv_heads * head);
        let zero = Mla { q_rank: None, kv_rank: 0, nope: 0, rope: 0, value: 0, norm_eps: 0.0 };
        let mla = self.extras.mla.as_ref();
        // what attention gives of all heads
        let mixed = mla.map_or(q, |mla| self.heads * mla.value);
        let q = mla.map_or(q, |mla| self.heads * mla.query());
        let mla = mla.unwrap_or(&zero);
        let q_rank = mla.q_rank.unwrap_or(0);
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
            LayerTensor::AttnOut => vec![hidden, mixed],
            LayerTensor::Sinks => vec![self.heads],
            LayerTensor::QDown => vec![q_rank, hidden],
            LayerTensor::QDownNorm => vec![q_rank],
            LayerTensor::QUp => vec![q, q_rank],
            LayerTensor::KvDown => vec![mla.key(), hidden],
            LayerTensor::KvDownNorm => vec![mla.kv_rank],
            LayerTensor::KeyUp => vec![self.heads, mla.kv_rank, mla.nope],
            LayerTensor::ValueUp => vec![self.heads, mla.value, mla.kv_rank],
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

    /// A layer's tensors, without those of experts.
    fn layer_tensors(&self, layer: usize) -> Vec<LayerTensor> {
        use LayerTensor::*;
        let norms = self.extras.norms;
        let (before, after) =
            (norms != NormPlacement::After, matches!(norms, NormPlacement::After | NormPlacement::Both));
        let mut tensors = Vec::new();
        tensors.extend(before.then_some(AttnNorm));
        match &self.extras.mla {
            None => tensors.extend([Q, K, V]),
            Some(mla) => {
                match mla.q_rank {
                    None => tensors.push(Q),
                    Some(_) => tensors.extend([QDown, QDownNorm, QUp]),
                }
                tensors.extend([KvDown, KvDownNorm, KeyUp, ValueUp]);
            }
        }
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
