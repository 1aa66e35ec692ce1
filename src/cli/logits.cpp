// `engine logits`: the model as a function from token ids to logits.
#include <cstring>

#include "cli/commands.h"
#include "cli/load.h"
#include "cli/progress.h"
#include "runtime/perplexity.h"

namespace engine::cli {
namespace {

struct Ids {
  int64_t n_rows = 0, n_columns = 0;  // [B, T]
  std::vector<int64_t> values;
};

Ids read_ids(const std::string& path) {
  const SafetensorsFile file(path);
  const auto found = file.tensors().find("input_ids");
  if (found == file.tensors().end()) throw Error(path + ": expected a tensor input_ids, found none");
  const TensorView& tensor = found->second;
  if (tensor.dtype != DType::i64 || tensor.shape.size() != 2) {
    throw Error(path + ": input_ids: expected I64 [B, T], got " + std::string(dtype_name(tensor.dtype)) + " " + shape_string(tensor.shape));
  }
  if (file.tensors().contains("attention_mask")) throw Error(path + ": attention_mask: is not supported, rows are computed whole");
  if (tensor.n_elements() == 0) throw Error(path + ": input_ids: expected at least one id, got " + shape_string(tensor.shape));
  Ids ids{tensor.dim(0), tensor.dim(1), {}};
  ids.values.resize(static_cast<size_t>(tensor.n_elements()));
  std::memcpy(ids.values.data(), tensor.data, tensor.n_bytes);
  return ids;
}

}  // namespace

int run_logits(const Options& options) {
  if (options.input.empty()) throw UsageError("--input FILE is missing");
  if (options.output.empty()) throw UsageError("--output FILE is missing");
  select_isa(options);
  const std::string directory = resolve_model(options.model, options.revision);
  const Ids ids = read_ids(options.input);
  Team team(options.n_threads > 0 ? options.n_threads : default_thread_count());
  const std::shared_ptr<const Model> model = load_model(directory, options, team);

  const auto vocab_size = static_cast<size_t>(model->spec().vocab_size);
  std::vector<float> logits(ids.values.size() * vocab_size);
  Progress bar("computing", options.quiet);
  batch_logits(
      model, team, ids.values, ids.n_rows, ids.n_columns,
      [&](int64_t row, int64_t position, std::span<const float> values) {
        const auto at = static_cast<size_t>(row * ids.n_columns + position);
        std::memcpy(&logits[at * vocab_size], values.data(), values.size_bytes());
        bar.update(at, ids.values.size());
      },
      kv_format(options, *model));

  const TensorView view{DType::f32,
                        {ids.n_rows, ids.n_columns, static_cast<int64_t>(vocab_size)},
                        reinterpret_cast<const std::byte*>(logits.data()),
                        logits.size() * sizeof(float)};
  const NamedTensor named{"logits", view};
  write_safetensors(options.output, {&named, 1});
  return exit_done;
}

}  // namespace engine::cli
