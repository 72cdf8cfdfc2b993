//! What one token costs a model, as a backend holds it: bytes read and operations done. With what the machine can do at
//! most ([`crate::ceilings`]) they give the limits that speeds are shares of.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use zonda_engine::forward::BackendInfo;
use zonda_engine::load::{DType, LayerTensor, Model, ModelSpec, TensorRole};
use zonda_engine::make::Mix;

/// What one token costs. Only matrices count: norms and biases are a ten-thousandth of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Facts {
    /// All parameters of the model.
    pub parameters: u64,
    /// Parameters that a prompt token is multiplied with: the layers' matrices, of experts those that are used. The output
    /// head is left out, since only a prompt's last token goes through it.
    pub prefill_parameters: u64,
    /// Parameters that a generated token is multiplied with: the same and the output head.
    pub decode_parameters: u64,
    /// Bytes of these as the backend holds them: read for every generated token.
    pub decode_bytes: u64,
    /// Bytes of one position's keys and values in all layers: read for every later token.
    pub kv_bytes: u64,
    /// The type that the products of most weights are computed in.
    pub arithmetic: Arithmetic,
}

/// A type of arithmetic that the machine's peak was measured for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Arithmetic {
    /// Bytes times bytes into 32 bits: quantised weights.
    Int8,
    /// `bf16` pairs into `f32`; `f32` where no instruction does that.
    Bf16,
    /// `f32`.
    F32,
}

impl Facts {
    /// The facts of a model in a backend; `quantize` is what was asked to be done with float weights at load. `None` if
    /// the backend holds weights in a form whose size isn't known here.
    pub fn of(model: &Model, info: &BackendInfo, quantize: Option<Mix>) -> Option<Facts> {
        let spec = &model.spec;
        let held = Held::of(model, info, quantize)?;
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
        let kv_values = (2 * spec.layers * spec.kv_heads * spec.head_dim) as f64;
        Some(Facts {
            parameters: model.parameters(),
            prefill_parameters: layers.values as u64,
            decode_parameters: (layers.values + head.values) as u64,
            decode_bytes: (layers.bytes + head.bytes) as u64,
            kv_bytes: (kv_values * value_bytes) as u64,
            arithmetic: Arithmetic::of(&info.weights),
        })
    }

    /// Operations of a prompt token: a multiply-add is two. Attention's own are left out: they are few in the lengths
    /// measured, and run at another speed.
    pub fn prefill_ops(&self) -> f64 {
        2.0 * self.prefill_parameters as f64
    }

    /// Bytes read for a token generated after `position` others. Attention windows are not looked at.
    pub fn decode_bytes_at(&self, position: f64) -> f64 {
        self.decode_bytes as f64 + self.kv_bytes as f64 * position
    }
}

impl Arithmetic {
    /// By the first, largest type of a label such as `q4_k+q6_k`.
    pub(crate) fn of(weights: &str) -> Arithmetic {
        match weights.split('+').next().unwrap_or_default() {
            "bf16" => Arithmetic::Bf16,
            "f32" | "f16" => Arithmetic::F32,
            _ => Arithmetic::Int8,
        }
    }
}

/// Which share of a layer's tensor a token uses: of experts, so many of all.
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
    fn add(&mut self, held: &Held, model: &Model, role: TensorRole, share: f64) -> Option<()> {
        let values = model.spec.shape(role).iter().product::<usize>();
        self.bytes += share * held.bytes(model, role, values)?;
        self.values += share * values as f64;
        Some(())
    }
}

/// How weights are held.
enum Held {
    /// As in the file.
    Stored,
    /// All with so many bits a value.
    Bits(f64),
    /// Quantised at load.
    Mixed(Mix),
}

impl Held {
    fn of(model: &Model, info: &BackendInfo, quantize: Option<Mix>) -> Option<Held> {
        let stored = model.type_label();
        let held: Vec<&str> = info.weights.split('+').collect();
        if held.iter().all(|name| stored.split('+').any(|s| s == *name)) {
            return Some(Held::Stored);
        }
        if let [one] = held[..] {
            return bits(one).map(Held::Bits);
        }
        quantize.map(Held::Mixed)
    }

    fn bytes(&self, model: &Model, role: TensorRole, values: usize) -> Option<f64> {
        match self {
            Held::Bits(bits) => Some(values as f64 * bits / 8.0),
            Held::Stored => match model.affine(role) {
                Ok(Some(matrix)) => Some(matrix.stored_bytes() as f64),
                _ => model.tensor(role).ok().map(|t| t.bytes().len() as f64),
            },
            Held::Mixed(mix) => {
                let cols = *model.spec.shape(role).last()?;
                mix.dtype(&model.spec, role, cols).bytes_for(values).map(|bytes| bytes as f64)
            }
        }
    }
}

/// Bits a value of a type by its name: ggml's, or MLX's `q4_g64`, which has two 16-bit numbers a group.
fn bits(name: &str) -> Option<f64> {
    if let Ok(dtype) = name.parse::<DType>() {
        return Some(8.0 * dtype.block_bytes() as f64 / dtype.block_len() as f64);
    }
    let (bits, group) = name.strip_prefix('q')?.split_once("_g")?;
    let (bits, group): (f64, f64) = (bits.parse().ok()?, group.parse().ok()?);
    (group > 0.0).then(|| bits + 32.0 / group)
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
