// MXFP4 weights with float32 activations: y = x * w^T with nothing rounded but the sums. The blocks are those of formats.inl.
// Included inside the anonymous namespace of isa.cpp.
//
// Every output is a sum over groups of 32 columns in order: sum = fma(the group's sum, scale, sum), and the group's sum is one chain over its
// columns 0, 16, 1, 17, ..., as their nibbles lie. Scales are powers of two, so that only the chains round. Nibbles become floats in registers
// every time they are used, once for all tokens of a tile: a shift and a permutation, which run beside the multiply-adds.

/// Twice the values of 2 x 4 columns of the lanes' rows.
struct E2m1Lanes {
#if defined(__AVX512F__)
  Words low;
  KERNEL_INLINE explicit E2m1Lanes(const uint8_t* p) : low(load_as<Words>(p)) {}
  /// Column c (0 to 3) of the low nibbles, or of the high ones.
  KERNEL_INLINE F column(int c, int high) const {
    const __m512 values = _mm512_setr_ps(0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12);
    return F(_mm512_permutexvar_ps((__m512i)(low >> (8 * c + 4 * high)), values));  // which reads four bits of the index
  }
#else
  Ints halves[2];
  KERNEL_INLINE explicit E2m1Lanes(const uint8_t* p) {
    const Words both = load_as<Words>(p);
    halves[0] = (Ints)e2m1_doubled<0>((Bytes)(both & 0x0f0f0f0fu));
    halves[1] = (Ints)e2m1_doubled<0>((Bytes)((both >> 4) & 0x0f0f0f0fu));
  }
  KERNEL_INLINE F column(int c, int high) const {
    return from_raw(__builtin_convertvector((halves[high] << (24 - 8 * c)) >> 24, Floats));
  }
#endif
};

/// S blocks, block_stride bytes apart, against T tokens. Sums are gcc's own vectors, of which it leaves arrays in registers.
template <int S, int T>
KERNEL_INLINE void mxfp4_tile(const uint8_t* block, int64_t block_stride, int64_t n_groups, const float* x, int64_t x_stride,
                              F (&acc)[S][T][row_vectors]) {
  constexpr int64_t span_groups = BlockLayout<Mxfp4Weights>::span_scales, scale_bytes = BlockLayout<Mxfp4Weights>::scale_bytes;
  for (auto& stream : acc) clear<1, T>(stream);
  const uint8_t* scales = block;
  const WeightsAhead ahead = weights_ahead;
  // Three tokens a pointer: the others are reached by address arithmetic, and a dozen pointers would not fit the registers.
  constexpr int n_pointers = (T + 2) / 3;
  const float* rows[n_pointers];
  for (int i = 0; i < n_pointers; ++i) rows[i] = x + 3 * i * x_stride;
  for (int64_t g = 0; g < n_groups; ++g, scales += scale_bytes) {
    if (g % span_groups == 0) {
      scales = block;
      block += span_scale_bytes;
    }
    if constexpr (S == row_streams && T == 1) {
      if (ahead.far != 0) {
        for (int s = 0; s < S; ++s) ask_for(block + s * block_stride, ahead, Mxfp4Weights::group_bytes);
      }
    }
    for (int v = 0; v < row_vectors; ++v) {
      Floats sums[S][T] = {};
#pragma GCC unroll 1
      for (int j = 0; j < group_quads / 2; ++j) {
        const uint8_t* quads = block + j * quad_bytes + v * lanes * 4;
        const int64_t column = g * act_group + j * 4;
#pragma GCC unroll 8
        for (int i = 0; i < 8; ++i) {
          Floats w[S];
#pragma GCC unroll 4
          for (int s = 0; s < S; ++s) w[s] = raw(E2m1Lanes(quads + s * block_stride).column(i / 2, i % 2));
#pragma GCC unroll 16
          for (int t = 0; t < T; ++t) {
            const F a(rows[t / 3][t % 3 * x_stride + column + i / 2 + i % 2 * 16]);
#pragma GCC unroll 4
            for (int s = 0; s < S; ++s) sums[s][t] = raw(fma(from_raw(w[s]), a, from_raw(sums[s][t])));
          }
        }
      }
#pragma GCC unroll 4
      for (int s = 0; s < S; ++s) {
        const F scale = E8m0::load(scales + s * block_stride + v * lanes);
#pragma GCC unroll 16
        for (int t = 0; t < T; ++t) acc[s][t][v] = fma(from_raw(sums[s][t]), scale, acc[s][t][v]);
      }
    }
    block += Mxfp4Weights::group_bytes;
  }
}

/// S blocks against T tokens into y; block s gives rows s * row_step on, the last one n_rows.
template <int S, int T>
KERNEL_INLINE void mxfp4_rows(const uint8_t* block, int64_t block_stride, int64_t n_groups, const float* x, int64_t x_stride,
                              int64_t n_rows, float* y, int64_t y_stride, int64_t row_step) {
  F acc[S][T][row_vectors];
  mxfp4_tile<S, T>(block, block_stride, n_groups, x, x_stride, acc);
  for (int s = 0; s < S; ++s) store_tile<1, T>(acc[s], s == S - 1 ? n_rows : pack_rows, y + s * row_step, y_stride);
}

#if defined(__AVX512F__)
constexpr int mxfp4_blocks = 2, mxfp4_tokens = 12;  // 24 groups' sums, 2 weights and an activation in 32 registers
#else
constexpr int mxfp4_blocks = 1, mxfp4_tokens = 6;   // 6 sums of 12 or 24: the lanes of 16 rows come one vector after another
#endif

/// S blocks side by side against all tokens, of which there are T at least.
template <int S, int T>
KERNEL_INLINE void mxfp4_many(const uint8_t* block, int64_t bytes, int64_t n_groups, const float* x, int64_t x_stride, int64_t n_tokens,
                              int64_t n_rows, float* y, int64_t y_stride) {
  for (int64_t t = 0; t < n_tokens; t += T) {
    t = min(t, n_tokens - T);  // the last tile overlaps the one before: it computes the same again
    mxfp4_rows<S, T>(block, bytes, n_groups, x + t * x_stride, x_stride, n_rows, y + t * y_stride, y_stride, pack_rows);
  }
}

/// The same with tiles of mxfp4_tokens, and a smaller one for what is over.
template <int S>
KERNEL_INLINE void mxfp4_all(const uint8_t* block, int64_t bytes, int64_t n_groups, const float* x, int64_t x_stride, int64_t n_tokens,
                             int64_t n_rows, float* y, int64_t y_stride) {
  constexpr int some = 4;
  static_assert(mxfp4_tokens > some);
  const int64_t over = n_tokens % mxfp4_tokens, whole = over <= some ? n_tokens - over : n_tokens;
  if (whole >= mxfp4_tokens) mxfp4_many<S, mxfp4_tokens>(block, bytes, n_groups, x, x_stride, whole, n_rows, y, y_stride);
  const int64_t t = whole >= mxfp4_tokens ? whole : 0;
  if (t == n_tokens) return;
  if (n_tokens >= some) {
    const int64_t first = min(t, n_tokens - some);
    mxfp4_many<S, some>(block, bytes, n_groups, x + first * x_stride, x_stride, n_tokens - first, n_rows, y + first * y_stride, y_stride);
  } else {
    mxfp4_many<S, 1>(block, bytes, n_groups, x, x_stride, n_tokens, n_rows, y, y_stride);
  }
}

/// n blocks against one, two or three tokens, as streams of memory, as in packed_streams.
template <int T>
KERNEL_INLINE void mxfp4_streams(const uint8_t* block, int64_t n, int64_t bytes, int64_t n_groups, const float* x, int64_t x_stride, float* y,
                                 int64_t y_stride) {
  for (int64_t b = 0; b < n; ++b) {
    mxfp4_rows<row_streams, T>(block + b * bytes, n * bytes, n_groups, x, x_stride, pack_rows, y + b * pack_rows, y_stride, n * pack_rows);
  }
}

KERNEL_ENTRY void matmul_mxfp4(const Matrix& w, int64_t row_begin, int64_t row_end, const void* x_rows, int64_t x_bytes,
                               int64_t n_tokens, float* y, int64_t y_stride, void*) {
  const BlockLayout<Mxfp4Weights> layout(w.n_cols, w.group);
  const int64_t bytes = layout.bytes(), n_groups = layout.n_groups, x_stride = x_bytes / static_cast<int64_t>(sizeof(float));
  const auto* x = static_cast<const float*>(x_rows);
  const auto* data = static_cast<const uint8_t*>(w.data);
  if (n_tokens <= 0) return;
  int64_t row = row_begin;
  if (n_tokens <= 3) {
    const int64_t run = (row_end - row) / (row_streams * pack_rows);
    const uint8_t* block = data + row / pack_rows * bytes;
    if (n_tokens == 1) mxfp4_streams<1>(block, run, bytes, n_groups, x, x_stride, y + row, y_stride);
    else if (n_tokens == 2) mxfp4_streams<2>(block, run, bytes, n_groups, x, x_stride, y + row, y_stride);
    else mxfp4_streams<3>(block, run, bytes, n_groups, x, x_stride, y + row, y_stride);
    row += row_streams * run * pack_rows;
  }
  while (row < row_end) {
    const uint8_t* block = data + row / pack_rows * bytes;
    const int64_t n = min(mxfp4_blocks * pack_rows, row_end - row), last = n - (mxfp4_blocks - 1) * pack_rows;  // rows of the last block
    if (last > 0) mxfp4_all<mxfp4_blocks>(block, bytes, n_groups, x, x_stride, n_tokens, last, y + row, y_stride);
    else mxfp4_all<1>(block, bytes, n_groups, x, x_stride, n_tokens, n, y + row, y_stride);
    row += n;
  }
}
