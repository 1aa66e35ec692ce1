// Products of packed weights (formats.inl) with quantized activations. Included inside the anonymous namespace of isa.cpp.

// --- products -------------------------------------------------------------------------------------------------------------------

/// Whether a group's quads are unrolled for so many tokens. Where products take several
/// instructions the compiler would spill what it then has in flight.
constexpr bool unroll_quads([[maybe_unused]] int n_tokens) {
#if defined(__SSE2__) && !defined(__AVX2__)
  return false;
#elif defined(KERNEL_DOT_PAIRS) && defined(__AVX512F__)
  return n_tokens == 1;
#else
  return true;
#endif
}

/// sums += quad j of one group.
template <class W, int B, int T>
KERNEL_INLINE void add_quads(const uint8_t* const (&data)[B], const ActGroup* const (&act)[T], int64_t g, int j,
                             typename W::Sum (&sums)[T][B * row_vectors]) {
  Bytes w[B * row_vectors];
  for (int b = 0; b < B; ++b) {
    for (int v = 0; v < row_vectors; ++v) w[b * row_vectors + v] = W::quad(data[b], j, v);
  }
  for (int t = 0; t < T; ++t) {
    const Quad a = quad_at(act[t][g].q, j);
    for (int v = 0; v < B * row_vectors; ++v) sums[t][v].add(w[v], a);
  }
}

/// acc += one group's products of B blocks of 16 rows with T tokens. data[b]: the group's quads; scales[b]: its 16 scales.
template <class W, class Scale, int B, int T>
KERNEL_INLINE void add_group(const uint8_t* const (&data)[B], const typename Scale::Element* const (&scales)[B],
                             const ActGroup* const (&act)[T], int64_t g, F (&acc)[T][B * row_vectors]) {
  typename W::Sum sums[T][B * row_vectors];
  for (int t = 0; t < T; ++t) {
    for (auto& sum : sums[t]) sum.start(act[t][g]);
  }
  constexpr int most = W::Sum::most_quads;
#pragma GCC unroll 2
  for (int first = 0; first < group_quads; first += most) {
    if constexpr (unroll_quads(T)) {
#pragma GCC unroll 8
      for (int j = first; j < first + most; ++j) add_quads<W, B, T>(data, act, g, j, sums);
    } else {
#pragma GCC unroll 1
      for (int j = first; j < first + most; ++j) add_quads<W, B, T>(data, act, g, j, sums);
    }
    for (auto& token : sums) {
      for (auto& sum : token) sum.fold();
    }
  }
  for (int b = 0; b < B; ++b) {
    for (int v = 0; v < row_vectors; ++v) {
      const F ws = Scale::load(scales[b] + v * lanes);
      for (int t = 0; t < T; ++t) {
        const int i = b * row_vectors + v;
        const F products = from_raw(__builtin_convertvector(sums[t][i].get(act[t][g]), Floats));
        acc[t][i] = fma(products, ws * F(act[t][g].scale), acc[t][i]);
      }
    }
  }
}

template <int T>
KERNEL_INLINE void token_pointers(const uint8_t* x, int64_t x_stride, const ActGroup* (&act)[T]) {
  for (int t = 0; t < T; ++t) act[t] = reinterpret_cast<const ActGroup*>(x + t * x_stride);
}

template <int B, int T>
KERNEL_INLINE void clear(F (&acc)[T][B * row_vectors]) {
  for (auto& token : acc) {
    for (F& sum : token) sum = F(0.0f);
  }
}

/// Up to 16 * B rows of T tokens into y.
template <int B, int T>
KERNEL_INLINE void store_tile(const F (&acc)[T][B * row_vectors], int64_t n_rows, float* y, int64_t y_stride) {
  for (int t = 0; t < T; ++t) {
    float* to = y + t * y_stride;
    if (n_rows >= B * pack_rows) {
      for (int v = 0; v < B * row_vectors; ++v) store(to + v * lanes, acc[t][v]);
    } else {
      float rows[B * pack_rows];
      for (int v = 0; v < B * row_vectors; ++v) store(rows + v * lanes, acc[t][v]);
      __builtin_memcpy(to, rows, static_cast<size_t>(n_rows) * sizeof(float));
    }
  }
}

/// As weights_ahead, with several tokens, whose work between two loads keeps hardware prefetchers from running ahead.
constexpr WeightsAhead ahead_of_several{4096, 0};

/// S blocks, block_stride bytes apart, against T tokens, read side by side straight from memory: hardware prefetchers follow several
/// streams much faster than one.
template <class W, int S, int T>
KERNEL_INLINE void packed_tile(const uint8_t* block, int64_t block_stride, const BlockLayout<W>& layout, const uint8_t* x,
                               int64_t x_stride, F (&acc)[S][T][row_vectors]) {
  const ActGroup* act[T];
  token_pointers<T>(x, x_stride, act);
  for (auto& stream : acc) clear<1, T>(stream);
  using Stored = typename W::Scale::Element;
  constexpr bool narrow = sizeof(Stored) == 1;  // a scale for each group then
  const int64_t half = layout.span_groups / 2;
  const WeightsAhead ahead = T > 1 ? ahead_of_several : weights_ahead;
  for (int64_t g = 0; g < layout.n_groups; ++g) {
    const uint8_t* scales = block;
    const int64_t in_span = g & (layout.span_groups - 1);
    if (in_span == 0) block += span_scale_bytes;
    else scales = block - in_span * W::group_bytes - span_scale_bytes;
    if (narrow) scales += in_span * layout.scale_bytes;
    else if ((g & half) != 0) scales += layout.scale_bytes;
#pragma GCC unroll 4
    for (int i = 0; i < S; ++i) {
      const uint8_t* const data[1] = {block + i * block_stride};
      ask_for(data[0], ahead, W::group_bytes);
      const Stored* const group_scales[1] = {reinterpret_cast<const Stored*>(scales + i * block_stride)};
      add_group<W, typename W::Scale, 1, T>(data, group_scales, act, g, acc[i]);
    }
    block += W::group_bytes;
  }
}

/// A run of S * n blocks as S streams of n.
template <class W, int S>
KERNEL_INLINE void packed_streams(const uint8_t* block, int64_t n, const BlockLayout<W>& layout, const uint8_t* x, float* y) {
  const int64_t bytes = layout.bytes();
  for (int64_t b = 0; b < n; ++b) {
    F acc[S][1][row_vectors];
    packed_tile<W, S, 1>(block + b * bytes, n * bytes, layout, x, 0, acc);
    for (int i = 0; i < S; ++i) store_tile<1, 1>(acc[i], pack_rows, y + (i * n + b) * pack_rows, 0);
  }
}

template <class W, int T>
KERNEL_INLINE void packed_block(const uint8_t* block, const BlockLayout<W>& layout, const uint8_t* x, int64_t x_stride,
                                int64_t n_tokens, int64_t n_rows, float* y, int64_t y_stride) {
  for (int64_t t = 0; t < n_tokens; t += T) {
    t = min(t, n_tokens - T);  // the last tile overlaps the one before: it computes the same again
    F acc[1][T][row_vectors];
    packed_tile<W, 1, T>(block, 0, layout, x + t * x_stride, x_stride, acc);
    store_tile<1, T>(acc[0], n_rows, y + t * y_stride, y_stride);
  }
}

#if defined(__AVX512F__)
constexpr int packed_tokens = 8;                    // 8 exact sums, 8 floats, the weights
constexpr int wide_blocks = 2, wide_tokens = 6;     // 12 exact sums, 12 floats, 2 weights, 2 scales and an activation in 32 registers
#elif defined(KERNEL_DOT_MATRIX)
constexpr int packed_tokens = 3;                    // 12 exact sums, 12 floats, 3 activations, the weights in 32 registers
constexpr int wide_blocks = 1, wide_tokens = 6;     // half a block at a time: as many
#elif defined(KERNEL_DOT_WORDS)
constexpr int packed_tokens = 2;                    // a sum of words takes two registers
constexpr int wide_blocks = 1, wide_tokens = 2;
#elif defined(KERNEL_DOT_PAIRS)
constexpr int packed_tokens = 4;
constexpr int wide_blocks = 1, wide_tokens = 4;     // 8 exact sums, 2 weights and an activation in 16 registers, the floats in memory
#else
constexpr int packed_tokens = 3;                    // more, and the sums of 16 rows no longer fit 16 registers
constexpr int wide_blocks = 1, wide_tokens = 3;
#endif
/// Whether a tile asks for the next one's activations: those of a whole prompt are more than second-level caches of 512 KiB hold.
#if defined(__AVX2__) && !defined(__AVX512F__)
constexpr bool asks_for_activations = true;
#else
constexpr bool asks_for_activations = false;
#endif

/// From this many tokens on a block is unpacked once before they run over it.
constexpr int64_t min_tokens_unpacked = 16;
/// An unpacked group: its scales as floats, then a byte a weight: quads as in a block, or (KERNEL_DOT_MATRIX) two halves of eight rows,
/// for each eight columns four pairs of rows.
constexpr int64_t wide_group_bytes = pack_rows * sizeof(float) + group_quads * quad_bytes;

KERNEL_INLINE int64_t unpacked_bytes(int64_t n_cols) { return wide_blocks * n_act_groups(n_cols) * wide_group_bytes; }

template <class W>
KERNEL_INLINE void unpack_block(const uint8_t* block, const BlockLayout<W>& layout, uint8_t* wide) {
  for (int64_t g = 0; g < layout.n_groups; ++g, wide += wide_group_bytes) {
    const auto* scales = reinterpret_cast<const typename W::Scale::Element*>(block + layout.scales(g));
    const uint8_t* data = block + layout.data(g);
    for (int v = 0; v < row_vectors; ++v) {
      store(reinterpret_cast<float*>(wide) + v * lanes, W::Scale::load(scales + v * lanes));
#if defined(KERNEL_DOT_MATRIX)
      for (int j = 0; j < group_quads; j += 2) {
        const auto even = (int32x4_t)W::quad(data, j, v), odd = (int32x4_t)W::quad(data, j + 1, v);
        const int32x4_t pairs[2] = {vzip1q_s32(even, odd), vzip2q_s32(even, odd)};
        uint8_t* to = wide + pack_rows * sizeof(float) + v / 2 * (group_quads / 2 * quad_bytes);
        __builtin_memcpy(to + j / 2 * quad_bytes + v % 2 * sizeof pairs, pairs, sizeof pairs);
      }
#else
      for (int j = 0; j < group_quads; ++j) {
        const Bytes quad = W::quad(data, j, v);
        __builtin_memcpy(wide + pack_rows * sizeof(float) + j * quad_bytes + v * lanes * 4, &quad, sizeof quad);
      }
#endif
    }
  }
}

#if defined(KERNEL_DOT_MATRIX)
/// As add_group for eight rows of an unpacked group and tokens in pairs: smmla multiplies two rows with two tokens, eight columns of each.
template <class W>
KERNEL_INLINE void add_half_group(const uint8_t* data, const float* scales, const ActGroup* const (&act)[wide_tokens], int64_t g,
                                  F (&acc)[wide_tokens][row_vectors / 2]) {
  constexpr int token_pairs = wide_tokens / 2, row_pairs = pack_rows / 4;
  int32x4_t sums[token_pairs][row_pairs];
  for (int p = 0; p < token_pairs; ++p) {
    const int32_t first = act[2 * p][g].correction_8 * (W::offset / 8), second = act[2 * p + 1][g].correction_8 * (W::offset / 8);
    for (auto& sum : sums[p]) sum = int32x4_t{first, first, second, second};
  }
#pragma GCC unroll 4
  for (int step = 0; step < act_group / 8; ++step) {
    int8x16_t a[token_pairs];
    for (int p = 0; p < token_pairs; ++p) {
      const auto x = load_as<int64x2_t>(act[2 * p][g].q + step / 2 * 16), y = load_as<int64x2_t>(act[2 * p + 1][g].q + step / 2 * 16);
      a[p] = (int8x16_t)(step % 2 == 0 ? vzip1q_s64(x, y) : vzip2q_s64(x, y));
    }
    for (int r = 0; r < row_pairs; ++r) {
      const auto w = load_as<int8x16_t>(data + (step * row_pairs + r) * 16);
      for (int p = 0; p < token_pairs; ++p) sums[p][r] = vmmlaq_s32(sums[p][r], a[p], w);
    }
  }
  for (int v = 0; v < row_vectors / 2; ++v) {
    const F ws = load(scales + v * lanes);
    for (int p = 0; p < token_pairs; ++p) {
      const auto low = (int64x2_t)sums[p][2 * v], high = (int64x2_t)sums[p][2 * v + 1];
      const int64x2_t rows[2] = {vzip1q_s64(low, high), vzip2q_s64(low, high)};
      for (int i = 0; i < 2; ++i) {
        const int t = 2 * p + i;
        acc[t][v] = fma(from_raw((Floats)vcvtq_f32_s32((int32x4_t)rows[i])), ws * F(act[t][g].scale), acc[t][v]);
      }
    }
  }
}
#endif

/// All tokens (at least wide_tokens) against wide_blocks unpacked blocks. Meanwhile asks for the next_bytes that will be unpacked then.
template <class W>
KERNEL_INLINE void wide_tiles(const uint8_t* wide, int64_t n_groups, const uint8_t* x, int64_t x_stride, int64_t n_tokens,
                              int64_t n_rows, float* y, int64_t y_stride, const uint8_t* next, int64_t next_bytes) {
  const int64_t n_tiles = (n_tokens + wide_tokens - 1) / wide_tokens, part = round_up((next_bytes + n_tiles - 1) / n_tiles, 64);
  int64_t asked = 0;
  for (int64_t t = 0; t < n_tokens; t += wide_tokens) {
    for (const int64_t end = min(asked + part, next_bytes); asked < end; asked += 64) __builtin_prefetch(next + asked, 0, 2);
    t = min(t, n_tokens - wide_tokens);  // as in packed_block
    const ActGroup* act[wide_tokens];
    token_pointers<wide_tokens>(x + t * x_stride, x_stride, act);
    F acc[wide_tokens][wide_blocks * row_vectors];
#if defined(KERNEL_DOT_MATRIX)
    for (int half = 0; half < 2; ++half) {
      F sums[wide_tokens][row_vectors / 2];
      for (auto& token : sums) token[0] = token[1] = F(0.0f);
      const uint8_t* at = wide;
      for (int64_t g = 0; g < n_groups; ++g, at += wide_group_bytes) {
        const auto* scales = reinterpret_cast<const float*>(at) + half * (pack_rows / 2);
        add_half_group<W>(at + pack_rows * sizeof(float) + half * (group_quads / 2 * quad_bytes), scales, act, g, sums);
      }
      for (int i = 0; i < wide_tokens; ++i) {
        for (int v = 0; v < row_vectors / 2; ++v) acc[i][half * (row_vectors / 2) + v] = sums[i][v];
      }
    }
#else
    clear<wide_blocks, wide_tokens>(acc);
    const uint8_t* at = wide;
    for (int64_t g = 0; g < n_groups; ++g, at += wide_group_bytes) {
      const float* scales[wide_blocks];
      const uint8_t* data[wide_blocks];
      for (int b = 0; b < wide_blocks; ++b) {
        scales[b] = reinterpret_cast<const float*>(at + b * n_groups * wide_group_bytes);
        data[b] = at + b * n_groups * wide_group_bytes + pack_rows * sizeof(float);
      }
      if constexpr (asks_for_activations) {
        for (const ActGroup* row : act) __builtin_prefetch(reinterpret_cast<const uint8_t*>(row + g) + wide_tokens * x_stride);
      }
      add_group<Unpacked<W>, F32, wide_blocks, wide_tokens>(data, scales, act, g, acc);
    }
#endif
    store_tile<wide_blocks, wide_tokens>(acc, n_rows, y + t * y_stride, y_stride);
  }
}

/// As the table's matmul, with one row of activations a token.
template <class W>
__attribute__((noinline, noclone, flatten)) void products(const Matrix& w, int64_t row_begin, int64_t row_end, const uint8_t* x, int64_t x_stride,
                                                          int64_t n_tokens, float* y, int64_t y_stride, void* scratch) {
  const BlockLayout<W> layout(w.n_cols, w.group);
  const int64_t bytes = layout.bytes();
  const auto* data = static_cast<const uint8_t*>(w.data);
  int64_t row = row_begin;
  if (n_tokens >= min_tokens_unpacked) {
    auto* wide = static_cast<uint8_t*>(scratch);
    for (; row < row_end; row += wide_blocks * pack_rows) {
      for (int64_t b = 0; b < wide_blocks && row + b * pack_rows < row_end; ++b) {
        unpack_block<W>(data + (row / pack_rows + b) * bytes, layout, wide + b * layout.n_groups * wide_group_bytes);
      }
      const int64_t next = row + wide_blocks * pack_rows, n_next = max(0, min(wide_blocks * pack_rows, row_end - next));
      wide_tiles<W>(wide, layout.n_groups, x, x_stride, n_tokens, row_end - row, y + row, y_stride, data + next / pack_rows * bytes,
                    (n_next + pack_rows - 1) / pack_rows * bytes);
    }
    return;
  }
  if (n_tokens == 1) {
    // Whole blocks as four streams, what is over as two or one; a block of fewer rows comes last.
    const int64_t fours = (row_end - row) / (4 * pack_rows);
    packed_streams<W, 4>(data + row / pack_rows * bytes, fours, layout, x, y + row);
    row += fours * 4 * pack_rows;
    if (row_end - row >= 2 * pack_rows) {
      packed_streams<W, 2>(data + row / pack_rows * bytes, 1, layout, x, y + row);
      row += 2 * pack_rows;
    }
  }
  for (; row < row_end; row += pack_rows) {
    const uint8_t* block = data + row / pack_rows * bytes;
    const int64_t n_rows = min(pack_rows, row_end - row);
    // The last tile overlaps the one before: three at a time are less work than four where they are no more tiles.
    const bool by_threes = packed_tokens == 4 && n_tokens >= 3 && (n_tokens + 2) / 3 == (n_tokens + 3) / 4;
    if (by_threes) packed_block<W, 3>(block, layout, x, x_stride, n_tokens, n_rows, y + row, y_stride);
    else if (n_tokens >= packed_tokens) packed_block<W, packed_tokens>(block, layout, x, x_stride, n_tokens, n_rows, y + row, y_stride);
    else if (packed_tokens > 4 && n_tokens >= 4) packed_block<W, 4>(block, layout, x, x_stride, n_tokens, n_rows, y + row, y_stride);
    else if (n_tokens >= 2) packed_block<W, 2>(block, layout, x, x_stride, n_tokens, n_rows, y + row, y_stride);
    else if (n_tokens == 1) packed_block<W, 1>(block, layout, x, x_stride, 1, n_rows, y + row, y_stride);
  }
}

template <class W>
KERNEL_ENTRY void matmul_quantized(const Matrix& w, int64_t row_begin, int64_t row_end, const void* x_rows, int64_t x_stride,
                                   int64_t n_tokens, float* y, int64_t y_stride, void* scratch) {
  const auto* x = static_cast<const uint8_t*>(x_rows);
  products<W>(w, row_begin, row_end, x, x_stride, n_tokens, y, y_stride, scratch);
  if constexpr (W::takes_both) {
    if (!is_narrow(w.n_cols)) return;
    constexpr int64_t some_tokens = 32, some_rows = 4 * pack_rows;
    alignas(64) float rest[some_tokens * some_rows];
    x += n_act_groups(w.n_cols) * static_cast<int64_t>(sizeof(ActGroup));
    for (int64_t t = 0; t < n_tokens; t += some_tokens) {
      const int64_t n = min(some_tokens, n_tokens - t);
      for (int64_t row = row_begin; row < row_end; row += some_rows) {
        const int64_t to = min(row + some_rows, row_end);
        products<W>(w, row, to, x + t * x_stride, x_stride, n, rest - row, some_rows, scratch);
        for (int64_t i = 0; i < n; ++i) {
          for (int64_t r = row; r < to; ++r) y[(t + i) * y_stride + r] += rest[i * some_rows + r - row];
        }
      }
    }
  }
}

KERNEL_ENTRY void get_row(const Matrix& w, int64_t row, float* out) {
  switch (w.format) {
    case Format::f32: return widen_row<F32>(w, row, out);
    case Format::bf16: return widen_row<Bf16>(w, row, out);
    case Format::f16: return widen_row<F16>(w, row, out);
    case Format::i8: return unpack_row<Int8Weights>(w, row, out);
    case Format::i4: return unpack_row<Int4Weights>(w, row, out);
    case Format::mxfp4_i8:
    case Format::mxfp4: return unpack_row<Mxfp4Weights>(w, row, out);
    case Format::count: return;
  }
}

#if !defined(KERNEL_DOT_MATRIX)
template <class W>
KERNEL_INLINE int64_t peak_of(int64_t rounds) {
  constexpr int chains = 8;
  constexpr int64_t most_rounds = 1024;  // what a sum of 16 bits holds
  const ActGroup none = {};
  Ints total = {};
  const Bytes w = Bytes{} + int8_t{1};
  Bytes a = Bytes{} + int8_t{1};
  for (int64_t first = 0; first < rounds; first += most_rounds) {
    typename W::Sum sums[chains];
    for (auto& sum : sums) sum.start(none);
    for (int64_t i = first; i < min(rounds, first + most_rounds); ++i) {
      for (auto& sum : sums) {
        asm volatile("" : KERNEL_IN_REGISTER(a));  // so that the products are not computed once for all chains
        sum.add(w, a);
      }
    }
    for (auto& sum : sums) total += sum.get(none);
  }
  asm volatile("" : KERNEL_IN_REGISTER(total));
  return rounds * chains * lanes * 4;
}
#endif

/// Eight independent chains of the level's dot-product instructions, with nothing loaded: the rate that no kernel can pass.
KERNEL_ENTRY int64_t int8_peak([[maybe_unused]] Format format, int64_t rounds) {
#if defined(KERNEL_DOT_MATRIX)
  constexpr int chains = 8;
  int32x4_t sums[chains] = {};
  int8x16_t w = vdupq_n_s8(1), a = vdupq_n_s8(1);
  for (int64_t i = 0; i < rounds; ++i) {
    for (auto& sum : sums) {
      asm volatile("" : KERNEL_IN_REGISTER(w), KERNEL_IN_REGISTER(a));
      sum = vmmlaq_s32(sum, w, a);
    }
  }
  int32x4_t total = {};
  for (const auto& sum : sums) total += sum;
  asm volatile("" : KERNEL_IN_REGISTER(total));
  return rounds * chains * 32;
#else
  return format == Format::i8 ? peak_of<Int8Weights>(rounds) : peak_of<Int4Weights>(rounds);
#endif
}

/// Four streams with prefetches ahead: faster than one or eight on every machine that was tried.
KERNEL_ENTRY uint64_t read_all(const void* data, size_t n) {
  constexpr size_t n_streams = 4, line = 64;
  const WeightsAhead ahead{1024, weights_ahead.far};
  const size_t run = n / n_streams;
  const auto* bytes = static_cast<const uint8_t*>(data);
  Ints sums[n_streams] = {};
  for (size_t i = 0; i < run; i += line) {
    for (size_t s = 0; s < n_streams; ++s) {
      const uint8_t* p = bytes + s * run + i;
      ask_for(p, ahead, line);
      for (size_t at = 0; at < line; at += sizeof(Ints)) sums[s] ^= load_as<Ints>(p + at);
    }
  }
  uint64_t out = 0;
  for (const Ints& sum : sums) {
    for (int i = 0; i < lanes; ++i) out = out * 31 + static_cast<uint32_t>(sum[i]);
  }
  return out;
}

KERNEL_ENTRY size_t all_scratch_bytes(int64_t n_cols) {
  return static_cast<size_t>(max(static_cast<int64_t>(scratch_bytes(n_cols)), unpacked_bytes(n_cols)));
}
