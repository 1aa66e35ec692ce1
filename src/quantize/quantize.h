// From a model directory to a quantized one: what `engine quantize` does.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/threads.h"
#include "quantize/writer.h"

namespace engine {

/// What became of a module.
struct ModuleReport {
  std::string module;
  double bits = 0;            // of a weight, with its share of the scales
  double rounding_error = 0;  // mean squared error of its products relative to their mean square, rounded to nearest
  double error = 0;           // as written
  int64_t n_tokens = 0;       // it was calibrated with
  bool rounded = false;       // too few tokens came by (an expert that is seldom chosen), so it was rounded to nearest
};

struct QuantizeOptions {
  kernels::Format format = kernels::Format::i4;
  int group = 32;
  bool keep_output = false;            // the output matrix stays as it is
  kernels::Format output = kernels::Format::i8;  // else: i8 or i4, rounded to nearest
  uint64_t max_shard_bytes = uint64_t{5} << 30;

  bool calibrate = false;
  std::vector<int32_t> text;           // to calibrate with; empty: the model's own samples
  std::optional<int32_t> bos;
  int64_t n_tokens = 16384;
  double bits = 0;                     // int4, calibrated: bits of a weight over all quantized matrices but the output; 0: `group` everywhere

  /// What is being done and how far it is; returns false to stop. Not empty.
  std::function<bool(const char* what, uint64_t done, uint64_t total)> progress;
  /// Called for each module that was calibrated, in the model's order; may be empty.
  std::function<void(const ModuleReport& report)> report;
};

struct QuantizeSummary {
  bool stopped = false;
  size_t n_modules = 0;         // quantized
  size_t n_unsuited = 0;        // matrices that are no linear modules of their own in this layout, and stay as they are
  double bits = 0;              // of a weight of those, the output matrix apart
  bool output_quantized = false;
  uint64_t source_bytes = 0, bytes = 0;
  std::vector<int32_t> held_out;  // text or samples that were not calibrated with, without bos, to compare the models on
  int64_t held_out_length = 0;    // of the windows it is in, with bos
};

/// Throws Error; on error, and when stopped, nothing stays under `out`.
QuantizeSummary quantize_model(const std::string& directory, const std::string& out, Team& team, const QuantizeOptions& options);

}  // namespace engine
