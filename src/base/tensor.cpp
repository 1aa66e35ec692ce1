#include "base/tensor.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

namespace engine {
namespace {

struct DTypeRow {
  DType dtype;
  std::string_view name;
  int bits;
};

constexpr DTypeRow dtype_rows[] = {
    {DType::boolean, "BOOL", 8},    {DType::u8, "U8", 8},           {DType::i8, "I8", 8},
    {DType::f8_e5m2, "F8_E5M2", 8}, {DType::f8_e4m3, "F8_E4M3", 8}, {DType::f8_e8m0, "F8_E8M0", 8},
    {DType::f4, "F4", 4},           {DType::f6_e2m3, "F6_E2M3", 6}, {DType::f6_e3m2, "F6_E3M2", 6},
    {DType::i16, "I16", 16},        {DType::u16, "U16", 16},        {DType::f16, "F16", 16},
    {DType::bf16, "BF16", 16},      {DType::i32, "I32", 32},        {DType::u32, "U32", 32},
    {DType::f32, "F32", 32},        {DType::c64, "C64", 64},        {DType::f64, "F64", 64},
    {DType::i64, "I64", 64},        {DType::u64, "U64", 64},
};

/// An 8-bit float with the given split; e4m3 here is the "fn" kind: no infinity, all ones is NaN.
float f8_to_float(uint8_t bits, int mantissa_bits, int bias, bool finite_only) {
  const int exponent_mask = (1 << (7 - mantissa_bits)) - 1;
  const int exponent = (bits >> mantissa_bits) & exponent_mask;
  const int mantissa = bits & ((1 << mantissa_bits) - 1);
  const float sign = (bits & 0x80) != 0 ? -1.0f : 1.0f;
  if (finite_only ? (bits & 0x7F) == 0x7F : (exponent == exponent_mask && mantissa != 0)) {
    return std::numeric_limits<float>::quiet_NaN();
  }
  if (!finite_only && exponent == exponent_mask) return sign * std::numeric_limits<float>::infinity();
  if (exponent == 0) return sign * std::ldexp(static_cast<float>(mantissa), 1 - bias - mantissa_bits);
  return sign * std::ldexp(static_cast<float>(mantissa + (1 << mantissa_bits)), exponent - bias - mantissa_bits);
}

template <class T, class F>
void widen(const TensorView& t, float* __restrict out, F&& convert) {
  const int64_t n = t.n_elements();
  const std::byte* __restrict data = t.data;
  for (int64_t i = 0; i < n; ++i) {
    T value;
    std::memcpy(&value, data + i * sizeof(T), sizeof(T));
    out[i] = convert(value);
  }
}

}  // namespace

int dtype_bits(DType dtype) { return dtype_rows[static_cast<int>(dtype)].bits; }
std::string_view dtype_name(DType dtype) { return dtype_rows[static_cast<int>(dtype)].name; }

bool dtype_from_name(std::string_view name, DType* out) {
  for (const DTypeRow& row : dtype_rows) {
    if (row.name == name) {
      *out = row.dtype;
      return true;
    }
  }
  return false;
}

std::string shape_string(const Shape& shape) {
  std::string out = "[";
  for (size_t i = 0; i < shape.size(); ++i) out += (i > 0 ? ", " : "") + std::to_string(shape[i]);
  return out + "]";
}

float bf16_to_float(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }

float f16_to_float(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000) << 16;
  const uint32_t exponent = (bits >> 10) & 31;
  const uint32_t mantissa = bits & 0x3FF;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7F800000 | (mantissa << 13));
  if (exponent == 0) {
    const float value = std::ldexp(static_cast<float>(mantissa), -24);
    return sign != 0 ? -value : value;
  }
  return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
}

uint16_t float_to_bf16(float value) {
  const uint32_t u = std::bit_cast<uint32_t>(value);
  if ((u & 0x7FFFFFFF) > 0x7F800000) return static_cast<uint16_t>((u >> 16) | 0x40);
  return static_cast<uint16_t>((u + 0x7FFF + ((u >> 16) & 1)) >> 16);
}

uint16_t float_to_f16(float value) {
  const uint32_t u = std::bit_cast<uint32_t>(value);
  const uint16_t sign = static_cast<uint16_t>((u >> 16) & 0x8000);
  const uint32_t magnitude = u & 0x7FFFFFFF;
  if (magnitude > 0x7F800000) return sign | 0x7E00;
  if (magnitude >= 0x477FF000) return sign | 0x7C00;  // rounds to 65536 or more
  if (magnitude < 0x38800000) {                       // subnormal: let the float adder round at 2^-24
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return sign | static_cast<uint16_t>(std::bit_cast<uint32_t>(shifted) - 0x3F000000);
  }
  return sign | static_cast<uint16_t>((magnitude - 0x38000000 + 0xFFF + ((magnitude >> 13) & 1)) >> 13);
}

bool to_float(const TensorView& tensor, float* out) {
  switch (tensor.dtype) {
    case DType::f32: std::memcpy(out, tensor.data, tensor.n_bytes); return true;
    case DType::f64: widen<double>(tensor, out, [](double v) { return static_cast<float>(v); }); return true;
    case DType::f16: widen<uint16_t>(tensor, out, f16_to_float); return true;
    case DType::bf16: widen<uint16_t>(tensor, out, [](uint16_t v) { return std::bit_cast<float>(uint32_t{v} << 16); }); return true;
    case DType::f8_e4m3: widen<uint8_t>(tensor, out, [](uint8_t v) { return f8_to_float(v, 3, 7, true); }); return true;
    case DType::f8_e5m2: widen<uint8_t>(tensor, out, [](uint8_t v) { return f8_to_float(v, 2, 15, false); }); return true;
    case DType::f8_e8m0:
      widen<uint8_t>(tensor, out, [](uint8_t v) {
        return v == 255 ? std::numeric_limits<float>::quiet_NaN() : std::ldexp(1.0f, v - 127);
      });
      return true;
    default: return false;
  }
}

}  // namespace engine
