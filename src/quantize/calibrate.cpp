#include "quantize/calibrate.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "quantize/streams.h"

namespace engine {
namespace {

constexpr size_t max_moment_bytes = size_t{1} << 30;  // gathered at a time; experts come in parts
constexpr float damping = 0.01f;
/// Rounds of refinement: each reads much of H for every row, and that of a wide matrix does not fit the caches.
constexpr int rounds_for(int64_t n_cols) { return n_cols > 2048 ? 2 : 12; }

/// Rows that a set of matrices read in one batch.
struct Capture {
  std::vector<float> rows;
  int64_t n = 0;
  void take(const float* from, int64_t n_rows, int64_t width) {
    rows.assign(from, from + n_rows * width);
    n = n_rows;
  }
};

class Calibrator {
 public:
  Calibrator(const std::shared_ptr<const Model>& model, Team& team, const Sequences& sequences, const ModuleMap& modules,
             const QuantizeOptions& options, DirectoryWriter& writer)
      : model_(*model), team_(team), modules_(modules), options_(options), writer_(writer), streams_(model, team, sequences),
        student_(model->weights().layers) {
    for (const LayerWeights& layer : model_.weights().layers) {
      for (const MatrixSet& set : matrix_sets(model_.spec(), layer)) {
        for (const Linear* m : set.matrices) total_ += wanted(set) ? work(m->w) : 0;
      }
    }
  }

  bool run() {
    for (int layer = 0; layer < model_.spec().n_layers; ++layer) {
      if (!run_layer(layer)) return false;
      memory_.clear();
    }
    return true;
  }

 private:
  struct Pair {  // the same set of the model and of the student
    MatrixSet exact, student;
  };

  static uint64_t work(const kernels::Matrix& m) { return static_cast<uint64_t>(m.n_rows) * static_cast<uint64_t>(m.n_cols); }

  /// The module of a matrix; null if it stays exact.
  const ModuleRows* module_of(const Linear* m) const {
    const auto found = modules_.find(&m->w);
    return found != modules_.end() && found->second.module != nullptr ? &found->second : nullptr;
  }
  bool wanted(const MatrixSet& set) const {
    return std::any_of(set.matrices.begin(), set.matrices.end(), [&](const Linear* m) { return module_of(m) != nullptr; });
  }

  bool run_layer(int layer) {
    const bool parallel = model_.spec().parallel_block;
    std::vector<Pair> sets;
    const auto exact = matrix_sets(model_.spec(), model_.weights().layers[static_cast<size_t>(layer)]);
    const auto student = matrix_sets(model_.spec(), student_[static_cast<size_t>(layer)]);
    for (size_t i = 0; i < exact.size(); ++i) sets.push_back({exact[i], student[i]});
    for (const LayerPart part : {LayerPart::attention_input, LayerPart::attention, LayerPart::feed_forward_input, LayerPart::feed_forward}) {
      std::vector<Pair> now;
      for (const Pair& p : sets) {
        if (p.exact.part == part && wanted(p.exact)) now.push_back(p);
      }
      if (!quantize_sets(layer, part, now)) return false;
      if (part == LayerPart::attention && !parallel) advance(layer, part);
    }
    advance(layer, parallel ? LayerPart::all : LayerPart::feed_forward);
    return true;
  }

  void advance(int layer, LayerPart part) {
    for (size_t b = 0; b < streams_.n_batches(); ++b) {
      streams_.run(Streams::exact, b, layer, part, nullptr, nullptr, true);
      streams_.run(Streams::student, b, layer, part, student_.data(), nullptr, true);
    }
  }

  /// All sets that one part of a layer shows, as many at a time as there is memory for.
  bool quantize_sets(int layer, LayerPart part, const std::vector<Pair>& sets) {
    for (size_t begin = 0; begin < sets.size();) {
      size_t end = begin, bytes = 0;
      for (; end < sets.size(); ++end) {
        const auto n = static_cast<size_t>(sets[end].exact.key->w.n_cols);
        bytes += n * n * 4 * (sets[end].exact.expert ? 1 : 2);
        if (end > begin && bytes > max_moment_bytes) break;
      }
      std::vector<Moments> moments = gather(layer, part, std::span(sets).subspan(begin, end - begin));
      for (size_t i = begin; i < end; ++i) {
        if (!quantize_set(moments[i - begin], sets[i])) return false;
        moments[i - begin] = Moments(1, false);
      }
      begin = end;
    }
    return true;
  }

  std::vector<Moments> gather(int layer, LayerPart part, std::span<const Pair> sets) {
    std::vector<Moments> moments;
    for (const Pair& p : sets) moments.emplace_back(p.exact.key->w.n_cols, !p.exact.expert);
    std::vector<Capture> exact(sets.size()), student(sets.size());
    // The two models may send a token to different experts, so that theirs cannot be compared.
    const Streams::Observer see_exact = [&](const Linear& linear, const float* rows, int64_t n) {
      for (size_t i = 0; i < sets.size(); ++i) {
        if (sets[i].exact.key == &linear && !sets[i].exact.expert) exact[i].take(rows, n, linear.w.n_cols);
      }
    };
    const Streams::Observer see_student = [&](const Linear& linear, const float* rows, int64_t n) {
      for (size_t i = 0; i < sets.size(); ++i) {
        if (sets[i].student.key == &linear) student[i].take(rows, n, linear.w.n_cols);
      }
    };
    for (size_t b = 0; b < streams_.n_batches(); ++b) {
      for (Capture& c : student) c.n = 0;
      streams_.run(Streams::exact, b, layer, part, nullptr, &see_exact, false);
      streams_.run(Streams::student, b, layer, part, student_.data(), &see_student, false);
      for (size_t i = 0; i < sets.size(); ++i) {
        if (student[i].n > 0) moments[i].add(team_, student[i].rows.data(), exact[i].rows.data(), student[i].n);
      }
    }
    for (Moments& m : moments) m.finish(team_, damping);
    return moments;
  }

  bool quantize_set(const Moments& moments, const Pair& set) {
    const bool rounded = set.exact.expert && moments.n_tokens() * 4 < moments.n_cols();
    std::optional<Feedback> feedback;
    if (!rounded) feedback.emplace(team_, moments);
    for (size_t i = 0; i < set.exact.matrices.size(); ++i) {
      const kernels::Matrix& m = set.exact.matrices[i]->w;
      if (const ModuleRows* to = module_of(set.exact.matrices[i]); to != nullptr) {
        quantize_matrix(moments, rounded ? nullptr : &*feedback, m, *to, const_cast<Linear&>(*set.student.matrices[i]));
      }
      done_ += work(m);
      if (!options_.progress("calibrating", done_, total_)) return false;
    }
    return true;
  }

  void quantize_matrix(const Moments& moments, const Feedback* feedback, const kernels::Matrix& m, const ModuleRows& to, Linear& student) {
    std::vector<float> w(work(m));
    team_.run([&](Worker& worker) {
      worker.for_chunks(m.n_rows, 16, [&](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; ++r) kernels::table().get_row(m, r, w.data() + r * m.n_cols);
      });
    });
    QuantizedRows q(to.module->format, to.module->group, m.n_rows, m.n_cols);
    ModuleReport report{to.module->name, to.module->bits()};
    report.n_tokens = moments.n_tokens();
    report.rounded = feedback == nullptr;
    round_to_nearest(team_, w.data(), q);
    report.rounding_error = report.error = relative_error(team_, moments, w.data(), q);
    if (feedback != nullptr) {
      if (moments.cross() != nullptr) feedback->correct(team_, moments, w.data(), m.n_rows);
      compensate(team_, moments, *feedback, w.data(), q, rounds_for(m.n_cols));
      report.error = relative_error(team_, moments, w.data(), q);
    }
    writer_.put_rows(*to.module, to.first_row, m.n_rows, q.q.data(), q.scales.data());
    memory_.emplace_back(w.size() * 4);
    q.dequantize(team_, memory_.back().as<float>());
    student.w = {memory_.back().data(), m.n_rows, m.n_cols, kernels::Format::f32, 0};
    if (options_.report) options_.report(report);
  }

  const Model& model_;
  Team& team_;
  const ModuleMap& modules_;
  const QuantizeOptions& options_;
  DirectoryWriter& writer_;
  Streams streams_;
  std::vector<LayerWeights> student_;  // into the model, then into memory_
  std::vector<Buffer> memory_;         // of the layer at work
  uint64_t done_ = 0, total_ = 0;
};

}  // namespace

std::vector<MatrixSet> matrix_sets(const ModelSpec& spec, const LayerWeights& w) {
  std::vector<MatrixSet> sets;
  const auto add = [&](LayerPart part, bool expert, std::initializer_list<const Linear*> matrices) {
    MatrixSet set{{}, *(matrices.end() - 1), part, expert};
    for (const Linear* m : matrices) {
      if (*m) set.matrices.push_back(m);
    }
    if (!set.matrices.empty()) sets.push_back(set);
  };
  const LayerPart in = LayerPart::feed_forward_input, out = LayerPart::feed_forward;
  const auto add_expert = [&](const ExpertWeights& e, bool expert) {
    add(in, expert, {&e.gate, &e.up});
    add(out, expert, {&e.down});
  };
  const bool joined = spec.parallel_block && w.experts.empty();  // attention and feed-forward read the same rows
  if (joined) {
    add(LayerPart::attention_input, false, {&w.wk, &w.wv, &w.w_gate, &w.w_up, &w.wq});
  } else {
    add(LayerPart::attention_input, false, {&w.wk, &w.wv, &w.wq});
    add(in, false, {&w.w_gate, &w.w_up});
  }
  add(LayerPart::attention, false, {&w.wo});
  add(out, false, {&w.w_down});
  add_expert(w.shared, false);
  for (const ExpertWeights& e : w.experts) add_expert(e, true);
  return sets;
}

bool calibrate(const std::shared_ptr<const Model>& model, Team& team, const Sequences& sequences, const ModuleMap& modules,
               const QuantizeOptions& options, DirectoryWriter& writer) {
  return Calibrator(model, team, sequences, modules, options, writer).run();
}

}  // namespace engine
