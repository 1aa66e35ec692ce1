// Quantized weights: y = x * w^T with int8 activations. Included inside the anonymous namespace of isa.cpp.
//
// A matrix is packed in blocks of 16 rows, a block in spans of two scale groups: first their scales, [2][16] float16, then for every
// 32 columns eight quads; a quad is four consecutive columns of each of the 16 rows, so that one lane of 32 bits holds the four factors
// of one row. int4 keeps quad j in the low and quad j + 4 in the high nibbles of the same 64 bytes: a mask, and a shift and a mask,
// unpack them. So a block is read from front to end, one stream of memory. The last span ends with the last columns.
//
// MXFP4's nibbles lie as int4's; its scales are single bytes, so that a span is four scale groups. A shuffle makes twice its values of the
// nibbles, which are whole numbers: 0, 1, 2, 3, 4, 6, 8, 12 and their negatives.
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

#if defined(KERNEL_NEON) && defined(__ARM_FEATURE_DOTPROD)
#define KERNEL_DOT_LANE 1
#if defined(__ARM_FEATURE_MATMUL_INT8)
#define KERNEL_DOT_MATRIX 1
#endif
/// A quad of activations for every row: sdot takes it out of four.
struct Quad {
  int8x16_t four;
  int lane = 0;
  KERNEL_INLINE Quad(Bytes b) : four((int8x16_t)b) {}
};
KERNEL_INLINE Quad quad_at(const int8_t* group, int j) {
  Quad quad(load_as<Bytes>(group + j / 4 * 16));
  quad.lane = j % 4;
  return quad;
}
#else
using Quad = Bytes;
KERNEL_INLINE Quad quad_at(const int8_t* group, int j) { return (Bytes)(Ints{} + load_as<int32_t>(group + j * 4)); }
#endif

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
#elif defined(KERNEL_NEON) && !defined(KERNEL_DOT_LANE)
#define KERNEL_DOT_WORDS 1
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

/// One 32-bit lane a row: sum of four products of signed bytes, for levels with none of these instructions.
KERNEL_INLINE Ints dot_signed(Ints sum, Bytes w, Quad a) {
#if defined(KERNEL_DOT_LANE)
  const auto to = (int32x4_t)sum;
  const auto by = (int8x16_t)w;
  switch (a.lane) {  // known when compiled
    case 0: return (Ints)vdotq_laneq_s32(to, by, a.four, 0);
    case 1: return (Ints)vdotq_laneq_s32(to, by, a.four, 1);
    case 2: return (Ints)vdotq_laneq_s32(to, by, a.four, 2);
    default: return (Ints)vdotq_laneq_s32(to, by, a.four, 3);
  }
#elif defined(__SSE2__) && !defined(__AVX2__)
  // Even and odd bytes as words, whose products pmaddwd adds in pairs.
  const auto even = [](Bytes v) { return _mm_srai_epi16(_mm_slli_epi16((__m128i)v, 8), 8); };
  const auto odd = [](Bytes v) { return _mm_srai_epi16((__m128i)v, 8); };
  return sum + (Ints)_mm_madd_epi16(even(w), even(a)) + (Ints)_mm_madd_epi16(odd(w), odd(a));
#else
  const Ints wi = (Ints)w, ai = (Ints)a;
  for (int shift = 24; shift >= 0; shift -= 8) sum += ((wi << shift) >> 24) * ((ai << shift) >> 24);
  return sum;
#endif
}

// --- formats: stored quads, and the exact sum of a group's products -----------------------------------------------------------

/// int8: a byte a weight. With dpbusd the stored byte is w + 128, and the sum starts at -128 * (sum of activations); `start` and `get` are
/// told -8 * that sum, as ActGroup holds it.
struct Int8Weights {
  using Scale = F16;
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
#if defined(KERNEL_DOT_WORDS)
    int32x4_t low, high;  // two sums a row: of the first and the last two columns of each quad
    KERNEL_INLINE void start(int32_t) { low = high = vdupq_n_s32(0); }
    KERNEL_INLINE void add(Bytes w, Quad a) {
      low = vpadalq_s16(low, vmull_s8(vget_low_s8((int8x16_t)w), vget_low_s8((int8x16_t)a)));
      high = vpadalq_s16(high, vmull_high_s8((int8x16_t)w, (int8x16_t)a));
    }
    KERNEL_INLINE Ints get(int32_t) const { return (Ints)vpaddq_s32(low, high); }
#else
    Ints total;
    KERNEL_INLINE void start(int32_t correction) { total = (Ints{} + correction) * (offset / 8); }
    KERNEL_INLINE void add(Bytes w, Quad a) {
#if defined(KERNEL_DOT_VNNI)
      total = dot_unsigned(total, w, a);
#elif defined(KERNEL_DOT_PAIRS)
      total += add_pairs(mul_pairs_signed(w, a));
#else
      total = dot_signed(total, w, a);
#endif
    }
    KERNEL_INLINE Ints get(int32_t) const { return total; }
#endif
  };
};

/// int4: q + 8 in a nibble; the sum starts at -8 * (sum of activations).
struct Int4Weights {
  using Scale = F16;
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
    KERNEL_INLINE void add(Bytes w, Quad a) { pairs += mul_pairs(w, a); }
    KERNEL_INLINE Ints get(int32_t correction) const { return add_pairs(pairs) + correction; }
#elif defined(KERNEL_DOT_WORDS)
    int16x8_t low, high;  // rows 0 and 1, rows 2 and 3; eight quads of 15 * 127 stay below 2^15
    KERNEL_INLINE void start(int32_t) { low = high = vdupq_n_s16(0); }
    KERNEL_INLINE void add(Bytes w, Quad a) {
      low = vmlal_s8(low, vget_low_s8((int8x16_t)w), vget_low_s8((int8x16_t)a));
      high = vmlal_high_s8(high, (int8x16_t)w, (int8x16_t)a);
    }
    KERNEL_INLINE Ints get(int32_t correction) const { return (Ints)vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high)) + correction; }
#else
    Ints total;
    KERNEL_INLINE void start(int32_t correction) { total = Ints{} + correction; }
    KERNEL_INLINE void add(Bytes w, Quad a) {
#if defined(KERNEL_DOT_VNNI)
      total = dot_unsigned(total, w, a);
#else
      total = dot_signed(total, w, a);
#endif
    }
    KERNEL_INLINE Ints get(int32_t) const { return total; }
#endif
  };
};

/// 2^(e - 128) of MXFP4's exponents e: half the scale, since the values are doubled. Below 2^-126 floats have another form, which the
/// larger of the two patterns of bits happens to be for e = 0.
struct E8m0 {
  using Element = uint8_t;
  static KERNEL_INLINE F load(const uint8_t* p) {
#if defined(__AVX512F__)
    const Words e = (Words)_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#else
    typedef uint8_t Narrow __attribute__((vector_size(lanes)));
    const Words e = __builtin_convertvector(load_as<Narrow>(p), Words);
#endif
    const Words bits = (e << 23) | ((Words)(e == 0) & 0x00400000u);
    return F(0.5f) * from_raw((Floats)bits);
  }
};

/// Twice the values of nibbles in e2m1.
KERNEL_INLINE Bytes e2m1_doubled(Bytes nibbles) {
#if defined(__AVX2__)
  const __m128i values = _mm_setr_epi8(0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12);
#endif
#if defined(__AVX512BW__)
  return (Bytes)_mm512_shuffle_epi8(_mm512_broadcast_i32x4(values), (__m512i)nibbles);
#elif defined(__AVX2__)
  return (Bytes)_mm256_shuffle_epi8(_mm256_broadcastsi128_si256(values), (__m256i)nibbles);
#else
  const Bytes m = nibbles & 7, sign = nibbles > 7;
  const Bytes magnitude = m + ((m - 4) & (m > 4)) + ((m - 6) & (m > 6)) * 2;
  return (magnitude ^ sign) - sign;
#endif
}

/// MXFP4 with quantized activations. With dpbusd 16 is added to the doubled values.
struct Mxfp4Weights {
  using Scale = E8m0;
  static constexpr int64_t group_bytes = Int4Weights::group_bytes;
#if defined(KERNEL_DOT_VNNI)
  static constexpr int offset = 16;
#else
  static constexpr int offset = 0;
#endif
  static KERNEL_INLINE Bytes quad(const uint8_t* group, int j, int v) {
    return e2m1_doubled(Int4Weights::quad(group, j, v)) + static_cast<int8_t>(offset);
  }
  static KERNEL_INLINE void put(uint8_t* group, int row, const int8_t* columns) {
    for (int j = 0; j < group_quads / 2; ++j) {
      const uint32_t low = load_as<uint32_t>(columns + j * 4) & 0x0f0f0f0fu, high = load_as<uint32_t>(columns + 16 + j * 4) & 0x0f0f0f0fu;
      const uint32_t quads = low | high << 4;
      __builtin_memcpy(group + j * quad_bytes + row * 4, &quads, 4);
    }
  }
  static KERNEL_INLINE int get(const uint8_t* group, int row, int col) {
    const int code = Int4Weights::get(group, row, col) + Int4Weights::offset, m = code & 7;
    const int magnitude = m <= 4 ? m : m < 7 ? 2 * m - 4 : 12;
    return code < 8 ? magnitude : -magnitude;
  }

  struct Sum {
#if defined(KERNEL_DOT_PAIRS)
    Shorts pairs;  // eight quads of at most 2 * 12 * 127 stay below 2^15
    KERNEL_INLINE void start(int32_t) { pairs = Shorts{}; }
    KERNEL_INLINE void add(Bytes w, Quad a) { pairs += mul_pairs_signed(w, a); }
    KERNEL_INLINE Ints get(int32_t) const { return add_pairs(pairs); }
#else
    Ints total;
    KERNEL_INLINE void start(int32_t correction) { total = Ints{} + correction * (offset / 8); }
    KERNEL_INLINE void add(Bytes w, Quad a) {
#if defined(KERNEL_DOT_VNNI)
      total = dot_unsigned(total, w, a);
#else
      total = dot_signed(total, w, a);
#endif
    }
    KERNEL_INLINE Ints get(int32_t) const { return total; }
#endif
  };
};

/// Weights that were unpacked once, for many tokens: a byte each, still with their offset.
template <class W>
struct Unpacked : W {
  static constexpr int64_t group_bytes = group_quads * quad_bytes;
  static KERNEL_INLINE Bytes quad(const uint8_t* group, int j, int v) {
    return load_as<Bytes>(group + j * quad_bytes + v * lanes * 4);
  }
};

// --- packing --------------------------------------------------------------------------------------------------------------------

constexpr int64_t span_scale_bytes = 64;

/// Where things lie in a block.
template <class W>
struct BlockLayout {
  static constexpr int64_t scale_bytes = pack_rows * sizeof(typename W::Scale::Element), span_scales = span_scale_bytes / scale_bytes;
  int64_t n_groups;       // of act_group columns
  int64_t span_groups;    // of these in a span: 2, 4 or 8
  KERNEL_INLINE BlockLayout(int64_t n_cols, int group) : n_groups(n_act_groups(n_cols)), span_groups(span_scales * group / act_group) {}
  KERNEL_INLINE int64_t bytes() const {
    return (n_groups + span_groups - 1) / span_groups * span_scale_bytes + n_groups * W::group_bytes;
  }
  KERNEL_INLINE int64_t span(int64_t g) const {
    return g / span_groups * (span_scale_bytes + span_groups * W::group_bytes);
  }
  /// The 16 scales of group g of the block.
  KERNEL_INLINE int64_t scales(int64_t g) const { return span(g) + g % span_groups / (span_groups / span_scales) * scale_bytes; }
  KERNEL_INLINE int64_t data(int64_t g) const { return span(g) + span_scale_bytes + g % span_groups * W::group_bytes; }
};

KERNEL_ENTRY size_t packed_block_bytes(Format format, int64_t n_cols, int group) {
  if (is_mxfp4(format)) return static_cast<size_t>(BlockLayout<Mxfp4Weights>(n_cols, group).bytes());
  return static_cast<size_t>(format == Format::i8 ? BlockLayout<Int8Weights>(n_cols, group).bytes() : BlockLayout<Int4Weights>(n_cols, group).bytes());
}

template <class W>
KERNEL_INLINE void pack_block_as(int group, const int8_t* q, const uint16_t* scales, int n_rows, int64_t n_cols, uint8_t* block) {
  const BlockLayout<W> layout(n_cols, group);
  const int64_t n_scale_groups = (n_cols + group - 1) / group;
  const int8_t zeros[act_group] = {};
  for (int64_t g = 0; g < layout.n_groups; ++g) {
    uint8_t* data = block + layout.data(g);
    const int64_t c = g * act_group, n = min(act_group, n_cols - c);
    if (g % layout.span_groups == 0) __builtin_memset(block + layout.span(g), 0, span_scale_bytes);
    for (int r = 0; r < n_rows; ++r) {
      const auto scale = static_cast<typename W::Scale::Element>(scales[r * n_scale_groups + c / group]);
      __builtin_memcpy(block + layout.scales(g) + r * static_cast<int64_t>(sizeof scale), &scale, sizeof scale);
      const int8_t* columns = q + r * n_cols + c;
      int8_t padded[act_group] = {};
      if (n < act_group) {
        __builtin_memcpy(padded, columns, static_cast<size_t>(n));
        columns = padded;
      }
      W::put(data, r, columns);
    }
    // Rows that are not there: the stored form of zero. Columns past the end are zeros through `padded`.
    for (int r = n_rows; r < pack_rows; ++r) W::put(data, r, zeros);
  }
}

KERNEL_ENTRY void pack_block(Format format, int group, const int8_t* q, const uint16_t* scales, int n_rows, int64_t n_cols,
                             std::byte* block) {
  auto* to = reinterpret_cast<uint8_t*>(block);
  if (is_mxfp4(format)) pack_block_as<Mxfp4Weights>(group, q, scales, n_rows, n_cols, to);
  else if (format == Format::i8) pack_block_as<Int8Weights>(group, q, scales, n_rows, n_cols, to);
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

KERNEL_INLINE float scale_to_float(uint16_t h) { return half_to_float(h); }
KERNEL_INLINE float scale_to_float(uint8_t e) {  // as E8m0
  const uint32_t bits = e == 0 ? 0x00400000u : static_cast<uint32_t>(e) << 23;
  float scale;
  __builtin_memcpy(&scale, &bits, 4);
  return 0.5f * scale;
}

template <class W>
KERNEL_INLINE void unpack_row(const Matrix& w, int64_t row, float* out) {
  const BlockLayout<W> layout(w.n_cols, w.group);
  const auto* block = static_cast<const uint8_t*>(w.data) + row / pack_rows * layout.bytes();
  const int r = static_cast<int>(row % pack_rows);
  for (int64_t g = 0; g < layout.n_groups; ++g) {
    using Stored = typename W::Scale::Element;
    const float scale = scale_to_float(load_as<Stored>(block + layout.scales(g) + r * static_cast<int64_t>(sizeof(Stored))));
    const uint8_t* from = block + layout.data(g);
    const int64_t n = min(act_group, w.n_cols - g * act_group);
    for (int c = 0; c < n; ++c) out[g * act_group + c] = scale * static_cast<float>(W::get(from, r, c));
  }
}

// --- quantizing -----------------------------------------------------------------------------------------------------------------

// Quantizing works on vectors of a fixed 16 floats, whatever the lanes, without fused operations: the same bits on every level.

constexpr int wide_parts = 16 / lanes;
constexpr int max_group = 128;

/// x to the nearest integer, halves to even, inside [low, high].
KERNEL_INLINE F round_clamped(F x, F low, F high) {
  const F magic(12582912.0f);  // 1.5 * 2^23: the adder rounds
  return (min(max(x, low), high) + magic) - magic;
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
  for (int64_t i = 0; i < n; i += lanes) largest = max(largest, abs(load(x + i)));
  return max_lanes(largest);
}

/// Integers inside int8's range into bytes.
KERNEL_INLINE void store_bytes(int8_t* to, Ints v) {
#if defined(__AVX512F__)
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8((__m512i)v));
#else
  typedef int8_t Narrow __attribute__((vector_size(lanes)));
  const Narrow bytes = __builtin_convertvector(v, Narrow);
  __builtin_memcpy(to, &bytes, sizeof bytes);
#endif
}

/// q = x / scale rounded, into bytes.
KERNEL_INLINE void round_to_bytes(const float* x, int64_t n, float inverse, float low, float high, int8_t* q) {
  for (int64_t i = 0; i < n; i += lanes) {
    const Floats rounded = raw(round_clamped(load(x + i) * F(inverse), F(low), F(high)));
    store_bytes(q + i, __builtin_convertvector(rounded, Ints));
  }
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

/// The sum of 16 floats: the upper half added to the lower, and so on, on every level.
KERNEL_INLINE float sum_halves(const F (&parts)[wide_parts]) {
  F sums[wide_parts];
  for (int v = 0; v < wide_parts; ++v) sums[v] = parts[v];
  for (int half = wide_parts / 2; half > 0; half /= 2) {
    for (int v = 0; v < half; ++v) sums[v] = sums[v] + sums[v + half];
  }
  Floats sum = raw(sums[0]);
  Ints order;
  for (int i = 0; i < lanes; ++i) order[i] = i;
#pragma GCC unroll 4
  for (int half = lanes / 2; half > 0; half /= 2) sum += __builtin_shuffle(sum, (order + half) & (lanes - 1));
  return sum[0];
}

/// float_to_half and back for numbers that are not negative: the bits in each lane, and what they stand for.
KERNEL_INLINE F halved(F x, Ints* bits) {
  const Ints magnitude = (Ints)raw(x);
  const Ints subnormal = (Ints)raw(x + F(0.5f)) - 0x3f000000;
  const Ints normal = (magnitude - 0x38000000 + 0xfff + ((magnitude >> 13) & 1)) >> 13;
  const Ints finite = magnitude < 0x38800000 ? subnormal : normal;
  *bits = magnitude >= 0x477ff000 ? Ints{} + 0x7bff : finite;
  return from_raw((Floats)(*bits << 13)) * F(0x1p112f);
}

/// Sum of squared errors of x (padded) against scale * q; `inverse`: 1 / scale, or 0 for 0.
KERNEL_INLINE float group_error(const float* x, int64_t n, float scale, float inverse_scale, float low, float high) {
  const F factor(scale), inverse(inverse_scale);
  F partial[wide_parts];
  for (F& p : partial) p = F(0.0f);
  for (int64_t i = 0; i < n; i += 16) {
    for (int v = 0; v < wide_parts; ++v) {
      const F value = load(x + i + v * lanes);
      const F d = value - factor * round_clamped(value * inverse, F(low), F(high));
      partial[v] = partial[v] + d * d;
    }
  }
  return sum_halves(partial);
}

/// The scale of a group, already rounded to float16: for int8 the largest magnitude over 127; for int4 the best of a few shares of the
/// largest magnitude by squared error, since clipping the largest value a little often serves the others more.
KERNEL_INLINE uint16_t choose_scale(Format format, const float* x, int64_t n) {
  const float largest = largest_magnitude(x, n);
  if (format == Format::i8) return float_to_half(largest / 127);
  constexpr int n_shares = 12;
  constexpr float shares[16] = {7.0f, 6.75f, 7.25f, 7.5f, 7.75f, 8.0f, 8.25f, 8.5f, 8.75f, 9.0f, 9.25f, 9.5f, 1.0f, 1.0f, 1.0f, 1.0f};
  float scales[16], inverses[16];
  int32_t bits[16];
  for (int v = 0; v < wide_parts; ++v) {
    Ints half;
    const Floats scale = raw(halved(F(largest) / load(shares + v * lanes), &half));
    store(scales + v * lanes, from_raw(scale));
    store(inverses + v * lanes, from_raw(scale != 0.0f ? 1.0f / scale : Floats{}));
    __builtin_memcpy(bits + v * lanes, &half, sizeof half);
  }
  int best = 0;
  float best_error = group_error(x, n, scales[0], inverses[0], -8, 7);
  for (int i = 1; i < n_shares; ++i) {
    const float error = group_error(x, n, scales[i], inverses[i], -8, 7);
    if (error < best_error) {
      best_error = error;
      best = i;
    }
  }
  return static_cast<uint16_t>(bits[best]);
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

/// 32 columns of an activation row; a row is these one after another, so that a kernel needs one pointer a token.
struct ActGroup {
  int8_t q[act_group];
  float scale;
  int32_t correction;  // -8 * sum of q: what weights stored with an offset of 8 add too much, negated
};
static_assert(sizeof(ActGroup) == 40);

KERNEL_ENTRY size_t act_bytes(int64_t n_cols) {
  return static_cast<size_t>(round_up(n_act_groups(n_cols) * static_cast<int64_t>(sizeof(ActGroup)), 64));
}

KERNEL_INLINE int32_t sum_ints(Ints v) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_epi32((__m512i)v);
#else
  int32_t sum = 0;
  for (int i = 0; i < lanes; ++i) sum += v[i];
  return sum;
#endif
}

KERNEL_INLINE void quantize_group(const float* x, ActGroup* to) {
  constexpr int n_vectors = act_group / lanes;
  F values[n_vectors];
  F largest(0.0f);
  for (int v = 0; v < n_vectors; ++v) {
    values[v] = load(x + v * lanes);
    largest = max(largest, abs(values[v]));
  }
  const float most = max_lanes(largest);
  const F inverse(most > 0 ? 127 / most : 0.0f);
  Ints sum = {};
  for (int v = 0; v < n_vectors; ++v) {
    // As round_clamped: the adder rounds, and the integer is what then stands in the low bits.
    const F magic(12582912.0f);
    const F bounded = min(max(values[v] * inverse, F(-127.0f)), F(127.0f));
    const Ints q = (Ints)raw(bounded + magic) - (Ints)raw(magic);
    store_bytes(to->q + v * lanes, q);
    sum += q;
  }
  to->scale = most / 127;
  to->correction = -8 * sum_ints(sum);
}

KERNEL_ENTRY void quantize_act(const float* x, int64_t begin, int64_t end, int64_t, void* row) {
  auto* to = static_cast<ActGroup*>(row) + begin / act_group;
  int64_t c = begin;
  for (; c + act_group <= end; c += act_group) quantize_group(x + c, to++);
  if (c >= end) return;
  float padded[act_group] = {};
  padded_copy(x + c, end - c, padded);
  quantize_group(padded, to);
}

// --- products -------------------------------------------------------------------------------------------------------------------

/// acc += one group's products of B blocks of 16 rows with T tokens. data[b]: the group's quads; scales[b]: its 16 scales.
template <class W, class Scale, int B, int T>
KERNEL_INLINE void add_group(const uint8_t* const (&data)[B], const typename Scale::Element* const (&scales)[B],
                             const ActGroup* const (&act)[T], int64_t g, F (&acc)[T][B * row_vectors]) {
  typename W::Sum sums[T][B * row_vectors];
  for (int t = 0; t < T; ++t) {
    for (auto& sum : sums[t]) sum.start(act[t][g].correction);
  }
#pragma GCC unroll 8
  for (int j = 0; j < group_quads; ++j) {
    Bytes w[B * row_vectors];
    for (int b = 0; b < B; ++b) {
      for (int v = 0; v < row_vectors; ++v) w[b * row_vectors + v] = W::quad(data[b], j, v);
    }
    for (int t = 0; t < T; ++t) {
      const Quad a = quad_at(act[t][g].q, j);
      for (int v = 0; v < B * row_vectors; ++v) sums[t][v].add(w[v], a);
    }
  }
  for (int b = 0; b < B; ++b) {
    for (int v = 0; v < row_vectors; ++v) {
      const F ws = Scale::load(scales[b] + v * lanes);
      for (int t = 0; t < T; ++t) {
        const int i = b * row_vectors + v;
        const F products = from_raw(__builtin_convertvector(sums[t][i].get(act[t][g].correction), Floats));
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

/// How far ahead packed weights are asked for where several tokens' work between two loads keeps hardware prefetchers from running ahead.
constexpr int64_t prefetch_bytes = 4096;

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
      if constexpr (T > 1) {
        for (int64_t at = 0; at < W::group_bytes; at += 64) __builtin_prefetch(data[0] + prefetch_bytes + at);
      }
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
#else
constexpr int packed_tokens = 3;                    // more, and the sums of 16 rows no longer fit 16 registers
constexpr int wide_blocks = 1, wide_tokens = 3;
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
    const int32_t first = act[2 * p][g].correction * (W::offset / 8), second = act[2 * p + 1][g].correction * (W::offset / 8);
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

/// All tokens (at least wide_tokens) against wide_blocks unpacked blocks.
template <class W>
KERNEL_INLINE void wide_tiles(const uint8_t* wide, int64_t n_groups, const uint8_t* x, int64_t x_stride, int64_t n_tokens,
                              int64_t n_rows, float* y, int64_t y_stride) {
  for (int64_t t = 0; t < n_tokens; t += wide_tokens) {
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
      add_group<Unpacked<W>, F32, wide_blocks, wide_tokens>(data, scales, act, g, acc);
    }
#endif
    store_tile<wide_blocks, wide_tokens>(acc, n_rows, y + t * y_stride, y_stride);
  }
}

template <class W>
KERNEL_ENTRY void matmul_quantized(const Matrix& w, int64_t row_begin, int64_t row_end, const void* x_rows, int64_t x_stride,
                                   int64_t n_tokens, float* y, int64_t y_stride, void* scratch) {
  const BlockLayout<W> layout(w.n_cols, w.group);
  const int64_t bytes = layout.bytes();
  const auto* x = static_cast<const uint8_t*>(x_rows);
  const auto* data = static_cast<const uint8_t*>(w.data);
  int64_t row = row_begin;
  if (n_tokens >= min_tokens_unpacked) {
    auto* wide = static_cast<uint8_t*>(scratch);
    for (; row < row_end; row += wide_blocks * pack_rows) {
      for (int64_t b = 0; b < wide_blocks && row + b * pack_rows < row_end; ++b) {
        unpack_block<W>(data + (row / pack_rows + b) * bytes, layout, wide + b * layout.n_groups * wide_group_bytes);
      }
      wide_tiles<W>(wide, layout.n_groups, x, x_stride, n_tokens, row_end - row, y + row, y_stride);
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
    if (n_tokens >= packed_tokens) packed_block<W, packed_tokens>(block, layout, x, x_stride, n_tokens, n_rows, y + row, y_stride);
    else if (packed_tokens > 4 && n_tokens >= 4) packed_block<W, 4>(block, layout, x, x_stride, n_tokens, n_rows, y + row, y_stride);
    else if (n_tokens >= 2) packed_block<W, 2>(block, layout, x, x_stride, n_tokens, n_rows, y + row, y_stride);
    else if (n_tokens == 1) packed_block<W, 1>(block, layout, x, x_stride, 1, n_rows, y + row, y_stride);
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

#if defined(__x86_64__)
#define KERNEL_IN_REGISTER(v) "+x"(v)
#elif defined(__aarch64__)
#define KERNEL_IN_REGISTER(v) "+w"(v)
#else
#define KERNEL_IN_REGISTER(v) "+m"(v)  // nothing but memory holds four at once
#endif

/// Eight independent chains of the level's dot-product instructions, with nothing loaded: the rate that no kernel can pass.
KERNEL_ENTRY int64_t int8_peak(int64_t rounds) {
  constexpr int chains = 8;
#if defined(KERNEL_DOT_MATRIX)
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
  Int4Weights::Sum sums[chains];
  for (auto& sum : sums) sum.start(0);
  Bytes w = Bytes{} + int8_t{1}, a = Bytes{} + int8_t{1};
  for (int64_t i = 0; i < rounds; ++i) {
    for (auto& sum : sums) {
      asm volatile("" : KERNEL_IN_REGISTER(w), KERNEL_IN_REGISTER(a));  // so that the products are not computed once for all chains
      sum.add(w, a);
    }
  }
  Ints total = {};
  for (auto& sum : sums) total += sum.get(0);
  asm volatile("" : KERNEL_IN_REGISTER(total));
  return rounds * chains * lanes * 4;
#endif
}

/// Four streams with prefetches ahead: faster than one or eight on every machine that was tried.
KERNEL_ENTRY uint64_t read_all(const void* data, size_t n) {
  constexpr size_t n_streams = 4, line = 64, ahead = 1024;
  const size_t run = n / n_streams;
  const auto* bytes = static_cast<const uint8_t*>(data);
  Ints sums[n_streams] = {};
  for (size_t i = 0; i < run; i += line) {
    for (size_t s = 0; s < n_streams; ++s) {
      const uint8_t* p = bytes + s * run + i;
      __builtin_prefetch(p + ahead);
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
