// compressed-tensors "float-quantized" and "naive-quantized": NAME.weight in F8_E4M3 (or I8) as it is, NAME.weight_scale for the whole
// matrix [1], for each row [n_out, 1], for groups of columns [n_out, n_in / group_size] or for blocks of block_structure.
// value = weight * scale. How activations would be quantized does not matter here: ours keep their precision.
#include <algorithm>

#include "base/error.h"
#include "model/binder.h"
#include "model/import/importer.h"

namespace engine {
namespace {

struct Block {
  int64_t rows, cols;  // 0: all
};

class FloatQuantized : public Importer {
 public:
  explicit FloatQuantized(std::vector<Block> blocks) : blocks_(std::move(blocks)) {}

  bool holds(const Binder& binder, const std::string& name) const override { return binder.has(name + "_scale"); }

  std::unique_ptr<MatrixSource> open(Binder& binder, const std::string& name, int64_t n_rows, int64_t n_cols) const override {
    const TensorView* weight = binder.find(name);
    weight = binder.expect(name, {n_rows, n_cols}, weight != nullptr && weight->dtype == DType::i8 ? DType::i8 : DType::f8_e4m3);
    const TensorView* zeros = binder.find(name + "_zero_point");
    const bool shifted = zeros != nullptr && std::any_of(zeros->data, zeros->data + zeros->n_bytes, [](std::byte b) { return b != std::byte{0}; });
    if (shifted || binder.has(name + "_g_idx")) {
      binder.problem(name + (shifted ? "_zero_point: zero points" : "_g_idx: an order of activations") + " not supported in this layout");
      return nullptr;
    }
    const TensorView* scales = binder.find(name + "_scale");
    Block block = {n_rows, n_cols};
    Shape shape = scales->shape;
    if (scales->n_elements() != 1) {
      block.rows = 1;
      shape = {n_rows, 1};
      for (const Block& b : blocks_) {
        const int64_t rows = b.rows > 0 ? b.rows : n_rows, cols = b.cols > 0 ? b.cols : n_cols;
        const Shape wanted = {(n_rows + rows - 1) / rows, (n_cols + cols - 1) / cols};
        if (scales->shape == wanted) block = {rows, cols}, shape = wanted;
      }
    }
    scales = binder.expect_scales(name + "_scale", shape);
    return weight == nullptr || scales == nullptr ? nullptr : scaled_rows(*weight, *scales, block.rows, block.cols);
  }

 private:
  std::vector<Block> blocks_;
};

}  // namespace

std::unique_ptr<Importer> make_float_quantized(const ConfigReader& q) {
  static constexpr const char* known[] = {"quant_method", "format", "config_groups", "ignore", "kv_cache_scheme", "quantization_status",
                                          "global_compression_ratio", "sparsity_config", "transform_config", "version"};
  static constexpr const char* known_scheme[] = {"num_bits", "type", "symmetric", "strategy", "group_size", "block_structure", "actorder",
                                                 "dynamic", "observer", "observer_kwargs", "scale_dtype", "zp_dtype"};
  refuse_unknown_keys(q, known);
  if (q.string_or("quantization_status", "compressed") != "compressed") q.fail("quantization_status", "compressed");
  if (q.has("sparsity_config") && !q.json().at("sparsity_config").empty() &&
      q.object("sparsity_config").string_or("format", "dense") != "dense") {
    q.object("sparsity_config").fail("format", "dense (compressed sparse weights are not supported)");
  }
  if (q.has("transform_config") && !q.json().at("transform_config").empty()) q.fail("transform_config", "nothing (rotations are not supported)");
  std::vector<Block> blocks = {{1, 0}};
  const ConfigReader groups = q.object("config_groups");
  for (const auto& [name, value] : groups.json().items()) {
    const ConfigReader group = groups.object(name);
    if (!group.has("weights")) continue;
    const ConfigReader w = group.object("weights");
    refuse_unknown_keys(w, known_scheme);
    w.integer_or("num_bits", 8, 2, 8);
    const std::string strategy = w.string_or("strategy", "tensor");
    if (strategy == "group") {
      blocks.push_back({1, w.integer("group_size", 1, 1 << 20)});
    } else if (strategy == "block") {
      const std::vector<double> size = w.has("block_structure") ? w.numbers("block_structure") : std::vector<double>{128, 128};
      if (size.size() != 2 || size[0] < 1 || size[1] < 1 || size[0] > 65536 || size[1] > 65536) w.fail("block_structure", "two whole numbers above 0");
      blocks.push_back({static_cast<int64_t>(size[0]), static_cast<int64_t>(size[1])});
    } else if (strategy != "tensor" && strategy != "channel") {
      w.fail("strategy", "tensor, channel, group or block");
    }
  }
  return std::make_unique<FloatQuantized>(std::move(blocks));
}

}  // namespace engine
