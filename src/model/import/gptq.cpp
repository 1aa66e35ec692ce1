// GPTQ, as AutoGPTQ and GPTQModel write it. For a layer of n_out x n_in with `bits` a weight:
//   qweight I32 [n_in * bits / 32, n_out]      a column of words is a stream of bits, the lowest first: one output's weights in order of inputs
//   qzeros  I32 [n_groups, n_out * bits / 32]  a row of words likewise: the outputs' zeros; checkpoint_format "gptq" stores zero - 1 (modulo
//                                              2^bits), "gptq_v2" the zero itself
//   scales  F16 [n_groups, n_out]
//   g_idx   I32 [n_in]                         the group of each input (act-order, desc_act); left out: input / group_size
// value = (q - zero) * scale.
#include <cstring>

#include "base/error.h"
#include "model/binder.h"
#include "model/import/grouped_rows.h"

namespace engine {
namespace {

/// Value `i` of a stream of `bits`-bit values in words that lie `stride` words apart; 3-bit ones straddle words.
uint32_t packed_value(const TensorView& words, int64_t first, int64_t stride, int64_t i, int bits) {
  const int64_t bit = i * bits, at = first + bit / 32 * stride;
  const int shift = static_cast<int>(bit % 32);
  uint32_t value = word_at(words, at) >> shift;
  if (shift + bits > 32) value |= word_at(words, at + stride) << (32 - shift);
  return value & ((1u << bits) - 1);
}

struct GptqTensors {
  const TensorView *qweight, *qzeros, *scales;
};

class GptqRows : public GroupedRows {
 public:
  GptqRows(const GptqTensors& tensors, std::vector<int32_t> groups, int64_t n_rows, int64_t n_cols, int bits, int64_t group, int zero_offset)
      : GroupedRows(n_rows, n_cols, bits, group), t_(tensors), zero_offset_(zero_offset), zero_words_(t_.qzeros->shape[1]) {
    if (!groups.empty()) set_groups(std::move(groups));
    choose_format();
  }
  uint64_t n_bytes() const override { return t_.qweight->n_bytes + t_.qzeros->n_bytes + t_.scales->n_bytes; }

 protected:
  void read_integers(int64_t row, uint8_t* q) const override {
    for (int64_t c = 0; c < n_cols_; ++c) q[c] = static_cast<uint8_t>(packed_value(*t_.qweight, row, n_rows_, c, bits_));
  }
  int zero(int64_t group, int64_t row) const override {
    const uint32_t stored = packed_value(*t_.qzeros, group * zero_words_, 1, row, bits_);
    return static_cast<int>((stored + static_cast<uint32_t>(zero_offset_)) & ((1u << bits_) - 1));
  }
  float scale(int64_t group, int64_t row) const override { return float_element(*t_.scales, group * n_rows_ + row); }

 private:
  GptqTensors t_;
  int zero_offset_;
  int64_t zero_words_;
};

class Gptq : public Importer {
 public:
  Gptq(int bits, int64_t group, int zero_offset) : bits_(bits), group_(group), zero_offset_(zero_offset) {}

  bool holds(const Binder& binder, const std::string& name) const override { return binder.has(module_of(name) + ".qweight"); }

  std::unique_ptr<MatrixSource> open(Binder& binder, const std::string& name, int64_t n_rows, int64_t n_cols) const override {
    const std::string module = module_of(name);
    if (n_cols * bits_ % 32 != 0 || n_rows * bits_ % 32 != 0) {
      binder.problem(module + ".qweight: a matrix of " + shape_string({n_rows, n_cols}) + " does not fill whole words of 32 bits");
      return nullptr;
    }
    const int64_t group = group_ > 0 ? group_ : n_cols, n_groups = (n_cols + group - 1) / group;
    const GptqTensors t = {binder.expect(module + ".qweight", {n_cols * bits_ / 32, n_rows}, DType::i32),
                           binder.expect(module + ".qzeros", {n_groups, n_rows * bits_ / 32}, DType::i32),
                           binder.expect_scales(module + ".scales", {n_groups, n_rows})};
    std::vector<int32_t> groups;
    if (binder.has(module + ".g_idx")) {
      const TensorView* g_idx = binder.expect(module + ".g_idx", {n_cols}, DType::i32);
      if (g_idx == nullptr) return nullptr;
      groups.resize(static_cast<size_t>(n_cols));
      std::memcpy(groups.data(), g_idx->data, g_idx->n_bytes);
      for (const int32_t g : groups) {
        if (g >= 0 && g < n_groups) continue;
        binder.problem(module + ".g_idx expected groups below " + std::to_string(n_groups) + ", got " + std::to_string(g));
        return nullptr;
      }
    }
    if (t.qweight == nullptr || t.qzeros == nullptr || t.scales == nullptr) return nullptr;
    return std::make_unique<GptqRows>(t, std::move(groups), n_rows, n_cols, bits_, group, zero_offset_);
  }

 private:
  int bits_;
  int64_t group_;  // -1: all columns
  int zero_offset_;
};

}  // namespace

std::unique_ptr<Importer> make_gptq(const ConfigReader& q) {
  // How the weights were found, who found them, and which kernels others should use says nothing about what is stored. The tensors
  // themselves say whether they are symmetric and in what order.
  static constexpr const char* known[] = {
      "quant_method", "bits", "group_size", "desc_act", "sym", "checkpoint_format", "format", "pack_dtype", "lm_head", "dynamic", "is_marlin_format",
      "adapter", "damp_percent", "damp_auto_increment", "static_groups", "true_sequential", "act_group_aware", "mse", "model_name_or_path",
      "model_file_base_name", "meta", "backend", "tokenizer", "dataset", "block_name_to_quantize", "module_name_preceding_first_block",
      "batch_size", "pad_token_id", "max_input_length", "cache_block_outputs", "modules_in_block_to_quantize", "use_cuda_fp16", "use_exllama",
      "disable_exllama", "exllama_config", "model_seqlen", "modules_to_not_convert", "parallel_packing", "rotation",
      "hyb_act", "offload_to_disk", "offload_to_disk_path", "gptaq", "gptaq_alpha", "v2", "v2_alpha", "mock_quantization", "failsafe", "fail_safe",
      "device", "hessian_chunk_size", "hessian_chunk_bytes", "hessian_use_bfloat16_staging", "pack_impl", "model_type"};
  refuse_unknown_keys(q, known);
  const int64_t bits = q.integer("bits", 2, 8);
  if (bits != 2 && bits != 3 && bits != 4 && bits != 8) q.fail("bits", "2, 3, 4 or 8");
  const int64_t group = q.integer_or("group_size", -1, -1, 1 << 20);
  if (group == 0) q.fail("group_size", "a whole number above 0, or -1 for one group");
  const char* key = q.has("checkpoint_format") ? "checkpoint_format" : "format";
  const std::string format = q.string_or(key, "gptq");
  if (format != "gptq" && format != "gptq_v2") q.fail(key, "gptq or gptq_v2");
  q.only("is_marlin_format", false);
  q.only("pack_dtype", "int32");
  for (const char* none : {"dynamic", "adapter", "rotation"}) {
    if (q.has(none) && !q.json().at(none).empty()) q.fail(none, "nothing (settings of single layers, adapters and rotations are not supported)");
  }
  return std::make_unique<Gptq>(static_cast<int>(bits), group, format == "gptq" ? 1 : 0);
}

}  // namespace engine
