// y = x * w^T for weights that lie as in the file. Included inside the anonymous namespace of isa.cpp.
//
// Every output is the sum over k in one order, whichever path computes it: lane l adds the products of k = l, l + lanes,
// l + 2 * lanes, ... one after another in one accumulator, then sum_lanes. Columns past n_cols count as zeros.
//
// Few tokens: the weights stream from memory once and are widened in registers. Many tokens: a panel of weight rows is widened
// once, a block of activations is laid out beside it, and register tiles of tile_rows x tile_tokens run over both from the near caches.

constexpr int tile_rows = 4;
#if defined(__AVX512F__)
constexpr int tile_tokens = 6;  // 24 accumulators, 6 activations and a weight in 32 registers
#else
constexpr int tile_tokens = 3;  // 12 accumulators, 3 activations and a weight in 16 registers
#endif

constexpr int64_t panel_rows = 64;
constexpr int64_t panel_cols = 512;    // a tile's operands (tile_rows + tile_tokens rows of this) stay in a 32 KiB first-level cache
constexpr int64_t panel_tokens = 96;   // the block of activations stays in a 512 KiB second-level cache, with the panel
constexpr int64_t min_tokens_packed = 8;
static_assert(panel_rows % tile_rows == 0 && panel_tokens % tile_tokens == 0 && panel_cols % lanes == 0);

using Tile = F[tile_rows][tile_tokens];

struct MatmulScratch {
  F weights[panel_rows * panel_cols / lanes];
  F tokens[panel_tokens * panel_cols / lanes];
  Tile sums[(panel_rows / tile_rows) * (panel_tokens / tile_tokens)];
};

KERNEL_ENTRY size_t scratch_bytes(int64_t) { return sizeof(MatmulScratch); }

/// n_r (<= tile_rows) x T sums into y[t * y_stride + r].
template <int T>
KERNEL_INLINE void store_sums(const F (&acc)[tile_rows][T], int64_t n_r, float* y, int64_t y_stride) {
  for (int t = 0; t < T; ++t) {
    const Float4 sums = sum_lanes(acc[0][t], acc[1][t], acc[2][t], acc[3][t]);
    if (n_r == tile_rows) {
      __builtin_memcpy(y + t * y_stride, &sums, sizeof sums);
    } else {
      for (int64_t r = 0; r < n_r; ++r) y[t * y_stride + r] = sums[r];
    }
  }
}

// --- few tokens -----------------------------------------------------------------------------------------------------------

/// n_r (1..tile_rows) rows x T tokens straight from memory. With fewer rows the last one is computed again in the others' place.
template <class Type, int T>
KERNEL_INLINE void direct_tile(const typename Type::Element* w, int64_t n_cols, int64_t n_r, const float* x, int64_t x_stride,
                               float* y, int64_t y_stride) {
  const typename Type::Element* row[tile_rows];
  for (int64_t r = 0; r < tile_rows; ++r) row[r] = w + min(r, n_r - 1) * n_cols;
  F acc[tile_rows][T];
  for (auto& sums : acc) {
    for (F& sum : sums) sum = F(0.0f);
  }
  int64_t k = 0;
  for (; k + lanes <= n_cols; k += lanes) {
    F xs[T];
    for (int t = 0; t < T; ++t) xs[t] = load(x + t * x_stride + k);
    for (int r = 0; r < tile_rows; ++r) {
      const F ws = Type::load(row[r] + k);
      for (int t = 0; t < T; ++t) acc[r][t] = fma(ws, xs[t], acc[r][t]);
    }
  }
  if (k < n_cols) {
    F xs[T];
    for (int t = 0; t < T; ++t) xs[t] = load_first<F32>(x + t * x_stride + k, n_cols - k);
    for (int r = 0; r < tile_rows; ++r) {
      const F ws = load_first<Type>(row[r] + k, n_cols - k);
      for (int t = 0; t < T; ++t) acc[r][t] = fma(ws, xs[t], acc[r][t]);
    }
  }
  store_sums<T>(acc, n_r, y, y_stride);
}

template <class Type>
KERNEL_INLINE void matmul_direct(const typename Type::Element* w, int64_t n_cols, int64_t row_begin, int64_t row_end,
                                 const float* x, int64_t x_stride, int64_t n_tokens, float* y, int64_t y_stride) {
  for (int64_t r = row_begin; r < row_end; r += tile_rows) {
    const int64_t n_r = min(tile_rows, row_end - r);
    const typename Type::Element* rows = w + r * n_cols;
    int64_t t = 0;
    for (; t + 3 <= n_tokens; t += 3) {
      direct_tile<Type, 3>(rows, n_cols, n_r, x + t * x_stride, x_stride, y + t * y_stride + r, y_stride);
    }
    for (; t < n_tokens; ++t) {
      direct_tile<Type, 1>(rows, n_cols, n_r, x + t * x_stride, x_stride, y + t * y_stride + r, y_stride);
    }
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

/// acc += a tile over n_steps lane vectors of packed weights and tokens.
KERNEL_INLINE void packed_tile(const F* w, const F* x, int64_t n_steps, Tile& acc) {
  F sum[tile_rows][tile_tokens];
  for (int r = 0; r < tile_rows; ++r) {
    for (int t = 0; t < tile_tokens; ++t) sum[r][t] = acc[r][t];
  }
  for (int64_t i = 0; i < n_steps; ++i, w += tile_rows, x += tile_tokens) {
    F xs[tile_tokens];
    for (int t = 0; t < tile_tokens; ++t) xs[t] = x[t];
    for (int r = 0; r < tile_rows; ++r) {
      const F ws = w[r];
      for (int t = 0; t < tile_tokens; ++t) sum[r][t] = fma(ws, xs[t], sum[r][t]);
    }
  }
  for (int r = 0; r < tile_rows; ++r) {
    for (int t = 0; t < tile_tokens; ++t) acc[r][t] = sum[r][t];
  }
}

/// At most panel_rows rows and panel_tokens tokens.
template <class Type>
KERNEL_INLINE void matmul_block(const typename Type::Element* w, int64_t n_cols, int64_t n_rows, const float* x,
                                int64_t x_stride, int64_t n_tokens, float* y, int64_t y_stride, MatmulScratch& scratch) {
  const int64_t n_row_groups = (n_rows + tile_rows - 1) / tile_rows;
  const int64_t n_token_groups = (n_tokens + tile_tokens - 1) / tile_tokens;
  for (int64_t i = 0; i < n_row_groups * n_token_groups; ++i) {
    for (auto& sums : scratch.sums[i]) {
      for (F& sum : sums) sum = F(0.0f);
    }
  }
  // Blocks of columns of nearly equal size: a short last one would cost as much in loads and stores of the sums as a full one.
  const int64_t n_blocks = (n_cols + panel_cols - 1) / panel_cols;
  const int64_t block = n_blocks == 0 ? 0 : round_up((n_cols + n_blocks - 1) / n_blocks, lanes);
  for (int64_t k = 0; k < n_cols; k += block) {
    const int64_t n = min(block, n_cols - k);
    const int64_t n_steps = (n + lanes - 1) / lanes;
    for (int64_t g = 0; g < n_row_groups; ++g) {
      pack_group<Type, tile_rows>(w + g * tile_rows * n_cols + k, n_cols, n_rows - g * tile_rows, n,
                                  scratch.weights + g * tile_rows * n_steps);
    }
    for (int64_t g = 0; g < n_token_groups; ++g) {
      pack_group<F32, tile_tokens>(x + g * tile_tokens * x_stride + k, x_stride, n_tokens - g * tile_tokens, n,
                                   scratch.tokens + g * tile_tokens * n_steps);
    }
    for (int64_t r = 0; r < n_row_groups; ++r) {
      for (int64_t t = 0; t < n_token_groups; ++t) {
        packed_tile(scratch.weights + r * tile_rows * n_steps, scratch.tokens + t * tile_tokens * n_steps, n_steps,
                    scratch.sums[r * n_token_groups + t]);
      }
    }
  }
  for (int64_t r = 0; r < n_row_groups; ++r) {
    const int64_t n_r = min(tile_rows, n_rows - r * tile_rows);
    for (int64_t t = 0; t < n_tokens; ++t) {
      const Tile& acc = scratch.sums[r * n_token_groups + t / tile_tokens];
      F column[tile_rows][1];
      for (int i = 0; i < tile_rows; ++i) column[i][0] = acc[i][t % tile_tokens];
      store_sums<1>(column, n_r, y + t * y_stride + r * tile_rows, y_stride);
    }
  }
}

template <class Type>
KERNEL_ENTRY void matmul(const Matrix& w, int64_t row_begin, int64_t row_end, const float* x, int64_t x_stride,
                         int64_t n_tokens, float* y, int64_t y_stride, void* scratch) {
  const auto* data = static_cast<const typename Type::Element*>(w.data);
  if (n_tokens < min_tokens_packed) {
    matmul_direct<Type>(data, w.n_cols, row_begin, row_end, x, x_stride, n_tokens, y, y_stride);
    return;
  }
  for (int64_t t = 0; t < n_tokens; t += panel_tokens) {
    for (int64_t r = row_begin; r < row_end; r += panel_rows) {
      matmul_block<Type>(data + r * w.n_cols, w.n_cols, min(panel_rows, row_end - r), x + t * x_stride, x_stride,
                         min(panel_tokens, n_tokens - t), y + t * y_stride + r, y_stride,
                         *static_cast<MatmulScratch*>(scratch));
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

KERNEL_ENTRY void get_row(const Matrix& w, int64_t row, float* out) {
  switch (w.format) {
    case Format::f32: return widen_row<F32>(w, row, out);
    case Format::bf16: return widen_row<Bf16>(w, row, out);
    case Format::f16: return widen_row<F16>(w, row, out);
    case Format::count: return;
  }
}
