// The decoder's inside, shared by its two files. Not for others.
#pragma once

#include <vector>

#include "base/buffer.h"
#include "model/decoder.h"

namespace engine {

/// One token of the batch.
struct BatchToken {
  int32_t id;
  int32_t position;  // in its sequence
  int32_t item;      // index into the batch
};

/// One piece of attention work: consecutive tokens of one item, one kv head.
struct AttentionUnit {
  int32_t first_token;  // index into the batch's tokens
  int32_t n_tokens;
  int32_t kv_head;
};

/// Rows that matrices are multiplied with: float32, and beside them, in models with quantized weights, the same quantized to int8.
struct ActRows {
  float* f = nullptr;          // [n][width]
  int64_t width = 0;
  std::byte* q = nullptr;      // [n] rows of q_stride bytes; null: no quantized weights
  int64_t q_stride = 0;
  float* row(int64_t i) const { return f + i * width; }
  std::byte* q_row(int64_t i) const { return q + i * q_stride; }
  ActRows from(int64_t i) const { return {row(i), width, q == nullptr ? nullptr : q_row(i), q_stride}; }  // rows i, i + 1, ...
};

/// One matrix product of a group that is done in one loop: y rows = x rows W^T + bias.
struct LinearTask {
  const Linear* linear;
  const ActRows* x;
  float* y;
  int64_t y_stride;
};

struct Decoder::Impl {
  Impl(const Model& model, Team& team, int max_tokens, int max_logit_rows);

  void forward(std::span<const BatchItem> batch);
  void run_partial(std::span<const BatchItem> batch, const PartialRun& run);

  const Model& model;
  const ModelSpec& spec;
  Team& team;
  const kernels::Table& kernel;
  const int max_tokens, max_logit_rows;
  uint64_t min_shared_work = 2'000'000;
  const int64_t q_width, kv_width;  // n_heads * d_head, n_kv_heads * d_head
  KvLayout kv_layout;               // of the sequences in the current batch

  // Scratch, all float rows: [max_tokens][width].
  Buffer memory;
  float *x = nullptr;        // [T, d_model] the residual stream
  ActRows h;                 // [T, d_model] normalised input
  std::vector<ActRows> own_h;  // [threads][1, d_model] the same of a lone token, a row for each thread
  float *q = nullptr, *k = nullptr, *v = nullptr;
  ActRows attention;           // [T, q_width]
  float *branch = nullptr;     // [T, d_model] what attention or feed-forward adds
  ActRows gate;                // [T, d_ff]
  float *logits = nullptr;               // [max_logit_rows, vocab_size]
  float *cos = nullptr, *sin = nullptr;  // [n_ropes][T][rope_width]
  int64_t rope_width = 0;
  // Mixture of experts: rows are (token, choice) pairs sorted by expert.
  float *router = nullptr;        // [T, n_experts]
  ActRows expert_in;              // [T * n_used, d_model]
  ActRows expert_gate;            // [T * n_used, d_expert]
  float *expert_out = nullptr;    // [(n_used + 1) * few_tokens, d_model] with few tokens: of their pairs, then sums of tokens
  float *shared_scale = nullptr;  // [T, 1]
  std::vector<int32_t> chosen;        // [T, n_used] experts
  std::vector<float> chosen_weight;   // [T, n_used]
  std::vector<int32_t> expert_start;  // [n_experts + 1] first row of each expert
  std::vector<int32_t> expert_row;    // [T, n_used] row of each pair
  std::vector<int32_t> busy_experts;  // those with rows in this layer

  /// Fewer tokens than few_tokens are multiplied with long stretches of a matrix; more, with wide_chunk rows at a time.
  static constexpr int64_t few_tokens = 16, wide_chunk = 64, few_unit = 32;
  size_t scratch_bytes = 0;    // of one thread: the kernels' own, then room for the outputs of a chunk of rows
  size_t chunk_offset = 0;
  int64_t chunk_floats = 0;
  std::byte* scratch = nullptr;
  int max_tile_tokens = 1;
  size_t tile_floats = 0;    // a tile's queries and two attention parts

  // The batch.
  std::span<const BatchItem> items;
  std::vector<BatchToken> tokens;
  std::vector<int32_t> logit_tokens;  // batch tokens whose logits are wanted
  std::vector<AttentionUnit> units;
  std::vector<uint8_t> long_rope;     // [items]: beyond longrope's original length
  // Attention split by segments when there are few units: parts in order [unit][segment].
  bool split = false;
  int32_t max_segments = 0;
  Buffer parts;

  const PartialRun* partial = nullptr;  // calibration is at work

 private:
  const LayerWeights& layer_weights(int layer) const {
    return (partial != nullptr && partial->layers != nullptr ? partial->layers : model.weights().layers.data())[layer];
  }
  void observe(Worker& w, const Linear& linear, const float* rows, int64_t n_rows);
  void run_parts(Worker& w);
  void plan(std::span<const BatchItem> batch);
  void run(Worker& w);
  void embed(Worker& w);
  void prepare_rope(int64_t token);
  void enter_block(Worker& w, const NormWeights& norm);
  void quantize(const ActRows& rows, int64_t first, int64_t n, int64_t begin, int64_t end) const;
  void normalize(const NormWeights& weights, const float* in, float* out, int64_t n) const;
  void attention_block(Worker& w, int layer);
  void position_and_store(int layer, int64_t token, int kv_begin, int kv_end);
  void normalize_heads(const NormWeights& weights, float* row, int begin, int end) const;
  void attend(Worker& w, int layer, bool position);
  void attend_segments(const AttentionUnit& unit, int layer, int first, int last, const kernels::AttentionPart& into,
                       std::byte* memory);
  void finish_unit(const AttentionUnit& unit, int layer, const kernels::AttentionPart& part);
  void feed_forward(Worker& w, int layer);
  void leave_block(Worker& w, const Linear& last, const ActRows& in, const NormWeights& post_norm);
  void add_branches(Worker& w, const NormWeights& post_norm);
  void gated_rows(const Linear& wg, const Linear& wu, const Linear& last, int64_t begin, int64_t end, const ActRows& in, int64_t n_rows,
                  const ActRows& g, int thread);
  ActRows gate_of_width(int64_t width) const;
  ActRows gated_product(Worker& w, const Linear& wg, const Linear& wu, const Linear& last);
  void apply_activation(float* g, const float* u, int64_t n) const;
  void experts(Worker& w, int layer);
  void route(int64_t token);
  void group_by_expert();
  void gather_rows(Worker& w, const LayerWeights& weights);
  void combine(int64_t token, int64_t begin, int64_t end, const float* out, int64_t stride, float* sum);
  void output(Worker& w);

  void matmul(const Linear& l, int64_t row_begin, int64_t row_end, const ActRows& in, int64_t first, int64_t n_rows, float* out,
              int64_t out_stride, int thread);
  /// f(begin, end) over chunks of a matrix's rows that n tokens are multiplied with.
  template <class F>
  void for_row_chunks(Worker& w, int64_t n_rows, int64_t n, F&& f) const;
  /// What a matrix takes of a loop over several, so that each begins at a row where a chunk may.
  static int64_t padded_rows(int64_t n) { return (n + wide_chunk - 1) / wide_chunk * wide_chunk; }
  template <class After>
  void linears(Worker& w, std::span<const LinearTask> tasks, int64_t n_tokens, After&& after);
  void will_multiply(Worker& w, const Linear& next, int64_t n_rows) const;

  float* chunk_space(int thread) const { return reinterpret_cast<float*>(thread_scratch(thread) + chunk_offset); }
  std::byte* thread_scratch(int thread) const { return scratch + scratch_bytes * static_cast<size_t>(thread); }
  kernels::AttentionPart part_at(float* memory, int n_queries) const;
  /// Normalising a lone token costs less than the barrier after it, so that every thread does it for itself.
  bool lone_token() const { return n_tokens() == 1 && partial == nullptr; }
  const ActRows& block_input(const Worker& w) const { return lone_token() ? own_h[static_cast<size_t>(w.index())] : h; }
  int group() const { return spec.n_heads / spec.n_kv_heads; }
  int64_t n_tokens() const { return static_cast<int64_t>(tokens.size()); }
};

template <class F>
void Decoder::Impl::for_row_chunks(Worker& w, int64_t n_rows, int64_t n, F&& f) const {
  // With few tokens a chunk is a stretch of memory, the longer the better. With many, its outputs should stay in the second-level
  // cache for what is done with them next.
  const bool few = n < few_tokens;
  w.for_tapered(n_rows, few ? few_unit : wide_chunk, few ? n_rows : wide_chunk, f);
}

template <class After>
void Decoder::Impl::linears(Worker& w, std::span<const LinearTask> tasks, int64_t n, After&& after) {
  int64_t n_rows = 0;
  for (const LinearTask& t : tasks) n_rows += padded_rows(t.linear->w.n_rows);
  for_row_chunks(w, n_rows, n, [&](int64_t begin, int64_t end) {
    int64_t first = 0;  // row of the first task's row 0, of the second's, ...
    for (const LinearTask& t : tasks) {
      const int64_t from = std::max(begin - first, int64_t{0}), to = std::min(end - first, t.linear->w.n_rows);
      if (from < to) {
        matmul(*t.linear, from, to, *t.x, 0, n, t.y, t.y_stride, w.index());
        after(from, to);
      }
      first += padded_rows(t.linear->w.n_rows);
    }
  });
}

}  // namespace engine
