// Layer by layer: what the linear modules read, with all before them already quantized, and the integers that serve it best.
#pragma once

#include <map>
#include <memory>

#include "quantize/compensate.h"
#include "quantize/quantize.h"
#include "quantize/samples.h"

namespace engine {

/// Where a bound matrix goes.
struct ModuleRows {
  QuantizedModule* module = nullptr;  // null: it stays exact
  int64_t first_row = 0;
};
using ModuleMap = std::map<const kernels::Matrix*, ModuleRows>;

/// Matrices of one layer that read the same rows, and get the same format, since other programs join them.
struct MatrixSet {
  std::vector<const Linear*> matrices;
  const Linear* key = nullptr;  // which of them the decoder shows
  LayerPart part = LayerPart::attention_input;
  bool expert = false;
};
std::vector<MatrixSet> matrix_sets(const ModelSpec& spec, const LayerWeights& weights);

/// Quantizes the modules of all layers and hands them to `writer`. False: stopped.
bool calibrate(const std::shared_ptr<const Model>& model, Team& team, const Sequences& sequences, const ModuleMap& modules,
               const QuantizeOptions& options, DirectoryWriter& writer);

/// Chooses the formats of modules so that all together hold options.bits: where an int4 costs the most divergence it becomes an int8 or gets
/// smaller groups. Throws Error if the budget is below what is possible.
bool choose_formats(const std::shared_ptr<const Model>& model, Team& team, const Sequences& sequences, const ModuleMap& modules,
                    const QuantizeOptions& options);

}  // namespace engine
