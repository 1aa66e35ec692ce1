// Attention over one segment of a paged KV cache. Included inside the anonymous namespace of isa.cpp.
//
// Queries are taken in small groups that share each load of K and V. Bits do not depend on the grouping: a score is a sum over d
// in order; the softmax's sum runs over key positions in order, lane by lane of a KV block; a value is a sum over exactly the keys its own
// query sees, in order (never over another query's keys with weight zero: 0 * inf is NaN, and a block's unused slots hold anything).

#if defined(__AVX512F__)
constexpr int group_queries = 8;
constexpr int value_vectors = 2;
constexpr int blocks_together = 2;  // so that a query's broadcast serves two sums
#elif defined(__AVX2__)
constexpr int group_queries = 4;
constexpr int value_vectors = 2;
constexpr int blocks_together = 1;
#else
constexpr int group_queries = 2;
constexpr int value_vectors = 4;
constexpr int blocks_together = 1;
#endif

constexpr int block_tokens = kv_block_tokens;
constexpr int block_vectors = block_tokens / lanes;
static_assert(block_tokens % lanes == 0 && kv_segment_tokens % block_tokens == 0);

constexpr size_t element_bytes(KvFormat format) { return format == KvFormat::f32 ? 4 : 2; }

KERNEL_ENTRY size_t kv_bytes(KvFormat format, int d_head) {
  return static_cast<size_t>(round_up(2 * block_tokens * static_cast<int64_t>(d_head) * static_cast<int64_t>(element_bytes(format)), 64));
}

KERNEL_ENTRY void kv_store(KvFormat format, const float* k, const float* v, int d_head, int slot, std::byte* part) {
  if (format == KvFormat::f32) {
    auto* ks = reinterpret_cast<float*>(part);
    float* vs = ks + block_tokens * d_head + slot * d_head;
    for (int d = 0; d < d_head; ++d) ks[d * block_tokens + slot] = k[d];
    for (int d = 0; d < d_head; ++d) vs[d] = v[d];
  } else {
    auto* ks = reinterpret_cast<uint16_t*>(part);
    uint16_t* vs = ks + block_tokens * d_head + slot * d_head;
    for (int d = 0; d < d_head; ++d) ks[d * block_tokens + slot] = to_bf16(k[d]);
    for (int d = 0; d < d_head; ++d) vs[d] = to_bf16(v[d]);
  }
}

// [n_queries][kv_segment_tokens]: scores, then weights, by position within the segment.
size_t attention_scratch_bytes(int n_queries, int) {
  return static_cast<size_t>(n_queries) * kv_segment_tokens * sizeof(float);
}

/// Half-open range of positions within the segment.
struct Keys {
  int begin;
  int end;
};

KERNEL_INLINE Keys visible_keys(const AttentionTile& tile, int query) {
  const int64_t start = static_cast<int64_t>(tile.segment) * kv_segment_tokens;
  const int64_t begin = max(tile.first_key[query] - start, 0);
  const int64_t end = min(tile.last_key[query] + int64_t{1} - start, kv_segment_tokens);
  if (begin >= end) return {0, 0};
  return {static_cast<int>(begin), static_cast<int>(end)};
}

/// K of the block that holds position `key` of the tile's segment. V lies block_tokens * d_head elements behind.
template <class Type>
KERNEL_INLINE const typename Type::Element* block_at(const AttentionTile& tile, int key) {
  const int64_t index = (static_cast<int64_t>(tile.segment) * kv_segment_tokens + key) / block_tokens;
  return reinterpret_cast<const typename Type::Element*>(tile.blocks[index] + tile.offset);
}

/// Scores of n queries with the tokens of n_blocks blocks, one after another by position.
template <class Type, int n, int n_blocks>
KERNEL_INLINE void score_blocks(const AttentionTile& tile, const float* q, int key, float* scores) {
  constexpr int n_vectors = n_blocks * block_vectors;
  const typename Type::Element* k[n_blocks];
  for (int b = 0; b < n_blocks; ++b) k[b] = block_at<Type>(tile, key + b * block_tokens);
  F acc[n][n_vectors];
  for (auto& row : acc) {
    for (F& sum : row) sum = F(0.0f);
  }
  for (int d = 0; d < tile.d_head; ++d) {
    F ks[n_vectors];
    for (int j = 0; j < n_vectors; ++j) ks[j] = Type::load(k[j / block_vectors] + d * block_tokens + j % block_vectors * lanes);
    for (int i = 0; i < n; ++i) {
      const F qs(q[i * tile.q_stride + d]);
      for (int j = 0; j < n_vectors; ++j) acc[i][j] = fma(qs, ks[j], acc[i][j]);
    }
  }
  for (int i = 0; i < n; ++i) {
    for (int j = 0; j < n_vectors; ++j) store(scores + i * kv_segment_tokens + key + j * lanes, acc[i][j]);
  }
}

/// Scores of one query become exp(score - max), zero for keys out of sight in the blocks it touches. Returns the maximum and sum.
__attribute__((noinline, flatten)) void soften(float* scores, Keys keys, float cap, float* out_max, float* out_sum) {
  const F lowest(-__builtin_inff());
  const int begin = keys.begin / block_tokens * block_tokens;
  const int end = static_cast<int>(round_up(keys.end, block_tokens));
  if (cap != 0.0f) softcap(scores + begin, cap, end - begin);
  for (int i = begin; i < keys.begin; ++i) scores[i] = -__builtin_inff();
  for (int i = keys.end; i < end; ++i) scores[i] = -__builtin_inff();
  F best = lowest;
  for (int i = begin; i < end; i += lanes) {
    const F s = load(scores + i);
    best = select(s > best, s, best);
  }
  const float max = max_lanes(best);
  F sums[block_vectors];
  for (F& sum : sums) sum = F(0.0f);
  for (int i = begin; i < end; i += block_tokens) {
    for (int j = 0; j < block_vectors; ++j) {
      const F e = exp(load(scores + i + j * lanes) - F(max));
      store(scores + i + j * lanes, e);
      sums[j] = sums[j] + e;
    }
  }
  F sum = sums[0];
  for (int j = 1; j < block_vectors; ++j) sum = sum + sums[j];
  *out_max = max;
  *out_sum = sum_lanes(sum);
}

/// values[i][d .. d + m * lanes) += sum over keys of weight * V, for n queries. `width` < lanes: only so many elements (m is 1).
template <class Type, int n, int m>
KERNEL_INLINE void add_values_at(const AttentionTile& tile, const float* weights, Keys keys, int d, int width, float* values) {
  F acc[n][m];
  for (int i = 0; i < n; ++i) {
    for (int j = 0; j < m; ++j) {
      const float* at = values + i * tile.d_head + d + j * lanes;
      acc[i][j] = width < lanes ? load_first<F32>(at, width) : load(at);
    }
  }
  for (int key = keys.begin; key < keys.end;) {
    const int slot = key % block_tokens;
    const int n_keys = static_cast<int>(min(block_tokens - slot, keys.end - key));
    const auto* v = block_at<Type>(tile, key) + (block_tokens + slot) * tile.d_head + d;
    for (int k = 0; k < n_keys; ++k, v += tile.d_head) {
      F vs[m];
      for (int j = 0; j < m; ++j) vs[j] = width < lanes ? load_first<Type>(v, width) : Type::load(v + j * lanes);
      for (int i = 0; i < n; ++i) {
        const F w(weights[i * kv_segment_tokens + key + k]);
        for (int j = 0; j < m; ++j) acc[i][j] = fma(w, vs[j], acc[i][j]);
      }
    }
    key += n_keys;
  }
  for (int i = 0; i < n; ++i) {
    for (int j = 0; j < m; ++j) {
      float* at = values + i * tile.d_head + d + j * lanes;
      if (width < lanes) {
        store_first(at, acc[i][j], width);
      } else {
        store(at, acc[i][j]);
      }
    }
  }
}

template <class Type, int n>
KERNEL_INLINE void add_values(const AttentionTile& tile, const float* weights, Keys keys, float* values) {
  if (keys.begin >= keys.end) return;
  int d = 0;
  for (; d + value_vectors * lanes <= tile.d_head; d += value_vectors * lanes) {
    add_values_at<Type, n, value_vectors>(tile, weights, keys, d, lanes, values);
  }
  for (; d + lanes <= tile.d_head; d += lanes) add_values_at<Type, n, 1>(tile, weights, keys, d, lanes, values);
  if (d < tile.d_head) add_values_at<Type, n, 1>(tile, weights, keys, d, tile.d_head - d, values);
}

/// n queries from `query` on.
template <class Type, int n>
__attribute__((noinline, flatten)) void attend_group(const AttentionTile& tile, int query, const AttentionPart& part, float* weights) {
  Keys own[n];
  Keys all = {kv_segment_tokens, 0};
  Keys shared = {0, kv_segment_tokens};
  for (int i = 0; i < n; ++i) {
    own[i] = visible_keys(tile, query + i);
    if (own[i].begin < own[i].end) {
      all.begin = own[i].begin < all.begin ? own[i].begin : all.begin;
      all.end = own[i].end > all.end ? own[i].end : all.end;
    }
    shared.begin = own[i].begin > shared.begin ? own[i].begin : shared.begin;
    shared.end = own[i].end < shared.end ? own[i].end : shared.end;
  }
  const float* q = tile.q + query * tile.q_stride;
  int key = all.begin / block_tokens * block_tokens;
  constexpr int together = blocks_together * block_tokens;
  for (; key + together <= all.end; key += together) score_blocks<Type, n, blocks_together>(tile, q, key, weights);
  for (; key < all.end; key += block_tokens) score_blocks<Type, n, 1>(tile, q, key, weights);
  float* values = part.value + static_cast<int64_t>(query) * tile.d_head;
  for (int64_t i = 0; i < n * static_cast<int64_t>(tile.d_head); ++i) values[i] = 0.0f;
  for (int i = 0; i < n; ++i) {
    if (own[i].begin < own[i].end) {
      soften(weights + i * kv_segment_tokens, own[i], tile.softcap, part.max + query + i, part.sum + query + i);
    } else {
      part.max[query + i] = -__builtin_inff();
      part.sum[query + i] = 0.0f;
    }
  }
  const bool overlap = shared.begin < shared.end;
  for (int i = 0; i < n; ++i) {
    const Keys before = {own[i].begin, overlap ? shared.begin : own[i].end};
    add_values<Type, 1>(tile, weights + i * kv_segment_tokens, before, values + i * tile.d_head);
  }
  if (!overlap) return;
  add_values<Type, n>(tile, weights, shared, values);
  for (int i = 0; i < n; ++i) {
    add_values<Type, 1>(tile, weights + i * kv_segment_tokens, {shared.end, own[i].end}, values + i * tile.d_head);
  }
}

template <class Type, int n>
KERNEL_INLINE void attend_rest(const AttentionTile& tile, int query, const AttentionPart& part, float* weights) {
  if constexpr (n > 0) {
    if (tile.n_queries - query == n) {
      attend_group<Type, n>(tile, query, part, weights);
    } else {
      attend_rest<Type, n - 1>(tile, query, part, weights);
    }
  }
}

template <class Type>
KERNEL_INLINE void attend_as(const AttentionTile& tile, const AttentionPart& part, float* weights) {
  int query = 0;
  for (; query + group_queries <= tile.n_queries; query += group_queries) {
    attend_group<Type, group_queries>(tile, query, part, weights + static_cast<int64_t>(query) * kv_segment_tokens);
  }
  attend_rest<Type, group_queries - 1>(tile, query, part, weights + static_cast<int64_t>(query) * kv_segment_tokens);
}

void attend(const AttentionTile& tile, const AttentionPart& part, void* scratch) {
  auto* weights = static_cast<float*>(scratch);
  switch (tile.format) {
    case KvFormat::f32: return attend_as<F32>(tile, part, weights);
    case KvFormat::bf16: return attend_as<Bf16>(tile, part, weights);
    case KvFormat::count: return;
  }
}

KERNEL_ENTRY void attention_merge(const AttentionPart& into, const AttentionPart& part, int n_queries, int d_head) {
  for (int i = 0; i < n_queries; ++i) {
    float* a = into.value + static_cast<int64_t>(i) * d_head;
    const float* b = part.value + static_cast<int64_t>(i) * d_head;
    if (part.sum[i] == 0.0f) continue;  // it saw no key
    const bool first = into.sum[i] == 0.0f;
    const float top = first || part.max[i] > into.max[i] ? part.max[i] : into.max[i];
    const float keep = first ? 0.0f : exp(into.max[i] - top);
    const float take = exp(part.max[i] - top);
    const F keeps(keep), takes(take);
    map(a, b, a, d_head, [=](F u, F v) { return u * keeps + v * takes; });
    into.sum[i] = into.sum[i] * keep + part.sum[i] * take;
    into.max[i] = top;
  }
}

KERNEL_ENTRY void attention_finish(const AttentionPart& part, const float* sink, int n_queries, int d_head, float* out,
                                   int64_t out_stride) {
  for (int i = 0; i < n_queries; ++i) {
    const float* value = part.value + static_cast<int64_t>(i) * d_head;
    float* to = out + i * out_stride;
    float share = 1.0f;
    float sum = part.sum[i];
    if (sink != nullptr) {
      // Over the common maximum: exp(sink - max) alone overflows when every score lies far below the sink.
      const float top = part.sum[i] == 0.0f || sink[i] > part.max[i] ? sink[i] : part.max[i];
      share = part.sum[i] == 0.0f ? 0.0f : exp(part.max[i] - top);
      sum = sum * share + exp(sink[i] - top);
    }
    const F numerator(share), denominator(sum);
    map(value, to, d_head, [=](F v) { return v * numerator / denominator; });
  }
}
