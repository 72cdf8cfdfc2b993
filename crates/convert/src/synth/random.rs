//! Counter-based random weights: each value is a function of the seed, its tensor and its index, independent of the order of
//! computation. Blocks of quantised types are a function of the seed, their tensor and their row.

use super::codes;
use crate::error::ConvertError;
use crate::rows::{RawRow, Rows, Weights};
use zonda_engine::load::names::{self, TensorLocation};
use zonda_engine::load::{Architecture, LayerTensor, ModelSpec, TensorRole};
use zonda_kernels::DType;
use zonda_kernels::random::mix;

/// The weights of one seed: bell-shaped around 0 with the variance `1 / fan_in`, so that activations keep their size
/// from layer to layer; norms around 1.
pub(crate) struct Random<'a> {
    pub spec: &'a ModelSpec,
    pub seed: u64,
}

impl Random<'_> {
    /// The length of a role's rows, and the mean and the deviation of its values.
    fn distribution(&self, role: TensorRole) -> (usize, f32, f32) {
        let cols = self.spec.shape(role).last().copied().unwrap_or(1);
        let (mean, deviation) = match role {
            TensorRole::OutputNorm => (1.0, 0.05),
            TensorRole::Layer(_, tensor) => match tensor {
                LayerTensor::QBias
                | LayerTensor::KBias
                | LayerTensor::VBias
                | LayerTensor::AttnOutBias
                | LayerTensor::RouterBias
                | LayerTensor::RouterCorrection
                | LayerTensor::ExpertGateBias(_)
                | LayerTensor::ExpertUpBias(_)
                | LayerTensor::ExpertDownBias(_) => (0.0, 0.1),
                LayerTensor::Sinks => (0.0, 1.0),
                _ if self.spec.shape(role).len() == 1 => (1.0, 0.05), // norms
                _ => (0.0, 1.0 / (cols as f32).sqrt()),
            },
            _ => (0.0, 1.0 / (cols as f32).sqrt()),
        };
        (cols, mean, deviation)
    }
}

impl Weights for Random<'_> {
    fn rows(&self, role: TensorRole) -> Result<Rows<'_>, ConvertError> {
        let (cols, mean, deviation) = self.distribution(role);
        let key = key(self.seed, role);
        Ok(Box::new(move |row, out| {
            let first = (row * cols) as u64;
            for (i, o) in out.iter_mut().enumerate() {
                *o = mean + deviation * bell(key, first + i as u64);
            }
        }))
    }

    fn stored(&self, role: TensorRole, dtype: DType) -> Option<RawRow<'_>> {
        let (cols, _, deviation) = self.distribution(role);
        let key = key(self.seed, role);
        dtype.is_quantized().then(|| -> RawRow<'_> {
            Box::new(move |row, out| {
                codes::append_row(dtype, mix(key ^ mix(row as u64)), deviation, cols, out)
            })
        })
    }
}

/// A tensor's stream of random numbers: FNV-1a of its GGUF name, mixed with the seed.
fn key(seed: u64, role: TensorRole) -> u64 {
    // in files of Llama's family every role has a name of its own
    let place = names::gguf(role, Architecture::Llama).swap_remove(0);
    let expert = if let TensorLocation::Plane(_, expert) = place { expert as u64 } else { 0 };
    let hash = |h: u64, b: u8| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3);
    let name = place.name().bytes().fold(0xcbf2_9ce4_8422_2325, hash);
    mix(mix(mix(seed) ^ name).wrapping_add(expert))
}

/// Number `i` of a stream, with mean 0, variance 1 and nearly normal: the sum of four uniform numbers.
fn bell(key: u64, i: u64) -> f32 {
    let z = mix(key.wrapping_add(i.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    let lanes = (z & 0xffff) + (z >> 16 & 0xffff) + (z >> 32 & 0xffff) + (z >> 48);
    // The sum of four numbers of 0..65536 has the mean 4 · 65535/2 and the variance 4 · (65536² − 1)/12.
    (lanes as f32 - 131_070.0) * (1.0 / 37_837.226)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_mean_zero_and_variance_one() {
        let values: Vec<f64> = (0..100_000).map(|i| f64::from(bell(7, i))).collect();
        let mean = values.iter().sum::<f64>() / 1e5;
        let variance = values.iter().map(|v| v * v).sum::<f64>() / 1e5;
        assert!(mean.abs() < 0.01, "mean {mean}");
        assert!((variance - 1.0).abs() < 0.01, "variance {variance}");
    }

    #[test]
    fn tensors_and_seeds_have_separate_streams() {
        let q = |layer| TensorRole::Layer(layer, LayerTensor::Q);
        let expert = |e| TensorRole::Layer(0, LayerTensor::ExpertUp(e));
        let keys = [key(0, q(0)), key(1, q(0)), key(0, q(1)), key(0, expert(0)), key(0, expert(1))];
        for (i, a) in keys.iter().enumerate() {
            assert!(keys[i + 1..].iter().all(|b| a != b));
        }
    }
}
