//! MLX's arrays and operations in safe Rust. Only this file calls the bridge.
//!
//! Operations are lazy; [`Ops::eval`] and [`Ops::read`] compute them. Arrays are immutable values: an operation never changes its
//! inputs, and [`Array::clone`] shares. MLX reuses the memory of an input without other owners, so the KV cache is updated in
//! place.

use crate::sys::ffi;
use cxx::UniquePtr;
use std::fmt;
use zonda_engine::forward::BackendError;
use zonda_engine::load::Activation;

pub(crate) use ffi::Dtype;

/// An error message of MLX.
#[derive(Debug)]
pub(crate) struct Error(String);

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MLX: {}", self.0)
    }
}

impl From<cxx::Exception> for Error {
    fn from(exception: cxx::Exception) -> Error {
        Error(exception.what().trim().to_owned())
    }
}

impl From<Error> for BackendError {
    fn from(error: Error) -> BackendError {
        BackendError::Failed(error.to_string())
    }
}

pub(crate) type Result<T> = std::result::Result<T, Error>;

/// The versions of the loaded MLX and of the one that this crate was compiled against.
pub(crate) fn versions() -> (String, String) {
    (ffi::version(), ffi::built_against())
}

/// The GPU's name, if there is one.
pub(crate) fn gpu() -> Option<String> {
    ffi::has_gpu().then(|| ffi::gpu_name().unwrap_or_else(|_| "gpu".to_owned()))
}

/// MLX's memory limit in bytes.
pub(crate) fn memory_limit() -> usize {
    ffi::memory_limit()
}

/// Sets the number of threads of the BLAS that MLX uses for `f32` matrices on the CPU, for the whole process. Returns the number
/// in use and the BLAS's name; 1 and an empty name for MLX's own BLAS.
pub(crate) fn set_blas_threads(threads: usize) -> (usize, String) {
    let threads = ffi::set_blas_threads(i32::try_from(threads).unwrap_or(i32::MAX)).max(1) as usize;
    (threads, ffi::blas_name())
}

/// A type's name in records.
pub(crate) fn name(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::F32 => "f32",
        Dtype::F16 => "f16",
        Dtype::BF16 => "bf16",
        Dtype::I32 => "i32",
        Dtype::U32 => "u32",
        Dtype::U8 => "u8",
        _ => "bool",
    }
}

/// Bytes per value.
pub(crate) fn size(dtype: Dtype) -> usize {
    match dtype {
        Dtype::F32 | Dtype::I32 | Dtype::U32 => 4,
        Dtype::F16 | Dtype::BF16 => 2,
        _ => 1,
    }
}

/// An array, possibly not computed yet. Not `Send`: it belongs to the thread of the [`Ops`] that created it.
pub(crate) struct Array(UniquePtr<ffi::Array>);

impl Array {
    /// Its dimensions, outermost first.
    pub fn shape(&self) -> Vec<usize> {
        ffi::shape_of(&self.0).into_iter().map(|dim| dim.max(0) as usize).collect()
    }

    /// The address of its values after it was computed.
    #[cfg(test)]
    pub fn address(&self) -> Result<usize> {
        Ok(ffi::address_of(&self.0)?)
    }

    pub fn dtype(&self) -> Result<Dtype> {
        Ok(ffi::dtype_of(&self.0)?)
    }
}

impl Clone for Array {
    /// Shares the array without copying.
    fn clone(&self) -> Array {
        Array(ffi::share(&self.0))
    }
}

impl fmt::Debug for Array {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Array{:?}", self.shape())
    }
}

/// A matrix quantised by MLX: `value = scale * code + bias`; or in MXFP4: `value = 2^(scale − 127) * E2M1(code)`.
#[derive(Clone, Debug)]
pub(crate) struct Quantized {
    /// Codes in 32-bit words, low bits first, `[.., out, in * bits / 32]`
    pub codes: Array,
    /// `[.., out, in / group_size]`
    pub scales: Array,
    /// `[.., out, in / group_size]`; `None`: MXFP4
    pub biases: Option<Array>,
    /// Values that share a scale and a bias.
    pub group_size: usize,
    pub bits: usize,
}

impl Quantized {
    /// Its parts, which may have to be computed yet.
    pub fn arrays(&self) -> impl Iterator<Item = &Array> {
        [&self.codes, &self.scales].into_iter().chain(&self.biases)
    }
}

/// Several arrays, to concatenate or to compute together.
pub(crate) struct List(UniquePtr<ffi::List>);

impl List {
    pub fn push(&mut self, array: &Array) {
        self.0.pin_mut().push(&array.0);
    }

    pub fn extend<'a>(&mut self, arrays: impl IntoIterator<Item = &'a Array>) {
        arrays.into_iter().for_each(|array| self.push(array));
    }
}

impl<'a> FromIterator<&'a Array> for List {
    fn from_iter<I: IntoIterator<Item = &'a Array>>(arrays: I) -> List {
        let mut list = List(ffi::new_list());
        list.extend(arrays);
        list
    }
}

impl fmt::Debug for List {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("List")
    }
}

/// Operations on one device, on the stream of the thread that created this value. Not `Send`.
pub(crate) struct Ops {
    ops: UniquePtr<ffi::Ops>,
    /// Whether MLX's compiler fuses element-wise operations. On the CPU it would run a C++ compiler.
    pub compiled: bool,
}

impl fmt::Debug for Ops {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ops")
    }
}

/// A shape in MLX's type.
fn dims(shape: &[usize]) -> Result<Vec<i32>> {
    let narrow = |&n: &usize| i32::try_from(n).map_err(|_| Error(format!("a dimension of {n} is too large")));
    shape.iter().map(narrow).collect()
}

fn int(n: usize) -> Result<i32> {
    i32::try_from(n).map_err(|_| Error(format!("{n} is too large")))
}

impl Ops {
    pub fn new(gpu: bool) -> Result<Ops> {
        Ok(Ops { ops: ffi::new_ops(gpu)?, compiled: gpu })
    }

    /// An array with a copy of values in memory.
    pub fn array(&self, bytes: &[u8], shape: &[usize], dtype: Dtype) -> Result<Array> {
        Ok(Array(self.ops.array(bytes, &dims(shape)?, dtype)?))
    }

    /// A vector of indices.
    pub fn indices(&self, values: impl Iterator<Item = u32>) -> Result<Array> {
        let values: Vec<u32> = values.collect();
        self.array(bytemuck::cast_slice(&values), &[values.len()], Dtype::U32)
    }

    /// A vector or matrix of `f32`.
    pub fn floats(&self, values: &[f32], shape: &[usize]) -> Result<Array> {
        self.array(bytemuck::cast_slice(values), shape, Dtype::F32)
    }

    pub fn zeros(&self, shape: &[usize], dtype: Dtype) -> Result<Array> {
        Ok(Array(self.ops.zeros(&dims(shape)?, dtype)?))
    }

    pub fn as_type(&self, a: &Array, dtype: Dtype) -> Result<Array> {
        Ok(Array(self.ops.as_type(&a.0, dtype)?))
    }

    pub fn reshape(&self, a: &Array, shape: &[usize]) -> Result<Array> {
        Ok(Array(self.ops.reshape(&a.0, &dims(shape)?)?))
    }

    pub fn transpose(&self, a: &Array, axes: &[usize]) -> Result<Array> {
        Ok(Array(self.ops.transpose(&a.0, &dims(axes)?)?))
    }

    /// The part of an array from `start` to `stop` in every dimension.
    pub fn slice(&self, a: &Array, start: &[usize], stop: &[usize]) -> Result<Array> {
        Ok(Array(self.ops.slice(&a.0, &dims(start)?, &dims(stop)?)?))
    }

    /// `a` with `update` written from `start` to `stop`. In place if `a` has no other owner when it is computed.
    pub fn slice_update(&self, a: Array, update: &Array, start: &[usize], stop: &[usize]) -> Result<Array> {
        Ok(Array(self.ops.slice_update(&a.0, &update.0, &dims(start)?, &dims(stop)?)?))
    }

    /// Concatenates arrays along `axis`.
    pub fn concatenate(&self, list: &List, axis: usize) -> Result<Array> {
        Ok(Array(self.ops.concatenate(&list.0, int(axis)?)?))
    }

    /// The rows (along `axis`) at `indices`.
    pub fn take(&self, a: &Array, indices: &Array, axis: usize) -> Result<Array> {
        Ok(Array(self.ops.take(&a.0, &indices.0, int(axis)?)?))
    }

    /// For each row, the values at its indices along the last axis.
    pub fn take_along_last(&self, a: &Array, indices: &Array) -> Result<Array> {
        Ok(Array(self.ops.take_along(&a.0, &indices.0, -1)?))
    }

    pub fn add(&self, a: &Array, b: &Array) -> Result<Array> {
        Ok(Array(self.ops.add(&a.0, &b.0)?))
    }

    /// Multiplies by a number; in the array's type.
    pub fn scale(&self, a: &Array, factor: f32) -> Result<Array> {
        Ok(Array(self.ops.scale(&a.0, factor)?))
    }

    /// `cap · tanh(a / cap)`
    pub fn softcap(&self, a: &Array, cap: f32) -> Result<Array> {
        self.scale(&Array(self.ops.tanh(&self.scale(a, 1.0 / cap)?.0)?), cap)
    }

    /// `1 / (1 + e^−a)`
    pub fn sigmoid(&self, a: &Array) -> Result<Array> {
        Ok(Array(self.ops.sigmoid(&a.0)?))
    }

    pub fn multiply(&self, a: &Array, b: &Array) -> Result<Array> {
        Ok(Array(self.ops.multiply(&a.0, &b.0)?))
    }

    pub fn divide(&self, a: &Array, b: &Array) -> Result<Array> {
        Ok(Array(self.ops.divide(&a.0, &b.0)?))
    }

    /// Sums along an axis, counted from the last one (`from_end` 0). With `keep` the axis stays, with length 1.
    pub fn sum(&self, a: &Array, from_end: usize, keep: bool) -> Result<Array> {
        Ok(Array(self.ops.sum(&a.0, -1 - int(from_end)?, keep)?))
    }

    /// Along the last axis.
    pub fn softmax(&self, a: &Array) -> Result<Array> {
        Ok(Array(self.ops.softmax(&a.0)?))
    }

    /// The indices of the `count` largest values of each row, in no particular order.
    pub fn largest(&self, a: &Array, count: usize) -> Result<Array> {
        Ok(Array(self.ops.largest(&a.0, int(count)?)?))
    }

    /// The indices that sort a vector.
    pub fn order(&self, a: &Array) -> Result<Array> {
        Ok(Array(self.ops.order(&a.0)?))
    }

    /// `activation(gate) * up`, as [`Activation`] says.
    pub fn gated(&self, activation: Activation, gate: &Array, up: &Array) -> Result<Array> {
        let (gate, up, compiled) = (&gate.0, &up.0, self.compiled);
        Ok(Array(match activation {
            Activation::Silu => self.ops.swiglu(gate, up, compiled)?,
            Activation::GeluTanh => self.ops.geglu(gate, up, compiled)?,
            Activation::Clamped { alpha, limit } => {
                self.ops.clamped_swiglu(gate, up, alpha, limit, compiled)?
            }
        }))
    }

    /// Along the last axis.
    pub fn rms_norm(&self, x: &Array, weight: &Array, eps: f32) -> Result<Array> {
        Ok(Array(self.ops.rms_norm(&x.0, &weight.0, eps)?))
    }

    /// Layer norm without a bias, along the last axis.
    pub fn layer_norm(&self, x: &Array, weight: &Array, eps: f32) -> Result<Array> {
        Ok(Array(self.ops.layer_norm(&x.0, &weight.0, eps)?))
    }

    /// Applies RoPE to the first `width` values of each head of `x`, `[1, heads, tokens, head_dim]`, at the positions from `start`
    /// on. `periods`, `[width / 2]`, are in positions per radian.
    pub fn rope(&self, x: &Array, adjacent: bool, start: usize, periods: &Array) -> Result<Array> {
        Ok(Array(self.ops.rope(&x.0, adjacent, int(start)?, &periods.0)?))
    }

    /// Attention of `q`, `[1, heads, tokens, head_dim]`, over `k` and `v`, `[1, kv_heads, positions, head_dim]`; the
    /// tokens are at the last positions. `sinks`, `[heads]`, take part in each head's softmax and give nothing.
    pub fn attention(
        &self,
        [q, k, v]: [&Array; 3],
        scale: f32,
        mask: &Mask,
        sinks: Option<&Array>,
    ) -> Result<Array> {
        let causal = matches!(mask, Mask::Causal);
        let array = match mask {
            Mask::Array(mask) => Some(mask),
            Mask::None | Mask::Causal => None,
        };
        let (mask, sinks) = (List::from_iter(array), List::from_iter(sinks));
        Ok(Array(self.ops.attention(&q.0, &k.0, &v.0, scale, causal, &mask.0, &sinks.0)?))
    }

    /// `a · b` of the last two dimensions; the ones before are repeated where one of the arrays has length 1.
    pub fn matmul(&self, a: &Array, b: &Array) -> Result<Array> {
        Ok(Array(self.ops.matmul(&a.0, &b.0)?))
    }

    /// Minus infinity where `mask`, `[tokens, positions]`, is false in scores, `[.., tokens, positions]`.
    pub fn masked(&self, scores: &Array, mask: &Array) -> Result<Array> {
        Ok(Array(self.ops.masked(&scores.0, &mask.0)?))
    }

    /// `x · wᵀ` of `[tokens, in]` and `[out, in]`.
    pub fn linear(&self, x: &Array, w: &Array) -> Result<Array> {
        Ok(Array(self.ops.linear(&x.0, &w.0)?))
    }

    /// [`Ops::linear`] with a quantised matrix.
    pub fn linear_quantized(&self, x: &Array, w: &Quantized) -> Result<Array> {
        let (group_size, bits) = (int(w.group_size)?, int(w.bits)?);
        let (codes, scales, biases) = (&w.codes.0, &w.scales.0, List::from_iter(&w.biases));
        Ok(Array(self.ops.linear_quantized(&x.0, codes, scales, &biases.0, group_size, bits)?))
    }

    /// Multiplies each row of `x` with one of several matrices, `[matrices, out, in]`, chosen by `indices`.
    pub fn gather_linear(&self, x: &Array, w: &Array, indices: &Array, sorted: bool) -> Result<Array> {
        Ok(Array(self.ops.gather_linear(&x.0, &w.0, &indices.0, sorted)?))
    }

    /// [`Ops::gather_linear`] with quantised matrices.
    pub fn gather_linear_quantized(
        &self,
        x: &Array,
        w: &Quantized,
        indices: &Array,
        sorted: bool,
    ) -> Result<Array> {
        let (group_size, bits) = (int(w.group_size)?, int(w.bits)?);
        let (codes, scales, biases) = (&w.codes.0, &w.scales.0, List::from_iter(&w.biases));
        let (biases, indices) = (&biases.0, &indices.0);
        let out =
            self.ops.gather_linear_quantized(&x.0, codes, scales, biases, indices, group_size, bits, sorted);
        Ok(Array(out?))
    }

    /// Quantises a matrix in groups along the last axis.
    pub fn quantize(&self, w: &Array, group_size: usize, bits: usize) -> Result<Quantized> {
        let ffi::Quantized { codes, scales, biases } =
            self.ops.quantize(&w.0, int(group_size)?, int(bits)?)?;
        let biases = Some(Array(biases));
        Ok(Quantized { codes: Array(codes), scales: Array(scales), biases, group_size, bits })
    }

    /// The values of a quantised matrix, in the type of its scales; of MXFP4 in bf16, which represents them exactly.
    pub fn dequantize(&self, w: &Quantized) -> Result<Array> {
        let (group_size, bits) = (int(w.group_size)?, int(w.bits)?);
        let biases = List::from_iter(&w.biases);
        Ok(Array(self.ops.dequantize(&w.codes.0, &w.scales.0, &biases.0, group_size, bits)?))
    }

    /// Computes all arrays of a list.
    pub fn eval(&self, list: &List) -> Result<()> {
        Ok(self.ops.eval(&list.0)?)
    }

    /// Computes an array and copies its values, row-major, as `f32` into `out`, which must have the same size.
    pub fn read(&self, a: &Array, out: &mut [f32]) -> Result<()> {
        Ok(self.ops.read(&a.0, out)?)
    }
}

/// The positions that a query attends to.
#[derive(Clone, Debug)]
pub(crate) enum Mask {
    /// All positions, for a single token.
    None,
    /// Its own position and those before it.
    Causal,
    /// The positions that are true in `[tokens, positions]`.
    Array(Array),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(ops: &Ops, a: &Array) -> Vec<f32> {
        let mut out = vec![0.0; a.shape().iter().product()];
        ops.read(a, &mut out).unwrap();
        out
    }

    #[test]
    fn refusals_of_mlx_are_errors_and_do_no_harm() {
        let ops = Ops::new(false).unwrap();
        let a = ops.floats(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &[2, 3]).unwrap();
        let wrong = ops.linear(&a, &ops.zeros(&[4, 5], Dtype::F32).unwrap()).unwrap_err();
        assert!(wrong.to_string().starts_with("MLX: [matmul]"), "{wrong}");
        assert!(
            ops.array(&[0; 7], &[2], Dtype::F32).unwrap_err().to_string().contains("8 bytes made from 7")
        );
        assert!(ops.zeros(&[usize::MAX], Dtype::F32).is_err());
        assert!(ops.largest(&a, 4).unwrap_err().to_string().contains("largest 4 of 3"));
        assert!(ops.quantize(&a, 64, 4).is_err(), "rows of 3 values are not groups of 64");
        assert!(
            ops.read(&a, &mut [0.0; 5]).unwrap_err().to_string().contains("6 values read into room for 5")
        );
        let squared = ops.linear(&a, &a).unwrap();
        assert_eq!(values(&ops, &squared), [14.0, 32.0, 32.0, 77.0]);
    }

    #[test]
    fn a_shared_array_is_not_overwritten() {
        let ops = Ops::new(false).unwrap();
        let a = ops.zeros(&[4], Dtype::F32).unwrap();
        ops.eval(&List::from_iter([&a])).unwrap();
        let one = ops.floats(&[1.0], &[1]).unwrap();
        let b = ops.slice_update(a.clone(), &one, &[2], &[3]).unwrap();
        assert_eq!(values(&ops, &b), [0.0, 0.0, 1.0, 0.0]);
        assert_eq!(values(&ops, &a), [0.0; 4]);
    }

    /// On the CPU MLX's compiler runs a C++ compiler, which is present because it built this program.
    #[test]
    fn activations_match_their_formulas_compiled_or_not() {
        const GATE: [f32; 4] = [-2.0, 0.0, 0.5, 3.0];
        const UP: [f32; 4] = [1.0, 2.0, -3.0, 0.25];
        let sigmoid = |x: f32| 1.0 / (1.0 + (-x).exp());
        let gelu = |x: f32| {
            let inner = (2.0 / std::f32::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            x / 2.0 * (1.0 + inner.tanh())
        };
        let clamped = |g: f32, u: f32| g.min(2.0) * sigmoid(1.5 * g.min(2.0)) * (u.clamp(-2.0, 2.0) + 1.0);
        let mut ops = Ops::new(false).unwrap();
        let (gate, up) = (ops.floats(&GATE, &[2, 2]).unwrap(), ops.floats(&UP, &[2, 2]).unwrap());
        for compiled in [false, true] {
            ops.compiled = compiled;
            let run = |activation| values(&ops, &ops.gated(activation, &gate, &up).unwrap());
            let [silu, gelus] = [run(Activation::Silu), run(Activation::GeluTanh)];
            let limited = run(Activation::Clamped { alpha: 1.5, limit: 2.0 });
            for (i, (g, u)) in GATE.into_iter().zip(UP).enumerate() {
                assert!((g * sigmoid(g) * u - silu[i]).abs() < 1e-6, "SiLU {i}, compiled {compiled}");
                assert!((gelu(g) * u - gelus[i]).abs() < 1e-6, "GELU {i}, compiled {compiled}");
                assert!((clamped(g, u) - limited[i]).abs() < 1e-6, "clamped {i}, compiled {compiled}");
            }
        }
    }

    #[test]
    fn numbers_do_not_change_the_type() {
        let ops = Ops::new(false).unwrap();
        let x = ops.as_type(&ops.floats(&[-1.0, 2.0], &[1, 2]).unwrap(), Dtype::BF16).unwrap();
        let mask = ops.array(&[1, 0], &[1, 2], Dtype::Bool).unwrap();
        let results = [
            ops.scale(&x, 0.3),
            ops.softcap(&x, 2.0),
            ops.masked(&x, &mask),
            ops.gated(Activation::GeluTanh, &x, &x),
            ops.gated(Activation::Clamped { alpha: 1.7, limit: 1.0 }, &x, &x),
        ];
        for (i, result) in results.into_iter().enumerate() {
            assert_eq!(result.unwrap().dtype().unwrap(), Dtype::BF16, "result {i}");
        }
    }
}
