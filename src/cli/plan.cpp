#include "cli/plan.h"

#include <cstdio>

#include "cli/load.h"
#include "model/decoder.h"
#include "runtime/scheduler.h"

namespace engine::cli {
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
  plan.trained_ctx = model->spec().max_positions;
  plan.ctx = options.ctx > 0 ? options.ctx : plan.trained_ctx;
  plan.owned_bytes = model->owned_bytes();
  plan.lookup_bytes = model->lookup_bytes();
  plan.weight_bytes = model->weight_bytes() - plan.lookup_bytes;
  plan.active_weight_bytes = model->active_bytes();
  const KvLayout layout = KvLayout::of(model->spec(), kv_format(options, *model));
  const int64_t block = kernels::kv_block_tokens;
  plan.kv_bytes_per_position = layout.block_bytes / static_cast<uint64_t>(block);
  plan.kv_bytes = static_cast<uint64_t>((plan.ctx + block - 1) / block) * layout.block_bytes;
  Team team(options.n_threads > 0 ? options.n_threads : default_thread_count());
  // A draft model's guesses have logits too.
  const int n_rows = std::max(options.parallel, 1) + (options.draft.empty() ? 0 : SchedulerOptions().max_draft_tokens);
  plan.scratch_bytes = Decoder(model, team, 256, n_rows).scratch_bytes();
  const uint64_t fixed = plan.weight_bytes + plan.scratch_bytes;
  plan.total_bytes = fixed + plan.kv_bytes;
  plan.available = options.mem_bytes ? MemoryLimit{*options.mem_bytes, "--mem"} : available_memory();
  plan.fits = plan.total_bytes <= plan.available.bytes;
  if (plan.available.bytes > fixed) {
    const uint64_t blocks = (plan.available.bytes - fixed) / layout.block_bytes;
    plan.largest_ctx = std::min<int64_t>(plan.ctx, static_cast<int64_t>(std::min<uint64_t>(blocks, INT64_MAX / block)) * block);
  }
  return plan;
}

}  // namespace engine::cli
