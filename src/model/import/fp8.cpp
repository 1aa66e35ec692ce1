// FP8 (e4m3) weights. Two layouts share quant_method "fp8": Transformers' and DeepSeek's weight_scale_inv, one scale for a block of
// weight_block_size (128 x 128) or for the matrix, and vLLM's weight_scale, one for the matrix or one a row. Both multiply: value =
// weight * scale, the "inv" means the inverse of what was multiplied with when quantizing. FBGEMM's has weight_scale [rows, 1].
// Scales of activations (input_scale, activation_scheme) tell how to round activations; ours keep their precision.
#include <cmath>

#include "model/binder.h"
#include "model/import/importer.h"

namespace engine {
namespace {

class Fp8 : public Importer {
 public:
  Fp8(int64_t block_rows, int64_t block_cols) : block_rows_(block_rows), block_cols_(block_cols) {}

  bool holds(const Binder& binder, const std::string& name) const override {
    const TensorView* weight = binder.find(name);
    return weight != nullptr && weight->dtype == DType::f8_e4m3;
  }

  std::unique_ptr<MatrixSource> open(Binder& binder, const std::string& name, int64_t n_rows, int64_t n_cols) const override {
    const TensorView* weight = binder.expect(name, {n_rows, n_cols}, DType::f8_e4m3);
    if (weight == nullptr) return nullptr;
    int64_t block_rows = block_rows_, block_cols = block_cols_;
    std::string scale_name = name + "_scale_inv";
    if (!binder.has(scale_name) && binder.has(name + "_scale")) scale_name = name + "_scale";
    Shape shape = {(n_rows + block_rows - 1) / block_rows, (n_cols + block_cols - 1) / block_cols};
    if (const TensorView* scale = binder.find(scale_name); scale != nullptr && scale->shape != shape) {
      // Not in blocks: one for all, or one a row.
      if (scale->n_elements() == 1) block_rows = n_rows, block_cols = n_cols, shape = scale->shape;
      else if (scale->shape == Shape{n_rows, 1} || scale->shape == Shape{n_rows}) block_rows = 1, block_cols = n_cols, shape = scale->shape;
    }
    const TensorView* scales = binder.expect_scales(scale_name, shape);
    return scales == nullptr ? nullptr : scaled_rows(*weight, *scales, block_rows, block_cols);
  }

 private:
  int64_t block_rows_, block_cols_;
};

}  // namespace

std::unique_ptr<Importer> make_fp8(const ConfigReader& q) {
  static constexpr const char* known[] = {"quant_method", "activation_scheme", "fmt", "weight_block_size", "scale_fmt", "ignored_layers",
                                          "modules_to_not_convert", "dequantize", "kv_cache_scheme"};
  refuse_unknown_keys(q, known);
  q.only("fmt", "e4m3");
  if (!q.has("weight_block_size")) return std::make_unique<Fp8>(128, 128);  // or a scale that is no block's
  const std::vector<double> block = q.numbers("weight_block_size");
  const auto is_size = [](double v) { return v >= 1 && v <= 65536 && v == std::floor(v); };
  if (block.size() != 2 || !is_size(block[0]) || !is_size(block[1])) q.fail("weight_block_size", "two whole numbers above 0");
  return std::make_unique<Fp8>(static_cast<int64_t>(block[0]), static_cast<int64_t>(block[1]));
}

std::unique_ptr<Importer> make_fbgemm_fp8(const ConfigReader& q) {
  static constexpr const char* known[] = {"quant_method", "activation_scale_ub", "modules_to_not_convert"};
  refuse_unknown_keys(q, known);
  return std::make_unique<Fp8>(128, 128);
}

}  // namespace engine
