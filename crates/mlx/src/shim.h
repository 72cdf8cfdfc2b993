// The MLX operations that the backend uses, in the form that crate `cxx` bridges: they take references, return a new array
// and throw a C++ exception on errors. Every operation runs on the stream of its `Ops`. Streams belong to the thread that
// created them, and so do `Ops` and arrays.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "mlx/mlx.h"
#include "rust/cxx.h"

namespace zonda_mlx {

using Array = mlx::core::array;
enum class Dtype : std::uint8_t;
struct Quantized;

// Several arrays, to concatenate or to evaluate together.
class List {
public:
    void push(const Array &array);
    std::vector<Array> arrays;
};

std::unique_ptr<List> new_list();
rust::String version();
rust::String built_against();
bool has_gpu();
rust::String gpu_name();
// MLX's memory limit in bytes.
std::size_t memory_limit();
// Sets the threads of the BLAS that multiplies f32 matrices on the CPU; returns the number in use, 1 without such a BLAS.
std::int32_t set_blas_threads(std::int32_t threads);
// The name and version of the BLAS; empty for MLX's own.
rust::String blas_name();

std::unique_ptr<Array> share(const Array &array);
rust::Vec<std::int32_t> shape_of(const Array &array);
Dtype dtype_of(const Array &array);
// The address of a computed array's values.
std::size_t address_of(const Array &array);

class Ops {
public:
    explicit Ops(bool gpu);

    std::unique_ptr<Array> array(rust::Slice<const std::uint8_t> bytes, rust::Slice<const std::int32_t> shape,
                                      Dtype dtype) const;
    std::unique_ptr<Array> zeros(rust::Slice<const std::int32_t> shape, Dtype dtype) const;
    std::unique_ptr<Array> as_type(const Array &a, Dtype dtype) const;
    std::unique_ptr<Array> reshape(const Array &a, rust::Slice<const std::int32_t> shape) const;
    std::unique_ptr<Array> transpose(const Array &a, rust::Slice<const std::int32_t> axes) const;
    std::unique_ptr<Array> slice(const Array &a, rust::Slice<const std::int32_t> start,
                                 rust::Slice<const std::int32_t> stop) const;
    std::unique_ptr<Array> slice_update(const Array &a, const Array &update, rust::Slice<const std::int32_t> start,
                                        rust::Slice<const std::int32_t> stop) const;
    std::unique_ptr<Array> concatenate(const List &list, std::int32_t axis) const;
    std::unique_ptr<Array> take(const Array &a, const Array &indices, std::int32_t axis) const;
    std::unique_ptr<Array> take_along(const Array &a, const Array &indices, std::int32_t axis) const;

    std::unique_ptr<Array> add(const Array &a, const Array &b) const;
    std::unique_ptr<Array> scale(const Array &a, float factor) const;
    std::unique_ptr<Array> tanh(const Array &a) const;
    std::unique_ptr<Array> sigmoid(const Array &a) const;
    std::unique_ptr<Array> multiply(const Array &a, const Array &b) const;
    std::unique_ptr<Array> divide(const Array &a, const Array &b) const;
    std::unique_ptr<Array> sum(const Array &a, std::int32_t axis, bool keep) const;
    std::unique_ptr<Array> softmax(const Array &a) const;
    std::unique_ptr<Array> largest(const Array &a, std::int32_t count) const;
    std::unique_ptr<Array> order(const Array &a) const;
    std::unique_ptr<Array> swiglu(const Array &gate, const Array &up, bool compiled) const;
    std::unique_ptr<Array> geglu(const Array &gate, const Array &up, bool compiled) const;
    std::unique_ptr<Array> clamped_swiglu(const Array &gate, const Array &up, float alpha, float limit,
                                          bool compiled) const;

    std::unique_ptr<Array> rms_norm(const Array &x, const Array &weight, float eps) const;
    std::unique_ptr<Array> layer_norm(const Array &x, const Array &weight, float eps) const;
    std::unique_ptr<Array> rope(const Array &x, bool adjacent, std::int32_t offset, const Array &periods) const;
    // `mask` and `sinks` are empty or hold one array.
    std::unique_ptr<Array> attention(const Array &q, const Array &k, const Array &v, float scale, bool causal,
                                     const List &mask, const List &sinks) const;
    std::unique_ptr<Array> matmul(const Array &a, const Array &b) const;
    std::unique_ptr<Array> masked(const Array &scores, const Array &mask) const;

    std::unique_ptr<Array> linear(const Array &x, const Array &w) const;
    // Quantised matrices: `biases` holds one array, or none for MXFP4.
    std::unique_ptr<Array> linear_quantized(const Array &x, const Array &w, const Array &scales, const List &biases,
                                            std::int32_t group_size, std::int32_t bits) const;
    std::unique_ptr<Array> gather_linear(const Array &x, const Array &w, const Array &indices, bool sorted) const;
    std::unique_ptr<Array> gather_linear_quantized(const Array &x, const Array &w, const Array &scales,
                                                   const List &biases, const Array &indices, std::int32_t group_size,
                                                   std::int32_t bits, bool sorted) const;
    Quantized quantize(const Array &w, std::int32_t group_size, std::int32_t bits) const;
    std::unique_ptr<Array> dequantize(const Array &w, const Array &scales, const List &biases, std::int32_t group_size,
                                      std::int32_t bits) const;

    // Computes all arrays and waits for them.
    void eval(const List &list) const;
    // Computes an array and copies its values as f32 in row-major order.
    void read(const Array &a, rust::Slice<float> out) const;

private:
    mlx::core::Stream stream;
};

std::unique_ptr<Ops> new_ops(bool gpu);

} // namespace zonda_mlx
