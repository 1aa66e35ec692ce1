// compressed-tensors (vLLM's and llm-compressor's layout; Transformers reads it too), integers: `pack-quantized` and `int-quantized`.
//
// A linear module M is stored as
//   pack-quantized  M.weight_packed I32 [rows, ceil(cols * bits / 32)]: q + 2^(bits - 1), 4 or 8 bits each, lowest bits first, a row's columns
//                   in order; M.weight_shape I64 or I32 [2]; zero points, where there are some, packed the same way down the rows
//   int-quantized   M.weight I8 [rows, cols]; zero points I8
//   both            M.weight_scale [rows, n_groups] of a float type; M.weight_zero_point; M.weight_g_idx I32 [cols], a column's group (act-order)
// with value = (q - zero point) * scale. Which bits and groups a module has can be seen in its tensors, so that the config's targets, names and
// regular expressions of modules, need not be matched: only the group sizes that it names are wanted. Quantized activations
// (input_activations) are a recipe for rounding them; ours are rounded as in every model with integer weights.
#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "model/binder.h"
#include "model/import/importer.h"

namespace engine {
namespace {

using kernels::Format;

struct Stored {
  TensorView weight;                    // packed words, or bytes
  TensorView scale;                     // [rows, n_groups] or one for all
  const TensorView* zero = nullptr;     // null: symmetric
  const TensorView* g_idx = nullptr;    // null: groups in order
  bool packed = false;
  int bits = 8;
  int64_t n_rows = 0, n_cols = 0;
  int64_t group = 0, n_groups = 0;
};

// Sixteen bytes at a time: a model's integers are read while somebody waits for its first token.
using Bytes = uint8_t __attribute__((vector_size(16)));
constexpr int64_t lanes = sizeof(Bytes);

Bytes load(const uint8_t* from) {
  Bytes v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

/// n nibbles, the lower one of a byte first, less eight.
void unpack_nibbles(const uint8_t* from, int64_t n, int8_t* q) {
  int64_t i = 0;
  for (; i + 2 * lanes <= n; i += 2 * lanes) {
    const Bytes both = load(from + i / 2), even = (both & 15) - 8, odd = (both >> 4) - 8;
    const Bytes first = __builtin_shufflevector(even, odd, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const Bytes second = __builtin_shufflevector(even, odd, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    std::memcpy(q + i, &first, sizeof first);
    std::memcpy(q + i + lanes, &second, sizeof second);
  }
  for (; i < n; ++i) q[i] = static_cast<int8_t>((from[i / 2] >> (i % 2 * 4) & 15) - 8);
}

/// n bytes, each with a bit pattern exclusive-ored in.
void copy_bytes(const uint8_t* from, int64_t n, uint8_t flip, int8_t* q) {
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const Bytes v = load(from + i) ^ flip;
    std::memcpy(q + i, &v, sizeof v);
  }
  for (; i < n; ++i) q[i] = static_cast<int8_t>(from[i] ^ flip);
}

uint32_t word_at(const std::byte* data, int64_t i) {
  uint32_t word;
  std::memcpy(&word, data + i * 4, 4);
  return word;
}

class CompressedRows : public MatrixSource {
 public:
  explicit CompressedRows(const Stored& stored) : s_(stored), row_bytes_(s_.weight.n_bytes / static_cast<size_t>(s_.n_rows)) {
    if (s_.g_idx != nullptr) {
      groups_.resize(static_cast<size_t>(s_.n_cols));
      std::memcpy(groups_.data(), s_.g_idx->data, groups_.size() * 4);
    }
    const bool as_ours = s_.group == 32 || s_.group == 64 || s_.group == 128;
    const int group = s_.g_idx != nullptr ? 0 : as_ours ? static_cast<int>(s_.group) : kernel_group(s_.group, s_.n_cols);
    if (group == 0 || (s_.bits == 8 && s_.zero != nullptr)) return;  // sums of a byte and a byte would need nine bits
    group_ = group;
    format_ = s_.bits == 4 && s_.zero == nullptr ? Format::i4 : Format::i8;
  }

  void read_row(int64_t row, float* out) const override {
    std::vector<int8_t> q(static_cast<size_t>(s_.n_cols));
    read_integers(row, q.data());
    std::vector<float> scales(static_cast<size_t>(s_.n_groups));
    std::vector<int> zeros(scales.size());
    for (int64_t g = 0; g < s_.n_groups; ++g) {
      scales[static_cast<size_t>(g)] = scale(row, g);
      zeros[static_cast<size_t>(g)] = zero(row, g);
    }
    for (int64_t c = 0; c < s_.n_cols; ++c) {
      const auto g = static_cast<size_t>(groups_.empty() ? c / s_.group : groups_[static_cast<size_t>(c)]);
      out[c] = static_cast<float>(q[static_cast<size_t>(c)] - zeros[g]) * scales[g];
    }
  }
  uint64_t n_bytes() const override { return s_.weight.n_bytes + s_.scale.n_bytes; }
  Format natural_format() const override { return format_; }
  int natural_group() const override { return group_; }

  bool read_quantized(int64_t row, int8_t* q, uint16_t* scales) const override {
    read_integers(row, q);
    if (s_.zero == nullptr && s_.scale.dtype == DType::f16 && s_.group == group_ && s_.scale.n_elements() == s_.n_rows * s_.n_groups) {
      std::memcpy(scales, s_.scale.data + 2 * row * s_.n_groups, static_cast<size_t>(s_.n_groups) * 2);
      return true;
    }
    for (int64_t g = 0; g < s_.n_groups; ++g) {
      const int64_t begin = g * s_.group, end = std::min(s_.n_cols, begin + s_.group);
      if (s_.zero != nullptr) {
        const auto z = static_cast<int8_t>(zero(row, g));
        for (int64_t c = begin; c < end; ++c) q[c] = static_cast<int8_t>(q[c] - z);
      }
      uint16_t narrow = 0;
      if (!narrow_scale(scale(row, g), &narrow)) return false;
      for (int64_t c = begin; c < end; c += group_) *scales++ = narrow;
    }
    return true;
  }

 private:
  /// Signed, before the zero point is taken off.
  void read_integers(int64_t row, int8_t* q) const {
    const auto* from = reinterpret_cast<const uint8_t*>(s_.weight.data) + static_cast<size_t>(row) * row_bytes_;
    if (s_.packed && s_.bits == 4) unpack_nibbles(from, s_.n_cols, q);
    else copy_bytes(from, s_.n_cols, s_.packed ? 0x80 : 0, q);
  }
  int64_t scale_index(int64_t row, int64_t g) const { return s_.scale.n_elements() == 1 ? 0 : row * s_.n_groups + g; }
  float scale(int64_t row, int64_t g) const {
    const size_t size = static_cast<size_t>(dtype_bits(s_.scale.dtype)) / 8;
    float out = 0;
    to_float({s_.scale.dtype, {1}, s_.scale.data + static_cast<size_t>(scale_index(row, g)) * size, size}, &out);
    return out;
  }
  int zero(int64_t row, int64_t g) const {
    if (s_.zero == nullptr) return 0;
    if (!s_.packed) return static_cast<int8_t>(s_.zero->data[scale_index(row, g)]);
    const int64_t per_word = 32 / s_.bits;
    const uint32_t word = word_at(s_.zero->data, row / per_word * s_.n_groups + g);
    return static_cast<int>(word >> (row % per_word * s_.bits) & ((1u << s_.bits) - 1)) - (1 << (s_.bits - 1));
  }

  Stored s_;
  size_t row_bytes_;
  std::vector<int32_t> groups_;  // of columns, with act-order
  Format format_ = Format::bf16;
  int group_ = 0;
};

class CompressedTensors : public Importer {
 public:
  CompressedTensors(bool packed, std::vector<int64_t> group_sizes) : packed_(packed), group_sizes_(std::move(group_sizes)) {}

  bool holds(const Binder& binder, const std::string& name) const override {
    if (packed_) return binder.has(name + "_packed");
    const TensorView* t = binder.find(name);
    return t != nullptr && t->dtype == DType::i8;
  }

  std::unique_ptr<MatrixSource> open(Binder& binder, const std::string& name, int64_t n_rows, int64_t n_cols) const override {
    Stored s;
    s.packed = packed_;
    s.n_rows = n_rows;
    s.n_cols = n_cols;
    const TensorView* weight = packed_ ? open_packed(binder, name, &s) : binder.expect(name, {n_rows, n_cols}, DType::i8);
    if (weight == nullptr || !open_scales(binder, name + "_scale", &s)) return nullptr;
    s.weight = *weight;
    if (binder.has(name + "_zero_point") && !open_zeros(binder, name + "_zero_point", &s)) return nullptr;
    if (binder.has(name + "_g_idx") && !open_groups(binder, name + "_g_idx", &s)) return nullptr;
    return std::make_unique<CompressedRows>(s);
  }

 private:
  static const TensorView* open_packed(Binder& binder, const std::string& name, Stored* s) {
    const TensorView* shape = binder.find(name + "_shape");
    if (shape != nullptr) {
      const bool wide = shape->dtype == DType::i64;
      if (binder.expect(name + "_shape", {2}, wide ? DType::i64 : DType::i32) == nullptr) return nullptr;
      int64_t stored[2] = {word_at(shape->data, 0), word_at(shape->data, 1)};
      if (wide) std::memcpy(stored, shape->data, sizeof stored);
      if (stored[0] != s->n_rows || stored[1] != s->n_cols) {
        binder.problem(name + "_shape expected " + shape_string({s->n_rows, s->n_cols}) + ", got " + shape_string({stored[0], stored[1]}));
        return nullptr;
      }
    }
    const TensorView* t = binder.find(name + "_packed");
    const int64_t eight = (s->n_cols + 3) / 4;
    s->bits = t->shape.size() == 2 && t->shape[1] == eight ? 8 : 4;
    return binder.expect(name + "_packed", {s->n_rows, s->bits == 8 ? eight : (s->n_cols + 7) / 8}, DType::i32);
  }

  bool open_scales(Binder& binder, const std::string& name, Stored* s) const {
    const TensorView* t = binder.find(name);
    s->group = s->n_cols;
    s->n_groups = 1;
    if (t != nullptr && t->shape.size() == 2) {
      for (const int64_t group : group_sizes_) {
        if ((s->n_cols + group - 1) / group == t->shape[1]) s->group = group, s->n_groups = t->shape[1];
      }
    }
    Shape shape = {s->n_rows, s->n_groups};
    if (t != nullptr && s->n_groups == 1 && (t->n_elements() == 1 || t->shape == Shape{s->n_rows})) shape = t->shape;
    const TensorView* scale = binder.expect_scales(name, shape);
    if (scale != nullptr) s->scale = *scale;
    return scale != nullptr;
  }

  static bool open_zeros(Binder& binder, const std::string& name, Stored* s) {
    const int64_t per_word = 32 / s->bits;
    s->zero = s->packed ? binder.expect(name, {(s->n_rows + per_word - 1) / per_word, s->n_groups}, DType::i32)
                        : binder.expect(name, s->scale.shape, DType::i8);
    return s->zero != nullptr;
  }

  static bool open_groups(Binder& binder, const std::string& name, Stored* s) {
    s->g_idx = binder.expect(name, {s->n_cols}, DType::i32);
    for (int64_t c = 0; s->g_idx != nullptr && c < s->n_cols; ++c) {
      const uint32_t g = word_at(s->g_idx->data, c);
      if (g < static_cast<uint64_t>(s->n_groups)) continue;
      binder.problem(name + " expected groups below " + std::to_string(s->n_groups) + ", got " + std::to_string(static_cast<int32_t>(g)));
      return false;
    }
    return s->g_idx != nullptr;
  }

  bool packed_;
  std::vector<int64_t> group_sizes_;
};

std::unique_ptr<Importer> make(const ConfigReader& q, bool packed) {
  static constexpr const char* known[] = {"quant_method", "format", "config_groups", "ignore", "kv_cache_scheme", "quantization_status",
                                          "global_compression_ratio", "sparsity_config", "transform_config", "version", "observer_kwargs"};
  refuse_unknown_keys(q, known);
  for (const char* other : {"sparsity_config", "transform_config"}) {
    if (q.has(other) && !q.object(other).json().empty()) q.fail(other, "nothing: it would change the weights");
  }
  const ConfigReader groups = q.object("config_groups");
  std::vector<int64_t> sizes;
  for (const auto& [name, group] : groups.json().items()) {
    const ConfigReader scheme = groups.object(name);
    if (!scheme.has("weights")) continue;
    const ConfigReader weights = scheme.object("weights");
    weights.only("type", "int");
    const int64_t bits = weights.integer("num_bits", 1, 64);
    if (bits != 8 && (bits != 4 || !packed)) weights.fail("num_bits", packed ? "4 or 8" : "8");
    const std::string strategy = weights.string_or("strategy", weights.has("group_size") ? "group" : "tensor");
    if (strategy == "group") sizes.push_back(weights.integer("group_size", 1, 1 << 20));
    else if (strategy != "channel" && strategy != "tensor") weights.fail("strategy", "group, channel or tensor");
  }
  return std::make_unique<CompressedTensors>(packed, std::move(sizes));
}

}  // namespace

std::unique_ptr<Importer> make_pack_quantized(const ConfigReader& quantization) { return make(quantization, true); }
std::unique_ptr<Importer> make_int_quantized(const ConfigReader& quantization) { return make(quantization, false); }

}  // namespace engine
