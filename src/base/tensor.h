// Element types and non-owning tensor views.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace engine {

/// Every element type the safetensors format names (https://github.com/huggingface/safetensors, enum Dtype).
enum class DType : uint8_t {
  boolean, u8, i8, f8_e5m2, f8_e4m3, f8_e8m0, f4, f6_e2m3, f6_e3m2, i16, u16, f16, bf16, i32, u32, f32, c64, f64, i64, u64
};

/// Bits of one element (f4: 4, f6: 6, bool: 8).
int dtype_bits(DType dtype);
/// The format's own name: "BF16", "F8_E4M3", ...
std::string_view dtype_name(DType dtype);
/// False if the name is not one of the format's.
bool dtype_from_name(std::string_view name, DType* out);

using Shape = std::vector<int64_t>;
std::string shape_string(const Shape& shape);  // "[2, 3]"

/// A named tensor, row-major, that somebody else owns (usually a MappedFile). `data` may be unaligned for its type: the format
/// promises 8 bytes only by convention.
struct TensorView {
  DType dtype = DType::f32;
  Shape shape;
  const std::byte* data = nullptr;
  size_t n_bytes = 0;

  int64_t dim(size_t i) const { return shape[i]; }
  int64_t n_elements() const {
    int64_t n = 1;
    for (int64_t d : shape) n *= d;
    return n;
  }
};

/// Widens n elements of a float type (f32, f16, bf16, f64, f8 kinds) to float, scalar code for cold paths.
/// Returns false if the type is not a float type.
bool to_float(const TensorView& tensor, float* out);

float bf16_to_float(uint16_t bits);
float f16_to_float(uint16_t bits);
uint16_t float_to_bf16(float value);  // to nearest, ties to even; NaN stays NaN
uint16_t float_to_f16(float value);

}  // namespace engine
