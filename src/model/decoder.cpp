#include "model/decoder.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/error.h"
#include "model/decoder_impl.h"

namespace engine {
namespace {

using kernels::AttentionPart;
using kernels::kv_block_tokens;
using kernels::kv_segment_tokens;

/// Queries of one attention tile: enough to share each segment of keys and values, which then lies in the second-level cache, among.
constexpr int max_tile_queries = 64;
constexpr uint64_t max_parts_bytes = uint64_t{64} << 20;

int64_t segments_of(int64_t n_positions) { return (n_positions + kv_segment_tokens - 1) / kv_segment_tokens; }

size_t align64(size_t n) { return (n + 63) / 64 * 64; }

/// Lays fields one after another in one buffer: a first pass with no memory counts, a second one hands out.
class Arena {
 public:
  explicit Arena(std::byte* base) : base_(base) {}
  std::byte* bytes(size_t n) {
    std::byte* out = base_ == nullptr ? nullptr : base_ + used_;
    used_ += align64(n);
    return out;
  }
  float* floats(int64_t n) { return reinterpret_cast<float*>(bytes(static_cast<size_t>(n) * sizeof(float))); }
  ActRows rows(int64_t n, int64_t width, bool quantized) {
    ActRows out{floats(n * width), width};
    if (!quantized) return out;
    const auto bytes_of = [](int64_t columns) { return static_cast<int64_t>(kernels::table().act_bytes(columns)); };
    out.q_stride = bytes_of(width);
    // Room for fewer columns too (gate_of_width), which take more bytes where they are narrow.
    out.q = bytes(static_cast<size_t>(n * std::max(out.q_stride, bytes_of(std::min(width, kernels::narrow_cols - 1)))));
    return out;
  }
  size_t used() const { return used_; }

 private:
  std::byte* base_;
  size_t used_ = 0;
};

}  // namespace

Decoder::Impl::Impl(const Model& m, Team& t, int tokens_, int rows)
    : model(m), spec(m.spec()), team(t), kernel(kernels::table()), max_tokens(tokens_), max_logit_rows(rows),
      q_width(int64_t{spec.n_heads} * spec.d_head), kv_width(int64_t{spec.n_kv_heads} * spec.d_head) {
  const MoeSpec& moe = spec.moe;
  const int64_t n = max_tokens, pairs = n * moe.n_used;
  for (const RopeSpec& r : spec.ropes) rope_width = std::max<int64_t>(rope_width, r.n_rot / 2);
  const int64_t d_inner = std::max(spec.d_ff, moe.d_shared);
  const int64_t widest = std::max({int64_t{spec.d_model}, q_width, d_inner, int64_t{moe.d_expert}});

  max_tile_tokens = std::max(1, max_tile_queries / group());
  const int tile_queries = max_tile_tokens * group();
  // Whole cache lines, so that what lies behind (the keys' bounds, the kernel's scratch) starts where the sizes say.
  tile_floats = align64(static_cast<size_t>(tile_queries) * static_cast<size_t>(3 * spec.d_head + 4) + 64);
  chunk_floats = std::max({n * 2 * wide_chunk, (pairs + n) * wide_chunk, 2 * few_tokens * widest});
  const size_t kernel_bytes = align64(std::max(kernel.scratch_bytes(widest),
                                   kernel.attention_scratch_bytes(spec.d_head) +
                                       align64(tile_floats * sizeof(float) + 2 * tile_queries * sizeof(int32_t))));
  chunk_offset = kernel_bytes;
  scratch_bytes = kernel_bytes + align64(static_cast<size_t>(chunk_floats) * sizeof(float));

  for (int pass = 0; pass < 2; ++pass) {
    Arena a(memory.data());
    x = a.floats(n * spec.d_model);
    h = a.rows(n, spec.d_model, model.quantized());
    own_h.clear();
    for (int i = 0; i < team.size(); ++i) own_h.push_back(a.rows(1, spec.d_model, model.quantized()));
    branch = a.floats(n * spec.d_model);
    q = a.floats(n * q_width);
    k = a.floats(n * kv_width);
    v = a.floats(n * kv_width);
    attention = a.rows(n, q_width, model.quantized());
    gate = a.rows(n, d_inner, model.quantized());
    logits = a.floats(int64_t{max_logit_rows} * spec.vocab_size);
    const int64_t rope_floats = static_cast<int64_t>(spec.ropes.size()) * n * rope_width;
    cos = a.floats(rope_floats);
    sin = a.floats(rope_floats);
    router = a.floats(n * moe.n_experts);
    expert_in = a.rows(pairs, spec.d_model, model.quantized());
    expert_gate = a.rows(pairs, moe.d_expert, model.quantized());
    expert_out = a.floats(std::min(n, few_tokens) * (moe.n_used + 1) * spec.d_model);
    shared_scale = a.floats(n);
    const size_t thread_bytes = scratch_bytes * static_cast<size_t>(team.size());
    if (pass == 0) memory = Buffer(a.used() + thread_bytes, true);  // rows are taken in narrow columns: a page a row
    else scratch = memory.data() + a.used();
  }
  chosen.resize(pairs);
  chosen_weight.resize(pairs);
  expert_row.resize(pairs);
  expert_start.resize(moe.n_experts + 1);
  busy_experts.reserve(moe.n_experts);
  tokens.reserve(n);
  logit_tokens.reserve(max_logit_rows);
  units.reserve(static_cast<size_t>(n) * spec.n_kv_heads);
  long_rope.reserve(n);
  // Attention is split by segments where there are fewer than two units a thread (see plan()); beyond the trained context perhaps not.
  const auto most_segments = static_cast<uint64_t>(segments_of(std::max<int64_t>(spec.max_positions, 1)));
  parts = Buffer(std::min(max_parts_bytes, (2 * static_cast<uint64_t>(team.size()) - 1) * most_segments * tile_floats * sizeof(float)));
}

// --- planning ------------------------------------------------------------------------------------------------------------

void Decoder::Impl::plan(std::span<const BatchItem> batch) {
  items = batch;
  tokens.clear();
  logit_tokens.clear();
  units.clear();
  long_rope.clear();
  int64_t longest = 0;
  for (size_t i = 0; i < batch.size(); ++i) {
    const BatchItem& item = batch[i];
    const int64_t n = static_cast<int64_t>(item.tokens.size()), start = item.kv->size();
    ASSERT(n > 0 && n_tokens() + n <= max_tokens);
    ASSERT(static_cast<int64_t>(item.kv->blocks().size()) * kv_block_tokens >= start + n);
    const int64_t known = std::max(item.known_length, start + n);
    bool beyond = false;
    for (const RopeSpec& r : spec.ropes) beyond |= !r.long_inv_freq.empty() && known > r.original_positions;
    long_rope.push_back(beyond);
    const int32_t first = static_cast<int32_t>(tokens.size());
    for (int64_t j = 0; j < n; ++j) {
      ASSERT(item.tokens[j] >= 0 && item.tokens[j] < spec.vocab_size);
      tokens.push_back({item.tokens[j], static_cast<int32_t>(start + j), static_cast<int32_t>(i)});
      if (item.logits == LogitsWanted::all || (item.logits == LogitsWanted::last && j == n - 1)) {
        logit_tokens.push_back(first + static_cast<int32_t>(j));
      }
    }
    for (int64_t j = 0; j < n; j += max_tile_tokens) {
      const int32_t in_tile = static_cast<int32_t>(std::min<int64_t>(max_tile_tokens, n - j));
      for (int32_t head = 0; head < spec.n_kv_heads; ++head) units.push_back({first + static_cast<int32_t>(j), in_tile, head});
    }
    longest = std::max(longest, start + n);
  }
  ASSERT(static_cast<int>(logit_tokens.size()) <= max_logit_rows);
  // The last tiles see the most keys: taken first, they do not end up as one thread's tail.
  std::reverse(units.begin(), units.end());
  if (!batch.empty()) kv_layout = batch[0].kv->pool().layout();
  max_segments = static_cast<int32_t>(segments_of(longest));
  split = max_segments > 1 && units.size() < 2 * static_cast<size_t>(team.size()) &&
          units.size() * max_segments * tile_floats * sizeof(float) <= parts.size();
}

// --- pieces ----------------------------------------------------------------------------------------------------------------

/// Rows first .. first + n_rows of `in` times rows row_begin .. row_end of the matrix, into out row 0 on.
void Decoder::Impl::matmul(const Linear& l, int64_t row_begin, int64_t row_end, const ActRows& in, int64_t first, int64_t n_rows,
                           float* out, int64_t out_stride, int thread) {
  const bool quantized = kernels::has_int8_activations(l.w.format);
  const void* rows = quantized ? static_cast<const void*>(in.q_row(first)) : in.row(first);
  const int64_t stride = quantized ? in.q_stride : in.width * static_cast<int64_t>(sizeof(float));
  kernel.matmul[static_cast<int>(l.w.format)](l.w, row_begin, row_end, rows, stride, n_rows, out, out_stride,
                                              thread_scratch(thread));
  if (l.bias == nullptr) return;
  for (int64_t t = 0; t < n_rows; ++t) {
    float* row = out + t * out_stride + row_begin;
    kernel.add(row, l.bias + row_begin, row, row_end - row_begin);
  }
}

/// Tells a worker which part of the next product it will begin with, a loop over n_rows rows of which `next` has the first: with one token
/// the time is spent reading weights, so that no time should pass without.
void Decoder::Impl::will_multiply(Worker& w, const Linear& next, int64_t n_rows) const {
  constexpr int64_t most_bytes = 128 << 10;  // a part of the second-level cache
  if (n_tokens() != 1) return;
  const auto chunk = w.first_chunk(n_rows, few_unit, n_rows);
  const int64_t end = std::min(chunk.end, next.w.n_rows);
  if (chunk.begin >= end) return w.read_ahead({});
  const kernels::Matrix& m = next.w;
  const bool packed = kernels::is_packed(m.format);
  const int64_t unit = packed ? kernels::pack_rows : 1;
  const int64_t unit_bytes = packed ? static_cast<int64_t>(kernel.packed_block_bytes(m.format, m.n_cols, m.group)) : m.n_cols * kernels::element_bytes(m.format);
  const int64_t stride = (end - chunk.begin) / unit / ReadAhead::n_streams * unit_bytes;
  w.read_ahead({static_cast<const char*>(m.data) + chunk.begin / unit * unit_bytes, stride, std::min(stride, most_bytes / ReadAhead::n_streams)});
}

void Decoder::Impl::quantize(const ActRows& rows, int64_t first, int64_t n, int64_t begin, int64_t end) const {
  if (rows.q != nullptr) kernel.quantize_act(rows.row(first), rows.width, n, rows.width, begin, end, rows.q_row(first), rows.q_stride);
}

void Decoder::Impl::normalize(const NormWeights& weights, const float* in, float* out, int64_t n) const {
  if (spec.norm == NormKind::rms) kernel.rms_norm(in, weights.weight, spec.norm_eps, out, n);
  else kernel.layer_norm(in, weights.weight, weights.bias, spec.norm_eps, out, n);
}

/// h = what attention or feed-forward reads: the residual stream, normalised where the spec says so.
void Decoder::Impl::enter_block(Worker& w, const NormWeights& norm) {
  const int64_t d = spec.d_model;
  const ActRows& to = block_input(w);
  const auto rows = [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      if (spec.pre_norm) normalize(norm, x + t * d, to.row(t), d);
      else std::memcpy(to.row(t), x + t * d, sizeof(float) * static_cast<size_t>(d));
    }
    quantize(to, begin, end - begin, 0, d);
  };
  if (lone_token()) rows(0, 1);
  else w.for_chunks(n_tokens(), 4, rows);
}

void Decoder::Impl::prepare_rope(int64_t token) {
  const BatchToken& t = tokens[token];
  for (size_t r = 0; r < spec.ropes.size(); ++r) {
    const RopeSpec& rope = spec.ropes[r];
    const std::vector<double>& freq = long_rope[t.item] && !rope.long_inv_freq.empty() ? rope.long_inv_freq : rope.inv_freq;
    const int64_t row = (static_cast<int64_t>(r) * max_tokens + token) * rope_width;
    for (size_t i = 0; i < freq.size(); ++i) {
      const double angle = freq[i] * t.position;
      cos[row + i] = static_cast<float>(std::cos(angle) * rope.attention_factor);
      sin[row + i] = static_cast<float>(std::sin(angle) * rope.attention_factor);
    }
  }
}

void Decoder::Impl::embed(Worker& w) {
  w.for_chunks(n_tokens(), 4, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      float* row = x + t * spec.d_model;
      kernel.get_row(model.weights().embedding, tokens[t].id, row);
      if (spec.embedding_scale != 1) kernel.scale(row, spec.embedding_scale, spec.d_model);
      prepare_rope(t);
    }
  });
}

/// x += in W^T, the last matrix of attention or feed-forward, normalised first where the spec says so.
void Decoder::Impl::leave_block(Worker& w, const Linear& last, const ActRows& in, const NormWeights& post_norm) {
  const int64_t n = n_tokens(), d = spec.d_model;
  if (!spec.post_norm) {
    for_row_chunks(w, d, n, [&](int64_t begin, int64_t end) {
      const int64_t width = end - begin;
      float* out = chunk_space(w.index());
      matmul(last, begin, end, in, 0, n, out - begin, width, w.index());
      for (int64_t t = 0; t < n; ++t) {
        constexpr int64_t ahead = 8, line = 64 / sizeof(float);  // no hardware prefetcher follows the stride of rows
        for (int64_t i = 0; i < width && t + ahead < n; i += line) __builtin_prefetch(x + (t + ahead) * d + begin + i, 1);
        kernel.add_scaled(out + t * width, spec.residual_scale, x + t * d + begin, width);
      }
    });
    return;
  }
  const LinearTask task[] = {{&last, &in, branch, d}};
  linears(w, task, n, [](int64_t, int64_t) {});
  add_branches(w, post_norm);
}

/// x += branch, row by row, normalised first.
void Decoder::Impl::add_branches(Worker& w, const NormWeights& post_norm) {
  const int64_t d = spec.d_model;
  w.for_chunks(n_tokens(), 4, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      normalize(post_norm, branch + t * d, branch + t * d, d);
      kernel.add_scaled(branch + t * d, spec.residual_scale, x + t * d, d);
    }
  });
}

// --- attention -------------------------------------------------------------------------------------------------------------

/// Heads [begin, end) of the row.
void Decoder::Impl::normalize_heads(const NormWeights& weights, float* row, int begin, int end) const {
  const int d = spec.d_head;
  switch (spec.qk_norm) {
    case QkNorm::none: break;
    case QkNorm::unit:
    case QkNorm::per_head:
      for (int i = begin; i < end; ++i) normalize(weights, row + i * d, row + i * d, d);
      break;
    case QkNorm::by_head:
      for (int i = begin; i < end; ++i) normalize({weights.weight + i * d, nullptr}, row + i * d, row + i * d, d);
      break;
    case QkNorm::full:
      ASSERT(begin == 0);
      normalize(weights, row, row, int64_t{end} * d);
      break;
  }
}

/// KV heads [kv_begin, kv_end) of a token and their queries: normalised, rotated and scaled in place, keys and values stored.
void Decoder::Impl::position_and_store(int layer, int64_t token, int kv_begin, int kv_end) {
  const LayerWeights& weights = layer_weights(layer);
  const LayerSpec& layer_spec = spec.layers[layer];
  const int d = spec.d_head, begin = kv_begin * group(), end = kv_end * group();
  float *q_row = q + token * q_width, *k_row = k + token * kv_width, *v_row = v + token * kv_width;
  if (spec.clip_qkv > 0) {
    kernel.clamp(q_row + begin * d, -spec.clip_qkv, spec.clip_qkv, int64_t{end - begin} * d);
    kernel.clamp(k_row + kv_begin * d, -spec.clip_qkv, spec.clip_qkv, int64_t{kv_end - kv_begin} * d);
    kernel.clamp(v_row + kv_begin * d, -spec.clip_qkv, spec.clip_qkv, int64_t{kv_end - kv_begin} * d);
  }
  const auto normalize_both = [&] {
    normalize_heads(weights.q_norm, q_row, begin, end);
    normalize_heads(weights.k_norm, k_row, kv_begin, kv_end);
  };
  if (spec.qk_norm != QkNorm::unit) normalize_both();
  if (layer_spec.rope >= 0) {
    const RopeSpec& rope = spec.ropes[layer_spec.rope];
    const int64_t row = (int64_t{layer_spec.rope} * max_tokens + token) * rope_width;
    const auto rotate = rope.interleaved ? kernel.rope_interleaved : kernel.rope;
    for (int i = begin; i < end; ++i) rotate(q_row + i * d, cos + row, sin + row, rope.n_rot / 2);
    for (int i = kv_begin; i < kv_end; ++i) rotate(k_row + i * d, cos + row, sin + row, rope.n_rot / 2);
    if (spec.qk_norm == QkNorm::unit) normalize_both();
  }
  const BatchToken& t = tokens[token];
  float* queries = q_row + begin * d;
  const int64_t n_query_floats = int64_t{end - begin} * d;
  kernel.scale(queries, spec.q_scale(), n_query_floats);
  if (spec.temperature_scale != 0 && layer_spec.rope < 0) {
    const double steps = std::floor((static_cast<double>(t.position) + 1) / spec.temperature_floor);
    kernel.scale(queries, static_cast<float>(1 + spec.temperature_scale * std::log1p(steps)), n_query_floats);
  }
  std::byte* block = items[t.item].kv->blocks()[t.position / kv_block_tokens];
  for (int i = kv_begin; i < kv_end; ++i) {
    kernel.kv_store(kv_layout.format, k_row + i * d, v_row + i * d, d, t.position % kv_block_tokens,
                    block + kv_layout.offset(layer, i));
  }
}

AttentionPart Decoder::Impl::part_at(float* at, int n_queries) const { return {at, at + n_queries, at + 2 * n_queries}; }

/// Attention of a unit over segments [first, last], merged in order into `into`.
void Decoder::Impl::attend_segments(const AttentionUnit& unit, int layer, int first, int last, const AttentionPart& into,
                                    std::byte* at) {
  const int d = spec.d_head, n_queries = unit.n_tokens * group();
  float* queries = reinterpret_cast<float*>(at);
  const AttentionPart next = part_at(queries + int64_t{n_queries} * d, n_queries);
  auto* first_key = reinterpret_cast<int32_t*>(at + align64(tile_floats * sizeof(float)));
  int32_t* last_key = first_key + n_queries;
  for (int i = 0; i < unit.n_tokens; ++i) {
    const int64_t token = unit.first_token + i;
    const float* from = q + token * q_width + int64_t{unit.kv_head} * group() * d;
    std::memcpy(queries + int64_t{i} * group() * d, from, sizeof(float) * static_cast<size_t>(group()) * d);
    const int32_t position = tokens[token].position;
    std::fill_n(last_key + i * group(), group(), position);
    std::fill_n(first_key + i * group(), group(), spec.layers[layer].first_key(position));
  }
  kernels::AttentionTile tile{};
  tile.q = queries;
  tile.q_stride = d;
  tile.n_queries = n_queries;
  tile.first_key = first_key;
  tile.last_key = last_key;
  tile.blocks = const_cast<const std::byte* const*>(items[tokens[unit.first_token].item].kv->blocks().data());
  tile.offset = kv_layout.offset(layer, unit.kv_head);
  tile.d_head = d;
  tile.format = kv_layout.format;
  tile.softcap = spec.attention_softcap;
  void* kernel_scratch = at + align64(tile_floats * sizeof(float) + 2 * static_cast<size_t>(n_queries) * sizeof(int32_t));
  for (int s = first; s <= last; ++s) {
    tile.segment = s;
    kernel.attend[static_cast<int>(tile.format)](tile, s == first ? into : next, kernel_scratch);
    if (s != first) kernel.attention_merge(into, next, n_queries, d);
  }
}

void Decoder::Impl::finish_unit(const AttentionUnit& unit, int layer, const AttentionPart& part) {
  const int g = group(), d = spec.d_head;
  const float* sinks = layer_weights(layer).sinks;
  for (int i = 0; i < unit.n_tokens; ++i) {
    const AttentionPart token_part{part.max + i * g, part.sum + i * g, part.value + int64_t{i} * g * d};
    const int64_t token = unit.first_token + i, begin = int64_t{unit.kv_head} * g * d;
    kernel.attention_finish(token_part, sinks == nullptr ? nullptr : sinks + unit.kv_head * g, g, d, attention.row(token) + begin, d);
  }
  const int64_t begin = int64_t{unit.kv_head} * g * d;
  if (g * d % kernels::act_group_cols == 0) quantize(attention, unit.first_token, unit.n_tokens, begin, begin + int64_t{g} * d);
}

/// `position`: the units' tokens have yet to be positioned and stored.
void Decoder::Impl::attend(Worker& w, int layer, bool position) {
  const auto segments = [&](const AttentionUnit& unit) {
    const int32_t first = tokens[unit.first_token].position;
    const int32_t last = first + unit.n_tokens - 1;
    return std::pair<int, int>{spec.layers[layer].first_key(first) / kv_segment_tokens, last / kv_segment_tokens};
  };
  const int64_t n_units = static_cast<int64_t>(units.size());
  if (!split) {
    w.for_chunks(n_units, 1, [&](int64_t i, int64_t) {
      const AttentionUnit& unit = units[i];
      if (position) position_and_store(layer, unit.first_token, unit.kv_head, unit.kv_head + 1);
      std::byte* at = thread_scratch(w.index());
      const int n_queries = unit.n_tokens * group();
      // Behind the queries and the part that attend_segments uses.
      const AttentionPart into = part_at(reinterpret_cast<float*>(at) + int64_t{n_queries} * (2 * spec.d_head + 2), n_queries);
      const auto [first, last] = segments(unit);
      attend_segments(unit, layer, first, last, into, at);
      finish_unit(unit, layer, into);
    });
    return;
  }
  const auto part_of = [&](int64_t unit, int segment) {
    return part_at(parts.as<float>() + (unit * max_segments + segment) * static_cast<int64_t>(tile_floats),
                   units[unit].n_tokens * group());
  };
  w.for_chunks(n_units * max_segments, 1, [&](int64_t i, int64_t) {
    const int64_t unit = i / max_segments;
    const int segment = static_cast<int>(i % max_segments);
    const auto [first, last] = segments(units[unit]);
    if (segment < first || segment > last) return;
    attend_segments(units[unit], layer, segment, segment, part_of(unit, segment), thread_scratch(w.index()));
  });
  w.for_chunks(n_units, 1, [&](int64_t unit, int64_t) {
    const auto [first, last] = segments(units[unit]);
    const AttentionPart into = part_of(unit, first);
    for (int s = first + 1; s <= last; ++s) {
      kernel.attention_merge(into, part_of(unit, s), units[unit].n_tokens * group(), spec.d_head);
    }
    finish_unit(units[unit], layer, into);
  });
}

void Decoder::Impl::attention_block(Worker& w, int layer) {
  const LayerWeights& weights = layer_weights(layer);
  const int64_t n = n_tokens();
  const ActRows& in = block_input(w);
  const LinearTask qkv[] = {{&weights.wq, &in, q, q_width}, {&weights.wk, &in, k, kv_width}, {&weights.wv, &in, v, kv_width}};
  observe(w, weights.wq, h.f, n);
  will_multiply(w, weights.wo, spec.d_model);
  linears(w, qkv, n, [](int64_t, int64_t) {});
  // Where no token of the batch is a key of another one, each unit of attention can do this for itself.
  const bool in_units = n == static_cast<int64_t>(items.size()) && !split && spec.qk_norm != QkNorm::full;
  if (!in_units) w.for_chunks(n, 1, [&](int64_t t, int64_t) { position_and_store(layer, t, 0, spec.n_kv_heads); });
  attend(w, layer, in_units);
  if (group() * spec.d_head % kernels::act_group_cols != 0 && attention.q != nullptr) {
    // Groups of columns straddle kv heads, so they could not be quantized head by head.
    w.for_chunks(n, 1, [&](int64_t t, int64_t) { quantize(attention, t, 1, 0, q_width); });
  }
  observe(w, weights.wo, attention.f, n);
  if (!spec.layers[layer].moe) will_multiply(w, spec.gated ? weights.w_gate : weights.w_up, weights.w_up.w.n_rows);
  leave_block(w, weights.wo, attention, weights.attn_post_norm);
}

// --- feed-forward ----------------------------------------------------------------------------------------------------------

void Decoder::Impl::apply_activation(float* g, const float* u, int64_t n) const {
  if (spec.swiglu_limit == 0) kernel.gated_activation(spec.activation, g, u, g, n);
  else kernel.clamped_swiglu(g, u, spec.swiglu_limit, g, n);
}

/// Columns [begin, end) of g = activation(in Wg^T) * (in Wu^T) for n_rows rows, as `last`, which reads it, wants them.
/// The two products never leave the thread's own cache.
void Decoder::Impl::gated_rows(const Linear& wg, const Linear& wu, const Linear& last, int64_t begin, int64_t end, const ActRows& in,
                               int64_t n_rows, const ActRows& g, int thread) {
  const bool quantized = kernels::has_int8_activations(last.w.format);
  const int64_t most = std::max<int64_t>(wide_chunk, chunk_floats / (2 * n_rows) / wide_chunk * wide_chunk);
  for (int64_t at = begin; at < end; at += most) {
    const int64_t to = std::min(end, at + most), width = to - at;
    float *gates = chunk_space(thread), *ups = spec.gated ? gates + n_rows * width : gates;
    if (spec.gated) matmul(wg, at, to, in, 0, n_rows, gates - at, width, thread);
    matmul(wu, at, to, in, 0, n_rows, ups - at, width, thread);
    constexpr int64_t together = 8;
    for (int64_t first = 0; first < n_rows; first += together) {
      const int64_t last = std::min(n_rows, first + together);
      for (int64_t t = first; t < last; ++t) {
        float* row = gates + t * width;
        apply_activation(row, spec.gated ? ups + t * width : nullptr, width);
        if (!quantized) std::memcpy(g.row(t) + at, row, static_cast<size_t>(width) * sizeof(float));
      }
      if (quantized) kernel.quantize_act(gates + first * width - at, width, last - first, g.width, at, to, g.q_row(first), g.q_stride);
    }
  }
}

/// The gate buffer as rows of this width: a shared expert may be narrower than the dense layers.
ActRows Decoder::Impl::gate_of_width(int64_t width) const {
  ActRows out = gate;
  out.width = width;
  if (out.q != nullptr) out.q_stride = static_cast<int64_t>(kernel.act_bytes(width));
  return out;
}

/// gate = activation(h Wg^T) * (h Wu^T); returns it as what `last` reads.
ActRows Decoder::Impl::gated_product(Worker& w, const Linear& wg, const Linear& wu, const Linear& last) {
  const ActRows out = gate_of_width(wu.w.n_rows);
  for_row_chunks(w, out.width, n_tokens(), [&](int64_t begin, int64_t end) {
    gated_rows(wg, wu, last, begin, end, block_input(w), n_tokens(), out, w.index());
  });
  return out;
}

void Decoder::Impl::feed_forward(Worker& w, int layer) {
  const LayerWeights& weights = layer_weights(layer);
  if (!spec.layers[layer].moe) {
    observe(w, weights.w_up, h.f, n_tokens());
    will_multiply(w, weights.w_down, spec.d_model);
    const ActRows inner = gated_product(w, weights.w_gate, weights.w_up, weights.w_down);
    observe(w, weights.w_down, inner.f, n_tokens());
    if (layer + 1 < spec.n_layers) will_multiply(w, layer_weights(layer + 1).wq, padded_rows(q_width) + 2 * padded_rows(kv_width));
    else will_multiply(w, model.weights().output, spec.vocab_size);
    leave_block(w, weights.w_down, inner, weights.ffn_post_norm);
    return;
  }
  experts(w, layer);
  if (spec.post_norm) add_branches(w, weights.ffn_post_norm);
}

// --- the whole -------------------------------------------------------------------------------------------------------------

void Decoder::Impl::output(Worker& w) {
  const int64_t n = static_cast<int64_t>(logit_tokens.size()), d = spec.d_model, vocab = spec.vocab_size;
  if (n == 0) return;
  w.for_chunks(n, 1, [&](int64_t i, int64_t) {
    normalize(model.weights().final_norm, x + int64_t{logit_tokens[i]} * d, h.row(i), d);
    quantize(h, i, 1, 0, d);
  });
  const LinearTask task[] = {{&model.weights().output, &h, logits, vocab}};
  linears(w, task, n, [&](int64_t begin, int64_t end) {
    for (int64_t t = 0; t < n; ++t) {
      float* row = logits + t * vocab + begin;
      if (spec.logit_scale != 1) kernel.scale(row, spec.logit_scale, end - begin);
      if (spec.logit_softcap > 0) kernel.softcap(row, spec.logit_softcap, end - begin);
    }
  });
}

void Decoder::Impl::run(Worker& w) {
  embed(w);
  for (int layer = 0; layer < spec.n_layers; ++layer) {
    const LayerWeights& weights = layer_weights(layer);
    enter_block(w, weights.attn_norm);
    attention_block(w, layer);
    if (!spec.parallel_block) enter_block(w, weights.ffn_norm);
    feed_forward(w, layer);
  }
  output(w);
}

/// Shows what a matrix is about to be multiplied with, while all threads wait.
void Decoder::Impl::observe(Worker& w, const Linear& linear, const float* rows, int64_t n_rows) {
  if (partial == nullptr || partial->observe == nullptr) return;
  if (w.index() == 0) (*partial->observe)(linear, rows, n_rows);
  w.barrier();
}

void Decoder::Impl::run_parts(Worker& w) {
  const PartialRun& run = *partial;
  const size_t x_bytes = sizeof(float) * static_cast<size_t>(n_tokens() * spec.d_model);
  embed(w);
  if (run.x_in != nullptr && w.index() == 0) std::memcpy(x, run.x_in, x_bytes);
  w.barrier();
  for (int layer = run.first_layer; layer < run.end_layer; ++layer) {
    const LayerWeights& weights = layer_weights(layer);
    const bool first = run.part != LayerPart::feed_forward_input && run.part != LayerPart::feed_forward;
    if (first || spec.parallel_block) enter_block(w, weights.attn_norm);
    if (run.part == LayerPart::attention_input) observe(w, weights.wq, h.f, n_tokens());
    if (run.part == LayerPart::attention || run.part == LayerPart::all) attention_block(w, layer);
    if (run.part == LayerPart::attention || run.part == LayerPart::attention_input) continue;
    if (!spec.parallel_block) enter_block(w, weights.ffn_norm);
    if (run.part == LayerPart::feed_forward_input && !spec.layers[layer].moe) observe(w, weights.w_up, h.f, n_tokens());
    else feed_forward(w, layer);
  }
  if (run.x_out != nullptr && w.index() == 0) std::memcpy(run.x_out, x, x_bytes);
  if (run.logits) output(w);
}

void Decoder::Impl::run_partial(std::span<const BatchItem> batch, const PartialRun& run) {
  plan(batch);
  partial = &run;
  team.run([this](Worker& w) { run_parts(w); });
  partial = nullptr;
}

void Decoder::Impl::forward(std::span<const BatchItem> batch) {
  plan(batch);
  // A step of a tiny model takes less time than its barriers, above all where other programs want the cores too.
  const auto body = [this](Worker& w) { run(w); };
  if (static_cast<uint64_t>(n_tokens()) * model.n_active_parameters() < min_shared_work) team.run_alone(body);
  else team.run(body);
  for (const BatchItem& item : batch) item.kv->set_size(item.kv->size() + static_cast<int64_t>(item.tokens.size()));
}

Decoder::Decoder(std::shared_ptr<const Model> model, Team& team, int max_batch_tokens, int max_logit_rows)
    : model_(std::move(model)), max_batch_tokens_(max_batch_tokens), max_logit_rows_(max_logit_rows),
      impl_(std::make_unique<Impl>(*model_, team, max_batch_tokens, max_logit_rows)) {}

Decoder::~Decoder() = default;

void Decoder::forward(std::span<const BatchItem> batch) {
  impl_->forward(batch);
  n_logit_rows_ = static_cast<int>(impl_->logit_tokens.size());
}

void Decoder::run_partial(std::span<const BatchItem> batch, const PartialRun& run) {
  impl_->run_partial(batch, run);
  n_logit_rows_ = run.logits ? static_cast<int>(impl_->logit_tokens.size()) : 0;
}

std::span<float> Decoder::logits(int row) {
  ASSERT(row >= 0 && row < n_logit_rows_);
  const size_t vocab = static_cast<size_t>(model_->spec().vocab_size);
  return {impl_->logits + static_cast<size_t>(row) * vocab, vocab};
}

void Decoder::set_min_shared_work(uint64_t multiply_adds) { impl_->min_shared_work = multiply_adds; }

uint64_t Decoder::scratch_bytes() const { return impl_->memory.size() + impl_->parts.size(); }

}  // namespace engine
