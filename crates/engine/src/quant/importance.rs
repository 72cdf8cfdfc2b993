//! [`Importance`]: how much the errors of each matrix's columns count, measured while the model processes a text.
//!
//! The error of a product is Σ e·x over a row's errors e and inputs x. Over many tokens its mean square is about Σ e²·mean(x²), so
//! the errors of a matrix's columns are weighted with the mean squares of its inputs. This is llama.cpp's importance matrix; as
//! there, the embedding and the output head have none.

use crate::load::{LayerTensor, TensorRole};
use std::collections::BTreeMap;

/// Minimum importance of a column, relative to the mean: a text does not exercise everything.
const FLOOR: f64 = 1e-3;

/// Sums of squares of the inputs of each matrix, by column.
#[derive(Clone, Debug, Default)]
pub struct Importance {
    /// By the role of the inputs (Q stands for K and V): the number of tokens, and the sums, `[cols]`.
    sums: BTreeMap<TensorRole, (u64, Vec<f64>)>,
}

impl Importance {
    /// Adds inputs of a role's matrix, `[tokens, cols]`. Q stands for all that read what it reads, gate for up.
    pub fn add(&mut self, role: TensorRole, inputs: &[f32], cols: usize) {
        let (tokens, sums) = self.sums.entry(inputs_of(role)).or_insert_with(|| (0, vec![0.0; cols]));
        for row in inputs.chunks_exact(cols) {
            *tokens += 1;
            sums.iter_mut().zip(row).for_each(|(sum, &x)| *sum += f64::from(x) * f64::from(x));
        }
    }

    /// The relative importance of the columns of a role's matrix, `[cols]`, 1 on average. `None` if no inputs were added, as for
    /// an expert that no token was routed to.
    pub fn of(&self, role: TensorRole) -> Option<Vec<f32>> {
        let (_, sums) = self.sums.get(&inputs_of(role))?;
        let mean = sums.iter().sum::<f64>() / sums.len() as f64;
        let usable = mean > 0.0 && mean.is_finite();
        usable.then(|| sums.iter().map(|sum| (sum / mean).max(FLOOR) as f32).collect())
    }

    /// The number of inputs measured; several matrices share one.
    pub fn entries(&self) -> usize {
        self.sums.len()
    }
}

/// The role that represents all roles with the same inputs.
fn inputs_of(role: TensorRole) -> TensorRole {
    use LayerTensor::{ExpertGate, ExpertUp, FfnGate, FfnUp, K, KvDown, Q, QDown, V};
    match role {
        TensorRole::Layer(layer, K | V | QDown | KvDown) => TensorRole::Layer(layer, Q),
        TensorRole::Layer(layer, FfnUp) => TensorRole::Layer(layer, FfnGate),
        TensorRole::Layer(layer, ExpertUp(e)) => TensorRole::Layer(layer, ExpertGate(e)),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn importance_is_the_mean_square_relative_to_the_average() {
        let mut importance = Importance::default();
        let role = |tensor| TensorRole::Layer(3, tensor);
        importance.add(role(LayerTensor::Q), &[1.0, 3.0, -1.0, 1.0], 2);
        importance.add(role(LayerTensor::Q), &[0.0, 0.0], 2);
        // The sums are 2 and 10.
        let expected = Some(vec![2.0 / 6.0, 10.0 / 6.0]);
        assert_eq!(importance.of(role(LayerTensor::V)), expected);
        assert_eq!(importance.of(role(LayerTensor::AttnOut)), None);
        importance.add(role(LayerTensor::AttnOut), &[0.0, 0.0], 2);
        assert_eq!(importance.of(role(LayerTensor::AttnOut)), None, "zeros give no importance");
        importance.add(role(LayerTensor::FfnDown), &[0.0, 1.0], 2);
        assert_eq!(importance.of(role(LayerTensor::FfnDown)), Some(vec![1e-3, 2.0]));
    }
}
