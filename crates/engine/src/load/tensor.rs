//! One stored tensor, and the roles tensors play in the forward pass.

use super::LoadError;
use super::mapped::MappedFile;
use std::ops::Range;
use std::sync::Arc;
use zonda_kernels::DType;

/// What a tensor is for. Backends ask for roles; [`super`] knows each format's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TensorRole {
    /// `[vocab, hidden]`
    TokenEmbedding,
    /// `[hidden]`
    OutputNorm,
    /// `[vocab, hidden]`; absent if embeddings are tied.
    Output,
    /// A tensor of one layer.
    Layer(usize, LayerTensor),
}

/// A layer's tensors. Matrices are `[out, in]`, row-major; norms and biases are vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LayerTensor {
    /// `[hidden]`
    AttnNorm,
    /// `[heads * head_dim, hidden]`
    Q,
    /// `[heads * head_dim]`
    QBias,
    /// `[kv_heads * head_dim, hidden]`
    K,
    /// `[kv_heads * head_dim]`
    KBias,
    /// `[kv_heads * head_dim, hidden]`
    V,
    /// `[kv_heads * head_dim]`
    VBias,
    /// `[hidden, heads * head_dim]`
    AttnOut,
    /// `[q_rank, hidden]`; this and the next ones only in multi-head latent attention
    QDown,
    /// `[q_rank]`
    QDownNorm,
    /// `[heads * (nope + rope), q_rank]`
    QUp,
    /// `[kv_rank + rope, hidden]`
    KvDown,
    /// `[kv_rank]`
    KvDownNorm,
    /// `[heads, kv_rank, nope]`; the projection of keys, transposed
    KeyUp,
    /// `[heads, value, kv_rank]`
    ValueUp,
    /// `[hidden]`
    AttnOutBias,
    /// `[heads]`
    Sinks,
    /// `[hidden]`; of what attention adds to the residual stream
    AttnPostNorm,
    /// `[head_dim]`, or `[heads * head_dim]` of all heads at once
    QNorm,
    /// `[head_dim]`, or `[kv_heads * head_dim]` of all heads at once
    KNorm,
    /// `[hidden]`
    FfnNorm,
    /// `[hidden]`; of what the feed-forward half adds to the residual stream
    FfnPostNorm,
    /// `[ffn, hidden]`
    FfnGate,
    /// `[ffn, hidden]`
    FfnUp,
    /// `[hidden, ffn]`
    FfnDown,
    /// `[experts, hidden]`
    Router,
    /// `[experts]`; added to the router's logits
    RouterBias,
    /// `[experts]`; added to the scores that rank the experts
    RouterCorrection,
    /// One expert's `[moe.ffn, hidden]`
    ExpertGate(usize),
    /// One expert's `[moe.ffn, hidden]`
    ExpertUp(usize),
    /// One expert's `[hidden, moe.ffn]`
    ExpertDown(usize),
    /// One expert's `[moe.ffn]`
    ExpertGateBias(usize),
    /// One expert's `[moe.ffn]`
    ExpertUpBias(usize),
    /// One expert's `[hidden]`
    ExpertDownBias(usize),
    /// `[1, hidden]`; of the expert that every token runs
    SharedRouter,
    /// `[moe.shared, hidden]`
    SharedGate,
    /// `[moe.shared, hidden]`
    SharedUp,
    /// `[hidden, moe.shared]`
    SharedDown,
}

/// A tensor's bytes, type and shape. Cheap to clone; the file stays mapped as long as a clone exists.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// The name in the file, for error messages.
    pub name: String,
    /// How values are stored.
    pub dtype: DType,
    /// Row-major shape, outermost dimension first: `[out, in]` for a matrix.
    pub shape: Vec<usize>,
    /// Multiplies all values.
    scale: f32,
    data: Data,
}

/// Bytes of a tensor.
#[derive(Clone, Debug)]
pub(super) enum Data {
    Mapped(Arc<MappedFile>, Range<usize>),
    Owned(Arc<[u8]>),
}

impl Data {
    pub fn bytes(&self) -> &[u8] {
        match self {
            Data::Mapped(map, range) => &map[range.clone()],
            Data::Owned(bytes) => bytes,
        }
    }

    /// See [`Tensor::release`].
    pub fn release(&self) {
        if let Data::Mapped(map, range) = self {
            map.release(range);
        }
    }

    /// See [`Tensor::check_file`].
    pub fn check_file(&self) -> Result<(), LoadError> {
        match self {
            Data::Mapped(map, _) => map.check(),
            Data::Owned(_) => Ok(()),
        }
    }
}

impl Tensor {
    /// A tensor inside a mapped file. The caller has checked that the range lies within the map and has the size that
    /// shape and type need.
    pub fn mapped(
        name: String,
        dtype: DType,
        shape: Vec<usize>,
        map: Arc<MappedFile>,
        range: Range<usize>,
    ) -> Tensor {
        debug_assert!(range.end <= map.len());
        Tensor { name, dtype, shape, scale: 1.0, data: Data::Mapped(map, range) }
    }

    /// A tensor in its own memory.
    pub fn owned(name: String, dtype: DType, shape: Vec<usize>, bytes: Arc<[u8]>) -> Tensor {
        Tensor { name, dtype, shape, scale: 1.0, data: Data::Owned(bytes) }
    }

    /// The tensor with all values multiplied by `scale`.
    #[must_use]
    pub fn scaled(mut self, scale: f32) -> Tensor {
        self.scale *= scale;
        self
    }

    /// What multiplies the values that the bytes mean: 1, except for matrices beside which the file has a scale.
    pub fn scale(&self) -> f32 {
        self.scale
    }

    /// The tensor as f32 with a number added to each value.
    pub(super) fn plus(&self, offset: f32) -> Tensor {
        let bytes: Vec<u8> = self.to_f32().into_iter().flat_map(|v| (v + offset).to_le_bytes()).collect();
        Tensor::owned(self.name.clone(), DType::F32, self.shape.clone(), bytes.into())
    }

    /// Where the stored bytes are.
    pub(super) fn data(&self) -> &Data {
        &self.data
    }

    /// The stored bytes, whose values are still to be multiplied by [`Tensor::scale`].
    pub fn bytes(&self) -> &[u8] {
        self.data.bytes()
    }

    /// The tensor in its own memory, which no change of the file affects. The file's pages are released.
    pub fn into_owned(self) -> Tensor {
        if let Data::Owned(_) = self.data {
            return self;
        }
        let bytes = self.bytes().into();
        self.release();
        Tensor { data: Data::Owned(bytes), ..self }
    }

    /// Checks that the file was not cut since it was mapped, as [`MappedFile::check`]. A tensor in its own memory is always
    /// whole.
    ///
    /// # Errors
    /// As [`MappedFile::check`].
    pub fn check_file(&self) -> Result<(), LoadError> {
        self.data.check_file()
    }

    /// Releases the memory of the mapped file's pages with these bytes, for loaders that no longer need the tensor. The
    /// pages are read from the file again if they are used.
    pub fn release(&self) {
        self.data.release();
    }

    /// The number of values.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether the shape contains a zero.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Rows of a matrix (1 for a vector): every dimension but the last.
    pub fn rows(&self) -> usize {
        self.shape.iter().rev().skip(1).product()
    }

    /// Length of a row: the last dimension.
    pub fn cols(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// All values as `f32`, row-major.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.len()];
        self.dequantize(self.bytes(), &mut out);
        out
    }

    /// Row `row` of a matrix as `f32`, `[cols]`.
    ///
    /// # Panics
    /// If there is no such row, or `out` has another length.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        let bytes = self.bytes().len() / self.rows();
        self.dequantize(&self.bytes()[row * bytes..][..bytes], out);
    }

    fn dequantize(&self, bytes: &[u8], out: &mut [f32]) {
        zonda_kernels::dequantize::dequantize(self.dtype, bytes, out);
        if self.scale != 1.0 {
            out.iter_mut().for_each(|v| *v *= self.scale);
        }
    }
}
