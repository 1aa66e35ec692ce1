// Attention over one segment of a paged KV cache. Included inside the anonymous namespace of isa.cpp.
//
// Queries are taken in small groups that share each load of K and V. Few queries (decoding) read the blocks as they are stored, group after
// group. For many (a prompt) each block becomes floats once, in the near caches, and all groups run over it; not where the level multiplies what
// is stored. Bits do not depend on any of that: a score is a sum over d in order; the softmax's sum runs over key positions in order, lane by
// lane of a KV block; a value is a sum over exactly the keys its own query sees, in order (never over another query's keys with weight zero:
// 0 * inf is NaN, and a block's unused slots hold anything).

// StoredGroups: sizes of groups that read blocks as stored, in the order they are tried; group_queries: of those that read them as floats;
// value_vectors, blocks_together: what a group is multiplied with at a time, of V and of K.
#if defined(__AVX512F__)
constexpr int group_queries = 8;
constexpr int value_vectors = 2;
constexpr int blocks_together = 2;  // so that a query's broadcast serves two sums
using StoredGroups = std::integer_sequence<int, 8, 7, 4, 2, 1>;  // 7: Qwen2.5-0.5B's heads a kv head
#elif defined(__aarch64__)
constexpr int group_queries = 4;
constexpr int value_vectors = 4;
constexpr int blocks_together = 1;
using StoredGroups = std::integer_sequence<int, 4, 2, 1>;
#elif defined(__AVX2__)
constexpr int group_queries = 6;    // 12 sums, two vectors of K or V and a query's element in 16 registers
constexpr int value_vectors = 2;
constexpr int blocks_together = 1;
using StoredGroups = std::integer_sequence<int, 4, 3, 2, 1>;
#else
constexpr int group_queries = 2;
constexpr int value_vectors = 4;
constexpr int blocks_together = 1;
using StoredGroups = std::integer_sequence<int, 2, 1>;
#endif

/// Blocks that n queries are multiplied with together, and vectors of V: a query alone needs several sums for each instruction not to wait for
/// the one before.
constexpr int n_together(int n) { return n == 1 && lanes >= 8 ? 4 : blocks_together; }
constexpr int n_value_vectors(int n) { return n == 1 && lanes >= 8 ? 64 / lanes : value_vectors; }

constexpr int block_tokens = kv_block_tokens;
constexpr int block_vectors = block_tokens / lanes;
static_assert(block_tokens % lanes == 0 && kv_segment_tokens % block_tokens == 0);

// How the formats lie in a block's part for one layer and head. K comes transposed, so that the tokens' scores lie side by side in lanes.
//   f32   K [d_head][16], V [16][d_head]
//   bf16  K [d_head / 2][16][2], V [16 / 2][d_head][2]: two neighbours in a lane, which is what bf16 dot products take
//   i8    K [d_head][16], V [16][d_head], then float32 scales of each token's K, [16], and V, [16]

struct KvF32 {
  static constexpr bool paired = false, scaled = false;
  using Element = float;
  static KERNEL_INLINE F load(const float* p) { return F32::load(p); }
  static constexpr int64_t k_bytes(int64_t d) { return block_tokens * d * 4; }
  static constexpr int64_t v_bytes(int64_t d) { return block_tokens * d * 4; }
};

struct KvBf16 {
  static constexpr bool paired = true, scaled = false;
  using Element = uint32_t;  // two of them
  static KERNEL_INLINE F low(Words pair) { return from_raw((Floats)(pair << 16)); }
  static KERNEL_INLINE F high(Words pair) { return from_raw((Floats)(pair & 0xffff0000u)); }
  static constexpr int64_t k_bytes(int64_t d) { return block_tokens * ((d + 1) / 2) * 4; }
  static constexpr int64_t v_bytes(int64_t d) { return block_tokens / 2 * d * 4; }
};

struct KvI8 {
  static constexpr bool paired = false, scaled = true;
  using Element = int8_t;
  static KERNEL_INLINE F load(const int8_t* p) {
#if defined(__AVX512F__)
    return F(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))));
#elif defined(__AVX2__)
    return F(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)))));
#else
    typedef int8_t Narrow __attribute__((vector_size(lanes)));
    return from_raw(__builtin_convertvector(load_as<Narrow>(p), Floats));
#endif
  }
  static constexpr int64_t k_bytes(int64_t d) { return block_tokens * d; }
  static constexpr int64_t v_bytes(int64_t d) { return block_tokens * d; }
  static KERNEL_INLINE const float* k_scales(const int8_t* part, int d) { return reinterpret_cast<const float*>(part + k_bytes(d) + v_bytes(d)); }
  static KERNEL_INLINE const float* v_scales(const int8_t* part, int d) { return k_scales(part, d) + block_tokens; }
};

template <class Kv>
constexpr int64_t part_bytes(int64_t d) {
  return Kv::k_bytes(d) + Kv::v_bytes(d) + (Kv::scaled ? 2 * block_tokens * 4 : 0);
}

KERNEL_ENTRY size_t kv_bytes(KvFormat format, int d_head) {
  int64_t n = 0;
  switch (format) {
    case KvFormat::f32: n = part_bytes<KvF32>(d_head); break;
    case KvFormat::bf16: n = part_bytes<KvBf16>(d_head); break;
    case KvFormat::i8: n = part_bytes<KvI8>(d_head); break;
    case KvFormat::count: break;
  }
  return static_cast<size_t>(round_up(n, 64));
}

/// Up to `lanes` floats, the others zero.
KERNEL_INLINE F load_some(const float* x, int n) {
  if (n >= lanes) return load(x);
  float own[lanes] = {};
  __builtin_memcpy(own, x, static_cast<size_t>(n) * sizeof(float));
  return load(own);
}

/// x as int8 with one scale, `step` bytes apart; returns the scale: of 16 that let the largest become 127 down to 125 (64 down to 119 in
/// small heads) the one with the least squared error. In a head of 8 that is a third of what 127 alone leaves, of 64 four fifths.
KERNEL_INLINE float store_scaled(const float* x, int n, int8_t* to, int step) {
  float largest = 0;
  for (int i = 0; i < n; ++i) {
    const float magnitude = __builtin_fabsf(x[i]);
    largest = magnitude > largest ? magnitude : largest;
  }
  const bool overflown = largest == __builtin_inff();  // its scale lets all that reads it become NaN, which the sampler refuses
  if (overflown) largest = 0;
  const int n_tries = n <= 16 ? 64 : 16;
  float best = 127, least = __builtin_inff();
  for (int c = 0; c < n_tries && largest > 0; ++c) {
    const float most = 127 - 0.125f * static_cast<float>(c);
    const F inverse(most / largest), magic(12582912.0f);
    F sum(0.0f);
    for (int i = 0; i < n; i += lanes) {
      const F scaled = load_some(x + i, n - i) * inverse;
      const F error = scaled - (scaled + magic - magic);
      sum = fma(error, error, sum);
    }
    float sums[lanes], error = 0;
    store(sums, sum);
    for (const float s : sums) error += s;
    error /= most * most;
    if (error < least) least = error, best = most;
  }
  const float inverse = largest > 0 ? best / largest : 0.0f;
  for (int i = 0; i < n; ++i) {
    const float rounded = x[i] * inverse + 12582912.0f;  // as round_clamped
    const float bounded = rounded - 12582912.0f;
    to[i * step] = static_cast<int8_t>(bounded >= -127 && bounded <= 127 ? static_cast<int32_t>(bounded) : 0);
  }
  return overflown ? __builtin_inff() : largest / best;
}

KERNEL_ENTRY void kv_store(KvFormat format, const float* k, const float* v, int d_head, int slot, std::byte* part) {
  switch (format) {
    case KvFormat::f32: {
      auto* ks = reinterpret_cast<float*>(part);
      float* vs = ks + block_tokens * d_head + slot * d_head;
      for (int d = 0; d < d_head; ++d) ks[d * block_tokens + slot] = k[d];
      for (int d = 0; d < d_head; ++d) vs[d] = v[d];
      return;
    }
    case KvFormat::bf16: {
      auto* ks = reinterpret_cast<uint16_t*>(part) + slot * 2;
      auto* vs = reinterpret_cast<uint16_t*>(part + KvBf16::k_bytes(d_head)) + slot / 2 * d_head * 2 + slot % 2;
      for (int d = 0; d < d_head; ++d) ks[d / 2 * block_tokens * 2 + d % 2] = to_bf16(k[d]);
      if (d_head % 2 != 0) ks[d_head / 2 * block_tokens * 2 + 1] = 0;
      for (int d = 0; d < d_head; ++d) vs[d * 2] = to_bf16(v[d]);
      return;
    }
    case KvFormat::i8: {
      auto* bytes = reinterpret_cast<int8_t*>(part);
      auto* scales = reinterpret_cast<float*>(bytes + KvI8::k_bytes(d_head) + KvI8::v_bytes(d_head));
      scales[slot] = store_scaled(k, d_head, bytes + slot, block_tokens);
      scales[block_tokens + slot] = store_scaled(v, d_head, bytes + KvI8::k_bytes(d_head) + slot * d_head, 1);
      return;
    }
    case KvFormat::count: return;
  }
}

#if defined(__AVX512BF16__)
#define KERNEL_BF16_DOT 1
/// Sums of two products a lane. Each is rounded on its own, in one order: as deterministic as the rest.
KERNEL_INLINE F dot_pairs(F sum, Words a, Words b) { return F(_mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b)); }
/// A block's floats as bf16, in order.
KERNEL_INLINE void store_halves(uint16_t* to, const F (&x)[block_vectors]) {
  const __m256bh packed = _mm512_cvtneps_pbh(x[0]);
  __builtin_memcpy(to, &packed, sizeof packed);
}
#elif defined(KERNEL_NEON) && defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
#define KERNEL_BF16_DOT 1
KERNEL_INLINE F dot_pairs(F sum, Words a, Words b) { return from_raw((Floats)vbfdotq_f32(raw(sum), (bfloat16x8_t)a, (bfloat16x8_t)b)); }
KERNEL_INLINE void store_halves(uint16_t* to, const F (&x)[block_vectors]) {
  const bfloat16x8_t packed[2] = {vcvtq_high_bf16_f32(vcvtq_low_bf16_f32(raw(x[0])), raw(x[1])),
                                  vcvtq_high_bf16_f32(vcvtq_low_bf16_f32(raw(x[2])), raw(x[3]))};
  __builtin_memcpy(to, packed, sizeof packed);
}
#endif

#if defined(KERNEL_BF16_DOT)
/// A query as bf16, an odd last element beside a zero.
KERNEL_INLINE void store_query(const float* q, int d_head, uint16_t* to) {
  int d = 0;
  for (; d + block_tokens <= d_head; d += block_tokens) {
    F x[block_vectors];
    for (int j = 0; j < block_vectors; ++j) x[j] = load(q + d + j * lanes);
    store_halves(to + d, x);
  }
  for (; d < d_head; ++d) to[d] = to_bf16(q[d]);
  if (d_head % 2 != 0) to[d_head] = 0;
}
#endif

/// Scores, then weights, of a query by position within the segment; not a power of two, so that rows do not meet in the same lines of a cache.
constexpr int score_stride = kv_segment_tokens + block_tokens;
/// So many queries at a time share blocks made floats, from min_panel_queries on.
constexpr int panel_queries = 64, min_panel_queries = 16;

// A panel's scores and, behind them, blocks as floats or a group's queries in bf16.
size_t attention_scratch_bytes(int d_head) {
  return (panel_queries * score_stride + static_cast<size_t>(blocks_together * block_tokens * (d_head + 1))) * sizeof(float);
}

/// Half-open range of positions within the segment.
struct Keys {
  int begin;
  int end;
};

/// `all` grown by what one query sees.
KERNEL_INLINE void include(Keys& all, Keys own) {
  if (own.begin >= own.end) return;
  all.begin = own.begin < all.begin ? own.begin : all.begin;
  all.end = own.end > all.end ? own.end : all.end;
}

KERNEL_INLINE Keys visible_keys(const AttentionTile& tile, int query) {
  const int64_t start = static_cast<int64_t>(tile.segment) * kv_segment_tokens;
  const int64_t begin = max(tile.first_key[query] - start, 0);
  const int64_t end = min(tile.last_key[query] + int64_t{1} - start, kv_segment_tokens);
  if (begin >= end) return {0, 0};
  return {static_cast<int>(begin), static_cast<int>(end)};
}

/// K of the block that holds position `key` of the tile's segment.
template <class Kv>
KERNEL_INLINE const typename Kv::Element* block_at(const AttentionTile& tile, int key) {
  const int64_t index = (static_cast<int64_t>(tile.segment) * kv_segment_tokens + key) / block_tokens;
  return reinterpret_cast<const typename Kv::Element*>(tile.blocks[index] + tile.offset);
}

/// V of slot `slot` (of a pair of slots, if Kv is paired) behind a block's K.
template <class Kv>
KERNEL_INLINE const typename Kv::Element* values_at(const typename Kv::Element* block, int d_head, int slot) {
  const auto* v = reinterpret_cast<const typename Kv::Element*>(reinterpret_cast<const std::byte*>(block) + Kv::k_bytes(d_head));
  return v + (Kv::paired ? slot / 2 : slot) * d_head;
}

/// The queries of a group: as floats, and as bf16 pairs where those are multiplied.
struct Queries {
  const float* f;
  int64_t stride;
  const uint32_t* pairs;
  int64_t pair_stride;
};

/// Scores of n queries with the tokens of n_blocks blocks, one after another by position.
template <class Kv, int n, int n_blocks>
KERNEL_INLINE void score_blocks(const typename Kv::Element* const (&k)[n_blocks], int d_head, const Queries& q, float* scores) {
  constexpr int n_vectors = n_blocks * block_vectors;
  F acc[n][n_vectors];
  for (auto& row : acc) {
    for (F& sum : row) sum = F(0.0f);
  }
  const auto at = [&](int j, int d) { return k[j / block_vectors] + d * block_tokens + j % block_vectors * lanes; };
  if constexpr (Kv::paired) {
    int p = 0;
#if defined(KERNEL_BF16_DOT)
    for (; p < (d_head + 1) / 2; ++p) {
      Words ks[n_vectors];
      for (int j = 0; j < n_vectors; ++j) ks[j] = load_as<Words>(at(j, p));
      for (int i = 0; i < n; ++i) {
        const Words qs = Words{} + q.pairs[i * q.pair_stride + p];
        for (int j = 0; j < n_vectors; ++j) acc[i][j] = dot_pairs(acc[i][j], qs, ks[j]);
      }
    }
#else
    for (; p < d_head / 2; ++p) {
      Floats low[n_vectors], high[n_vectors];
      for (int j = 0; j < n_vectors; ++j) {
        const Words pair = load_as<Words>(at(j, p));
        low[j] = raw(Kv::low(pair));
        high[j] = raw(Kv::high(pair));
      }
      for (int i = 0; i < n; ++i) {
        const F a(q.f[i * q.stride + 2 * p]), b(q.f[i * q.stride + 2 * p + 1]);
        for (int j = 0; j < n_vectors; ++j) acc[i][j] = fma(b, from_raw(high[j]), fma(a, from_raw(low[j]), acc[i][j]));
      }
    }
    if (d_head % 2 != 0) {
      for (int j = 0; j < n_vectors; ++j) {
        const F last = Kv::low(load_as<Words>(at(j, p)));
        for (int i = 0; i < n; ++i) acc[i][j] = fma(F(q.f[i * q.stride + 2 * p]), last, acc[i][j]);
      }
    }
#endif
  } else {
    for (int d = 0; d < d_head; ++d) {
      Floats ks[n_vectors];
      for (int j = 0; j < n_vectors; ++j) ks[j] = raw(Kv::load(at(j, d)));
      for (int i = 0; i < n; ++i) {
        const F qs(q.f[i * q.stride + d]);
        for (int j = 0; j < n_vectors; ++j) acc[i][j] = fma(qs, from_raw(ks[j]), acc[i][j]);
      }
    }
  }
  for (int j = 0; j < n_vectors; ++j) {
    F scale(1.0f);
    if constexpr (Kv::scaled) scale = load(Kv::k_scales(k[j / block_vectors], d_head) + j % block_vectors * lanes);
    for (int i = 0; i < n; ++i) {
      store(scores + i * score_stride + j * lanes, Kv::scaled ? acc[i][j] * scale : acc[i][j]);
    }
  }
}

template <class Kv, int n, int n_blocks>
KERNEL_INLINE void score_stored(const AttentionTile& tile, const Queries& q, int key, float* scores) {
  const typename Kv::Element* k[n_blocks];
  for (int b = 0; b < n_blocks; ++b) k[b] = block_at<Kv>(tile, key + b * block_tokens);
  score_blocks<Kv, n, n_blocks>(k, tile.d_head, q, scores + key);
}

/// Scores of one query become exp(score - max), zero for keys out of sight in the blocks it touches; where bf16 are multiplied, packed as
/// those into the front of the row. Returns the maximum and sum.
template <class Kv>
__attribute__((noinline, flatten)) void soften(float* scores, Keys keys, float cap, float* out_max, float* out_sum) {
  const F lowest(-__builtin_inff());
  const int begin = keys.begin / block_tokens * block_tokens;
  const int end = static_cast<int>(round_up(keys.end, block_tokens));
  if (cap != 0.0f) softcap(scores + begin, cap, end - begin);
  for (int i = begin; i < keys.begin; ++i) scores[i] = -__builtin_inff();
  for (int i = keys.end; i < end; ++i) scores[i] = -__builtin_inff();
  const auto larger = [](F a, F b) { return select(a > b, a, b); };
  constexpr int chains = 4;  // one would wait for each comparison
  F best[chains] = {lowest, lowest, lowest, lowest};
  int at = begin;
  for (; at + chains * lanes <= end; at += chains * lanes) {
    for (int j = 0; j < chains; ++j) best[j] = larger(load(scores + at + j * lanes), best[j]);
  }
  for (; at < end; at += lanes) best[0] = larger(load(scores + at), best[0]);
  const float max = max_lanes(larger(larger(best[0], best[1]), larger(best[2], best[3])));
  F sums[block_vectors];
  for (F& sum : sums) sum = F(0.0f);
  for (int i = begin; i < end; i += block_tokens) {
    F e[block_vectors];
    for (int j = 0; j < block_vectors; ++j) {
      e[j] = exp(load(scores + i + j * lanes) - F(max));
      sums[j] = sums[j] + e[j];
    }
#if defined(KERNEL_BF16_DOT)
    if constexpr (Kv::paired) {
      store_halves(reinterpret_cast<uint16_t*>(scores) + i, e);  // behind what is still to be read
      continue;
    }
#endif
    for (int j = 0; j < block_vectors; ++j) store(scores + i + j * lanes, e[j]);
  }
  F sum = sums[0];
  for (int j = 1; j < block_vectors; ++j) sum = sum + sums[j];
  *out_max = max;
  *out_sum = sum_lanes(sum);
}

/// A query's scores or weights times the tokens' scales of K or V.
KERNEL_INLINE void scale_rows(const AttentionTile& tile, Keys keys, float* row, const float* (*scales_of)(const int8_t*, int)) {
  for (int key = keys.begin / block_tokens * block_tokens; key < keys.end; key += block_tokens) {
    const float* scales = scales_of(block_at<KvI8>(tile, key), tile.d_head);
    for (int i = 0; i < block_tokens; i += lanes) store(row + key + i, load(row + key + i) * load(scales + i));
  }
}

/// values[i][d .. d + m * lanes) += sum over keys of weight * V, for n queries. `width` < lanes: only so many elements (m is 1). If Kv
/// is paired and n > 1, keys begin and end between pairs.
template <class Kv, int n, int m>
KERNEL_INLINE void add_values_at(const AttentionTile& tile, const float* weights, Keys keys, int d, int width, float* values) {
  F acc[n][m];
  for (int i = 0; i < n; ++i) {
    for (int j = 0; j < m; ++j) {
      const float* at = values + i * tile.d_head + d + j * lanes;
      acc[i][j] = width < lanes ? load_first<F32>(at, width) : load(at);
    }
  }
  constexpr int step = Kv::paired ? 2 : 1;
  for (int key = keys.begin / step * step; key < keys.end;) {
    const int slot = key % block_tokens;
    const int end = static_cast<int>(min(key - slot + block_tokens, keys.end));
    const auto* v = values_at<Kv>(block_at<Kv>(tile, key), tile.d_head, slot) + d;
    for (; key < end; key += step, v += tile.d_head) {
      if constexpr (Kv::paired) {
        Words pairs[m];
        for (int j = 0; j < m; ++j) {
          uint32_t first[lanes] = {};
          if (width < lanes) __builtin_memcpy(first, v, static_cast<size_t>(width) * sizeof *v);
          pairs[j] = load_as<Words>(width < lanes ? first : v + j * lanes);
        }
        // A key out of sight counts as zero, whatever lies in its slot.
        const bool no_low = n == 1 && key < keys.begin, no_high = n == 1 && key + 1 >= keys.end;
        if (no_low) {
          for (Words& pair : pairs) pair &= 0xffff0000u;
        }
        if (no_high) {
          for (Words& pair : pairs) pair &= 0x0000ffffu;
        }
        for (int i = 0; i < n; ++i) {
          const float* row = weights + i * score_stride;
#if defined(KERNEL_BF16_DOT)
          const Words w = Words{} + load_as<uint32_t>(reinterpret_cast<const uint16_t*>(row) + key);
          for (int j = 0; j < m; ++j) acc[i][j] = dot_pairs(acc[i][j], w, pairs[j]);
#else
          const F a(no_low ? 0.0f : row[key]), b(no_high ? 0.0f : row[key + 1]);
          for (int j = 0; j < m; ++j) acc[i][j] = fma(b, Kv::high(pairs[j]), fma(a, Kv::low(pairs[j]), acc[i][j]));
#endif
        }
      } else {
        Floats vs[m];
        for (int j = 0; j < m; ++j) {
          typename Kv::Element first[lanes] = {};
          if (width < lanes) __builtin_memcpy(first, v, static_cast<size_t>(width) * sizeof *v);
          vs[j] = raw(Kv::load(width < lanes ? first : v + j * lanes));
        }
        for (int i = 0; i < n; ++i) {
          const F w(weights[i * score_stride + key]);
          for (int j = 0; j < m; ++j) acc[i][j] = fma(w, from_raw(vs[j]), acc[i][j]);
        }
      }
    }
    key = end;
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

/// The last columns, of heads that are no whole number of vectors: a query at a time, which no real model needs.
template <class Kv>
__attribute__((noinline, flatten)) void add_last_values(const AttentionTile& tile, int n, const float* weights, Keys keys, int d, float* values) {
  for (int i = 0; i < n; ++i) {
    add_values_at<Kv, 1, 1>(tile, weights + i * score_stride, keys, d, tile.d_head - d, values + i * tile.d_head);
  }
}

template <class Kv, int n>
KERNEL_INLINE void add_values(const AttentionTile& tile, const float* weights, Keys keys, float* values) {
  if (keys.begin >= keys.end) return;
  constexpr int most = n_value_vectors(n);
  int d = 0;
  for (; d + most * lanes <= tile.d_head; d += most * lanes) add_values_at<Kv, n, most>(tile, weights, keys, d, lanes, values);
  if constexpr (most > value_vectors) {
    for (; d + value_vectors * lanes <= tile.d_head; d += value_vectors * lanes) {
      add_values_at<Kv, n, value_vectors>(tile, weights, keys, d, lanes, values);
    }
  }
  for (; d + lanes <= tile.d_head; d += lanes) add_values_at<Kv, n, 1>(tile, weights, keys, d, lanes, values);
  if (d < tile.d_head) add_last_values<Kv>(tile, n, weights, keys, d, values);
}

/// Of one query: whole, or of a group's the keys that not all of them see.
template <class Kv>
__attribute__((noinline, flatten)) void add_own_values(const AttentionTile& tile, const float* weights, Keys keys, float* values) {
  add_values<Kv, 1>(tile, weights, keys, values);
}

/// Asks for bytes [begin, end) of the blocks of these keys. Blocks lie anywhere, so no hardware prefetcher follows from one to the next; a
/// tile's first group asks for all of them: for K while it multiplies what comes before, for V while it computes exponentials.
template <class Kv>
KERNEL_INLINE void prefetch_blocks(const AttentionTile& tile, Keys keys, int64_t begin, int64_t end) {
  for (int key = keys.begin; key < keys.end; key += block_tokens) {
    const auto* block = reinterpret_cast<const char*>(block_at<Kv>(tile, key));
    for (int64_t i = begin; i < end; i += 64) __builtin_prefetch(block + i, 0, 2);
  }
}

/// n queries from `query` on. `pairs`: room for them in bf16.
template <class Kv, int n>
__attribute__((noinline, flatten)) void attend_group(const AttentionTile& tile, int query, const AttentionPart& part, float* weights,
                                                     uint32_t* pairs) {
  Keys own[n];
  Keys all = {kv_segment_tokens, 0};
  Keys shared = {0, kv_segment_tokens};
  for (int i = 0; i < n; ++i) {
    own[i] = visible_keys(tile, query + i);
    include(all, own[i]);
    shared.begin = own[i].begin > shared.begin ? own[i].begin : shared.begin;
    shared.end = own[i].end < shared.end ? own[i].end : shared.end;
  }
  if constexpr (Kv::paired) {
    shared.begin = static_cast<int>(round_up(shared.begin, 2));
    shared.end = shared.end / 2 * 2;
  }
  const Queries q = {tile.q + query * tile.q_stride, tile.q_stride, pairs, (tile.d_head + 1) / 2};
#if defined(KERNEL_BF16_DOT)
  if constexpr (Kv::paired) {
    for (int i = 0; i < n; ++i) store_query(q.f + i * q.stride, tile.d_head, reinterpret_cast<uint16_t*>(pairs + i * q.pair_stride));
  }
#endif
  int key = all.begin / block_tokens * block_tokens;
  constexpr int together = n_together(n) * block_tokens;
  for (; key + together <= all.end; key += together) {
    if (query == 0) prefetch_blocks<Kv>(tile, {key + 2 * together, static_cast<int>(min(key + 3 * together, all.end))}, 0, Kv::k_bytes(tile.d_head));
    score_stored<Kv, n, n_together(n)>(tile, q, key, weights);
  }
  for (; key < all.end; key += block_tokens) score_stored<Kv, n, 1>(tile, q, key, weights);
  float* values = part.value + static_cast<int64_t>(query) * tile.d_head;
  __builtin_memset(values, 0, static_cast<size_t>(n) * static_cast<size_t>(tile.d_head) * sizeof(float));
  const int part_keys = static_cast<int>(round_up((all.end - all.begin) / n + 1, block_tokens));
  for (int i = 0; i < n; ++i) {
    if (query == 0) {
      const int64_t from = all.begin / block_tokens * block_tokens + i * part_keys;
      prefetch_blocks<Kv>(tile, {static_cast<int>(from), static_cast<int>(min(from + part_keys, all.end))}, Kv::k_bytes(tile.d_head),
                          part_bytes<Kv>(tile.d_head));
    }
    if (own[i].begin < own[i].end) {
      float* row = weights + i * score_stride;
      soften<Kv>(row, own[i], tile.softcap, part.max + query + i, part.sum + query + i);
      if constexpr (Kv::scaled) scale_rows(tile, own[i], row, Kv::v_scales);
    } else {
      part.max[query + i] = -__builtin_inff();
      part.sum[query + i] = 0.0f;
    }
  }
  const bool overlap = n > 1 && shared.begin < shared.end;
  for (int i = 0; i < n; ++i) {
    const Keys before = {own[i].begin, overlap ? shared.begin : own[i].end};
    add_own_values<Kv>(tile, weights + i * score_stride, before, values + i * tile.d_head);
  }
  if (!overlap) return;
  add_values<Kv, n>(tile, weights, shared, values);
  for (int i = 0; i < n; ++i) {
    add_own_values<Kv>(tile, weights + i * score_stride, {shared.end, own[i].end}, values + i * tile.d_head);
  }
}

/// Queries from `query` on, in groups of each n as long as there are that many left.
template <class Kv, int... n>
KERNEL_INLINE void attend_groups(const AttentionTile& tile, int query, const AttentionPart& part, float* weights, uint32_t* pairs,
                                 std::integer_sequence<int, n...>) {
  const auto groups_of = [&](auto size) {
    for (; query + size <= tile.n_queries; query += size) attend_group<Kv, size>(tile, query, part, weights, pairs);
  };
  (groups_of(std::integral_constant<int, n>{}), ...);
}

// --- many queries: blocks as floats -----------------------------------------------------------------------------------------------

template <class Kv>
constexpr bool is_f32 = sizeof(typename Kv::Element) == sizeof(float) && !Kv::paired;

/// K of a block as floats [d_head][16], of int8 without its scales. `to`: room for one more row.
template <class Kv>
KERNEL_INLINE const float* widened_keys(const typename Kv::Element* k, int d_head, float* to) {
  if constexpr (is_f32<Kv>) {
    return k;
  } else if constexpr (Kv::paired) {
    for (int at = 0; at < block_tokens * ((d_head + 1) / 2); at += lanes) {
      const Words pair = load_as<Words>(k + at);
      float* rows = to + at / block_tokens * 2 * block_tokens + at % block_tokens;
      store(rows, Kv::low(pair));
      store(rows + block_tokens, Kv::high(pair));
    }
  } else {
    for (int at = 0; at < block_tokens * d_head; at += lanes) store(to + at, Kv::load(k + at));
  }
  return to;
}

/// V of a block as floats [16][d_head], likewise.
template <class Kv>
KERNEL_INLINE const float* widened_values(const typename Kv::Element* block, int d_head, float* to) {
  const typename Kv::Element* v = values_at<Kv>(block, d_head, 0);
  if constexpr (is_f32<Kv>) {
    return v;
  } else if constexpr (Kv::paired) {
    for (int slot = 0; slot < block_tokens; slot += 2, v += d_head, to += 2 * d_head) {
      int d = 0;
      for (; d + lanes <= d_head; d += lanes) {
        const Words pair = load_as<Words>(v + d);
        store(to + d, Kv::low(pair));
        store(to + d_head + d, Kv::high(pair));
      }
      if (d == d_head) continue;
      uint32_t rest[lanes] = {};
      __builtin_memcpy(rest, v + d, static_cast<size_t>(d_head - d) * sizeof *v);
      store_first(to + d, Kv::low(load_as<Words>(rest)), d_head - d);
      store_first(to + d_head + d, Kv::high(load_as<Words>(rest)), d_head - d);
    }
    return to - block_tokens * d_head;
  } else {
    for (int at = 0; at < block_tokens * d_head; at += lanes) store(to + at, Kv::load(v + at));
    return to;
  }
}

/// As score_blocks, of a panel's group.
template <int n, int n_blocks>
__attribute__((noinline, flatten)) void score_widened(const float* const (&k)[n_blocks], const AttentionTile& tile, int query, float* scores) {
  score_blocks<KvF32, n, n_blocks>(k, tile.d_head, {tile.q + query * tile.q_stride, tile.q_stride, nullptr, 0}, scores);
}

/// values[i][d .. d + m * lanes) += sum over n_keys rows of v of weight * V. `width` < lanes: only so many elements (m is 1).
template <int n, int m>
KERNEL_INLINE void add_widened_at(const float* v, const float* weights, int n_keys, int d_head, int d, int width, float* values) {
  Floats acc[n][m];
  for (int i = 0; i < n; ++i) {
    for (int j = 0; j < m; ++j) {
      const float* at = values + i * d_head + d + j * lanes;
      acc[i][j] = raw(width < lanes ? load_first<F32>(at, width) : load(at));
    }
  }
  v += d;
  for (int key = 0; key < n_keys; ++key, v += d_head) {
    Floats vs[m];
    for (int j = 0; j < m; ++j) vs[j] = raw(width < lanes ? load_first<F32>(v, width) : load(v + j * lanes));
    for (int i = 0; i < n; ++i) {
      const F w(weights[i * score_stride + key]);
      for (int j = 0; j < m; ++j) acc[i][j] = raw(fma(w, from_raw(vs[j]), from_raw(acc[i][j])));
    }
  }
  for (int i = 0; i < n; ++i) {
    for (int j = 0; j < m; ++j) {
      float* at = values + i * d_head + d + j * lanes;
      if (width < lanes) store_first(at, from_raw(acc[i][j]), width);
      else store(at, from_raw(acc[i][j]));
    }
  }
}

__attribute__((noinline, flatten)) void add_last_widened(const float* v, int n, const float* weights, int n_keys, int d_head, int d, float* values) {
  for (int i = 0; i < n; ++i) add_widened_at<1, 1>(v, weights + i * score_stride, n_keys, d_head, d, d_head - d, values + i * d_head);
}

template <int n>
__attribute__((noinline, flatten)) void add_widened(const float* v, const float* weights, int n_keys, int d_head, float* values) {
  int d = 0;
  for (; d + value_vectors * lanes <= d_head; d += value_vectors * lanes) {
    add_widened_at<n, value_vectors>(v, weights, n_keys, d_head, d, lanes, values);
  }
  for (; d + lanes <= d_head; d += lanes) add_widened_at<n, 1>(v, weights, n_keys, d_head, d, lanes, values);
  if (d < d_head) add_last_widened(v, n, weights, n_keys, d_head, d, values);
}

template <int n>
using Group = std::integral_constant<int, n>;

/// f(Group<n>, first of the group) for n_queries in groups.
template <class Function>
KERNEL_INLINE void by_groups(int n_queries, const Function& f) {
  int first = 0;
  for (; first + group_queries <= n_queries; first += group_queries) f(Group<group_queries>{}, first);
  int left = n_queries - first;
  const auto next = [&](auto group) {
    f(group, n_queries - left);
    left -= group;
  };
  if constexpr (group_queries > 4) {
    if (left == 4 || left == 7) next(Group<4>{});
  }
  if constexpr (group_queries > 2) {
    while (left >= 3) next(Group<3>{});
  }
  if (left == 2) next(Group<2>{});
  if (left == 1) next(Group<1>{});
}

/// `n` (<= panel_queries) queries from `query` on.
template <class Kv>
__attribute__((noinline, flatten)) void attend_panel(const AttentionTile& tile, int query, int n, const AttentionPart& part, float* scores) {
  const int d_head = tile.d_head;
  float* wide = scores + panel_queries * score_stride;
  Keys own[panel_queries];
  Keys all = {kv_segment_tokens, 0};
  for (int i = 0; i < n; ++i) {
    own[i] = visible_keys(tile, query + i);
    include(all, own[i]);
  }
  const int begin = all.begin / block_tokens * block_tokens;
  constexpr int ahead = 2 * block_tokens;
  const auto ask_ahead = [&](int key, int64_t from, int64_t to) {
    prefetch_blocks<Kv>(tile, {key + ahead, static_cast<int>(min(key + ahead + block_tokens, all.end))}, from, to);
  };
  for (int key = begin; key < all.end;) {
    const int n_blocks = key + blocks_together * block_tokens <= all.end ? blocks_together : 1, end = key + n_blocks * block_tokens;
    const float* k[blocks_together] = {};
    for (int b = 0; b < n_blocks; ++b) {
      const int at = key + b * block_tokens;
      ask_ahead(at, 0, Kv::k_bytes(d_head));
      k[b] = widened_keys<Kv>(block_at<Kv>(tile, at), d_head, wide + b * block_tokens * (d_head + 1));
    }
    by_groups(n, [&](auto group, int first) {
      bool seen = false;
      for (int i = first; i < first + group; ++i) seen |= own[i].begin < end && own[i].end > key;
      if (!seen) return;
      float* to = scores + first * score_stride + key;
      if (n_blocks == blocks_together) score_widened<group, blocks_together>(k, tile, query + first, to);
      else score_widened<group, 1>({k[0]}, tile, query + first, to);
    });
    key = end;
  }
  float* values = part.value + static_cast<int64_t>(query) * d_head;
  __builtin_memset(values, 0, static_cast<size_t>(n) * static_cast<size_t>(d_head) * sizeof(float));
  for (int i = 0; i < n; ++i) {
    float* row = scores + i * score_stride;
    if (own[i].begin >= own[i].end) {
      part.max[query + i] = -__builtin_inff();
      part.sum[query + i] = 0.0f;
      continue;
    }
    if constexpr (Kv::scaled) scale_rows(tile, own[i], row, Kv::k_scales);
    soften<Kv>(row, own[i], tile.softcap, part.max + query + i, part.sum + query + i);
    if constexpr (Kv::scaled) scale_rows(tile, own[i], row, Kv::v_scales);
  }
  for (int key = begin; key < all.end; key += block_tokens) {
    ask_ahead(key, Kv::k_bytes(d_head), part_bytes<Kv>(d_head));
    const float* v = widened_values<Kv>(block_at<Kv>(tile, key), d_head, wide);
    by_groups(n, [&](auto group, int first) {
      const float* weights = scores + first * score_stride;
      bool whole = true;
      for (int i = first; i < first + group; ++i) whole &= own[i].begin <= key && own[i].end >= key + block_tokens;
      if (whole) return add_widened<group>(v, weights + key, block_tokens, d_head, values + first * d_head);
      for (int i = first; i < first + group; ++i, weights += score_stride) {
        const int from = own[i].begin > key ? own[i].begin : key;
        const int to = own[i].end < key + block_tokens ? own[i].end : key + block_tokens;
        if (from < to) add_widened<1>(v + (from - key) * d_head, weights + from, to - from, d_head, values + i * d_head);
      }
    });
  }
}

#if defined(KERNEL_BF16_DOT)
template <class Kv>
constexpr bool widens = !Kv::paired;
#else
template <class Kv>
constexpr bool widens = true;
#endif

template <class Kv>
void attend(const AttentionTile& tile, const AttentionPart& part, void* scratch) {
  auto* weights = static_cast<float*>(scratch);
  auto* pairs = reinterpret_cast<uint32_t*>(weights + panel_queries * score_stride);
  int query = 0;
  if constexpr (widens<Kv>) {
    for (int n; (n = tile.n_queries - query) >= min_panel_queries; query += n) {
      n = n < panel_queries ? n : panel_queries;
      attend_panel<Kv>(tile, query, n, part, weights);
    }
  }
  attend_groups<Kv>(tile, query, part, weights, pairs, StoredGroups{});
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
