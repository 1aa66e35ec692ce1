// bitsandbytes. Four bits (nf4, fp4): the matrix as one row of numbers, in blocks of `blocksize` with a scale each.
//   NAME.weight                                U8 [n / 2, 1]  two numbers a byte, the first in the high nibble
//   NAME.weight.absmax                         F32 [n_blocks]; with double quantization U8, see below
//   NAME.weight.quant_map                      F32 [16]       value = quant_map[q] * absmax
//   NAME.weight.quant_state.bitsandbytes__nf4  U8             JSON: quant_type, blocksize, shape, dtype; nested_blocksize, nested_offset
// Double quantization: absmax = nested_quant_map[absmax] * nested_absmax[block / nested_blocksize] + nested_offset, all in float32.
// Eight bits (LLM.int8): NAME.weight I8 [n_out, n_in], NAME.SCB F32 [n_out], the largest magnitude of each row: value = q * SCB / 127.
#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/json.h"
#include "model/binder.h"
#include "model/import/grouped_rows.h"

namespace engine {
namespace {

struct FourBits {
  TensorView weight, absmax, code;
  const TensorView *nested_absmax = nullptr, *nested_code = nullptr;
  int64_t block = 64, nested_block = 256;
  float nested_offset = 0;
};

class FourBitRows : public MatrixSource {
 public:
  FourBitRows(const FourBits& t, int64_t n_cols) : t_(t), n_cols_(n_cols) { to_float(t.code, code_); }
  void read_row(int64_t row, float* out) const override {
    for (int64_t i = row * n_cols_, end = i + n_cols_; i < end;) {
      const float scale = absmax(i / t_.block);
      for (const int64_t stop = std::min(end, (i / t_.block + 1) * t_.block); i < stop; ++i) {
        const unsigned byte = std::to_integer<unsigned>(t_.weight.data[i / 2]);
        *out++ = code_[i % 2 == 0 ? byte >> 4 : byte & 15] * scale;
      }
    }
  }
  uint64_t n_bytes() const override { return t_.weight.n_bytes + t_.absmax.n_bytes; }
  kernels::Format natural_format() const override { return kernels::Format::bf16; }

 private:
  float absmax(int64_t block) const {
    if (t_.nested_absmax == nullptr) return float_element(t_.absmax, block);
    const float value = float_element(*t_.nested_code, std::to_integer<int64_t>(t_.absmax.data[block]));
    return value * float_element(*t_.nested_absmax, block / t_.nested_block) + t_.nested_offset;
  }

  FourBits t_;
  int64_t n_cols_;
  float code_[16];
};

/// q * SCB / 127. The scale is rounded to float16 in our int8, the integers stay.
class Int8Rows : public MatrixSource {
 public:
  Int8Rows(const TensorView& weight, const TensorView& scb) : weight_(weight), scb_(scb), n_cols_(weight.shape[1]) {}
  void read_row(int64_t row, float* out) const override {
    const auto* q = reinterpret_cast<const int8_t*>(weight_.data) + row * n_cols_;
    const float scale = float_element(scb_, row) / 127;
    for (int64_t c = 0; c < n_cols_; ++c) out[c] = static_cast<float>(q[c]) * scale;
  }
  uint64_t n_bytes() const override { return weight_.n_bytes + scb_.n_bytes; }
  kernels::Format natural_format() const override { return kernels::Format::i8; }
  int natural_group() const override { return kernel_group(n_cols_, n_cols_); }
  bool read_quantized(int64_t row, int8_t* q, uint16_t* scales) const override {
    const auto* stored = reinterpret_cast<const int8_t*>(weight_.data) + row * n_cols_;
    std::copy(stored, stored + n_cols_, q);
    uint16_t narrow = 0;
    if (!narrow_scale(float_element(scb_, row) / 127, &narrow)) return false;
    for (int64_t c = 0; c < n_cols_; c += natural_group()) *scales++ = narrow;
    return true;
  }

 private:
  TensorView weight_, scb_;
  int64_t n_cols_;
};

class BitsAndBytes : public Importer {
 public:
  bool holds(const Binder& binder, const std::string& name) const override {
    return binder.has(name + ".absmax") || binder.has(module_of(name) + ".SCB");
  }

  std::unique_ptr<MatrixSource> open(Binder& binder, const std::string& name, int64_t n_rows, int64_t n_cols) const override {
    return binder.has(name + ".absmax") ? open_four_bits(binder, name, n_rows, n_cols) : open_int8(binder, name, n_rows, n_cols);
  }

 private:
  static std::unique_ptr<MatrixSource> open_int8(Binder& binder, const std::string& name, int64_t n_rows, int64_t n_cols) {
    const std::string module = module_of(name);
    // 0 is the plain order of rows; others are tiles for one kind of GPU.
    if (const TensorView* order = binder.find(module + ".weight_format");
        order != nullptr && order->n_bytes > 0 && order->data[0] != std::byte{0}) {
      binder.problem(module + ".weight_format expected 0 (row by row), got " + std::to_string(std::to_integer<int>(order->data[0])));
      return nullptr;
    }
    const TensorView* weight = binder.expect(name, {n_rows, n_cols}, DType::i8);
    const TensorView* scb = binder.expect(module + ".SCB", {n_rows}, DType::f32);
    if (weight == nullptr || scb == nullptr) return nullptr;
    return std::make_unique<Int8Rows>(*weight, *scb);
  }

  static std::unique_ptr<MatrixSource> open_four_bits(Binder& binder, const std::string& name, int64_t n_rows, int64_t n_cols) {
    const TensorView* blob = nullptr;
    std::string blob_name;
    for (const char* kind : {"nf4", "fp4"}) {
      blob_name = name + ".quant_state.bitsandbytes__" + kind;
      blob = binder.find(blob_name);
      if (blob != nullptr) break;
    }
    if (blob == nullptr || blob->dtype != DType::u8 || blob->n_bytes > 65536) {
      binder.problem(name + ".quant_state.bitsandbytes__nf4 (or __fp4) is missing");
      return nullptr;
    }
    const Json json = parse_json({reinterpret_cast<const char*>(blob->data), blob->n_bytes}, blob_name);
    if (!json.is_object()) throw Error(blob_name + ": expected a JSON object");
    const ConfigReader state(json, blob_name);
    if (!state.has("shape") || state.numbers("shape") != std::vector<double>{static_cast<double>(n_rows), static_cast<double>(n_cols)}) {
      state.fail("shape", shape_string({n_rows, n_cols}));
    }
    FourBits t;
    t.block = state.integer("blocksize", 1, 1 << 20);
    const int64_t n = n_rows * n_cols, n_blocks = (n + t.block - 1) / t.block;
    const TensorView* weight = binder.find(name);
    if (weight == nullptr || weight->n_bytes != static_cast<size_t>((n + 1) / 2)) {  // its type may be another (bnb_4bit_quant_storage)
      binder.problem(name + " expected " + std::to_string((n + 1) / 2) + " bytes, got " + (weight == nullptr ? "nothing" : std::to_string(weight->n_bytes)));
      return nullptr;
    }
    const bool nested = binder.has(name + ".nested_absmax");
    const TensorView* absmax = binder.expect(name + ".absmax", {n_blocks}, nested ? DType::u8 : DType::f32);
    const TensorView* code = binder.expect(name + ".quant_map", {16}, DType::f32);
    if (nested) {
      t.nested_block = state.integer("nested_blocksize", 1, 1 << 20);
      t.nested_offset = static_cast<float>(state.number("nested_offset"));
      t.nested_absmax = binder.expect(name + ".nested_absmax", {(n_blocks + t.nested_block - 1) / t.nested_block}, DType::f32);
      t.nested_code = binder.expect(name + ".nested_quant_map", {256}, DType::f32);
      if (t.nested_absmax == nullptr || t.nested_code == nullptr) return nullptr;
    }
    if (absmax == nullptr || code == nullptr) return nullptr;
    t.weight = *weight;
    t.absmax = *absmax;
    t.code = *code;
    return std::make_unique<FourBitRows>(t, n_cols);
  }
};

}  // namespace

std::unique_ptr<Importer> make_bitsandbytes(const ConfigReader& q) {
  static constexpr const char* known[] = {
      "quant_method", "load_in_4bit", "load_in_8bit", "_load_in_4bit", "_load_in_8bit", "bnb_4bit_compute_dtype", "bnb_4bit_quant_storage",
      "bnb_4bit_quant_type", "bnb_4bit_use_double_quant", "llm_int8_enable_fp32_cpu_offload", "llm_int8_has_fp16_weight",
      "llm_int8_skip_modules", "llm_int8_threshold"};
  refuse_unknown_keys(q, known);
  const std::string type = q.string_or("bnb_4bit_quant_type", "nf4");
  if (type != "nf4" && type != "fp4") q.fail("bnb_4bit_quant_type", "nf4 or fp4");
  return std::make_unique<BitsAndBytes>();
}

}  // namespace engine
