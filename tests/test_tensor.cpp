#include "base/tensor.h"

#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

using namespace engine;

namespace {

// The value of a float with the given fields, straight from the definition.
double small_float(unsigned bits, int exponent_bits, int mantissa_bits) {
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const double sign = bits >> (exponent_bits + mantissa_bits) != 0 ? -1 : 1;
  const int exponent = static_cast<int>(bits >> mantissa_bits) & ((1 << exponent_bits) - 1);
  const double fraction = (bits & ((1u << mantissa_bits) - 1)) / std::exp2(mantissa_bits);
  return exponent == 0 ? sign * fraction * std::exp2(1 - bias) : sign * (1 + fraction) * std::exp2(exponent - bias);
}

float f8(DType dtype, uint8_t bits) {
  const TensorView view{dtype, {1}, reinterpret_cast<const std::byte*>(&bits), 1};
  float out = 0;
  REQUIRE(to_float(view, &out));
  return out;
}

}  // namespace

TEST_CASE("dtype names go there and back") {
  const std::pair<const char*, int> rows[] = {
      {"BOOL", 8}, {"U8", 8},   {"I8", 8},      {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F4", 4},
      {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"I16", 16}, {"U16", 16}, {"F16", 16},    {"BF16", 16},   {"I32", 32},
      {"U32", 32}, {"F32", 32}, {"C64", 64},    {"F64", 64},    {"I64", 64},    {"U64", 64}};
  for (const auto& [name, bits] : rows) {
    CAPTURE(name);
    DType dtype;
    REQUIRE(dtype_from_name(name, &dtype));
    CHECK(dtype_name(dtype) == name);
    CHECK(dtype_bits(dtype) == bits);
  }
  DType dtype;
  for (const char* name : {"", "f32", "F33", "F32 ", "FLOAT"}) CHECK_FALSE(dtype_from_name(name, &dtype));
}

TEST_CASE("f16 and bf16: every value widens exactly and comes back") {
  int wrong = 0;
  for (uint32_t i = 0; i < 0x10000; ++i) {
    const uint16_t bits = static_cast<uint16_t>(i);
    const bool f16_special = (bits & 0x7C00) == 0x7C00, f16_nan = f16_special && (bits & 0x3FF) != 0;
    const float f = f16_to_float(bits), b = bf16_to_float(bits);
    if (f16_nan) wrong += !std::isnan(f) || !std::isnan(f16_to_float(float_to_f16(f)));
    else wrong += float_to_f16(f) != bits;
    if (!f16_special) wrong += static_cast<double>(f) != small_float(bits, 5, 10) || std::signbit(f) != (bits >> 15 != 0);
    if (std::isnan(b)) wrong += !std::isnan(bf16_to_float(float_to_bf16(b)));
    else wrong += float_to_bf16(b) != bits;
  }
  CHECK(wrong == 0);
  CHECK(f16_to_float(0x7C00) == std::numeric_limits<float>::infinity());
  CHECK(f16_to_float(0xFC00) == -std::numeric_limits<float>::infinity());
}

TEST_CASE("float_to_f16 and float_to_bf16 round to nearest, ties to even") {
  struct Row {
    float value;
    uint16_t f16, bf16;
  };
  const Row rows[] = {
      {1.0f, 0x3C00, 0x3F80},
      {1.0f + 0x1p-11f, 0x3C00, 0x3F80},          // a tie of f16: even below
      {1.0f + 3 * 0x1p-11f, 0x3C02, 0x3F80},      // a tie of f16: even above
      {1.0f + 0x1p-8f, 0x3C04, 0x3F80},           // a tie of bf16
      {1.0f + 3 * 0x1p-8f, 0x3C0C, 0x3F82},
      {65504.0f, 0x7BFF, 0x4780},
      {65519.996f, 0x7BFF, 0x4780},
      {65520.0f, 0x7C00, 0x4780},                 // beyond f16
      {-1e30f, 0xFC00, 0xF14A},
      {0x1p-24f, 0x0001, 0x3380},                 // the smallest subnormal of f16
      {0x1p-25f, 0x0000, 0x3300},                 // half of it: a tie, to even
      {0x1.000002p-25f, 0x0001, 0x3300},
      {0x1.8p-24f, 0x0002, 0x33C0},               // 1.5 of it: a tie, to even
      {-0.0f, 0x8000, 0x8000},
      {3.4e38f, 0x7C00, 0x7F80},                  // rounds to infinity in both
      {std::numeric_limits<float>::infinity(), 0x7C00, 0x7F80},
  };
  for (const Row& row : rows) {
    CAPTURE(row.value);
    CHECK(float_to_f16(row.value) == row.f16);
    CHECK(float_to_bf16(row.value) == row.bf16);
  }
  const float quiet = std::bit_cast<float>(0x7F800001u);  // a NaN whose upper half alone would be infinity
  CHECK(std::isnan(bf16_to_float(float_to_bf16(quiet))));
  CHECK(std::isnan(f16_to_float(float_to_f16(quiet))));
}

TEST_CASE("8-bit floats") {
  int wrong = 0;
  for (unsigned i = 0; i < 256; ++i) {
    const uint8_t bits = static_cast<uint8_t>(i);
    const float e4m3 = f8(DType::f8_e4m3, bits), e5m2 = f8(DType::f8_e5m2, bits), e8m0 = f8(DType::f8_e8m0, bits);
    if ((bits & 0x7F) == 0x7F) wrong += !std::isnan(e4m3);
    else wrong += static_cast<double>(e4m3) != small_float(bits, 4, 3);
    if ((bits & 0x7C) == 0x7C) wrong += (bits & 3) != 0 ? !std::isnan(e5m2) : !std::isinf(e5m2);
    else wrong += static_cast<double>(e5m2) != small_float(bits, 5, 2);
    if (bits == 255) wrong += !std::isnan(e8m0);
    else wrong += static_cast<double>(e8m0) != std::exp2(static_cast<int>(bits) - 127);
  }
  CHECK(wrong == 0);
  CHECK(f8(DType::f8_e4m3, 0x7E) == 448.0f);
  CHECK(f8(DType::f8_e5m2, 0x7B) == 57344.0f);
}

TEST_CASE("to_float reads unaligned data and refuses what is not a float type") {
  std::vector<std::byte> bytes(1 + 3 * 8);
  const double values[3] = {1.5, -2.25, 1e300};
  std::memcpy(bytes.data() + 1, values, sizeof values);
  float out[3];
  REQUIRE(to_float({DType::f64, {3}, bytes.data() + 1, 24}, out));
  CHECK(out[0] == 1.5f);
  CHECK(out[1] == -2.25f);
  CHECK(std::isinf(out[2]));
  for (DType dtype : {DType::boolean, DType::u8, DType::i64, DType::c64, DType::f4}) {
    CHECK_FALSE(to_float({dtype, {2}, bytes.data(), 16}, out));
  }
  CHECK(to_float({DType::f16, {0}, bytes.data(), 0}, out));
  CHECK(shape_string({}) == "[]");
  CHECK(shape_string({2, 3}) == "[2, 3]");
}
