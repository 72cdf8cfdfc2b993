// See shim.h. Each function makes one call of MLX.
#include "zonda-mlx/src/shim.h"
#include "zonda-mlx/src/sys.rs.h"

#include <cstring>
#include <limits>
#include <optional>
#include <stdexcept>

#ifdef ZONDA_OPENBLAS
extern "C" void openblas_set_num_threads(int);
extern "C" char *openblas_get_config(void);
extern "C" char *openblas_get_corename(void);
#endif

namespace mx = mlx::core;

namespace zonda_mlx {

namespace {

std::unique_ptr<Array> boxed(Array &&array) { return std::make_unique<Array>(std::move(array)); }

mx::Shape shape(rust::Slice<const std::int32_t> dims) { return mx::Shape(dims.begin(), dims.end()); }

mx::Dtype to_mlx(Dtype dtype) {
    switch (dtype) {
    case Dtype::F32:
        return mx::float32;
    case Dtype::F16:
        return mx::float16;
    case Dtype::BF16:
        return mx::bfloat16;
    case Dtype::I32:
        return mx::int32;
    case Dtype::U32:
        return mx::uint32;
    case Dtype::U8:
        return mx::uint8;
    case Dtype::Bool:
        return mx::bool_;
    }
    throw std::invalid_argument("a type that the bridge doesn't know");
}

Array transposed(const Array &w, const mx::Stream &stream) { return mx::swapaxes(w, -1, -2, stream); }

// A number in the type of an array, so that it doesn't change the type of a result.
Array number(float value, const Array &like) { return Array(value, like.dtype()); }

using Arrays = std::vector<Array>;

// silu(gate) * up
Arrays silu_mul(const Arrays &in, mx::StreamOrDevice s) {
    return {mx::multiply(mx::multiply(in[0], mx::sigmoid(in[0], s), s), in[1], s)};
}

// gelu(gate) * up, where gelu(x) = x * sigmoid(2 * sqrt(2 / pi) * (x + 0.044715 * x^3))
Arrays gelu_mul(const Arrays &in, mx::StreamOrDevice s) {
    const auto &gate = in[0];
    auto cubic = mx::add(mx::multiply(mx::square(gate, s), number(0.071354814f, gate), s), number(1.595769f, gate), s);
    auto share = mx::sigmoid(mx::multiply(gate, cubic, s), s);
    return {mx::multiply(mx::multiply(gate, share, s), in[1], s)};
}

// g * sigmoid(alpha * g) * (u + 1), where g = min(gate, limit) and u is `up` within -limit..limit; after these two come alpha,
// limit and -limit
Arrays clamped_silu_mul(const Arrays &in, mx::StreamOrDevice s) {
    auto gate = mx::minimum(in[0], in[3], s);
    auto up = mx::add(mx::maximum(mx::minimum(in[1], in[3], s), in[4], s), number(1.0f, in[1]), s);
    return {mx::multiply(mx::multiply(gate, mx::sigmoid(mx::multiply(gate, in[2], s), s), s), up, s)};
}

// Runs one of these functions, fused into one kernel if `compiled`.
template <auto function> std::unique_ptr<Array> elementwise(const Arrays &in, bool compiled, const mx::Stream &stream) {
    if (!compiled)
        return boxed(std::move(function(in, stream)[0]));
    // Its operations run on the default stream, which is set to ours during the call.
    mx::StreamContext context(stream);
    static thread_local const auto fused =
        mx::compile([](const Arrays &in) { return function(in, {}); }, /* shapeless */ true);
    return boxed(std::move(fused(in)[0]));
}

std::optional<Array> optional(const List &list) {
    return list.arrays.empty() ? std::nullopt : std::optional<Array>(list.arrays.front());
}

// MLX's name of a quantisation: MXFP4 is the one without biases.
const char *mode(const List &biases) { return biases.arrays.empty() ? "mxfp4" : "affine"; }

} // namespace

void List::push(const Array &array) { arrays.push_back(array); }
std::unique_ptr<List> new_list() { return std::make_unique<List>(); }

rust::String version() { return mx::version(); }
rust::String built_against() { return ZONDA_MLX_VERSION; }
bool has_gpu() { return mx::is_available(mx::Device(mx::Device::gpu)); }

rust::String gpu_name() {
    const auto &info = mx::device_info(mx::Device(mx::Device::gpu));
    auto name = info.find("device_name");
    const auto *text = name == info.end() ? nullptr : std::get_if<std::string>(&name->second);
    return text ? *text : std::string("gpu");
}

std::size_t memory_limit() { return mx::get_memory_limit(); }

std::int32_t set_blas_threads([[maybe_unused]] std::int32_t threads) {
#ifdef ZONDA_OPENBLAS
    openblas_set_num_threads(threads);
    return threads;
#else
    return 1;
#endif
}

rust::String blas_name() {
#ifdef ZONDA_OPENBLAS
    // The first two words of "OpenBLAS 0.3.21 DYNAMIC_ARCH ...".
    std::string config(openblas_get_config());
    auto second = config.find(' ');
    return config.substr(0, config.find(' ', second + 1)) + " " + openblas_get_corename();
#else
    return {};
#endif
}

std::unique_ptr<Array> share(const Array &array) { return std::make_unique<Array>(array); }

rust::Vec<std::int32_t> shape_of(const Array &array) {
    rust::Vec<std::int32_t> out;
    for (auto dim : array.shape())
        out.push_back(dim);
    return out;
}

Dtype dtype_of(const Array &array) {
    for (auto dtype : {Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::I32, Dtype::U32, Dtype::U8,
                       Dtype::Bool})
        if (array.dtype() == to_mlx(dtype))
            return dtype;
    throw std::invalid_argument("an array of a type that the bridge doesn't know");
}

std::size_t address_of(const Array &array) {
    if (!array.is_available())
        throw std::invalid_argument("an array that is not computed has no address");
    return reinterpret_cast<std::size_t>(array.data<std::uint8_t>());
}

Ops::Ops(bool gpu) : stream(mx::default_stream(mx::Device(gpu ? mx::Device::gpu : mx::Device::cpu))) {}

std::unique_ptr<Ops> new_ops(bool gpu) { return std::make_unique<Ops>(gpu); }

std::unique_ptr<Array> Ops::array(rust::Slice<const std::uint8_t> bytes,
                                       rust::Slice<const std::int32_t> dims, Dtype dtype) const {
    auto type = to_mlx(dtype);
    std::size_t size = mx::size_of(type);
    for (auto dim : dims)
        size *= static_cast<std::size_t>(dim);
    if (size != bytes.size())
        throw std::invalid_argument("an array of " + std::to_string(size) + " bytes made from " +
                                    std::to_string(bytes.size()));
    auto buffer = mx::allocator::malloc(size);
    if (size > 0)
        std::memcpy(buffer.raw_ptr(), bytes.data(), size);
    return boxed(Array(buffer, shape(dims), type));
}

std::unique_ptr<Array> Ops::zeros(rust::Slice<const std::int32_t> dims, Dtype dtype) const {
    return boxed(mx::zeros(shape(dims), to_mlx(dtype), stream));
}

std::unique_ptr<Array> Ops::as_type(const Array &a, Dtype dtype) const {
    return boxed(mx::astype(a, to_mlx(dtype), stream));
}

std::unique_ptr<Array> Ops::reshape(const Array &a, rust::Slice<const std::int32_t> dims) const {
    return boxed(mx::reshape(a, shape(dims), stream));
}

std::unique_ptr<Array> Ops::transpose(const Array &a, rust::Slice<const std::int32_t> axes) const {
    return boxed(mx::transpose(a, std::vector<int>(axes.begin(), axes.end()), stream));
}

std::unique_ptr<Array> Ops::slice(const Array &a, rust::Slice<const std::int32_t> start,
                                  rust::Slice<const std::int32_t> stop) const {
    return boxed(mx::slice(a, shape(start), shape(stop), stream));
}

std::unique_ptr<Array> Ops::slice_update(const Array &a, const Array &update, rust::Slice<const std::int32_t> start,
                                         rust::Slice<const std::int32_t> stop) const {
    return boxed(mx::slice_update(a, update, shape(start), shape(stop), stream));
}

std::unique_ptr<Array> Ops::concatenate(const List &list, std::int32_t axis) const {
    return boxed(mx::concatenate(list.arrays, axis, stream));
}

std::unique_ptr<Array> Ops::take(const Array &a, const Array &indices, std::int32_t axis) const {
    return boxed(mx::take(a, indices, axis, stream));
}

std::unique_ptr<Array> Ops::take_along(const Array &a, const Array &indices, std::int32_t axis) const {
    return boxed(mx::take_along_axis(a, indices, axis, stream));
}

std::unique_ptr<Array> Ops::add(const Array &a, const Array &b) const { return boxed(mx::add(a, b, stream)); }

std::unique_ptr<Array> Ops::scale(const Array &a, float factor) const {
    return boxed(mx::multiply(a, number(factor, a), stream));
}

std::unique_ptr<Array> Ops::tanh(const Array &a) const { return boxed(mx::tanh(a, stream)); }

std::unique_ptr<Array> Ops::sigmoid(const Array &a) const { return boxed(mx::sigmoid(a, stream)); }

std::unique_ptr<Array> Ops::multiply(const Array &a, const Array &b) const {
    return boxed(mx::multiply(a, b, stream));
}

std::unique_ptr<Array> Ops::divide(const Array &a, const Array &b) const { return boxed(mx::divide(a, b, stream)); }

std::unique_ptr<Array> Ops::sum(const Array &a, std::int32_t axis, bool keep) const {
    return boxed(mx::sum(a, axis, keep, stream));
}

// Along the last axis; computed in f32 for every type.
std::unique_ptr<Array> Ops::softmax(const Array &a) const { return boxed(mx::softmax(a, -1, true, stream)); }

// The indices of the largest `count` values along the last axis, in no particular order.
std::unique_ptr<Array> Ops::largest(const Array &a, std::int32_t count) const {
    int last = static_cast<int>(a.ndim()) - 1, all = a.shape(-1);
    if (count < 1 || count > all)
        throw std::invalid_argument("the largest " + std::to_string(count) + " of " + std::to_string(all));
    auto order = mx::argpartition(a, all - count, last, stream);
    mx::Shape start(a.ndim(), 0), stop(a.shape());
    start[last] = all - count;
    return boxed(mx::slice(order, start, stop, stream));
}

// The indices that sort a vector.
std::unique_ptr<Array> Ops::order(const Array &a) const { return boxed(mx::argsort(a, -1, stream)); }

std::unique_ptr<Array> Ops::swiglu(const Array &gate, const Array &up, bool compiled) const {
    return elementwise<silu_mul>({gate, up}, compiled, stream);
}

std::unique_ptr<Array> Ops::geglu(const Array &gate, const Array &up, bool compiled) const {
    return elementwise<gelu_mul>({gate, up}, compiled, stream);
}

std::unique_ptr<Array> Ops::clamped_swiglu(const Array &gate, const Array &up, float alpha, float limit,
                                           bool compiled) const {
    Arrays in{gate, up, number(alpha, gate), number(limit, gate), number(-limit, gate)};
    return elementwise<clamped_silu_mul>(in, compiled, stream);
}

std::unique_ptr<Array> Ops::rms_norm(const Array &x, const Array &weight, float eps) const {
    return boxed(mx::fast::rms_norm(x, weight, eps, stream));
}

std::unique_ptr<Array> Ops::layer_norm(const Array &x, const Array &weight, float eps) const {
    return boxed(mx::fast::layer_norm(x, weight, std::nullopt, eps, stream));
}

// `periods` are positions per radian, two values of a head for each: RoPE rotates a pair by position / period.
std::unique_ptr<Array> Ops::rope(const Array &x, bool adjacent, std::int32_t offset, const Array &periods) const {
    return boxed(mx::fast::rope(x, 2 * periods.shape(0), adjacent, std::nullopt, 1.0f, offset, periods, stream));
}

std::unique_ptr<Array> Ops::attention(const Array &q, const Array &k, const Array &v, float scale, bool causal,
                                      const List &mask, const List &sinks) const {
    return boxed(mx::fast::scaled_dot_product_attention(q, k, v, scale, causal ? "causal" : "", optional(mask),
                                                        optional(sinks), false, stream));
}

std::unique_ptr<Array> Ops::matmul(const Array &a, const Array &b) const { return boxed(mx::matmul(a, b, stream)); }

// Minus infinity where `mask` is false.
std::unique_ptr<Array> Ops::masked(const Array &scores, const Array &mask) const {
    return boxed(mx::where(mask, scores, number(-std::numeric_limits<float>::infinity(), scores), stream));
}

std::unique_ptr<Array> Ops::linear(const Array &x, const Array &w) const {
    return boxed(mx::matmul(x, transposed(w, stream), stream));
}

std::unique_ptr<Array> Ops::linear_quantized(const Array &x, const Array &w, const Array &scales, const List &biases,
                                             std::int32_t group_size, std::int32_t bits) const {
    return boxed(
        mx::quantized_matmul(x, w, scales, optional(biases), true, group_size, bits, mode(biases), stream));
}

std::unique_ptr<Array> Ops::gather_linear(const Array &x, const Array &w, const Array &indices, bool sorted) const {
    return boxed(mx::gather_mm(x, transposed(w, stream), std::nullopt, indices, sorted, stream));
}

std::unique_ptr<Array> Ops::gather_linear_quantized(const Array &x, const Array &w, const Array &scales,
                                                    const List &biases, const Array &indices,
                                                    std::int32_t group_size, std::int32_t bits, bool sorted) const {
    return boxed(mx::gather_qmm(x, w, scales, optional(biases), std::nullopt, indices, true, group_size, bits,
                                mode(biases), sorted, stream));
}

Quantized Ops::quantize(const Array &w, std::int32_t group_size, std::int32_t bits) const {
    auto parts = mx::quantize(w, group_size, bits, "affine", std::nullopt, stream);
    return Quantized{boxed(std::move(parts.at(0))), boxed(std::move(parts.at(1))), boxed(std::move(parts.at(2)))};
}

std::unique_ptr<Array> Ops::dequantize(const Array &w, const Array &scales, const List &biases,
                                       std::int32_t group_size, std::int32_t bits) const {
    return boxed(mx::dequantize(w, scales, optional(biases), group_size, bits, mode(biases), std::nullopt,
                                std::nullopt, stream));
}

void Ops::eval(const List &list) const { mx::eval(list.arrays); }

void Ops::read(const Array &a, rust::Slice<float> out) const {
    auto values = mx::contiguous(mx::astype(a, mx::float32, stream), false, stream);
    values.eval();
    if (values.size() != out.size())
        throw std::invalid_argument(std::to_string(values.size()) + " values read into room for " +
                                    std::to_string(out.size()));
    if (!out.empty())
        std::memcpy(out.data(), values.data<float>(), out.size() * sizeof(float));
}

} // namespace zonda_mlx
