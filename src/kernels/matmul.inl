// y = x * w^T for weights that lie as in the file. Included inside the anonymous namespace of isa.cpp.
//
// Every output is the sum over k in one order, whichever path computes it: lane l adds the products of k = l, l + lanes,
// l + 2 * lanes, ... one after another in one accumulator, then sum_lanes. Columns past n_cols count as zeros.
//
// Few tokens: the weights stream from memory once and are widened in registers. Many tokens: a panel of weight rows is widened
// once, and register tiles of tile_rows x tile_tokens run over it and the activations from the near caches.

constexpr int tile_rows = 4;
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int tile_tokens = 6;  // 24 accumulators, 6 activations and a weight in 32 registers
#else
constexpr int tile_tokens = 3;  // 12 accumulators, 3 activations and a weight in 16 registers
#endif

constexpr int64_t panel_rows = 64;
constexpr int64_t panel_cols = 1024;   // a tile's operands (tile_rows + tile_tokens rows of this) fit a 32 KiB first-level cache
constexpr int64_t panel_tokens = 96;
constexpr int64_t min_tokens_packed = 32;
static_assert(panel_rows % tile_rows == 0 && panel_tokens % tile_tokens == 0 && panel_cols % lanes == 0);

/// Rows of a call that is short of tokens are read as this many streams, each a run of consecutive rows. Hardware prefetchers
/// follow streams: memory read at four places at once, each in one long sweep, came 20-60% faster than in one sweep, and
/// software prefetching added nothing (measured on Zen 3, see bench_kernels; where it does, there is weights_ahead).
constexpr int row_streams = 4;

using Tile = F[tile_rows][tile_tokens];

struct MatmulScratch {
  Tile sums[(panel_rows / tile_rows) * (panel_tokens / tile_tokens)];
  F weights[panel_rows * panel_cols / lanes];
  F tokens[];  // panel_tokens rows of n_cols, padded: where rows do not end with a vector
};

KERNEL_ENTRY size_t scratch_bytes(int64_t n_cols) {
  return sizeof(MatmulScratch) + static_cast<size_t>(panel_tokens * round_up(n_cols, lanes)) * sizeof(float);
}

/// n_r (<= tile_rows) x n_t (<= T) sums into y[t * y_stride + r].
template <int T>
KERNEL_INLINE void store_sums(const F (&acc)[tile_rows][T], int64_t n_r, int64_t n_t, float* y, int64_t y_stride) {
  for (int t = 0; t < T; ++t) {
    if (t >= n_t) return;
    const Float4 sums = sum_lanes(acc[0][t], acc[1][t], acc[2][t], acc[3][t]);
    if (n_r == tile_rows) {
      __builtin_memcpy(y + t * y_stride, &sums, sizeof sums);
    } else {
      for (int64_t r = 0; r < n_r; ++r) y[t * y_stride + r] = sums[r];
    }
  }
}

// --- few tokens -----------------------------------------------------------------------------------------------------------

/// T tokens with R rows straight from memory; row i is at w + i * w_stride elements and gives y[t * y_stride + i * y_step].
template <class Type, int R, int T>
KERNEL_INLINE void direct_tile(const typename Type::Element* w, int64_t w_stride, int64_t n_cols, const float* x, int64_t x_stride,
                               float* y, int64_t y_step, int64_t y_stride) {
  using Element = typename Type::Element;
  Floats sums[R][T] = {};  // gcc's own vectors: of xsimd's arrays, gcc 12 keeps each sum in memory from step to step
  const auto add = [&](auto&& weights_at, auto&& x_at) __attribute__((always_inline)) {
    Floats xs[T];
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t) xs[t] = raw(x_at(x + t * x_stride));
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const F ws = weights_at(w + r * w_stride);
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) sums[r][t] = raw(fma(ws, from_raw(xs[t]), from_raw(sums[r][t])));
    }
  };
  const auto add_lanes = [&](int64_t k) __attribute__((always_inline)) {
    add([=](const Element* p) __attribute__((always_inline)) { return Type::load(p + k); },
        [=](const float* p) __attribute__((always_inline)) { return load(p + k); });
  };
  int64_t k = 0;
  if constexpr (R == row_streams && T == 1) {
    constexpr int64_t line = 64 / sizeof(Element);
    const WeightsAhead ahead = weights_ahead;
    for (const int64_t end = ahead.far == 0 ? 0 : n_cols; k + line <= end; k += line) {
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) ask_for(w + r * w_stride + k, ahead, 64);
#pragma GCC unroll 16
      for (int64_t at = 0; at < line; at += lanes) add_lanes(k + at);
    }
  }
  for (; k + lanes <= n_cols; k += lanes) add_lanes(k);
  if (k < n_cols) {
    const int64_t n = n_cols - k;
    add([=](const Element* p) __attribute__((always_inline)) { return load_first<Type>(p + k, n); },
        [=](const float* p) __attribute__((always_inline)) { return load_first<F32>(p + k, n); });
  }
  for (int t = 0; t < T; ++t) {
    if constexpr (R % 4 == 0) {
      for (int r = 0; r < R; r += 4) {
        const Float4 four = sum_lanes(from_raw(sums[r][t]), from_raw(sums[r + 1][t]), from_raw(sums[r + 2][t]), from_raw(sums[r + 3][t]));
        for (int i = 0; i < 4; ++i) y[t * y_stride + (r + i) * y_step] = four[i];
      }
    } else {
      for (int r = 0; r < R; ++r) y[t * y_stride + r * y_step] = sum_lanes(from_raw(sums[r][t]));
    }
  }
}

/// All tokens for R rows.
template <class Type, int R>
KERNEL_INLINE void direct_rows(const typename Type::Element* w, int64_t w_stride, int64_t n_cols, const float* x, int64_t x_stride,
                               int64_t n_tokens, float* y, int64_t y_step, int64_t y_stride) {
  int64_t t = 0;
  for (; t + tile_tokens <= n_tokens; t += tile_tokens) {
    direct_tile<Type, R, tile_tokens>(w, w_stride, n_cols, x + t * x_stride, x_stride, y + t * y_stride, y_step, y_stride);
  }
  for (; t + 2 <= n_tokens; t += 2) {
    direct_tile<Type, R, 2>(w, w_stride, n_cols, x + t * x_stride, x_stride, y + t * y_stride, y_step, y_stride);
  }
  if (t < n_tokens) {
    direct_tile<Type, R, 1>(w, w_stride, n_cols, x + t * x_stride, x_stride, y + t * y_stride, y_step, y_stride);
  }
}

template <class Type>
KERNEL_INLINE void matmul_direct(const typename Type::Element* w, int64_t n_cols, int64_t row_begin, int64_t row_end,
                                 const float* x, int64_t x_stride, int64_t n_tokens, float* y, int64_t y_stride) {
  const int64_t run = (row_end - row_begin) / row_streams;
  int64_t r = row_begin;
  for (; r < row_begin + run; ++r) {
    direct_rows<Type, row_streams>(w + r * n_cols, run * n_cols, n_cols, x, x_stride, n_tokens, y + r, run, y_stride);
  }
  for (r = row_begin + run * row_streams; r < row_end; ++r) {
    direct_rows<Type, 1>(w + r * n_cols, 0, n_cols, x, x_stride, n_tokens, y + r, 0, y_stride);
  }
}

// --- many tokens ----------------------------------------------------------------------------------------------------------

/// Columns [0, n) of up to `group` rows, lane vectors of the rows side by side: out[(k / lanes) * group + row]. Rows past n_rows
/// and columns past n are zeros.
template <class Type, int group>
KERNEL_INLINE void pack_group(const typename Type::Element* in, int64_t stride, int64_t n_rows, int64_t n, F* out) {
  for (int64_t r = 0; r < group; ++r) {
    F* to = out + r;
    if (r >= n_rows) {
      for (int64_t k = 0; k < n; k += lanes, to += group) *to = F(0.0f);
      continue;
    }
    const typename Type::Element* from = in + r * stride;
    int64_t k = 0;
    for (; k + lanes <= n; k += lanes, to += group) *to = Type::load(from + k);
    if (k < n) *to = load_first<Type>(from + k, n - k);
  }
}

/// sum += a tile over n_steps lane vectors of packed weights and of tokens at x. The tokens' vectors are held as gcc's own type: of an array of
/// xsimd's, gcc 12 keeps a copy on the stack that nothing reads, and its stores halve the speed.
KERNEL_INLINE void packed_tile(const F* w, const float* const (&x)[tile_tokens], int64_t n_steps, Tile& sum) {
  for (int64_t k = 0; k < n_steps * lanes; k += lanes, w += tile_rows) {
    Floats xs[tile_tokens];
    for (int t = 0; t < tile_tokens; ++t) xs[t] = raw(load(x[t] + k));
    for (int r = 0; r < tile_rows; ++r) {
      const F ws = w[r];
      for (int t = 0; t < tile_tokens; ++t) sum[r][t] = fma(ws, from_raw(xs[t]), sum[r][t]);
    }
  }
}

KERNEL_INLINE void copy(const Tile& from, Tile& to) {
  for (int r = 0; r < tile_rows; ++r) {
    for (int t = 0; t < tile_tokens; ++t) to[r][t] = from[r][t];
  }
}

/// At most panel_rows rows and panel_tokens tokens, which end with whole vectors.
template <class Type>
KERNEL_INLINE void matmul_block(const typename Type::Element* w, int64_t n_cols, int64_t n_rows, const float* x, int64_t x_stride,
                                int64_t n_tokens, float* y, int64_t y_stride, MatmulScratch& scratch) {
  // Blocks of columns of nearly equal size: a short last one would cost as much in loads and stores of the sums as a full one.
  const int64_t n_blocks = n_cols == 0 ? 1 : (n_cols + panel_cols - 1) / panel_cols;
  const int64_t block = round_up((n_cols + n_blocks - 1) / n_blocks, lanes);
  for (int64_t b = 0; b < n_blocks; ++b) {
    const int64_t k = b * block;
    const int64_t n = min(block, n_cols - k);
    const int64_t n_steps = (n + lanes - 1) / lanes;
    for (int64_t r = 0; r < n_rows; r += tile_rows) {
      pack_group<Type, tile_rows>(w + r * n_cols + k, n_cols, n_rows - r, n, scratch.weights + r * n_steps);
    }
    Tile* saved = scratch.sums;
    for (int64_t r = 0; r < n_rows; r += tile_rows) {
      for (int64_t t = 0; t < n_tokens; t += tile_tokens, ++saved) {
        Tile sum;
        if (b == 0) {
          for (auto& sums : sum) {
            for (F& s : sums) s = F(0.0f);
          }
        } else {
          copy(*saved, sum);
        }
        const float* rows[tile_tokens];
        for (int i = 0; i < tile_tokens; ++i) rows[i] = x + min(t + i, n_tokens - 1) * x_stride + k;
        packed_tile(scratch.weights + r * n_steps, rows, n_steps, sum);
        if (b + 1 == n_blocks) {
          store_sums<tile_tokens>(sum, min(tile_rows, n_rows - r), min(tile_tokens, n_tokens - t), y + t * y_stride + r, y_stride);
        } else {
          copy(sum, *saved);
        }
      }
    }
  }
}

template <class Type>
KERNEL_ENTRY void matmul(const Matrix& w, int64_t row_begin, int64_t row_end, const void* x_rows, int64_t x_bytes,
                         int64_t n_tokens, float* y, int64_t y_stride, void* scratch) {
  const auto* x = static_cast<const float*>(x_rows);
  const int64_t x_stride = x_bytes / static_cast<int64_t>(sizeof(float));
  const auto* data = static_cast<const typename Type::Element*>(w.data);
  if (n_tokens < min_tokens_packed) {
    matmul_direct<Type>(data, w.n_cols, row_begin, row_end, x, x_stride, n_tokens, y, y_stride);
    return;
  }
  auto& space = *static_cast<MatmulScratch*>(scratch);
  const int64_t padded = round_up(w.n_cols, lanes);
  for (int64_t t = 0; t < n_tokens; t += panel_tokens) {
    const int64_t n_t = min(panel_tokens, n_tokens - t);
    const float* rows = x + t * x_stride;
    const bool whole = padded == w.n_cols;
    if (!whole) {
      for (int64_t i = 0; i < n_t; ++i) pack_group<F32, 1>(rows + i * x_stride, x_stride, 1, w.n_cols, space.tokens + i * (padded / lanes));
      rows = reinterpret_cast<const float*>(space.tokens);
    }
    for (int64_t r = row_begin; r < row_end; r += panel_rows) {
      matmul_block<Type>(data + r * w.n_cols, w.n_cols, min(panel_rows, row_end - r), rows, whole ? x_stride : padded, n_t, y + t * y_stride + r,
                         y_stride, space);
    }
  }
}

template <class Type>
KERNEL_INLINE void widen_row(const Matrix& w, int64_t row, float* out) {
  const auto* from = static_cast<const typename Type::Element*>(w.data) + row * w.n_cols;
  int64_t k = 0;
  for (; k + lanes <= w.n_cols; k += lanes) store(out + k, Type::load(from + k));
  if (k < w.n_cols) store_first(out + k, load_first<Type>(from + k, w.n_cols - k), w.n_cols - k);
}
