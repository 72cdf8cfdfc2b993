//! Reads a model's tensors, in the form that [`WeightFormat`] names.

use crate::format::{WeightFormat, float_type};
use crate::options::Quantization;
use crate::regroup::{GROUP, Mxfp4, Regrouped, mxfp4, regroup};
use crate::rope::Turn;
use crate::safe::{self, Array, Dtype, List, Ops, Quantized};
use crate::weights::{self, Dense, Experts, Ffn, Layer, Linear, Matrix, Weights};
use zonda_engine::forward::BackendError;
use zonda_engine::load::{
    AffineTensor, LayerTensor, Model, Moe, NormPlacement, Tensor, TensorRole, check_finite,
};

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
        let extras = &spec.extras;
        let vector = |t| self.vector(TensorRole::Layer(l, t));
        let matrix = |t| self.matrix(TensorRole::Layer(l, t));
        let linear = |w, b, has_bias: bool| {
            let bias = has_bias.then(|| vector(b)).transpose()?;
            Ok::<_, BackendError>(Linear { matrix: matrix(w)?, bias })
        };
        let before = |t| (extras.norms != NormPlacement::After).then(|| vector(t)).transpose();
        let after = |t| {
            matches!(extras.norms, NormPlacement::After | NormPlacement::Both).then(|| vector(t)).transpose()
        };
        let qk_norm = || Ok::<_, BackendError>((vector(QNorm)?, vector(KNorm)?));
        Ok(Layer {
            attn_norm: before(AttnNorm)?,
            attn_post_norm: after(AttnPostNorm)?,
            q: linear(Q, QBias, spec.qkv_bias)?,
            k: linear(K, KBias, spec.qkv_bias)?,
            v: linear(V, VBias, spec.qkv_bias)?,
            qk_norm: spec.qk_norm.then(qk_norm).transpose()?,
            rope: Turn::kind_of(spec, l),
            sinks: extras.sinks.then(|| vector(Sinks)).transpose()?,
            attn_out: linear(AttnOut, AttnOutBias, extras.attention_out_bias)?,
            ffn_norm: if extras.norms == NormPlacement::Parallel { None } else { before(FfnNorm)? },
            ffn_post_norm: after(FfnPostNorm)?,
            ffn: match spec.experts_of(l) {
                None => Ffn::Dense(self.dense(l, [FfnGate, FfnUp, FfnDown])?),
                Some(moe) => Ffn::Moe(Box::new(self.experts(l, moe)?)),
            },
        })
    }

    fn dense(&self, l: usize, [gate, up, down]: [LayerTensor; 3]) -> Result<Dense, BackendError> {
        let matrix = |t| self.matrix(TensorRole::Layer(l, t));
        Ok(Dense { gate: matrix(gate)?, up: matrix(up)?, down: matrix(down)? })
    }

    fn experts(&self, l: usize, moe: &Moe) -> Result<Experts, BackendError> {
        use LayerTensor::*;
        let role = |t| TensorRole::Layer(l, t);
        // Scores are computed in f32.
        let exact = |t| self.floats(&self.model.tensor(role(t))?, Dtype::F32);
        let stacked = |w: &dyn Fn(usize) -> LayerTensor, b: &dyn Fn(usize) -> LayerTensor| {
            let matrix = self.stacked(moe, |e| role(w(e)))?;
            let bias = moe.bias.then(|| self.stacked_vectors(moe, |e| role(b(e)))).transpose()?;
            Ok::<_, BackendError>(Linear { matrix, bias })
        };
        let shared = moe.shared.map(|shared| {
            let router = shared.gated.then(|| self.matrix(role(SharedRouter))).transpose()?;
            let dense = self.dense(l, [SharedGate, SharedUp, SharedDown])?;
            Ok::<_, BackendError>(weights::Shared { router, dense })
        });
        Ok(Experts {
            moe: moe.clone(),
            router: Linear {
                matrix: self.matrix(role(Router))?,
                bias: moe.router.bias.then(|| exact(RouterBias)).transpose()?,
            },
            correction: moe.router.correction.then(|| exact(RouterCorrection)).transpose()?,
            gate: stacked(&ExpertGate, &ExpertGateBias)?,
            up: stacked(&ExpertUp, &ExpertUpBias)?,
            down: stacked(&ExpertDown, &ExpertDownBias)?,
            shared: shared.transpose()?,
        })
    }

    /// A norm or a bias, in the type of the computation.
    fn vector(&self, role: TensorRole) -> Result<Array, BackendError> {
        let vector = self.floats(&self.model.tensor(role)?, self.format.compute)?;
        self.ops.eval(&List::from_iter([&vector]))?;
        Ok(vector)
    }

    /// A matrix in the chosen form, evaluated.
    fn matrix(&self, role: TensorRole) -> Result<Matrix, BackendError> {
        let matrix = self.planned(role)?;
        self.ops.eval(&matrix.arrays().into_iter().collect())?;
        Ok(matrix)
    }

    /// The matrices of all experts, `[experts, out, in]`.
    fn stacked(&self, moe: &Moe, role: impl Fn(usize) -> TensorRole) -> Result<Matrix, BackendError> {
        let all = (0..moe.experts).map(|e| self.planned(role(e))).collect::<Result<Vec<_>, _>>()?;
        let (mut floats, mut quantized) = (Vec::new(), Vec::new());
        for matrix in all {
            match matrix {
                Matrix::Dense(w) => floats.push(w),
                Matrix::Quantized(w) => quantized.push(w),
            }
        }
        let kind = |w: &Quantized| (w.bits, w.group_size, w.biases.is_some());
        let matrix = match quantized.first() {
            None if !self.format.float_experts => return Err(self.no_float_experts()),
            None => Matrix::Dense(self.stack(floats.iter())?),
            Some(first) if floats.is_empty() && quantized.iter().all(|w| kind(w) == kind(first)) => {
                let biases = first
                    .biases
                    .as_ref()
                    .map(|_| self.stack(quantized.iter().filter_map(|w| w.biases.as_ref())));
                Matrix::Quantized(Quantized {
                    codes: self.stack(quantized.iter().map(|w| &w.codes))?,
                    scales: self.stack(quantized.iter().map(|w| &w.scales))?,
                    biases: biases.transpose()?,
                    ..*first
                })
            }
            Some(_) => return Err(self.unlike(role(0))),
        };
        self.ops.eval(&matrix.arrays().into_iter().collect())?;
        Ok(matrix)
    }

    /// The biases of all experts, `[experts, out]`.
    fn stacked_vectors(&self, moe: &Moe, role: impl Fn(usize) -> TensorRole) -> Result<Array, BackendError> {
        let all = (0..moe.experts).map(|e| self.vector(role(e))).collect::<Result<Vec<_>, _>>()?;
        let stacked = self.stack(all.iter())?;
        self.ops.eval(&List::from_iter([&stacked]))?;
        Ok(stacked)
    }

    /// Arrays of one shape, one after another along a new first dimension.
    fn stack<'a>(&self, arrays: impl Iterator<Item = &'a Array>) -> safe::Result<Array> {
        let rows = arrays.map(|array| {
            let mut shape = array.shape();
            shape.insert(0, 1);
            self.ops.reshape(array, &shape)
        });
        let rows = rows.collect::<safe::Result<Vec<_>>>()?;
        self.ops.concatenate(&rows.iter().collect(), 0)
    }

    fn unlike(&self, role: TensorRole) -> BackendError {
        BackendError::Unsupported(format!(
            "{}: the experts of {role:?} are not quantised alike; the mlx backend multiplies them together",
            self.model.path.display()
        ))
    }

    fn no_float_experts(&self) -> BackendError {
        BackendError::Unsupported(format!(
            "{}: on the CPU MLX multiplies experts in f32 only, not in {}",
            self.model.path.display(),
            safe::name(self.format.compute)
        ))
    }

    /// A matrix in the chosen form.
    fn planned(&self, role: TensorRole) -> Result<Matrix, BackendError> {
        if let Some(affine) = self.model.affine(role)? {
            return self.affine(&affine);
        }
        let tensor = self.model.tensor(role)?;
        if tensor.dtype.is_quantized() && !self.format.dequantize {
            if let Some(mxfp4) = mxfp4(&tensor) {
                check_finite(&tensor)?;
                return self.microscaled(&tensor, &mxfp4);
            }
            let exact = regroup(&tensor).filter(|regrouped| regrouped.fits(self.format.compute));
            if let Some(regrouped) = exact {
                check_finite(&tensor)?;
                return self.regrouped(&tensor, &regrouped);
            }
        }
        let matrix = self.floats(&tensor, self.format.compute)?;
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
            scales: self.floats(&affine.scales, self.format.compute)?,
            biases: Some(self.floats(&affine.biases, self.format.compute)?),
            group_size: affine.affine.group_size,
            bits: affine.affine.bits,
        })
    }

    /// A ggml matrix in MLX's quantisation, with the same values.
    fn regrouped(&self, tensor: &Tensor, regrouped: &Regrouped) -> Result<Matrix, BackendError> {
        let (rows, cols) = (tensor.rows(), tensor.cols());
        let per_group = |values: &[f32]| {
            let shape = [rows, cols / GROUP];
            self.ops.as_type(&self.ops.floats(values, &shape)?, self.format.compute)
        };
        Ok(Matrix::Quantized(Quantized {
            codes: self.ops.array(&regrouped.codes, &[rows, cols * regrouped.bits / 32], Dtype::U32)?,
            scales: per_group(&regrouped.scales)?,
            biases: Some(per_group(&regrouped.biases)?),
            group_size: GROUP,
            bits: regrouped.bits,
        }))
    }

    /// An MXFP4 matrix with the same codes and scales.
    fn microscaled(&self, tensor: &Tensor, mxfp4: &Mxfp4) -> Result<Matrix, BackendError> {
        let (rows, cols) = (tensor.rows(), tensor.cols());
        Ok(Matrix::Quantized(Quantized {
            codes: self.ops.array(&mxfp4.codes, &[rows, cols / 8], Dtype::U32)?,
            scales: self.ops.array(&mxfp4.scales, &[rows, cols / GROUP], Dtype::U8)?,
            biases: None,
            group_size: GROUP,
            bits: 4,
        }))
    }

    /// A tensor's values in a type.
    fn floats(&self, tensor: &Tensor, to: Dtype) -> Result<Array, BackendError> {
        check_finite(tensor)?;
        let array = match float_type(tensor.dtype).filter(|_| tensor.scale() == 1.0) {
            Some(dtype) => self.ops.array(tensor.bytes(), &tensor.shape, dtype)?,
            None => self.ops.floats(&tensor.to_f32(), &tensor.shape)?,
        };
        Ok(self.ops.as_type(&array, to)?)
    }
}

/// Whether a float matrix is quantised while loading: its rows must be whole groups, and routers are too sensitive.
fn quantizes(role: TensorRole, tensor: &Tensor, to: Quantization) -> bool {
    let router = matches!(role, TensorRole::Layer(_, LayerTensor::Router | LayerTensor::SharedRouter));
    !router && tensor.cols().is_multiple_of(to.group_size)
}
