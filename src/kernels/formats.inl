// How quantized weights lie in memory, and exact products of a group with int8 activations. Included inside the anonymous namespace of isa.cpp.
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

/// Of an unrolled group gcc 12 makes all products first, spills them and adds them up in the end; this keeps every addition in its place.
template <class V>
KERNEL_INLINE void add_here(V& sum, V products) {
  sum += products;
  asm("" : KERNEL_IN_REGISTER(sum));
}
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

/// 32 columns of an activation row; a row is these one after another, so that a kernel needs one pointer a token. A narrow row is followed by
/// another one, of what its own rounding left.
struct ActGroup {
  int8_t q[act_group];
  float scale;
  int32_t correction_8, correction_128;  // -8 and -128 times the sum of q: what weights stored with such an offset add too much, negated
  int16_t correction_8_pairs[2];         // -8 times the sum of each quad's first two, and of its last two (KERNEL_DOT_PAIRS)
};
static_assert(sizeof(ActGroup) == 48);

// --- formats: stored quads, and the exact sum of a group's products -----------------------------------------------------------

/// int8: a byte a weight. With dpbusd the stored byte is w + 128, and the sum starts at -128 * (sum of activations).
struct Int8Weights {
  static constexpr bool takes_both = true;  // of a narrow row's two
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
    static constexpr int most_quads = group_quads;
    KERNEL_INLINE void fold() {}
#if defined(KERNEL_DOT_WORDS)
    int32x4_t low, high;  // two sums a row: of the first and the last two columns of each quad
    KERNEL_INLINE void start(const ActGroup&) { low = high = vdupq_n_s32(0); }
    KERNEL_INLINE void add(Bytes w, Quad a) {
      low = vpadalq_s16(low, vmull_s8(vget_low_s8((int8x16_t)w), vget_low_s8((int8x16_t)a)));
      high = vpadalq_s16(high, vmull_high_s8((int8x16_t)w, (int8x16_t)a));
    }
    KERNEL_INLINE Ints get(const ActGroup&) const { return (Ints)vpaddq_s32(low, high); }
#else
    Ints total;
    KERNEL_INLINE void start(const ActGroup& act) { total = Ints{} + (offset != 0 ? act.correction_128 : 0); }
    KERNEL_INLINE void add(Bytes w, Quad a) {
#if defined(KERNEL_DOT_VNNI)
      total = dot_unsigned(total, w, a);
#elif defined(KERNEL_DOT_PAIRS)
      add_here(total, add_pairs(mul_pairs_signed(w, a)));
#else
      total = dot_signed(total, w, a);
#endif
    }
    KERNEL_INLINE Ints get(const ActGroup&) const { return total; }
#endif
  };
};

/// int4: q + 8 in a nibble; the sum starts at -8 * (sum of activations).
struct Int4Weights {
  static constexpr bool takes_both = false;
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
    static constexpr int most_quads = group_quads;
    KERNEL_INLINE void fold() {}
#if defined(KERNEL_DOT_PAIRS)
    Shorts pairs;  // eight quads of at most 2 * 15 * 127 stay below 2^15
    KERNEL_INLINE void start(const ActGroup& act) { pairs = (Shorts)(Ints{} + load_as<int32_t>(act.correction_8_pairs)); }
    KERNEL_INLINE void add(Bytes w, Quad a) { add_here(pairs, mul_pairs(w, a)); }
    KERNEL_INLINE Ints get(const ActGroup&) const { return add_pairs(pairs); }
#elif defined(KERNEL_DOT_WORDS)
    int16x8_t low, high;  // rows 0 and 1, rows 2 and 3; eight quads of 15 * 127 stay below 2^15
    KERNEL_INLINE void start(const ActGroup&) { low = high = vdupq_n_s16(0); }
    KERNEL_INLINE void add(Bytes w, Quad a) {
      low = vmlal_s8(low, vget_low_s8((int8x16_t)w), vget_low_s8((int8x16_t)a));
      high = vmlal_high_s8(high, (int8x16_t)w, (int8x16_t)a);
    }
    KERNEL_INLINE Ints get(const ActGroup& act) const { return (Ints)vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high)) + act.correction_8; }
#else
    Ints total;
    KERNEL_INLINE void start(const ActGroup& act) { total = Ints{} + act.correction_8; }
    KERNEL_INLINE void add(Bytes w, Quad a) {
#if defined(KERNEL_DOT_VNNI)
      total = dot_unsigned(total, w, a);
#else
      total = dot_signed(total, w, a);
#endif
    }
    KERNEL_INLINE Ints get(const ActGroup&) const { return total; }
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
#elif defined(__AVX2__)
    const Words e = (Words)_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));  // gcc 12 would take the bytes one by one
#else
    typedef uint8_t Narrow __attribute__((vector_size(lanes)));
    const Words e = __builtin_convertvector(load_as<Narrow>(p), Words);
#endif
    const Words bits = (e << 23) | ((Words)(e == 0) & 0x00400000u);
    return F(0.5f) * from_raw((Floats)bits);
  }
};

/// Twice the values of nibbles in e2m1, plus z.
template <int z>
KERNEL_INLINE Bytes e2m1_doubled(Bytes nibbles) {
#if defined(__AVX2__)
  const auto plus = [](int value) { return static_cast<char>(static_cast<uint8_t>(value + z)); };
  const __m128i values = _mm_setr_epi8(plus(0), plus(1), plus(2), plus(3), plus(4), plus(6), plus(8), plus(12), plus(0), plus(-1), plus(-2),
                                       plus(-3), plus(-4), plus(-6), plus(-8), plus(-12));
#endif
#if defined(__AVX512BW__)
  return (Bytes)_mm512_shuffle_epi8(_mm512_broadcast_i32x4(values), (__m512i)nibbles);
#elif defined(__AVX2__)
  return (Bytes)_mm256_shuffle_epi8(_mm256_broadcastsi128_si256(values), (__m256i)nibbles);
#else
  const Bytes m = nibbles & 7, sign = nibbles > 7;
  const Bytes magnitude = m + ((m - 4) & (m > 4)) + ((m - 6) & (m > 6)) * 2;
  return (magnitude ^ sign) - sign + static_cast<int8_t>(z);
#endif
}

/// MXFP4 with quantized activations. With dpbusd 128 is added to the doubled values, with maddubs 12.
struct Mxfp4Weights {
  static constexpr bool takes_both = false;
  using Scale = E8m0;
  static constexpr int64_t group_bytes = Int4Weights::group_bytes;
#if defined(KERNEL_DOT_VNNI)
  static constexpr int offset = 128;
#elif defined(KERNEL_DOT_PAIRS)
  static constexpr int offset = 12;
#else
  static constexpr int offset = 0;
#endif
  static KERNEL_INLINE Bytes quad(const uint8_t* group, int j, int v) { return e2m1_doubled<offset>(Int4Weights::quad(group, j, v)); }
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
    static constexpr int most_quads = 4;  // of at most 2 * 24 * 127 stay below 2^15
    Shorts pairs;
    Ints total;
    KERNEL_INLINE void start(const ActGroup& act) { total = Ints{} + act.correction_8 / 8 * offset, pairs = Shorts{}; }
    KERNEL_INLINE void add(Bytes w, Quad a) { add_here(pairs, mul_pairs(w, a)); }
    KERNEL_INLINE void fold() { total += add_pairs(pairs), pairs = Shorts{}; }
    KERNEL_INLINE Ints get(const ActGroup&) const { return total; }
#else
    static constexpr int most_quads = group_quads;
    Ints total;
    KERNEL_INLINE void start(const ActGroup& act) { total = Ints{} + (offset != 0 ? act.correction_128 : 0); }
    KERNEL_INLINE void add(Bytes w, Quad a) {
#if defined(KERNEL_DOT_VNNI)
      total = dot_unsigned(total, w, a);
#else
      total = dot_signed(total, w, a);
#endif
    }
    KERNEL_INLINE void fold() {}
    KERNEL_INLINE Ints get(const ActGroup&) const { return total; }
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
