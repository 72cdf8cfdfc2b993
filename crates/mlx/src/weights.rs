//! A model's tensors as MLX arrays: matrices as floats or quantised, norms and biases in the type of the computation.

use crate::options::{Compute, MlxOptions, Quantization};
use crate::regroup::regroup;
use crate::safe::{self, Array, Dtype, List, Ops, Quantized};
use std::collections::BTreeMap;
use zonda_engine::forward::BackendError;
use zonda_engine::load::{
    AffineTensor, DType, Format, LayerTensor, Model, Moe, StoredType, Tensor, TensorRole, check_finite,
};

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
    /// `[hidden]`
    pub attn_norm: Array,
    pub q: Linear,
    pub k: Linear,
    pub v: Linear,
    /// `[head_dim]` each
    pub qk_norm: Option<(Array, Array)>,
    /// `[hidden, heads * head_dim]`
    pub attn_out: Matrix,
    /// `[hidden]`
    pub ffn_norm: Array,
    pub ffn: Ffn,
}

/// A matrix with an optional bias.
#[derive(Debug)]
pub(crate) struct Linear {
    pub matrix: Matrix,
    /// `[out]`
    pub bias: Option<Array>,
}

/// The feed-forward half of a layer.
#[derive(Debug)]
pub(crate) enum Ffn {
    Dense(Dense),
    Moe(Experts),
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
    /// `[experts, hidden]`
    pub router: Matrix,
    pub gate: Matrix,
    pub up: Matrix,
    pub down: Matrix,
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

/// The form in which a model's weights are held, decided once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WeightFormat {
    /// The type of activations, norms, scales, and of matrices that are not quantised.
    pub compute: Dtype,
    /// Whether quantised matrices become floats.
    dequantize: bool,
    /// How float matrices are quantised; `None`: they are not.
    quantize: Option<Quantization>,
}

impl WeightFormat {
    /// The form according to [`MlxOptions`].
    pub fn new(model: &Model, options: &MlxOptions, gpu: bool) -> WeightFormat {
        let fits = model.parameters().saturating_mul(4) <= safe::memory_limit() as u64 / 3;
        let quantized =
            model.format == Format::Mlx || model.types().iter().any(|share| is_quantized(&share.dtype));
        let compute = match options.compute {
            Some(Compute::F32) => Dtype::F32,
            Some(Compute::F16) => Dtype::F16,
            Some(Compute::BF16) => Dtype::BF16,
            // Quantised matrices are multiplied with f32 as fast as with other types.
            None if !gpu && (fits || quantized || options.quantize.is_some()) => Dtype::F32,
            None => own_type(model),
        };
        let dequantize = options.dequantize.unwrap_or(!gpu && fits && options.quantize.is_none());
        WeightFormat { compute, dequantize, quantize: options.quantize }
    }
}

/// The float type of a model's matrices, or of their scales.
fn own_type(model: &Model) -> Dtype {
    let types = model.types();
    if types.iter().any(|share| is_quantized(&share.dtype)) {
        return Dtype::F16; // the scales of ggml's types
    }
    types.iter().find_map(|share| share.dtype.runs().and_then(float_type)).unwrap_or(Dtype::F32)
}

fn is_quantized(stored: &StoredType) -> bool {
    stored.runs().is_some_and(DType::is_quantized)
}

fn float_type(dtype: DType) -> Option<Dtype> {
    match dtype {
        DType::F32 => Some(Dtype::F32),
        DType::F16 => Some(Dtype::F16),
        DType::BF16 => Some(Dtype::BF16),
        _ => None,
    }
}

impl Weights {
    /// Reads everything, layer by layer.
    pub fn load(model: &Model, ops: &Ops, format: &WeightFormat) -> Result<Weights, BackendError> {
        let loader = Loader { model, ops, format };
        let embedding = loader.matrix(TensorRole::TokenEmbedding)?;
        let head = (!model.spec.tied_embeddings).then(|| loader.matrix(TensorRole::Output)).transpose()?;
        let output_norm = loader.vector(TensorRole::OutputNorm)?;
        let layers = (0..model.spec.layers).map(|l| loader.layer(l)).collect::<Result<_, _>>()?;
        Ok(Weights { embedding, layers, output_norm, head })
    }

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
            let attention = [&layer.q.matrix, &layer.k.matrix, &layer.v.matrix, &layer.attn_out];
            let ffn = match &layer.ffn {
                Ffn::Dense(Dense { gate, up, down }) | Ffn::Moe(Experts { gate, up, down, .. }) => {
                    [gate, up, down]
                }
            };
            attention.into_iter().chain(ffn).for_each(&mut add);
        }
        let mut types: Vec<_> = bytes.into_iter().collect();
        types.sort_by_key(|&(_, bytes)| std::cmp::Reverse(bytes));
        types.into_iter().map(|(name, _)| name).collect::<Vec<_>>().join("+")
    }
}

impl Matrix {
    /// Its form and its size in bytes.
    fn name_and_bytes(&self) -> (String, usize) {
        let count = |a: &Array| a.shape().iter().product::<usize>();
        match self {
            Matrix::Dense(w) => {
                let (name, size) = w.dtype().map_or(("?", 0), |dtype| (safe::name(dtype), safe::size(dtype)));
                (name.to_owned(), count(w) * size)
            }
            Matrix::Quantized(w) => {
                let name = format!("q{}_g{}", w.bits, w.group_size);
                (name, 4 * (count(&w.codes) + 2 * count(&w.scales)))
            }
        }
    }

    fn arrays(&self) -> Vec<&Array> {
        match self {
            Matrix::Dense(w) => vec![w],
            Matrix::Quantized(w) => vec![&w.codes, &w.scales, &w.biases],
        }
    }
}

/// The context for reading one tensor.
struct Loader<'a> {
    model: &'a Model,
    ops: &'a Ops,
    format: &'a WeightFormat,
}

impl Loader<'_> {
    fn layer(&self, l: usize) -> Result<Layer, BackendError> {
        use LayerTensor::*;
        let spec = &self.model.spec;
        let role = |t| TensorRole::Layer(l, t);
        let linear = |w, b| {
            let bias = spec.qkv_bias.then(|| self.vector(role(b))).transpose()?;
            Ok::<_, BackendError>(Linear { matrix: self.matrix(role(w))?, bias })
        };
        let qk_norm = || Ok::<_, BackendError>((self.vector(role(QNorm))?, self.vector(role(KNorm))?));
        Ok(Layer {
            attn_norm: self.vector(role(AttnNorm))?,
            q: linear(Q, QBias)?,
            k: linear(K, KBias)?,
            v: linear(V, VBias)?,
            qk_norm: spec.qk_norm.then(qk_norm).transpose()?,
            attn_out: self.matrix(role(AttnOut))?,
            ffn_norm: self.vector(role(FfnNorm))?,
            ffn: match &spec.moe {
                None => Ffn::Dense(Dense {
                    gate: self.matrix(role(FfnGate))?,
                    up: self.matrix(role(FfnUp))?,
                    down: self.matrix(role(FfnDown))?,
                }),
                Some(moe) => Ffn::Moe(Experts {
                    moe: moe.clone(),
                    router: self.matrix(role(Router))?,
                    gate: self.stacked(moe, |e| role(ExpertGate(e)))?,
                    up: self.stacked(moe, |e| role(ExpertUp(e)))?,
                    down: self.stacked(moe, |e| role(ExpertDown(e)))?,
                }),
            },
        })
    }

    /// A norm or a bias, in the type of the computation.
    fn vector(&self, role: TensorRole) -> Result<Array, BackendError> {
        let vector = self.floats(&self.model.tensor(role)?)?;
        self.ops.eval(&List::from_iter([&vector]))?;
        Ok(vector)
    }

    /// A matrix in the chosen form, evaluated.
    fn matrix(&self, role: TensorRole) -> Result<Matrix, BackendError> {
        let matrix = self.planned(role)?;
        self.ops.eval(&matrix.arrays().into_iter().collect())?;
        Ok(matrix)
    }

    /// The matrices of all experts, one after another.
    fn stacked(&self, moe: &Moe, role: impl Fn(usize) -> TensorRole) -> Result<Matrix, BackendError> {
        let all = (0..moe.experts).map(|e| self.planned(role(e))).collect::<Result<Vec<_>, _>>()?;
        let stack = |part: &dyn Fn(&Matrix) -> Option<Array>| {
            let parts = all.iter().map(|m| {
                let part = part(m).ok_or_else(|| self.unlike(role(0)))?;
                let mut shape = part.shape();
                shape.insert(0, 1);
                Ok(self.ops.reshape(&part, &shape)?)
            });
            let parts = parts.collect::<Result<Vec<_>, BackendError>>()?;
            Ok::<_, BackendError>(self.ops.concatenate(&parts.iter().collect(), 0)?)
        };
        let matrix = match &all[0] {
            Matrix::Dense(_) => Matrix::Dense(stack(&|m| match m {
                Matrix::Dense(w) => Some(w.clone()),
                Matrix::Quantized(_) => None,
            })?),
            Matrix::Quantized(first) => {
                let alike = |m: &Matrix| match m {
                    Matrix::Quantized(w) if (w.bits, w.group_size) == (first.bits, first.group_size) => {
                        Some(w.clone())
                    }
                    _ => None,
                };
                Matrix::Quantized(Quantized {
                    codes: stack(&|m| alike(m).map(|w| w.codes))?,
                    scales: stack(&|m| alike(m).map(|w| w.scales))?,
                    biases: stack(&|m| alike(m).map(|w| w.biases))?,
                    ..*first
                })
            }
        };
        self.ops.eval(&matrix.arrays().into_iter().collect())?;
        Ok(matrix)
    }

    fn unlike(&self, role: TensorRole) -> BackendError {
        BackendError::Unsupported(format!(
            "{}: the experts of {role:?} are not quantised alike; the mlx backend multiplies them together",
            self.model.path.display()
        ))
    }

    /// A matrix in the chosen form.
    fn planned(&self, role: TensorRole) -> Result<Matrix, BackendError> {
        if let Some(affine) = self.model.affine(role)? {
            return self.affine(&affine);
        }
        let tensor = self.model.tensor(role)?;
        if tensor.dtype.is_quantized() && !self.format.dequantize {
            let exact = regroup(&tensor).filter(|regrouped| regrouped.fits(self.format.compute));
            if let Some(regrouped) = exact {
                check_finite(&tensor)?;
                return self.regrouped(&tensor, &regrouped);
            }
        }
        let matrix = self.floats(&tensor)?;
        match self.format.quantize {
            Some(to) if !tensor.dtype.is_quantized() && quantizes(role, &tensor, to) => {
                let quantized = self.ops.quantize(&matrix, to.group_size, to.bits)?;
                self.held(quantized)
            }
            _ => Ok(Matrix::Dense(matrix)),
        }
    }

    fn held(&self, quantized: Quantized) -> Result<Matrix, BackendError> {
        match self.format.dequantize {
            true => Ok(Matrix::Dense(self.ops.dequantize(&quantized)?)),
            false => Ok(Matrix::Quantized(quantized)),
        }
    }

    /// A matrix quantised by MLX.
    fn affine(&self, affine: &AffineTensor) -> Result<Matrix, BackendError> {
        let words = affine.shape[1] * affine.affine.bits / 32;
        self.held(Quantized {
            codes: self.ops.array(affine.codes(), &[affine.shape[0], words], Dtype::U32)?,
            scales: self.floats(&affine.scales)?,
            biases: self.floats(&affine.biases)?,
            group_size: affine.affine.group_size,
            bits: affine.affine.bits,
        })
    }

    /// A ggml matrix in MLX's quantisation, with the same values.
    fn regrouped(
        &self,
        tensor: &Tensor,
        regrouped: &crate::regroup::Regrouped,
    ) -> Result<Matrix, BackendError> {
        let (rows, cols) = (tensor.rows(), tensor.cols());
        let per_group = |values: &[f32]| {
            let shape = [rows, cols / crate::regroup::GROUP];
            self.ops.as_type(&self.ops.floats(values, &shape)?, self.format.compute)
        };
        Ok(Matrix::Quantized(Quantized {
            codes: self.ops.array(&regrouped.codes, &[rows, cols * regrouped.bits / 32], Dtype::U32)?,
            scales: per_group(&regrouped.scales)?,
            biases: per_group(&regrouped.biases)?,
            group_size: crate::regroup::GROUP,
            bits: regrouped.bits,
        }))
    }

    /// A tensor's values in the type of the computation.
    fn floats(&self, tensor: &Tensor) -> Result<Array, BackendError> {
        check_finite(tensor)?;
        let array = match float_type(tensor.dtype).filter(|_| tensor.scale() == 1.0) {
            Some(dtype) => self.ops.array(tensor.bytes(), &tensor.shape, dtype)?,
            None => self.ops.floats(&tensor.to_f32(), &tensor.shape)?,
        };
        Ok(self.ops.as_type(&array, self.format.compute)?)
    }
}

/// Whether a float matrix is quantised while loading: its rows must be whole groups, and the router is too sensitive.
fn quantizes(role: TensorRole, tensor: &Tensor, to: Quantization) -> bool {
    !matches!(role, TensorRole::Layer(_, LayerTensor::Router)) && tensor.cols().is_multiple_of(to.group_size)
}
