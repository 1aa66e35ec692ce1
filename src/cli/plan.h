// The memory a model will take, worked out before it is taken.
#pragma once

#include <cstdint>
#include <string>

#include "base/machine.h"
#include "cli/options.h"
#include "model/model.h"

namespace engine::cli {

struct MemoryPlan {
  int64_t ctx = 0;             // positions of the one sequence that is planned for
  int64_t trained_ctx = 0;     // positions the model was made for
  uint64_t weight_bytes = 0;   // in the dtype asked for; without an embedding whose rows are looked up in the file
  uint64_t owned_bytes = 0;    // of them, what is converted; the others lie in the mapped file, and the kernel may drop and read them again
  uint64_t lookup_bytes = 0;   // that embedding
  uint64_t kv_bytes = 0;       // for ctx positions
  uint64_t kv_bytes_per_position = 0;
  uint64_t scratch_bytes = 0;
  uint64_t total_bytes = 0;
  MemoryLimit available;       // to this process, or --mem if that was given
  bool fits = false;
  int64_t largest_ctx = 0;     // that fits, at most ctx; 0: none
  uint64_t active_weight_bytes = 0;  // read for each token
};

/// `model` loaded with dtype auto (mapped, nothing converted).
MemoryPlan plan_memory(const std::shared_ptr<const Model>& model, const Options& options);

/// "1.5 GiB", "640 KiB".
std::string bytes_text(uint64_t bytes);

}  // namespace engine::cli
