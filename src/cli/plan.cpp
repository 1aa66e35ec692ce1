#include "cli/plan.h"

#include <sys/sysinfo.h>

#include <cinttypes>
#include <cstdio>
#include <fstream>

#include "cli/load.h"
#include "model/decoder.h"
#include "runtime/scheduler.h"

namespace engine::cli {
namespace {

// A file that holds one number; `none` if it cannot be read ("max").
uint64_t read_number(const char* path, uint64_t none) {
  std::ifstream file(path);
  uint64_t value = 0;
  return file >> value ? value : none;
}

// Bytes of a tensor once loaded with --dtype: matrices are converted, vectors are few. int4 keeps matrices as tall as the vocabulary
// (the output) in int8.
uint64_t loaded_bytes(const TensorInfo& tensor, const Options& options, int64_t vocab_size) {
  if (options.dtype == DTypeChoice::automatic || tensor.shape.size() < 2) return tensor.n_bytes;
  uint64_t n = 1;
  for (const int64_t d : tensor.shape) n *= static_cast<uint64_t>(d);
  const uint64_t scales = 2 * n / static_cast<uint64_t>(options.group_size);
  switch (options.dtype) {
    case DTypeChoice::float32: return 4 * n;
    case DTypeChoice::int4: return (tensor.shape[0] == vocab_size ? n : n / 2) + scales;
    case DTypeChoice::int8: return n + scales;
    default: return 2 * n;
  }
}

}  // namespace

uint64_t available_memory() {
  uint64_t available = UINT64_MAX;
  std::ifstream file("/proc/meminfo");
  for (std::string line; std::getline(file, line);) {
    uint64_t kib = 0;
    if (std::sscanf(line.c_str(), "MemAvailable: %" SCNu64 " kB", &kib) == 1) available = kib * 1024;
  }
  struct sysinfo info {};
  if (available == UINT64_MAX && ::sysinfo(&info) == 0) available = (info.freeram + info.bufferram) * uint64_t{info.mem_unit};  // no /proc
  const uint64_t limit = read_number("/sys/fs/cgroup/memory.max", UINT64_MAX);
  const uint64_t used = read_number("/sys/fs/cgroup/memory.current", 0);
  if (limit != UINT64_MAX) available = std::min(available, limit > used ? limit - used : 0);
  return available;
}

std::string bytes_text(uint64_t bytes) {
  static constexpr const char* units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  while (value >= 1024 && unit + 1 < std::size(units)) value /= 1024, unit++;
  char text[32];
  std::snprintf(text, sizeof text, unit == 0 || value >= 100 ? "%.0f %s" : "%.1f %s", value, units[unit]);
  return text;
}

MemoryPlan plan_memory(const std::shared_ptr<const Model>& model, const Options& options) {
  MemoryPlan plan;
  const int64_t trained = model->spec().max_positions;
  plan.ctx = options.ctx > 0 ? options.ctx : trained;
  // What foreign formats become only the loader knows.
  if (!model->import_format().empty()) plan.weight_bytes = model->weight_bytes();
  else for (const TensorInfo& tensor : model->tensors()) plan.weight_bytes += loaded_bytes(tensor, options, model->spec().vocab_size);
  plan.active_weight_bytes = model->active_bytes();
  const KvLayout layout = KvLayout::of(model->spec(), kv_format(options, *model));
  const int64_t block = kernels::kv_block_tokens;
  plan.kv_bytes_per_position = layout.block_bytes / static_cast<uint64_t>(block);
  plan.kv_bytes = static_cast<uint64_t>((plan.ctx + block - 1) / block) * layout.block_bytes;
  Team team(1);
  // A draft model's guesses have logits too.
  const int n_rows = std::max(options.parallel, 1) + (options.draft.empty() ? 0 : SchedulerOptions().max_draft_tokens);
  plan.scratch_bytes = Decoder(model, team, 256, n_rows).scratch_bytes();
  const uint64_t fixed = plan.weight_bytes + plan.scratch_bytes;
  plan.total_bytes = fixed + plan.kv_bytes;
  plan.available_bytes = options.mem_bytes ? *options.mem_bytes : available_memory();
  plan.fits = plan.total_bytes <= plan.available_bytes;
  if (plan.available_bytes > fixed) {
    const uint64_t blocks = (plan.available_bytes - fixed) / layout.block_bytes;
    plan.largest_ctx = std::min<int64_t>(plan.ctx, static_cast<int64_t>(std::min<uint64_t>(blocks, INT64_MAX / block)) * block);
  }
  return plan;
}

}  // namespace engine::cli
