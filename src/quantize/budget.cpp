// Where bits are worth the most: each set of matrices is rounded alone, the divergence of the model's answers from the exact ones is measured, and
// a budget is spent on whatever lowers the sum the most for its bits.
#include <algorithm>
#include <cmath>
#include <cstdio>

#include "base/error.h"
#include "quantize/calibrate.h"
#include "quantize/streams.h"

namespace engine {
namespace {

using kernels::Format;

constexpr uint64_t max_reference_bytes = uint64_t{256} << 20;
constexpr int64_t max_tokens = 1024;

struct Choice {
  Format format;
  int group;
  double bits = 0;        // of all its weights
  double divergence = 0;
};

/// Matrices that get one format.
struct Unit {
  int layer = 0;
  std::vector<const Linear*> matrices;
  std::vector<QuantizedModule*> modules;
  std::vector<Choice> choices;  // from the fewest bits on, each step worth less than the one before
  size_t chosen = 0;
};

std::vector<Unit> find_units(const Model& model, const ModuleMap& modules) {
  std::vector<Unit> units;
  for (int layer = 0; layer < model.spec().n_layers; ++layer) {
    std::map<std::pair<LayerPart, bool>, Unit> in_layer;  // all experts of a layer count as one
    for (const MatrixSet& set : matrix_sets(model.spec(), model.weights().layers[static_cast<size_t>(layer)])) {
      Unit& unit = in_layer[{set.part, set.expert}];
      unit.layer = layer;
      for (const Linear* m : set.matrices) {
        const auto found = modules.find(&m->w);
        if (found == modules.end() || found->second.module == nullptr) continue;
        unit.matrices.push_back(m);
        if (std::find(unit.modules.begin(), unit.modules.end(), found->second.module) == unit.modules.end()) {
          unit.modules.push_back(found->second.module);
        }
      }
    }
    for (auto& [part, unit] : in_layer) {
      if (!unit.modules.empty()) units.push_back(std::move(unit));
    }
  }
  return units;
}

/// The same matrices rounded, as float32 in memory of their own; returns the squared error.
double round_unit(Team& team, const Unit& unit, Format format, int group, std::vector<Buffer>* memory) {
  double total = 0;
  for (const Linear* m : unit.matrices) {
    QuantizedRows q(format, group, m->w.n_rows, m->w.n_cols);
    memory->emplace_back(static_cast<size_t>(m->w.n_rows * m->w.n_cols) * 4);
    float* out = memory->back().as<float>();
    std::vector<double> errors(static_cast<size_t>(m->w.n_rows));
    team.run([&](Worker& w) {
      std::vector<float> row(static_cast<size_t>(m->w.n_cols));
      w.for_chunks(m->w.n_rows, 16, [&](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; ++r) {
          kernels::table().get_row(m->w, r, row.data());
          int8_t* integers = q.q.data() + r * q.n_cols;
          uint16_t* scales = q.scales.data() + r * q.n_groups();
          kernels::table().quantize_row(format, group, row.data(), q.n_cols, integers, scales);
          double sum = 0;
          for (int64_t c = 0; c < q.n_cols; ++c) {
            const float value = static_cast<float>(integers[c]) * f16_to_float(scales[c / group]);
            out[r * q.n_cols + c] = value;
            sum += (static_cast<double>(value) - row[static_cast<size_t>(c)]) * (static_cast<double>(value) - row[static_cast<size_t>(c)]);
          }
          errors[static_cast<size_t>(r)] = sum;
        }
      });
    });
    for (const double e : errors) total += e;
  }
  return total;
}

double bits_of(const Unit& unit, Format format, int group) {
  double bits = 0;
  for (const QuantizedModule* m : unit.modules) {
    QuantizedModule as = *m;
    as.format = format;
    as.group = group;
    bits += as.bits() * static_cast<double>(m->n_rows) * static_cast<double>(m->n_cols);
  }
  return bits;
}

/// Answers of the exact model, and how far others are from them.
class Reference {
 public:
  Reference(Streams& streams, int64_t vocab) : streams_(streams), vocab_(vocab) {
    logits_.resize(static_cast<size_t>(streams.n_tokens() * vocab));
    for (size_t b = 0, first = 0; b < streams.n_batches(); first += static_cast<size_t>(streams.n_tokens(b)), ++b) {
      streams.run_to_end(Streams::exact, b, 0, nullptr, [&](int64_t t, std::span<const float> row) {
        std::copy(row.begin(), row.end(), logits_.begin() + static_cast<ptrdiff_t>((first + static_cast<size_t>(t)) * row.size()));
      });
    }
  }

  /// Mean KL divergence, to second order: half the variance of the logits' differences under the exact probabilities.
  double divergence(int layer, const LayerWeights* layers) {
    double total = 0;
    std::vector<float> p(static_cast<size_t>(vocab_));
    const kernels::Table& kernel = kernels::table();
    for (size_t b = 0, first = 0; b < streams_.n_batches(); first += static_cast<size_t>(streams_.n_tokens(b)), ++b) {
      streams_.run_to_end(Streams::exact, b, layer, layers, [&](int64_t t, std::span<const float> row) {
        const float* exact = logits_.data() + (first + static_cast<size_t>(t)) * row.size();
        const double sum = kernel.exp_sum(exact, kernel.max(exact, vocab_), p.data(), vocab_);
        double mean = 0, square = 0;
        for (size_t i = 0; i < row.size(); ++i) {
          const double d = static_cast<double>(row[i]) - exact[i];
          mean += d * p[i];
          square += d * d * p[i];
        }
        total += 0.5 * (square / sum - mean / sum * (mean / sum));
      });
    }
    return std::max(total, 0.0) / static_cast<double>(streams_.n_tokens());
  }

 private:
  Streams& streams_;
  int64_t vocab_;
  std::vector<float> logits_;
};

/// Leaves the choices that are worth their bits: from each to the next, less and less is won for a bit.
void keep_convex(std::vector<Choice>* choices) {
  std::sort(choices->begin(), choices->end(), [](const Choice& a, const Choice& b) { return a.bits < b.bits; });
  std::vector<Choice> kept;
  const auto gain = [](const Choice& a, const Choice& b) { return (a.divergence - b.divergence) / (b.bits - a.bits); };
  for (const Choice& c : *choices) {
    if (!kept.empty() && (c.divergence >= kept.back().divergence || c.bits <= kept.back().bits)) continue;
    while (kept.size() > 1 && gain(kept[kept.size() - 2], kept.back()) <= gain(kept.back(), c)) kept.pop_back();
    kept.push_back(c);
  }
  *choices = std::move(kept);
}

/// Where `layers`, a copy of the model's, has the counterpart of one of the model's matrices.
Linear& place_of(const Model& model, std::vector<LayerWeights>& layers, int layer, const Linear* matrix) {
  const auto from = matrix_sets(model.spec(), model.weights().layers[static_cast<size_t>(layer)]);
  const auto to = matrix_sets(model.spec(), layers[static_cast<size_t>(layer)]);
  for (size_t s = 0; s < from.size(); ++s) {
    for (size_t i = 0; i < from[s].matrices.size(); ++i) {
      if (from[s].matrices[i] == matrix) return const_cast<Linear&>(*to[s].matrices[i]);
    }
  }
  ASSERT(false);
}

bool measure(const std::shared_ptr<const Model>& model, Team& team, const Sequences& sequences, const QuantizeOptions& options,
             std::vector<Unit>* units) {
  const int64_t vocab = model->spec().vocab_size;
  const int64_t rows = std::clamp<int64_t>(static_cast<int64_t>(max_reference_bytes / (4 * static_cast<uint64_t>(vocab))), 2, max_tokens);
  Sequences part;
  int64_t n = 0;
  for (size_t i = 0; i < sequences.size() && n < rows; ++i) {
    const size_t length = std::min(sequences[i].size(), static_cast<size_t>(std::min<int64_t>(rows - n, 256)));
    part.emplace_back(sequences[i].begin(), sequences[i].begin() + static_cast<ptrdiff_t>(length));
    n += static_cast<int64_t>(length);
  }
  Streams streams(model, team, part, 256);
  Reference reference(streams, vocab);
  std::vector<LayerWeights> layers = model->weights().layers;
  for (size_t i = 0; i < units->size(); ++i) {
    Unit& unit = (*units)[i];
    std::vector<Buffer> memory;
    const double base = round_unit(team, unit, Format::i4, 32, &memory);
    for (size_t k = 0; k < unit.matrices.size(); ++k) {
      const kernels::Matrix& w = unit.matrices[k]->w;
      place_of(*model, layers, unit.layer, unit.matrices[k]).w = {memory[k].data(), w.n_rows, w.n_cols, Format::f32, 0};
    }
    const double divergence = reference.divergence(unit.layer, layers.data());
    layers[static_cast<size_t>(unit.layer)] = model->weights().layers[static_cast<size_t>(unit.layer)];
    for (const auto& [format, group] : {std::pair{Format::i4, 128}, {Format::i4, 64}, {Format::i4, 32}, {Format::i8, 128}}) {
      if (format == Format::i4 && group < options.group) continue;
      memory.clear();
      const double error = format == Format::i4 && group == 32 ? base : round_unit(team, unit, format, group, &memory);
      unit.choices.push_back({format, group, bits_of(unit, format, group), base > 0 ? divergence * error / base : 0});
    }
    keep_convex(&unit.choices);
    if (!options.progress("measuring", i + 1, units->size())) return false;
    if (i + 1 == units->size() || (*units)[i + 1].layer == unit.layer) continue;
    for (int layer = unit.layer; layer < (*units)[i + 1].layer; ++layer) {
      for (size_t b = 0; b < streams.n_batches(); ++b) streams.run(Streams::exact, b, layer, LayerPart::all, nullptr, nullptr, true);
    }
  }
  return true;
}

}  // namespace

bool choose_formats(const std::shared_ptr<const Model>& model, Team& team, const Sequences& sequences, const ModuleMap& modules,
                    const QuantizeOptions& options) {
  std::vector<Unit> units = find_units(*model, modules);
  if (!measure(model, team, sequences, options, &units)) return false;
  double used = 0, weights = 0;
  for (const Unit& unit : units) {
    used += unit.choices[0].bits;
    for (const QuantizedModule* m : unit.modules) weights += static_cast<double>(m->n_rows) * static_cast<double>(m->n_cols);
  }
  const double budget = options.bits * weights;
  if (used > budget) {
    char text[96];
    std::snprintf(text, sizeof text, "--bits: expected at least %.3f for this model, got %.3f", std::ceil(used / weights * 1000) / 1000, options.bits);
    throw Error(text);
  }
  for (;;) {
    Unit* best = nullptr;
    double best_gain = 0;
    for (Unit& unit : units) {
      if (unit.chosen + 1 == unit.choices.size()) continue;
      const Choice &now = unit.choices[unit.chosen], &next = unit.choices[unit.chosen + 1];
      const double gain = (now.divergence - next.divergence) / (next.bits - now.bits);
      if (used + next.bits - now.bits <= budget && gain > best_gain) best = &unit, best_gain = gain;
    }
    if (best == nullptr) break;
    used += best->choices[best->chosen + 1].bits - best->choices[best->chosen].bits;
    ++best->chosen;
  }
  for (const Unit& unit : units) {
    for (QuantizedModule* m : unit.modules) {
      m->format = unit.choices[unit.chosen].format;
      m->group = unit.choices[unit.chosen].group;
    }
  }
  return true;
}

}  // namespace engine
