//! The feed-forward half of mixtures of experts: every token passes through the experts that its router picks.

use crate::safe::{Array, Dtype, Ops, Result};
use crate::weights::{Experts, Matrix};

/// From this number of picks on, tokens are sorted by expert, so that each expert processes its tokens together.
const SORT_FROM: usize = 64;

impl Experts {
    /// The picked experts' SwiGLU, weighted by the router's softmax: `[tokens, hidden]` to the same.
    pub fn run(&self, ops: &Ops, x: &Array) -> Result<Array> {
        let (tokens, hidden) = (x.shape()[0], x.shape()[1]);
        let routes = ops.softmax(&ops.as_type(&self.router.linear(ops, x)?, Dtype::F32)?)?; // [tokens, experts]
        let picked = ops.largest(&routes, self.moe.used)?; // [tokens, used]
        let mut weights = ops.take_along_last(&routes, &picked)?;
        if self.moe.router.normalize {
            weights = ops.divide(&weights, &ops.sum(&weights, 0, true)?)?;
        }
        let out = self.picked(ops, x, &picked)?; // [tokens, used, hidden]
        let weights = ops.reshape(&ops.as_type(&weights, x.dtype()?)?, &[tokens, self.moe.used, 1])?;
        let out = ops.sum(&ops.multiply(&out, &weights)?, 1, false)?;
        ops.reshape(&out, &[tokens, hidden])
    }

    /// Every token through each of its experts, `[tokens, used, hidden]`.
    fn picked(&self, ops: &Ops, x: &Array, picked: &Array) -> Result<Array> {
        let (tokens, hidden, used) = (x.shape()[0], x.shape()[1], self.moe.used);
        let picks = tokens * used;
        let flat = ops.reshape(picked, &[picks])?;
        // One row per pick: the token of pick i is i / used.
        let token = ops.indices((0..picks).map(|pick| (pick / used) as u32))?;
        let sorted = picks >= SORT_FROM;
        let order = if sorted { Some(ops.order(&flat)?) } else { None };
        let (expert, token) = match &order {
            Some(order) => (ops.take(&flat, order, 0)?, ops.take(&token, order, 0)?),
            None => (flat, token),
        };
        let rows = ops.reshape(&ops.take(x, &token, 0)?, &[picks, 1, hidden])?;
        let gate = self.gate.gather(ops, &rows, &expert, sorted)?;
        let up = self.up.gather(ops, &rows, &expert, sorted)?;
        let out = self.down.gather(ops, &ops.swiglu(&gate, &up)?, &expert, sorted)?; // [picks, 1, hidden]
        let out = match &order {
            // Back to the order of picks.
            Some(order) => ops.take(&out, &ops.order(order)?, 0)?,
            None => out,
        };
        ops.reshape(&out, &[tokens, used, hidden])
    }
}

impl Matrix {
    /// Multiplies row `i` of `[rows, 1, in]` with the matrix of `[experts, out, in]` at index `i`: `[rows, 1, out]`.
    fn gather(&self, ops: &Ops, x: &Array, indices: &Array, sorted: bool) -> Result<Array> {
        match self {
            Matrix::Dense(w) => ops.gather_linear(x, w, indices, sorted),
            Matrix::Quantized(w) => ops.gather_linear_quantized(x, w, indices, sorted),
        }
    }
}
