//! A model in one form (a format and the types of its weights): the memory it needs, and its predicted speed.

use crate::analyse::model_cost::{shape, share};
use crate::analyse::predict::built_in::Costs;
use crate::analyse::predict::dims::Dims;
use crate::analyse::predict::efficiency::{Efficiency, Speed};
use crate::analyse::predict::token_time::TokenTime;
use crate::analyse::roofline::Limits as _;
use crate::machine::Machine;
use crate::record::model_cost::{Arithmetic, ModelCost};
use crate::record::peaks::Peaks;
use std::collections::BTreeMap;
use zonda_engine::load::{Format, LayerTensor, Model, ModelSpec, TensorRole};
use zonda_engine::quant::Mix;

/// Bytes per value in the KV cache, which is f16 by default.
const KV_VALUE_BYTES: u64 = 2;

/// The usual quantisations, best quality first.
pub const QUALITY: [&str; 7] = ["f32", "bf16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_0"];

/// A model in one form: a format and the types of its weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Form {
    /// `gguf`, `safetensors` or `mlx`.
    pub format: String,
    /// The quantisation's name from [`QUALITY`]; for others, the types.
    pub quant: String,
    /// The types of the matrices, the largest share first: `q4_k+q6_k`.
    pub weights: String,
    /// As in [`crate::record::LoadReport::shape`].
    pub shape: String,
    /// The sizes that determine the time apart from products and reading.
    pub dims: Dims,
    /// Bytes of all weights.
    pub weight_bytes: u64,
    /// The cost of a token.
    pub cost: ModelCost,
}

impl Form {
    /// A model's shapes in one of the usual quantisations. `None` if rows are not whole blocks.
    pub fn mixed(spec: &ModelSpec, format: &str, mix: Mix) -> Option<Form> {
        let bytes = |role, values, cols| {
            let dtype = mix.dtype(spec, role, cols);
            Some((dtype.to_string(), dtype.bytes_for(values)? as u64))
        };
        Form::of(spec, format, Some(mix.to_string()), bytes)
    }

    /// A model with float weights quantised at load, except for the embedding, of which a token reads only one row.
    pub fn at_load(model: &Model, mix: Mix) -> Option<Form> {
        let spec = &model.spec;
        let bytes = |role, values, cols| {
            let stored = role == TensorRole::TokenEmbedding && !spec.tied_embeddings;
            let dtype = if stored { model.tensor(role).ok()?.dtype } else { mix.dtype(spec, role, cols) };
            Some((dtype.to_string(), dtype.bytes_for(values)? as u64))
        };
        Form::of(spec, &model.format.to_string(), Some(mix.to_string()), bytes)
    }

    /// A model as stored in its file. `None` if a tensor is missing or has an unsupported type.
    pub fn stored(model: &Model) -> Option<Form> {
        let bytes = |role, _, _| match model.affine(role).ok()? {
            Some(matrix) => Some((matrix.affine.to_string(), matrix.stored_bytes())),
            None => model.tensor(role).ok().map(|t| (t.dtype.to_string(), t.bytes().len() as u64)),
        };
        let mut form = Form::of(&model.spec, &model.format.to_string(), None, bytes)?;
        let usual = QUALITY.iter().filter_map(|name| Form::mixed(&model.spec, "", name.parse().ok()?));
        if model.format != Format::Mlx
            && let Some(usual) = usual.into_iter().find(|u| u.weights == form.weights)
        {
            form.quant = usual.quant;
        }
        Some(form)
    }

    /// `bytes` gives the type and the bytes of a tensor by its role, values and columns.
    fn of(
        spec: &ModelSpec,
        format: &str,
        quant: Option<String>,
        bytes: impl Fn(TensorRole, usize, usize) -> Option<(String, u64)>,
    ) -> Option<Form> {
        let mut types: BTreeMap<String, u64> = BTreeMap::new();
        let (mut weight_bytes, mut parameters) = (0, 0);
        // Values and bytes that a token uses, in the layers and in the head.
        let (mut layers, mut head) = ([0.0; 2], [0.0; 2]);
        for role in spec.roles() {
            let shape = spec.shape(role);
            let values = shape.iter().product::<usize>();
            let (name, bytes) = bytes(role, values, *shape.last()?)?;
            weight_bytes += bytes;
            parameters += values as u64;
            let is_head =
                role == TensorRole::Output || (role == TensorRole::TokenEmbedding && spec.tied_embeddings);
            let part = match role {
                _ if is_head => &mut head,
                TensorRole::Layer(..) if shape.len() > 1 => &mut layers,
                _ => continue,
            };
            if !matches!(role, TensorRole::Layer(_, LayerTensor::Router)) {
                *types.entry(name).or_default() += bytes;
            }
            let share = share(spec, role);
            part[0] += share * values as f64;
            part[1] += share * bytes as f64;
        }
        let mut types: Vec<(String, u64)> = types.into_iter().collect();
        types.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
        let weights = types.into_iter().map(|(name, _)| name).collect::<Vec<_>>().join("+");
        Some(Form {
            format: format.to_owned(),
            quant: quant.unwrap_or_else(|| weights.clone()),
            shape: shape(spec),
            dims: Dims::of(spec),
            weight_bytes,
            cost: ModelCost {
                parameters,
                prefill_parameters: layers[0] as u64,
                decode_parameters: (layers[0] + head[0]) as u64,
                decode_bytes: (layers[1] + head[1]) as u64,
                kv_bytes: spec.kv_bytes_per_token(KV_VALUE_BYTES),
                arithmetic: Arithmetic::of(&weights),
            },
            weights,
        })
    }

    /// The type of most weights, which selects the shares.
    pub fn base(&self) -> &str {
        base(&self.weights)
    }

    /// Bytes of the keys and values of `context` tokens.
    pub fn kv_bytes(&self, context: usize) -> u64 {
        self.cost.kv_bytes.saturating_mul(context as u64)
    }

    /// Bytes of weights, keys and values, without a backend's work buffers.
    pub fn memory_bytes(&self, context: usize) -> u64 {
        self.weight_bytes.saturating_add(self.kv_bytes(context))
    }

    /// Why the model doesn't fit into the machine's memory with `context` tokens; `None` if it does.
    pub fn too_large(&self, machine: &Machine, context: usize) -> Option<String> {
        let (room, whose) = machine.room();
        let needs = self.memory_bytes(context);
        let gib = |bytes: u64| format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30));
        (needs > room).then(|| {
            format!(
                "it needs {} ({} of weights, {} of KV cache for {context} tokens) and {whose} {}",
                gib(needs),
                gib(self.weight_bytes),
                gib(self.kv_bytes(context)),
                gib(room)
            )
        })
    }

    /// Tokens per second for a prompt of `prompt` tokens, and for the first tokens of the answer.
    pub fn predict(&self, backend: &str, share: Efficiency, peaks: &Peaks, prompt: usize) -> Speed {
        let work = TokenTime { cost: self.cost, dims: self.dims, costs: Costs::of(backend) };
        Speed {
            prefill_tps: 1.0 / work.prefill_s(share.prefill, peaks, prompt as f64),
            decode_tps: 1.0 / work.decode_s(share.decode, peaks.reading(&self.cost, None), prompt as f64),
        }
    }
}

/// The first, largest type of `q4_k+q6_k`.
pub(super) fn base(weights: &str) -> &str {
    weights.split('+').next().unwrap_or_default()
}

/// A quantisation's rank by quality; 0 is best. Types other than the usual ones rank by the bits in their name.
pub fn quality(quant: &str) -> usize {
    let bits = || {
        let digits = base(quant).trim_start_matches(|c: char| !c.is_ascii_digit());
        digits.split(|c: char| !c.is_ascii_digit()).next()?.parse::<u32>().ok()
    };
    QUALITY.iter().position(|&q| q == quant).unwrap_or_else(|| match bits().unwrap_or(4) {
        16.. => 1,
        8.. => 2,
        6.. => 3,
        5.. => 4,
        4 => 6,
        3 => 7,
        2 => 8,
        _ => 9,
    })
}
