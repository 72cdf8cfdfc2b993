//! A model's tensors as MLX arrays: matrices as floats or quantised, norms and biases in the type of the computation.

use crate::safe::{self, Array, Quantized};
use std::collections::BTreeMap;
use zonda_engine::load::Moe;

/// All weights of a model.
#[derive(Debug)]
pub(crate) struct Weights {
    /// `[vocab, hidden]`
    pub embedding: Matrix,
    pub layers: Vec<Layer>,
    /// `[hidden]`
    pub output_norm: Array,
    /// `[vocab, hidden]`; `None`: the embedding.
    pub head: Option<Matrix>,
}

/// One transformer layer.
#[derive(Debug)]
pub(crate) struct Layer {
    /// Of what attention reads, `[hidden]`
    pub attn_norm: Option<Array>,
    /// Of what attention adds to the residual stream, `[hidden]`
    pub attn_post_norm: Option<Array>,
    pub q: Linear,
    pub k: Linear,
    pub v: Linear,
    /// `[head_dim]` each; over all heads at once `[heads * head_dim]` and `[kv_heads * head_dim]`
    pub qk_norm: Option<(Array, Array)>,
    /// Its kind of RoPE: an index of [`crate::rope::Turn::all`].
    pub rope: Option<usize>,
    /// Attention sinks, `[heads]`
    pub sinks: Option<Array>,
    /// `[hidden, heads * head_dim]`
    pub attn_out: Linear,
    /// Of what the feed-forward half reads, `[hidden]`
    pub ffn_norm: Option<Array>,
    /// Of what it adds to the residual stream, `[hidden]`
    pub ffn_post_norm: Option<Array>,
    pub ffn: Ffn,
}

/// A matrix, or one for each expert, with an optional bias.
#[derive(Debug)]
pub(crate) struct Linear {
    pub matrix: Matrix,
    /// `[out]`, or `[experts, out]`
    pub bias: Option<Array>,
}

/// The feed-forward half of a layer.
#[derive(Debug)]
pub(crate) enum Ffn {
    Dense(Dense),
    Moe(Box<Experts>),
}

/// Gate and up, `[ffn, hidden]`, and down, `[hidden, ffn]`.
#[derive(Debug)]
pub(crate) struct Dense {
    pub gate: Matrix,
    pub up: Matrix,
    pub down: Matrix,
}

/// Experts stacked: gate and up `[experts, ffn, hidden]`, down `[experts, hidden, ffn]`.
#[derive(Debug)]
pub(crate) struct Experts {
    pub moe: Moe,
    /// `[experts, hidden]`; its bias is in f32
    pub router: Linear,
    /// Added to the scores when they are ranked, `[experts]` in f32
    pub correction: Option<Array>,
    pub gate: Linear,
    pub up: Linear,
    pub down: Linear,
    pub shared: Option<Shared>,
}

/// An expert that every token runs.
#[derive(Debug)]
pub(crate) struct Shared {
    /// `[1, hidden]`; if there, the sigmoid of its product is the expert's weight
    pub router: Option<Matrix>,
    pub dense: Dense,
}

/// A matrix, `[out, in]`, or several of one shape, `[experts, out, in]`.
#[derive(Debug)]
pub(crate) enum Matrix {
    Dense(Array),
    Quantized(Quantized),
}

impl Matrix {
    /// The number of outputs.
    pub fn out(&self) -> usize {
        let shape = match self {
            Matrix::Dense(w) => w.shape(),
            Matrix::Quantized(w) => w.codes.shape(),
        };
        shape[shape.len() - 2]
    }
}

impl Weights {
    /// The forms of the matrices, most bytes first: `q4_g64+f32`.
    pub fn describe(&self) -> String {
        let mut bytes: BTreeMap<String, usize> = BTreeMap::new();
        let mut add = |m: &Matrix| {
            let (name, size) = m.name_and_bytes();
            *bytes.entry(name).or_default() += size;
        };
        add(&self.embedding);
        self.head.iter().for_each(&mut add);
        for layer in &self.layers {
            [&layer.q, &layer.k, &layer.v, &layer.attn_out].into_iter().for_each(|l| add(&l.matrix));
            let dense = match &layer.ffn {
                Ffn::Dense(dense) => Some(dense),
                Ffn::Moe(experts) => {
                    [&experts.gate, &experts.up, &experts.down].into_iter().for_each(|l| add(&l.matrix));
                    experts.shared.as_ref().map(|shared| &shared.dense)
                }
            };
            dense.into_iter().flat_map(|d| [&d.gate, &d.up, &d.down]).for_each(&mut add);
        }
        let mut types: Vec<_> = bytes.into_iter().collect();
        types.sort_by_key(|&(_, bytes)| std::cmp::Reverse(bytes));
        types.into_iter().map(|(name, _)| name).collect::<Vec<_>>().join("+")
    }
}

impl Matrix {
    /// Its form and its size in bytes.
    fn name_and_bytes(&self) -> (String, usize) {
        let bytes = |a: &Array| a.shape().iter().product::<usize>() * a.dtype().map_or(0, safe::size);
        let name = match self {
            Matrix::Dense(w) => w.dtype().map_or("?", safe::name).to_owned(),
            Matrix::Quantized(Quantized { biases: None, .. }) => "mxfp4".to_owned(),
            Matrix::Quantized(w) => format!("q{}_g{}", w.bits, w.group_size),
        };
        (name, self.arrays().into_iter().map(bytes).sum())
    }

    /// All of its arrays.
    pub fn arrays(&self) -> Vec<&Array> {
        match self {
            Matrix::Dense(w) => vec![w],
            Matrix::Quantized(w) => w.arrays().collect(),
        }
    }
}
