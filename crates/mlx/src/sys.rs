//! The bridge to `shim.h`, one line per function. Called from `safe.rs` only.

#[allow(unused_qualifications)] // in the code that the macro generates
#[cxx::bridge(namespace = "zonda_mlx")]
pub(crate) mod ffi {
    /// The array types in use.
    #[derive(Debug)]
    enum Dtype {
        F32,
        F16,
        BF16,
        I32,
        U32,
        U8,
        Bool,
    }

    /// A matrix quantised by MLX, with a scale and a bias for each group.
    struct Quantized {
        /// Codes in 32-bit words, `[out, in * bits / 32]`
        codes: UniquePtr<Array>,
        /// `[out, in / group_size]`
        scales: UniquePtr<Array>,
        /// `[out, in / group_size]`
        biases: UniquePtr<Array>,
    }

    // All functions check their arguments and throw on errors, which become `Err`.
    unsafe extern "C++" {
        include!("zonda-mlx/src/shim.h");

        type Array;
        type List;
        type Ops;

        fn version() -> String;
        fn built_against() -> String;
        fn has_gpu() -> bool;
        fn gpu_name() -> Result<String>;
        fn memory_limit() -> usize;
        fn set_blas_threads(threads: i32) -> i32;
        fn blas_name() -> String;

        fn new_list() -> UniquePtr<List>;
        fn push(self: Pin<&mut List>, array: &Array);

        fn share(array: &Array) -> UniquePtr<Array>;
        fn shape_of(array: &Array) -> Vec<i32>;
        fn dtype_of(array: &Array) -> Result<Dtype>;
        #[allow(dead_code)] // used by a test
        fn address_of(array: &Array) -> Result<usize>;

        fn new_ops(gpu: bool) -> Result<UniquePtr<Ops>>;
        fn array(self: &Ops, bytes: &[u8], shape: &[i32], dtype: Dtype) -> Result<UniquePtr<Array>>;
        fn zeros(self: &Ops, shape: &[i32], dtype: Dtype) -> Result<UniquePtr<Array>>;
        fn as_type(self: &Ops, a: &Array, dtype: Dtype) -> Result<UniquePtr<Array>>;
        fn reshape(self: &Ops, a: &Array, shape: &[i32]) -> Result<UniquePtr<Array>>;
        fn transpose(self: &Ops, a: &Array, axes: &[i32]) -> Result<UniquePtr<Array>>;
        fn slice(self: &Ops, a: &Array, start: &[i32], stop: &[i32]) -> Result<UniquePtr<Array>>;
        fn slice_update(
            self: &Ops,
            a: &Array,
            update: &Array,
            start: &[i32],
            stop: &[i32],
        ) -> Result<UniquePtr<Array>>;
        fn concatenate(self: &Ops, list: &List, axis: i32) -> Result<UniquePtr<Array>>;
        fn take(self: &Ops, a: &Array, indices: &Array, axis: i32) -> Result<UniquePtr<Array>>;
        fn take_along(self: &Ops, a: &Array, indices: &Array, axis: i32) -> Result<UniquePtr<Array>>;

        fn add(self: &Ops, a: &Array, b: &Array) -> Result<UniquePtr<Array>>;
        fn scale(self: &Ops, a: &Array, factor: f32) -> Result<UniquePtr<Array>>;
        fn tanh(self: &Ops, a: &Array) -> Result<UniquePtr<Array>>;
        fn sigmoid(self: &Ops, a: &Array) -> Result<UniquePtr<Array>>;
        fn multiply(self: &Ops, a: &Array, b: &Array) -> Result<UniquePtr<Array>>;
        fn divide(self: &Ops, a: &Array, b: &Array) -> Result<UniquePtr<Array>>;
        fn sum(self: &Ops, a: &Array, axis: i32, keep: bool) -> Result<UniquePtr<Array>>;
        fn softmax(self: &Ops, a: &Array) -> Result<UniquePtr<Array>>;
        fn largest(self: &Ops, a: &Array, count: i32) -> Result<UniquePtr<Array>>;
        fn order(self: &Ops, a: &Array) -> Result<UniquePtr<Array>>;
        fn swiglu(self: &Ops, gate: &Array, up: &Array, compiled: bool) -> Result<UniquePtr<Array>>;
        fn geglu(self: &Ops, gate: &Array, up: &Array, compiled: bool) -> Result<UniquePtr<Array>>;
        fn clamped_swiglu(
            self: &Ops,
            gate: &Array,
            up: &Array,
            alpha: f32,
            limit: f32,
            compiled: bool,
        ) -> Result<UniquePtr<Array>>;

        fn rms_norm(self: &Ops, x: &Array, weight: &Array, eps: f32) -> Result<UniquePtr<Array>>;
        fn layer_norm(self: &Ops, x: &Array, weight: &Array, eps: f32) -> Result<UniquePtr<Array>>;
        fn rope(
            self: &Ops,
            x: &Array,
            adjacent: bool,
            offset: i32,
            periods: &Array,
        ) -> Result<UniquePtr<Array>>;
        #[allow(clippy::too_many_arguments)] // as in MLX
        fn attention(
            self: &Ops,
            q: &Array,
            k: &Array,
            v: &Array,
            scale: f32,
            causal: bool,
            mask: &List,
            sinks: &List,
        ) -> Result<UniquePtr<Array>>;
        fn matmul(self: &Ops, a: &Array, b: &Array) -> Result<UniquePtr<Array>>;
        fn masked(self: &Ops, scores: &Array, mask: &Array) -> Result<UniquePtr<Array>>;

        fn linear(self: &Ops, x: &Array, w: &Array) -> Result<UniquePtr<Array>>;
        fn linear_quantized(
            self: &Ops,
            x: &Array,
            w: &Array,
            scales: &Array,
            biases: &List,
            group_size: i32,
            bits: i32,
        ) -> Result<UniquePtr<Array>>;
        fn gather_linear(
            self: &Ops,
            x: &Array,
            w: &Array,
            indices: &Array,
            sorted: bool,
        ) -> Result<UniquePtr<Array>>;
        #[allow(clippy::too_many_arguments)] // as in MLX
        fn gather_linear_quantized(
            self: &Ops,
            x: &Array,
            w: &Array,
            scales: &Array,
            biases: &List,
            indices: &Array,
            group_size: i32,
            bits: i32,
            sorted: bool,
        ) -> Result<UniquePtr<Array>>;
        fn quantize(self: &Ops, w: &Array, group_size: i32, bits: i32) -> Result<Quantized>;
        fn dequantize(
            self: &Ops,
            w: &Array,
            scales: &Array,
            biases: &List,
            group_size: i32,
            bits: i32,
        ) -> Result<UniquePtr<Array>>;

        fn eval(self: &Ops, list: &List) -> Result<()>;
        fn read(self: &Ops, a: &Array, out: &mut [f32]) -> Result<()>;
    }
}
