//! The cost of one token with a model as a backend holds it: bytes read and operations done. Together with the machine's
//! peaks ([`super::roofline`]) it gives the limits of the speeds.

use crate::record::model_cost::{Arithmetic, ModelCost};
use crate::record::subject::Subject;
use zonda_engine::Engine;
use zonda_engine::forward::BackendInfo;
use zonda_engine::load::{DType, LayerTensor, Model, ModelSpec, TensorRole};
use zonda_engine::quant::Mix;

impl ModelCost {
    /// The cost of a model in a backend; `quantize` is the requested quantisation of float weights at load. `None` if the backend
    /// holds weights in a form of unknown size.
    pub fn of(model: &Model, info: &BackendInfo, quantize: Option<Mix>) -> Option<ModelCost> {
        if model.unsupported().is_some() {
            return None; // what a token reads is unknown
        }
        let spec = &model.spec;
        let held = WeightForm::of(model, info, quantize)?;
        let (mut layers, mut head) = (Cost::default(), Cost::default());
        for role in spec.roles() {
            let shape = spec.shape(role);
            let used = match role {
                TensorRole::Output => head.add(&held, model, role, 1.0),
                TensorRole::TokenEmbedding if spec.tied_embeddings => head.add(&held, model, role, 1.0),
                TensorRole::Layer(..) if shape.len() > 1 => layers.add(&held, model, role, share(spec, role)),
                _ => Some(()),
            };
            used?;
        }
        let value_bytes = match info.kv_type.as_str() {
            "f32" => 4.0,
            "q8_0" => 34.0 / 32.0,
            "q4_0" => 18.0 / 32.0,
            _ => 2.0,
        };
        let kv_values = spec.kv_values_per_token() as f64;
        Some(ModelCost {
            parameters: model.parameters(),
            prefill_parameters: layers.values as u64,
            decode_parameters: (layers.values + head.values) as u64,
            decode_bytes: (layers.bytes + head.bytes) as u64,
            kv_bytes: (kv_values * value_bytes) as u64,
            arithmetic: Arithmetic::of(&info.weights),
        })
    }

    /// Operations per prompt token; a multiply-add counts as two. Those of attention are left out: they are few at the measured
    /// lengths and run at another speed.
    pub fn prefill_ops(&self) -> f64 {
        2.0 * self.prefill_parameters as f64
    }

    /// Bytes read for a token generated after `position` others. Attention windows are ignored.
    pub fn decode_bytes_at(&self, position: f64) -> f64 {
        self.decode_bytes as f64 + self.kv_bytes as f64 * position
    }
}

/// The cost of the model in a subject's engine; `None` if unknown.
pub fn of_subject(model: &Model, engine: &Engine, subject: &Subject) -> Option<ModelCost> {
    let mix = subject.options.get("quantize").and_then(|q| q.parse().ok());
    ModelCost::of(model, engine.info(), mix)
}

impl Arithmetic {
    /// The arithmetic of the first, largest type in a label such as `q4_k+q6_k`.
    pub(crate) fn of(weights: &str) -> Arithmetic {
        match weights.split('+').next().unwrap_or_default() {
            "bf16" => Arithmetic::Bf16,
            "f32" | "f16" | "f8_e4m3" => Arithmetic::F32,
            _ => Arithmetic::Int8,
        }
    }
}

/// The share of a layer's tensor that a token uses: for experts, those used among all.
pub(crate) fn share(spec: &ModelSpec, role: TensorRole) -> f64 {
    use LayerTensor::{ExpertDown, ExpertGate, ExpertUp};
    match (role, &spec.moe) {
        (TensorRole::Layer(_, ExpertGate(_) | ExpertUp(_) | ExpertDown(_)), Some(moe)) => {
            moe.used as f64 / moe.experts as f64
        }
        _ => 1.0,
    }
}

#[derive(Default)]
struct Cost {
    values: f64,
    bytes: f64,
}

impl Cost {
    fn add(&mut self, held: &WeightForm, model: &Model, role: TensorRole, share: f64) -> Option<()> {
        let values = model.spec.shape(role).iter().product::<usize>();
        self.bytes += share * held.bytes(model, role, values)?;
        self.values += share * values as f64;
        Some(())
    }
}

/// How weights are held.
enum WeightForm {
    /// As in the file.
    Stored,
    /// All with this many bits per value.
    Bits(f64),
    /// Quantised at load.
    Mixed(Mix),
}

impl WeightForm {
    fn of(model: &Model, info: &BackendInfo, quantize: Option<Mix>) -> Option<WeightForm> {
        let stored = model.type_label();
        let held: Vec<&str> = info.weights.split('+').collect();
        if held.iter().all(|name| stored.split('+').any(|s| s == *name)) {
            return Some(WeightForm::Stored);
        }
        if let [one] = held[..] {
            return bits(one).map(WeightForm::Bits);
        }
        quantize.map(WeightForm::Mixed)
    }

    fn bytes(&self, model: &Model, role: TensorRole, values: usize) -> Option<f64> {
        match self {
            WeightForm::Bits(bits) => Some(values as f64 * bits / 8.0),
            WeightForm::Stored => match model.affine(role) {
                Ok(Some(matrix)) => Some(matrix.stored_bytes() as f64),
                _ => model.tensor(role).ok().map(|t| t.bytes().len() as f64),
            },
            WeightForm::Mixed(mix) => {
                let cols = *model.spec.shape(role).last()?;
                mix.dtype(&model.spec, role, cols).bytes_for(values).map(|bytes| bytes as f64)
            }
        }
    }
}

/// Bits per value of a type by name: ggml's, or MLX's such as `q4_g64`, with two 16-bit numbers per group.
fn bits(name: &str) -> Option<f64> {
    if let Ok(dtype) = name.parse::<DType>() {
        return Some(8.0 * dtype.block_bytes() as f64 / dtype.block_len() as f64);
    }
    let (bits, group) = name.strip_prefix('q')?.split_once("_g")?;
    let (bits, group): (f64, f64) = (bits.parse().ok()?, group.parse().ok()?);
    (group > 0.0).then(|| bits + 32.0 / group)
}

/// A model's shapes in one line, without the architecture's name, since a GGUF of Mistral has the architecture llama.
pub(crate) fn shape(spec: &ModelSpec) -> String {
    let heads = match &spec.extras.mla {
        None => format!("{}/{} heads of {}", spec.heads, spec.kv_heads, spec.head_dim),
        Some(mla) => format!("{} heads of {} over latents of {}", spec.heads, mla.query(), mla.kv_rank),
    };
    let mut shape = format!(
        "{} layers, width {}, {heads}, feed-forward {}, vocabulary {}",
        spec.layers, spec.hidden_size, spec.ffn_size, spec.vocab_size
    );
    if let Some(moe) = &spec.moe {
        shape.push_str(&format!(", {} of {} experts of {}", moe.used, moe.experts, moe.ffn_size));
    }
    shape
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_by_name() {
        assert_eq!((bits("q4_0"), bits("bf16"), bits("q8_0")), (Some(4.5), Some(16.0), Some(8.5)));
        assert_eq!((bits("q4_g64"), bits("q8_g32"), bits("int7")), (Some(4.5), Some(9.0), None));
    }

    #[test]
    fn arithmetic_by_the_largest_share() {
        assert_eq!(Arithmetic::of("q4_k+q6_k"), Arithmetic::Int8);
        assert_eq!(Arithmetic::of("bf16+f32"), Arithmetic::Bf16);
        assert_eq!(Arithmetic::of("f16"), Arithmetic::F32);
    }
}
