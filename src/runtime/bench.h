// How fast a model runs here, and how fast this machine could: the roofline and the runs are measured in one go.
#pragma once

#include <cstdint>
#include <memory>

#include "base/threads.h"
#include "model/model.h"

namespace engine {

/// What the machine can do with this team, measured now.
struct MachineLimits {
  double read_gb_s = 0;     // streaming reads of memory, 10^9 bytes per second, all threads
  double int8_gmac_s = 0;   // multiply-adds of the inner loop of int8 products (int4's, unless weights are int8) on registers, 10^9 per second
};

/// read_gb_s alone, over n_bytes of memory (rounded down to whole pieces of 4 MiB, at least 16): a fraction of a second.
double measure_read_gb_s(Team& team, uint64_t n_bytes);

/// Of the bandwidth's limit, what decoding reaches at short contexts with weights that no cache holds. Measured: 0.69 to 0.93, see SPEED.md.
constexpr double expected_decode_fraction = 0.80;

struct BenchResult {
  // Medians over the runs. The limits are measured beside every run, and the fractions are medians of each run's own.
  double prefill_tok_s = 0;
  double decode_tok_s = 0;       // of all sequences together
  double decode_gb_s = 0;        // weight bytes read per second while decoding; a step reads them once
  double decode_fraction = 0;    // of read_gb_s
  double prefill_gmac_s = 0;     // multiply-adds of the weight matrices per second
  double prefill_fraction = 0;   // of int8_gmac_s
  MachineLimits limits;
};

struct BenchOptions {
  int64_t n_prompt = 512, n_new = 128, n_runs = 3;
  int n_sequences = 1;  // decoded side by side, all after the same prompt
  kernels::KvFormat kv_format = kernels::KvFormat::f32;
};

/// Prefills made-up tokens and decodes after them, n_runs times; one round more, first, does not count. Throws Error if they do not fit
/// the model's context.
BenchResult run_bench(std::shared_ptr<const Model> model, Team& team, const BenchOptions& options);

}  // namespace engine
