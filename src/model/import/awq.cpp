// AWQ, AutoAWQ's "gemm" version. For a layer of n_out x n_in:
//   qweight I32 [n_in, n_out / 8]       eight outputs a word, four bits each, in the order 0 2 4 6 1 3 5 7 from the lowest bits on
//   qzeros  I32 [n_groups, n_out / 8]   the same
//   scales  F16 [n_groups, n_out]
// value = (q - zero) * scale.
#include <algorithm>
#include <cctype>

#include "base/error.h"
#include "model/binder.h"
#include "model/import/grouped_rows.h"

namespace engine {
namespace {

/// Output `row` of the words from `first` on.
int nibble(const TensorView& words, int64_t first, int64_t row) {
  static constexpr int place[8] = {0, 4, 1, 5, 2, 6, 3, 7};
  return static_cast<int>(word_at(words, first + row / 8) >> (4 * place[row % 8]) & 15);
}

class AwqRows : public GroupedRows {
 public:
  AwqRows(const TensorView& qweight, const TensorView& qzeros, const TensorView& scales, int64_t n_rows, int64_t n_cols, int64_t group)
      : GroupedRows(n_rows, n_cols, 4, group), qweight_(qweight), qzeros_(qzeros), scales_(scales) {
    choose_format();
  }
  uint64_t n_bytes() const override { return qweight_.n_bytes + qzeros_.n_bytes + scales_.n_bytes; }

 protected:
  void read_integers(int64_t row, uint8_t* q) const override {
    for (int64_t c = 0; c < n_cols_; ++c) q[c] = static_cast<uint8_t>(nibble(qweight_, c * (n_rows_ / 8), row));
  }
  int zero(int64_t group, int64_t row) const override { return nibble(qzeros_, group * (n_rows_ / 8), row); }
  float scale(int64_t group, int64_t row) const override { return float_element(scales_, group * n_rows_ + row); }

 private:
  TensorView qweight_, qzeros_, scales_;
};

class Awq : public Importer {
 public:
  explicit Awq(int64_t group) : group_(group) {}

  bool holds(const Binder& binder, const std::string& name) const override { return binder.has(module_of(name) + ".qweight"); }

  std::unique_ptr<MatrixSource> open(Binder& binder, const std::string& name, int64_t n_rows, int64_t n_cols) const override {
    const std::string module = module_of(name);
    if (n_rows % 8 != 0) {
      binder.problem(module + ".qweight: " + std::to_string(n_rows) + " outputs do not fill whole words of eight");
      return nullptr;
    }
    const int64_t group = group_ > 0 ? group_ : n_cols, n_groups = (n_cols + group - 1) / group;
    const TensorView* qweight = binder.expect(module + ".qweight", {n_cols, n_rows / 8}, DType::i32);
    const TensorView* qzeros = binder.expect(module + ".qzeros", {n_groups, n_rows / 8}, DType::i32);
    const TensorView* scales = binder.expect_scales(module + ".scales", {n_groups, n_rows});
    if (qweight == nullptr || qzeros == nullptr || scales == nullptr) return nullptr;
    return std::make_unique<AwqRows>(*qweight, *qzeros, *scales, n_rows, n_cols, group);
  }

 private:
  int64_t group_;  // -1: all columns
};

}  // namespace

std::unique_ptr<Importer> make_awq(const ConfigReader& q) {
  static constexpr const char* known[] = {"quant_method", "bits", "w_bit", "group_size", "q_group_size", "zero_point", "version", "backend",
                                          "modules_to_not_convert", "do_fuse", "fuse_max_seq_len", "modules_to_fuse", "exllama_config",
                                          "format", "desc_act", "sym", "pack_dtype", "meta", "lm_head", "checkpoint_format"};
  refuse_unknown_keys(q, known);
  for (const char* key : {"version", "format", "checkpoint_format"}) {
    std::string version = q.string_or(key, "gemm");
    std::transform(version.begin(), version.end(), version.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    if (version != "gemm") q.fail(key, "gemm");
  }
  q.integer_or(q.has("w_bit") ? "w_bit" : "bits", 4, 4, 4);
  q.only("zero_point", true);
  q.only("pack_dtype", "int32");
  q.only("desc_act", false);
  const int64_t group = q.integer_or(q.has("q_group_size") ? "q_group_size" : "group_size", 128, -1, 1 << 20);
  if (group == 0) q.fail("group_size", "a whole number above 0, or -1 for one group");
  return std::make_unique<Awq>(group);
}

}  // namespace engine
