// Quantized weights: y = x * w^T with int8 activations. Included inside the anonymous namespace of isa.cpp.
//
// A matrix is packed in blocks of 16 rows: first the scales, [n_groups][16] float16, then for every 32 columns eight quads; a quad is
// four consecutive columns of each of the 16 rows, so that one lane of 32 bits holds the four factors of one row. int4 keeps
// quad j in the low and quad j + 4 in the high nibbles of the same 64 bytes: a mask, and a shift and a mask, unpack them.
//
// Every output is a sum over groups of 32 columns in order: the group's products are added exactly, in integers, then
// sum = fma(float(products), weight scale * activation scale, sum). So the bits depend on nothing but the two rows, and levels that
// have a fused multiply-add agree with each other to the last bit.

constexpr int act_group = act_group_cols;
constexpr int group_quads = act_group / 4;
constexpr int row_vectors = pack_rows / lanes;  // vectors of 32-bit lanes that hold the 16 rows
constexpr int quad_bytes = pack_rows * 4;

KERNEL_INLINE int64_t n_act_groups(int64_t n_cols) { return (n_cols + act_group - 1) / act_group; }

typedef int8_t Bytes __attribute__((vector_size(lanes * 4)));
typedef int16_t Shorts __attribute__((vector_size(lanes * 4)));

KERNEL_INLINE Bytes broadcast_quad(const int8_t* p) {
  int32_t quad;
  __builtin_memcpy(&quad, p, 4);
  return (Bytes)(Ints{} + quad);
}

#if defined(__AVX512VNNI__)
#define KERNEL_DOT_VNNI 1
KERNEL_INLINE Ints dot_unsigned(Ints sum, Bytes u, Bytes s) { return (Ints)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)u, (__m512i)s); }
#elif defined(__AVXVNNI__) && defined(__AVX2__)
#define KERNEL_DOT_VNNI 1
KERNEL_INLINE Ints dot_unsigned(Ints sum, Bytes u, Bytes s) { return (Ints)_mm256_dpbusd_avx_epi32((__m256i)sum, (__m256i)u, (__m256i)s); }
#elif defined(__AVX512BW__)
#define KERNEL_DOT_PAIRS 1
KERNEL_INLINE Shorts mul_pairs(Bytes u, Bytes s) { return (Shorts)_mm512_maddubs_epi16((__m512i)u, (__m512i)s); }
KERNEL_INLINE Ints add_pairs(Shorts v) { return (Ints)_mm512_madd_epi16((__m512i)v, _mm512_set1_epi16(1)); }
#elif defined(__AVX2__)
#define KERNEL_DOT_PAIRS 1
KERNEL_INLINE Shorts mul_pairs(Bytes u, Bytes s) { return (Shorts)_mm256_maddubs_epi16((__m256i)u, (__m256i)s); }
KERNEL_INLINE Ints add_pairs(Shorts v) { return (Ints)_mm256_madd_epi16((__m256i)v, _mm256_set1_epi16(1)); }
#endif

/// Signed times signed without a wider instruction set: |w| * (a with w's sign). Activations end at +-127, so w may be -128 and no
/// pair exceeds 2 * 128 * 127.
#if defined(KERNEL_DOT_PAIRS)
#if defined(__AVX512BW__)
KERNEL_INLINE Shorts mul_pairs_signed(Bytes w, Bytes a) {
  const __mmask64 negative = _mm512_movepi8_mask((__m512i)w);
  const __m512i signed_a = _mm512_mask_sub_epi8((__m512i)a, negative, _mm512_setzero_si512(), (__m512i)a);
  return (Shorts)_mm512_maddubs_epi16(_mm512_abs_epi8((__m512i)w), signed_a);
}
#else
KERNEL_INLINE Shorts mul_pairs_signed(Bytes w, Bytes a) {
  return (Shorts)_mm256_maddubs_epi16(_mm256_abs_epi8((__m256i)w), _mm256_sign_epi8((__m256i)a, (__m256i)w));
}
#endif
#endif

/// One 32-bit lane a row: sum of four products of signed bytes, for levels with neither instruction.
KERNEL_INLINE Ints dot_plain(Ints sum, Bytes w, Bytes a) {
  const Ints wi = (Ints)w, ai = (Ints)a;
  for (int shift = 24; shift >= 0; shift -= 8) sum += ((wi << shift) >> 24) * ((ai << shift) >> 24);
  return sum;
}

// --- formats: stored quads, and the exact sum of a group's products -----------------------------------------------------------

/// int8: a byte a weight. With dpbusd the stored byte is w + 128, and the sum starts at -128 * (sum of activations).
struct Int8Weights {
  static constexpr int64_t group_bytes = group_quads * quad_bytes;
#if defined(KERNEL_DOT_VNNI)
  static constexpr int offset = 128;
#else
  static constexpr int offset = 0;
#endif
  static KERNEL_INLINE Bytes quad(const uint8_t* group, int j, int v) {
    return load_as<Bytes>(group + j * quad_bytes + v * lanes * 4);
  }
  static KERNEL_INLINE void put(uint8_t* group, int row, const int8_t* columns) {
    for (int j = 0; j < group_quads; ++j) {
      const uint32_t quad = load_as<uint32_t>(columns + j * 4) ^ (offset != 0 ? 0x80808080u : 0u);  // + 128 in each byte
      __builtin_memcpy(group + j * quad_bytes + row * 4, &quad, 4);
    }
  }
  static KERNEL_INLINE int get(const uint8_t* group, int row, int col) {
    const uint8_t byte = group[col / 4 * quad_bytes + row * 4 + col % 4];
    return offset != 0 ? byte - offset : static_cast<int8_t>(byte);
  }

  struct Sum {
    Ints total;
    KERNEL_INLINE void start(int32_t act_sum) { total = Ints{} - offset * act_sum; }
    KERNEL_INLINE void add(Bytes w, Bytes a) {
#if defined(KERNEL_DOT_VNNI)
      total = dot_unsigned(total, w, a);
#elif defined(KERNEL_DOT_PAIRS)
      total += add_pairs(mul_pairs_signed(w, a));
#else
      total = dot_plain(total, w, a);
#endif
    }
    KERNEL_INLINE Ints get(int32_t) const { return total; }
  };
};

/// int4: q + 8 in a nibble; the sum starts at -8 * (sum of activations).
struct Int4Weights {
  static constexpr int64_t group_bytes = group_quads / 2 * quad_bytes;
  static constexpr int offset = 8;
  static KERNEL_INLINE Bytes quad(const uint8_t* group, int j, int v) {
    const Words both = load_as<Words>(group + j % 4 * quad_bytes + v * lanes * 4);
    return (Bytes)((j < 4 ? both : both >> 4) & 0x0f0f0f0fu);
  }
  static KERNEL_INLINE void put(uint8_t* group, int row, const int8_t* columns) {
    for (int j = 0; j < group_quads / 2; ++j) {
      const uint32_t low = (load_as<uint32_t>(columns + j * 4) & 0x0f0f0f0fu) ^ 0x08080808u;  // + 8 in each nibble
      const uint32_t high = (load_as<uint32_t>(columns + 16 + j * 4) & 0x0f0f0f0fu) ^ 0x08080808u;
      const uint32_t quads = low | high << 4;
      __builtin_memcpy(group + j * quad_bytes + row * 4, &quads, 4);
    }
  }
  static KERNEL_INLINE int get(const uint8_t* group, int row, int col) {
    return (group[col / 4 % 4 * quad_bytes + row * 4 + col % 4] >> (col / 16 * 4) & 15) - offset;
  }

  struct Sum {
#if defined(KERNEL_DOT_PAIRS)
    Shorts pairs;  // eight quads of at most 2 * 15 * 127 stay below 2^15
    KERNEL_INLINE void start(int32_t) { pairs = Shorts{}; }
    KERNEL_INLINE void add(Bytes w, Bytes a) { pairs += mul_pairs(w, a); }
    KERNEL_INLINE Ints get(int32_t act_sum) const { return add_pairs(pairs) - offset * act_sum; }
#else
    Ints total;
    KERNEL_INLINE void start(int32_t act_sum) { total = Ints{} - offset * act_sum; }
    KERNEL_INLINE void add(Bytes w, Bytes a) {
#if defined(KERNEL_DOT_VNNI)
      total = dot_unsigned(total, w, a);
#else
      total = dot_plain(total, w, a);
#endif
    }
    KERNEL_INLINE Ints get(int32_t) const { return total; }
#endif
  };
};

/// int4 weights that were unpacked once, for many tokens: a byte each, still q + 8.
struct UnpackedInt4 : Int4Weights {
  static constexpr int64_t group_bytes = group_quads * quad_bytes;
  static KERNEL_INLINE Bytes quad(const uint8_t* group, int j, int v) {
    return load_as<Bytes>(group + j * quad_bytes + v * lanes * 4);
  }
};

// --- packing --------------------------------------------------------------------------------------------------------------------

KERNEL_INLINE int64_t scale_bytes(int64_t n_cols, int group) {
  return round_up((n_cols + group - 1) / group * pack_rows * 2, 64);
}

template <class W>
KERNEL_INLINE int64_t block_bytes(int64_t n_cols, int group) {
  return scale_bytes(n_cols, group) + n_act_groups(n_cols) * W::group_bytes;
}

KERNEL_ENTRY size_t packed_block_bytes(Format format, int64_t n_cols, int group) {
  return static_cast<size_t>(format == Format::i8 ? block_bytes<Int8Weights>(n_cols, group) : block_bytes<Int4Weights>(n_cols, group));
}

template <class W>
KERNEL_INLINE void pack_block_as(int group, const int8_t* q, const uint16_t* scales, int n_rows, int64_t n_cols, uint8_t* block) {
  const int64_t n_groups = (n_cols + group - 1) / group;
  auto* to = reinterpret_cast<uint16_t*>(block);
  for (int64_t g = 0; g < n_groups; ++g) {
    for (int r = 0; r < pack_rows; ++r) to[g * pack_rows + r] = r < n_rows ? scales[r * n_groups + g] : 0;
  }
  uint8_t* data = block + scale_bytes(n_cols, group);
  for (int r = 0; r < n_rows; ++r) {
    const int8_t* row = q + r * n_cols;
    for (int64_t c = 0; c < n_cols; c += act_group) {
      int8_t columns[act_group] = {};
      __builtin_memcpy(columns, row + c, static_cast<size_t>(min(act_group, n_cols - c)));
      W::put(data + c / act_group * W::group_bytes, r, columns);
    }
  }
  // Rows that are not there: the stored form of zero. Columns past the end are zeros through `columns`.
  const int8_t zeros[act_group] = {};
  for (int r = n_rows; r < pack_rows; ++r) {
    for (int64_t g = 0; g < n_act_groups(n_cols); ++g) W::put(data + g * W::group_bytes, r, zeros);
  }
}

KERNEL_ENTRY void pack_block(Format format, int group, const int8_t* q, const uint16_t* scales, int n_rows, int64_t n_cols,
                             std::byte* block) {
  auto* to = reinterpret_cast<uint8_t*>(block);
  if (format == Format::i8) pack_block_as<Int8Weights>(group, q, scales, n_rows, n_cols, to);
  else pack_block_as<Int4Weights>(group, q, scales, n_rows, n_cols, to);
}

/// A finite float16 as float: the bits moved into place, the exponent rebased by a multiplication.
KERNEL_INLINE float half_to_float(uint16_t h) {
  const uint32_t bits = static_cast<uint32_t>(h & 0x7fffu) << 13;
  float magnitude;
  __builtin_memcpy(&magnitude, &bits, 4);
  magnitude *= 0x1p112f;
  return (h & 0x8000u) != 0 ? -magnitude : magnitude;
}

template <class W>
KERNEL_INLINE void unpack_row(const Matrix& w, int64_t row, float* out) {
  const auto* block = static_cast<const uint8_t*>(w.data) + row / pack_rows * block_bytes<W>(w.n_cols, w.group);
  const auto* scales = reinterpret_cast<const uint16_t*>(block);
  const uint8_t* data = block + scale_bytes(w.n_cols, w.group);
  const int r = static_cast<int>(row % pack_rows);
  for (int64_t begin = 0; begin < w.n_cols; begin += act_group) {
    const float scale = half_to_float(scales[begin / w.group * pack_rows + r]);
    const uint8_t* from = data + begin / act_group * W::group_bytes;
    const int64_t n = min(act_group, w.n_cols - begin);
    for (int c = 0; c < n; ++c) out[begin + c] = scale * static_cast<float>(W::get(from, r, c));
  }
}

// --- quantizing -----------------------------------------------------------------------------------------------------------------

// Quantizing works on vectors of a fixed 16 floats, whatever the lanes, without fused operations: the same bits on every level.

constexpr int wide_parts = 16 / lanes;
constexpr int max_group = 128;

/// x to the nearest integer, halves to even, inside [low, high].
KERNEL_INLINE F round_clamped(F x, F low, F high) {
  const F magic(12582912.0f);  // 1.5 * 2^23: the adder rounds
  return (xsimd::min(xsimd::max(x, low), high) + magic) - magic;
}

/// n (at most max_group) floats with zeros behind, up to a multiple of 16; returns that.
KERNEL_INLINE int64_t padded_copy(const float* x, int64_t n, float* out) {
  const int64_t padded = round_up(n, 16);
  __builtin_memcpy(out, x, static_cast<size_t>(n) * sizeof(float));
  for (int64_t i = n; i < padded; ++i) out[i] = 0;
  return padded;
}

KERNEL_INLINE float largest_magnitude(const float* x, int64_t n) {
  F largest(0.0f);
  for (int64_t i = 0; i < n; i += lanes) largest = xsimd::max(largest, xsimd::abs(load(x + i)));
  return max_lanes(largest);
}

/// q = x / scale rounded, into bytes.
KERNEL_INLINE void round_to_bytes(const float* x, int64_t n, float inverse, float low, float high, int8_t* q) {
  float rounded[max_group];
  for (int64_t i = 0; i < n; i += lanes) store(rounded + i, round_clamped(load(x + i) * F(inverse), F(low), F(high)));
  for (int64_t i = 0; i < n; ++i) q[i] = static_cast<int8_t>(static_cast<int32_t>(rounded[i]));
}

KERNEL_INLINE uint16_t float_to_half(float x) {
  uint32_t u;
  __builtin_memcpy(&u, &x, 4);
  const uint16_t sign = static_cast<uint16_t>((u >> 16) & 0x8000u);
  const uint32_t magnitude = u & 0x7fffffffu;
  if (magnitude >= 0x477ff000u) return sign | 0x7bffu;  // the largest finite one: a scale must stay finite
  if (magnitude < 0x38800000u) {
    float shifted;
    __builtin_memcpy(&shifted, &magnitude, 4);
    shifted += 0.5f;
    __builtin_memcpy(&u, &shifted, 4);
    return sign | static_cast<uint16_t>(u - 0x3f000000u);
  }
  return sign | static_cast<uint16_t>((magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13);
}

/// Sum of squared errors of x (padded) against scale * q.
KERNEL_INLINE float group_error(const float* x, int64_t n, float scale, float low, float high) {
  const F factor(scale), inverse(scale != 0 ? 1 / scale : 0.0f);
  F partial[wide_parts];
  for (F& p : partial) p = F(0.0f);
  for (int64_t i = 0; i < n; i += 16) {
    for (int v = 0; v < wide_parts; ++v) {
      const F value = load(x + i + v * lanes);
      const F d = value - factor * round_clamped(value * inverse, F(low), F(high));
      partial[v] = partial[v] + d * d;
    }
  }
  float parts[16];
  for (int v = 0; v < wide_parts; ++v) store(parts + v * lanes, partial[v]);
  for (int half = 8; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) parts[i] += parts[i + half];
  }
  return parts[0];
}

/// The scale of a group, already rounded to float16: for int8 the largest magnitude over 127; for int4 the best of a few shares of the
/// largest magnitude by squared error, since clipping the largest value a little often serves the others more.
KERNEL_INLINE uint16_t choose_scale(Format format, const float* x, int64_t n) {
  const float largest = largest_magnitude(x, n);
  if (format == Format::i8) return float_to_half(largest / 127);
  uint16_t best = float_to_half(largest / 7);
  float best_error = group_error(x, n, half_to_float(best), -8, 7);
  for (int step = 1; step <= 12; ++step) {
    const uint16_t scale = float_to_half(largest / (6.5f + 0.25f * static_cast<float>(step)));
    const float error = group_error(x, n, half_to_float(scale), -8, 7);
    if (error < best_error) {
      best_error = error;
      best = scale;
    }
  }
  return best;
}

KERNEL_ENTRY void quantize_row(Format format, int group, const float* x, int64_t n_cols, int8_t* q, uint16_t* scales) {
  const float low = format == Format::i8 ? -127 : -8, high = format == Format::i8 ? 127 : 7;
  for (int64_t begin = 0; begin < n_cols; begin += group) {
    const int64_t n = min(group, n_cols - begin);
    float values[max_group];
    int8_t rounded[max_group];
    const int64_t padded = padded_copy(x + begin, n, values);
    const uint16_t half = choose_scale(format, values, padded);
    const float scale = half_to_float(half);
    scales[begin / group] = half;
    round_to_bytes(values, padded, scale != 0 ? 1 / scale : 0.0f, low, high, rounded);
    __builtin_memcpy(q + begin, rounded, static_cast<size_t>(n));
  }
}

// --- activations ----------------------------------------------------------------------------------------------------------------
// A row: int8 [n_cols, padded to 32], then float scales [n_groups], then the int32 sums of each group.

KERNEL_ENTRY size_t act_bytes(int64_t n_cols) {
  return static_cast<size_t>(round_up(n_act_groups(n_cols) * (act_group + 8), 64));
}

struct Activations {
  const int8_t* q;
  const float* scale;
  const int32_t* sum;
  KERNEL_INLINE Activations(const void* row, int64_t n_groups)
      : q(static_cast<const int8_t*>(row)), scale(reinterpret_cast<const float*>(q + n_groups * act_group)),
        sum(reinterpret_cast<const int32_t*>(scale + n_groups)) {}
  Activations() = default;
};

KERNEL_ENTRY void quantize_act(const float* x, int64_t begin, int64_t end, int64_t n_cols, void* row) {
  const Activations to(row, n_act_groups(n_cols));
  for (int64_t c = begin; c < end; c += act_group) {
    float values[act_group] = {};
    padded_copy(x + c, min(act_group, end - c), values);
    const float largest = largest_magnitude(values, act_group);
    const float scale = largest / 127, inverse = largest > 0 ? 127 / largest : 0.0f;
    auto* q = const_cast<int8_t*>(to.q) + c;
    round_to_bytes(values, act_group, inverse, -127, 127, q);
    int32_t sum = 0;
    for (int i = 0; i < act_group; ++i) sum += q[i];
    const_cast<float*>(to.scale)[c / act_group] = scale;
    const_cast<int32_t*>(to.sum)[c / act_group] = sum;
  }
}

// --- products -------------------------------------------------------------------------------------------------------------------

/// 16 rows x T tokens. `data`: the block's quads; `scales`: [n_groups][16] in the element type of Scale.
template <class W, class Scale, int T>
KERNEL_INLINE void quantized_tile(const uint8_t* data, const typename Scale::Element* scales, int64_t n_groups,
                                  int64_t acts_per_scale, const Activations* acts, F (&acc)[T][row_vectors]) {
  for (auto& token : acc) {
    for (F& sum : token) sum = F(0.0f);
  }
  for (int64_t g = 0; g < n_groups; ++g, data += W::group_bytes) {
    typename W::Sum sums[T][row_vectors];
    for (int t = 0; t < T; ++t) {
      for (int v = 0; v < row_vectors; ++v) sums[t][v].start(acts[t].sum[g]);
    }
#pragma GCC unroll 8
    for (int j = 0; j < group_quads; ++j) {
      Bytes w[row_vectors];
      for (int v = 0; v < row_vectors; ++v) w[v] = W::quad(data, j, v);
      for (int t = 0; t < T; ++t) {
        const Bytes a = broadcast_quad(acts[t].q + g * act_group + j * 4);
        for (int v = 0; v < row_vectors; ++v) sums[t][v].add(w[v], a);
      }
    }
    const typename Scale::Element* group_scales = scales + g / acts_per_scale * pack_rows;
    for (int v = 0; v < row_vectors; ++v) {
      const F ws = Scale::load(group_scales + v * lanes);
      for (int t = 0; t < T; ++t) {
        const F products = from_raw(__builtin_convertvector(sums[t][v].get(acts[t].sum[g]), Floats));
        acc[t][v] = fma(products, ws * F(acts[t].scale[g]), acc[t][v]);
      }
    }
  }
}

/// One token against 16 rows of each of `streams` blocks, block_stride bytes apart, read side by side: hardware prefetchers follow
/// several streams much faster than one. The sums are those of quantized_tile.
constexpr int block_streams = 4;

template <class W>
KERNEL_INLINE void quantized_streams(const uint8_t* block, int64_t block_stride, int64_t data_offset, int64_t n_groups,
                                     int64_t acts_per_scale, const Activations& act, F (&acc)[block_streams][row_vectors]) {
  for (auto& stream : acc) {
    for (F& sum : stream) sum = F(0.0f);
  }
  for (int64_t g = 0; g < n_groups; ++g) {
    const F act_scale(act.scale[g]);
    Bytes a[group_quads];
    for (int j = 0; j < group_quads; ++j) a[j] = broadcast_quad(act.q + g * act_group + j * 4);
    const int64_t scale_at = g / acts_per_scale * pack_rows;
#pragma GCC unroll 4
    for (int i = 0; i < block_streams; ++i) {
      const uint8_t* data = block + i * block_stride + data_offset + g * W::group_bytes;
      const auto* scales = reinterpret_cast<const uint16_t*>(block + i * block_stride) + scale_at;
      for (int v = 0; v < row_vectors; ++v) {
        typename W::Sum sum;
        sum.start(act.sum[g]);
#pragma GCC unroll 8
        for (int j = 0; j < group_quads; ++j) sum.add(W::quad(data, j, v), a[j]);
        const F products = from_raw(__builtin_convertvector(sum.get(act.sum[g]), Floats));
        acc[i][v] = fma(products, F16::load(scales + v * lanes) * act_scale, acc[i][v]);
      }
    }
  }
}

template <class W, class Scale, int T>
KERNEL_INLINE void quantized_tile_to(const uint8_t* data, const typename Scale::Element* scales, int64_t n_groups,
                                     int64_t acts_per_scale, const uint8_t* x, int64_t x_stride, int64_t n_rows, float* y,
                                     int64_t y_stride) {
  Activations acts[T];
  for (int t = 0; t < T; ++t) acts[t] = Activations(x + t * x_stride, n_groups);
  F acc[T][row_vectors];
  quantized_tile<W, Scale, T>(data, scales, n_groups, acts_per_scale, acts, acc);
  for (int t = 0; t < T; ++t) {
    float rows[pack_rows];
    for (int v = 0; v < row_vectors; ++v) store(rows + v * lanes, acc[t][v]);
    __builtin_memcpy(y + t * y_stride, rows, static_cast<size_t>(n_rows) * sizeof(float));
  }
}

/// All tokens against one block, in tiles of quantized_tokens and what is left.
#if defined(__AVX512F__)
constexpr int quantized_tokens = 8;
#else
constexpr int quantized_tokens = 3;  // more, and the sums of 16 rows no longer fit 16 registers
#endif

template <class W, class Scale>
KERNEL_INLINE void quantized_block(const uint8_t* data, const typename Scale::Element* scales, int64_t n_groups,
                                   int64_t acts_per_scale, const uint8_t* x, int64_t x_stride, int64_t n_tokens, int64_t n_rows,
                                   float* y, int64_t y_stride) {
  int64_t t = 0;
  for (; t + quantized_tokens <= n_tokens; t += quantized_tokens) {
    quantized_tile_to<W, Scale, quantized_tokens>(data, scales, n_groups, acts_per_scale, x + t * x_stride, x_stride, n_rows,
                                                  y + t * y_stride, y_stride);
  }
  for (; t + 2 <= n_tokens; t += 2) {
    quantized_tile_to<W, Scale, 2>(data, scales, n_groups, acts_per_scale, x + t * x_stride, x_stride, n_rows, y + t * y_stride, y_stride);
  }
  if (t < n_tokens) {
    quantized_tile_to<W, Scale, 1>(data, scales, n_groups, acts_per_scale, x + t * x_stride, x_stride, n_rows, y + t * y_stride, y_stride);
  }
}

/// From this many tokens on a block is unpacked once before they run over it.
constexpr int64_t min_tokens_unpacked = 8;

KERNEL_INLINE int64_t unpacked_bytes(int64_t n_cols) {
  return n_act_groups(n_cols) * (group_quads * quad_bytes + pack_rows * static_cast<int64_t>(sizeof(float)));
}

template <class W>
KERNEL_ENTRY void matmul_quantized(const Matrix& w, int64_t row_begin, int64_t row_end, const void* x_rows, int64_t x_stride,
                                   int64_t n_tokens, float* y, int64_t y_stride, void* scratch) {
  const int64_t n_groups = n_act_groups(w.n_cols), bytes = block_bytes<W>(w.n_cols, w.group), acts_per_scale = w.group / act_group;
  const auto* x = static_cast<const uint8_t*>(x_rows);
  if (n_tokens == 1) {
    const Activations act(x, n_groups);
    const int64_t run = (row_end - row_begin) / (pack_rows * block_streams);  // blocks of a stream; what is over follows below
    const auto* first = static_cast<const uint8_t*>(w.data) + row_begin / pack_rows * bytes;
    for (int64_t b = 0; b < run; ++b) {
      F acc[block_streams][row_vectors];
      quantized_streams<W>(first + b * bytes, run * bytes, scale_bytes(w.n_cols, w.group), n_groups, acts_per_scale, act, acc);
      for (int i = 0; i < block_streams; ++i) {
        for (int v = 0; v < row_vectors; ++v) store(y + row_begin + (i * run + b) * pack_rows + v * lanes, acc[i][v]);
      }
    }
    row_begin += run * block_streams * pack_rows;
  }
  for (int64_t row = row_begin; row < row_end; row += pack_rows) {
    const auto* block = static_cast<const uint8_t*>(w.data) + row / pack_rows * bytes;
    const auto* scales = reinterpret_cast<const uint16_t*>(block);
    const uint8_t* data = block + scale_bytes(w.n_cols, w.group);
    const int64_t n_rows = min(pack_rows, row_end - row);
    if constexpr (W::group_bytes < group_quads * quad_bytes) {
      if (n_tokens >= min_tokens_unpacked) {
        auto* wide_scales = static_cast<float*>(scratch);
        auto* wide = reinterpret_cast<uint8_t*>(wide_scales + n_groups * pack_rows);
        for (int64_t g = 0; g < n_groups; ++g) {
          for (int v = 0; v < row_vectors; ++v) {
            store(wide_scales + g * pack_rows + v * lanes, F16::load(scales + g / acts_per_scale * pack_rows + v * lanes));
            for (int j = 0; j < group_quads; ++j) {
              const Bytes quad = W::quad(data + g * W::group_bytes, j, v);
              __builtin_memcpy(wide + (g * group_quads + j) * quad_bytes + v * lanes * 4, &quad, sizeof quad);
            }
          }
        }
        quantized_block<UnpackedInt4, F32>(wide, wide_scales, n_groups, 1, x, x_stride, n_tokens, n_rows, y + row, y_stride);
        continue;
      }
    }
    quantized_block<W, F16>(data, scales, n_groups, acts_per_scale, x, x_stride, n_tokens, n_rows, y + row, y_stride);
  }
}

KERNEL_ENTRY void get_row(const Matrix& w, int64_t row, float* out) {
  switch (w.format) {
    case Format::f32: return widen_row<F32>(w, row, out);
    case Format::bf16: return widen_row<Bf16>(w, row, out);
    case Format::f16: return widen_row<F16>(w, row, out);
    case Format::i8: return unpack_row<Int8Weights>(w, row, out);
    case Format::i4: return unpack_row<Int4Weights>(w, row, out);
    case Format::count: return;
  }
}

#if defined(__x86_64__)
#define KERNEL_IN_REGISTER(v) "+x"(v)
#else
#define KERNEL_IN_REGISTER(v) "+w"(v)
#endif

/// Eight independent chains of the level's dot-product instructions, with nothing loaded: the rate that no kernel can pass.
KERNEL_ENTRY int64_t int8_peak(int64_t rounds) {
  constexpr int chains = 8;
  Int4Weights::Sum sums[chains];
  for (auto& sum : sums) sum.start(0);
  Bytes w = Bytes{} + int8_t{1}, a = Bytes{} + int8_t{1};
  for (int64_t i = 0; i < rounds; ++i) {
    for (auto& sum : sums) sum.add(w, a);
    asm volatile("" : KERNEL_IN_REGISTER(w), KERNEL_IN_REGISTER(a));  // so that the products are not computed once and for all
  }
  Ints total = {};
  for (auto& sum : sums) total += sum.get(0);
  asm volatile("" : KERNEL_IN_REGISTER(total));
  return rounds * chains * lanes * 4;
}

KERNEL_ENTRY size_t all_scratch_bytes(int64_t n_cols) {
  return static_cast<size_t>(max(static_cast<int64_t>(scratch_bytes(n_cols)), unpacked_bytes(n_cols)));
}
