//! The feed-forward half of a layer: `down(act(gate(x)) · up(x))`, dense, or as a mixture in which every token passes through the
//! experts that its router picks.

use crate::safe::{Array, Dtype, Ops, Result};
use crate::weights::{Dense, Experts, Ffn, Linear, Matrix, Shared};
use zonda_engine::load::{Activation, RouterScore};

/// From this number of picks on, tokens are sorted by expert, so that each expert processes its tokens together.
const SORT_FROM: usize = 64;
/// Added to the sum that sigmoid weights are divided by, as `transformers` does: all may be zero.
const TINY: f32 = 1e-20;

impl Ffn {
    /// `[tokens, hidden]` to the same.
    pub fn run(&self, ops: &Ops, x: &Array, activation: Activation) -> Result<Array> {
        match self {
            Ffn::Dense(dense) => dense.run(ops, x, activation),
            Ffn::Moe(experts) => experts.run(ops, x, activation),
        }
    }
}

impl Dense {
    /// `[tokens, hidden]` to the same.
    fn run(&self, ops: &Ops, x: &Array, activation: Activation) -> Result<Array> {
        let activated = ops.gated(activation, &self.gate.linear(ops, x)?, &self.up.linear(ops, x)?)?;
        self.down.linear(ops, &activated)
    }
}

impl Shared {
    /// `[tokens, hidden]` to the same.
    fn run(&self, ops: &Ops, x: &Array, activation: Activation) -> Result<Array> {
        let out = self.dense.run(ops, x, activation)?;
        match &self.router {
            Some(router) => ops.multiply(&out, &ops.sigmoid(&router.linear(ops, x)?)?),
            None => Ok(out),
        }
    }
}

/// A token's experts.
struct Picks {
    /// `[tokens, used]`
    experts: Array,
    /// `[tokens, used]`, in f32
    weights: Array,
}

impl Experts {
    /// The weighted sum of the picked experts, and the expert that every token runs: `[tokens, hidden]` to the same.
    fn run(&self, ops: &Ops, x: &Array, activation: Activation) -> Result<Array> {
        let (tokens, hidden) = (x.shape()[0], x.shape()[1]);
        let Picks { experts, weights } = self.route(ops, x)?;
        let weights = ops.reshape(&ops.as_type(&weights, x.dtype()?)?, &[tokens, self.moe.used, 1])?;
        let out = if self.moe.weigh_inputs {
            self.picked(ops, x, &experts, Some(&weights), activation)?
        } else {
            ops.multiply(&self.picked(ops, x, &experts, None, activation)?, &weights)?
        };
        let out = ops.reshape(&ops.sum(&out, 1, false)?, &[tokens, hidden])?;
        match &self.shared {
            Some(shared) => ops.add(&out, &shared.run(ops, x, activation)?),
            None => Ok(out),
        }
    }

    /// The experts of each of `[tokens, hidden]`, and their weights.
    fn route(&self, ops: &Ops, x: &Array) -> Result<Picks> {
        let router = &self.moe.router;
        let mut scores = ops.as_type(&self.router.matrix.linear(ops, x)?, Dtype::F32)?; // [tokens, experts]
        if let Some(bias) = &self.router.bias {
            scores = ops.add(&scores, bias)?;
        }
        scores = match router.score {
            RouterScore::Softmax => ops.softmax(&scores)?,
            RouterScore::Sigmoid => ops.sigmoid(&scores)?,
            RouterScore::SoftmaxOfUsed => scores,
        };
        let experts = match &self.correction {
            Some(correction) => ops.largest(&ops.add(&scores, correction)?, self.moe.used)?,
            None => ops.largest(&scores, self.moe.used)?,
        };
        let mut weights = ops.take_along_last(&scores, &experts)?;
        match router.score {
            RouterScore::SoftmaxOfUsed => weights = ops.softmax(&weights)?,
            RouterScore::Softmax if router.normalize => {
                weights = ops.divide(&weights, &ops.sum(&weights, 0, true)?)?;
            }
            RouterScore::Sigmoid if router.normalize => {
                let sum = ops.add(&ops.sum(&weights, 0, true)?, &ops.floats(&[TINY], &[1])?)?;
                weights = ops.divide(&weights, &sum)?;
            }
            RouterScore::Softmax | RouterScore::Sigmoid => {}
        }
        if router.scale != 1.0 {
            weights = ops.scale(&weights, router.scale)?;
        }
        Ok(Picks { experts, weights })
    }

    /// Every token through each of its experts, `[tokens, used, hidden]`; times `weights`, `[tokens, used, 1]`, if there are any.
    fn picked(
        &self,
        ops: &Ops,
        x: &Array,
        experts: &Array,
        weights: Option<&Array>,
        activation: Activation,
    ) -> Result<Array> {
        let (tokens, hidden, used) = (x.shape()[0], x.shape()[1], self.moe.used);
        let picks = tokens * used;
        let flat = ops.reshape(experts, &[picks])?;
        // One row per pick: the token of pick i is i / used.
        let token = ops.indices((0..picks).map(|pick| (pick / used) as u32))?;
        let sorted = picks >= SORT_FROM;
        let order = if sorted { Some(ops.order(&flat)?) } else { None };
        let in_order = |of_picks: Array| match &order {
            Some(order) => ops.take(&of_picks, order, 0),
            None => Ok(of_picks),
        };
        let (expert, token) = (in_order(flat)?, in_order(token)?);
        let mut rows = ops.reshape(&ops.take(x, &token, 0)?, &[picks, 1, hidden])?;
        if let Some(weights) = weights {
            rows = ops.multiply(&rows, &in_order(ops.reshape(weights, &[picks, 1, 1])?)?)?;
        }
        let gate = self.gate.gather(ops, &rows, &expert, sorted)?;
        let up = self.up.gather(ops, &rows, &expert, sorted)?;
        let activated = ops.gated(activation, &gate, &up)?;
        let out = self.down.gather(ops, &activated, &expert, sorted)?; // [picks, 1, hidden]
        let out = match &order {
            // Back to the order of picks.
            Some(order) => ops.take(&out, &ops.order(order)?, 0)?,
            None => out,
        };
        ops.reshape(&out, &[tokens, used, hidden])
    }
}

impl Linear {
    /// Multiplies row `i` of `[rows, 1, in]` with the matrix of `[experts, out, in]` at index `i`, and adds the bias at that index:
    /// `[rows, 1, out]`.
    fn gather(&self, ops: &Ops, x: &Array, indices: &Array, sorted: bool) -> Result<Array> {
        let y = match &self.matrix {
            Matrix::Dense(w) => ops.gather_linear(x, w, indices, sorted)?,
            Matrix::Quantized(w) => ops.gather_linear_quantized(x, w, indices, sorted)?,
        };
        match &self.bias {
            Some(bias) => ops.add(&y, &ops.reshape(&ops.take(bias, indices, 0)?, &y.shape())?),
            None => Ok(y),
        }
    }
}
