// Quantized weights and activations: packing, quantizing, unpacking a row. Included inside the anonymous namespace of isa.cpp.

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
KERNEL_INLINE float scale_to_float(uint16_t h) {
  const uint32_t bits = static_cast<uint32_t>(h & 0x7fffu) << 13;
  float magnitude;
  __builtin_memcpy(&magnitude, &bits, 4);
  magnitude *= 0x1p112f;
  return (h & 0x8000u) != 0 ? -magnitude : magnitude;
}

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
#elif defined(__AVX2__)
  const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128((__m256i)v), _mm256_extracti128_si256((__m256i)v, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(to), _mm_packs_epi16(words, words));  // gcc 12 would store them one by one
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

template <int half, class V, size_t... i>
KERNEL_INLINE V lower_lanes(V a, V b, std::index_sequence<i...>) { return __builtin_shufflevector(a, b, (i / half * 2 * half + i % half)...); }
template <int half, class V, size_t... i>
KERNEL_INLINE V upper_lanes(V a, V b, std::index_sequence<i...>) { return __builtin_shufflevector(a, b, (i / half * 2 * half + half + i % half)...); }

/// The sum of each vector's lanes, the upper half added to the lower, and so on, in the lane of its number. Overwrites v.
template <int half = lanes / 2>
KERNEL_INLINE Floats sum_halves(Floats (&v)[lanes]) {
  constexpr std::make_index_sequence<lanes> all;
#pragma GCC unroll 8
  for (int i = 0; i < half; ++i) v[i] = lower_lanes<half>(v[2 * i], v[2 * i + 1], all) + upper_lanes<half>(v[2 * i], v[2 * i + 1], all);
  if constexpr (half > 1) return sum_halves<half / 2>(v);
  else return v[0];
}

/// Numbers that are not negative to float16 and back: the bits in each lane, and what they stand for. The largest finite one stands for all
/// above it: a scale must stay finite.
KERNEL_INLINE F halved(F x, Ints* bits) {
  const Ints magnitude = (Ints)raw(x);
  const Ints subnormal = (Ints)raw(x + F(0.5f)) - 0x3f000000;
  const Ints normal = (magnitude - 0x38000000 + 0xfff + ((magnitude >> 13) & 1)) >> 13;
  const Ints finite = magnitude < 0x38800000 ? subnormal : normal;
  *bits = magnitude >= 0x477ff000 ? Ints{} + 0x7bff : finite;
  return from_raw((Floats)(*bits << 13)) * F(0x1p112f);
}

/// Squared errors of x (padded) against scale * q, added up in 16 sums of every sixteenth, of which the upper half is added to the lower until
/// there are as many as lanes; `inverse`: 1 / scale, or 0 for 0.
KERNEL_INLINE Floats group_errors(const float* x, int64_t n, float scale, float inverse_scale, float low, float high) {
  const F factor(scale), inverse(inverse_scale);
  F sums[wide_parts];
  for (F& sum : sums) sum = F(0.0f);
  for (int64_t i = 0; i < n; i += 16) {
    for (int v = 0; v < wide_parts; ++v) {
      const F value = load(x + i + v * lanes);
      const F d = value - factor * round_clamped(value * inverse, F(low), F(high));
      sums[v] = sums[v] + d * d;
    }
  }
  for (int half = wide_parts / 2; half > 0; half /= 2) {
    for (int v = 0; v < half; ++v) sums[v] = sums[v] + sums[v + half];
  }
  return raw(sums[0]);
}

/// How a format rounds: its integers, and by what a group's largest magnitude is divided for the scales that are tried, the usual one first
/// (the last four only fill vectors). In int4 clipping the largest value a little often serves the others more; in int8 some of so many nearly
/// equal scales happen to suit the group.
struct Rounding {
  float low, high;
  float shares[16];
};
constexpr int n_shares = 12;
constexpr Rounding rounding_i8 = {-127, 127, {127.0f, 126.75f, 126.5f, 126.25f, 126.0f, 125.75f, 125.5f, 125.25f, 125.0f, 124.75f, 124.5f, 124.25f, 1, 1, 1, 1}};
constexpr Rounding rounding_i4 = {-8, 7, {7.0f, 6.75f, 7.25f, 7.5f, 7.75f, 8.0f, 8.25f, 8.5f, 8.75f, 9.0f, 9.25f, 9.5f, 1, 1, 1, 1}};

/// The scales that are tried for a group, already rounded to float16, and their inverses (0 for 0).
struct ScaleTries {
  float scales[16], inverses[16];
  int32_t bits[16];
};

KERNEL_INLINE void set_tries(const Rounding& how, const float* x, int64_t n, ScaleTries& tries) {
  const F largest(largest_magnitude(x, n));
  for (int v = 0; v < wide_parts; ++v) {
    Ints half;
    const Floats scale = raw(halved(largest / load(how.shares + v * lanes), &half));
    store(tries.scales + v * lanes, from_raw(scale));
    store(tries.inverses + v * lanes, from_raw(scale != 0.0f ? 1.0f / scale : Floats{}));
    __builtin_memcpy(tries.bits + v * lanes, &half, sizeof half);
  }
}

/// The squared error that each scale makes, which is not negative.
KERNEL_INLINE void set_errors(const Rounding& how, const float* x, int64_t n, const ScaleTries& tries, float (&errors)[16]) {
#pragma GCC unroll 4
  for (int first = 0; first < n_shares; first += lanes) {
    Floats sums[lanes];
#pragma GCC unroll 16
    for (int i = 0; i < lanes; ++i) {
      sums[i] = first + i < n_shares ? group_errors(x, n, tries.scales[first + i], tries.inverses[first + i], how.low, how.high) : Floats{};
    }
    store(errors + first, from_raw(sum_halves(sums)));
  }
}

/// The first of the least errors. Without a branch, which nothing could foretell: of floats that are not negative the bits have the same order.
KERNEL_INLINE int first_least(const float (&errors)[16]) {
  uint64_t least = ~uint64_t{0};
  for (int i = 0; i < n_shares; ++i) {
    const uint64_t key = uint64_t{load_as<uint32_t>(errors + i)} << 4 | static_cast<uint64_t>(i);
    least = key < least ? key : least;
  }
  return static_cast<int>(least & 15);
}

/// Groups are taken some at a time, step by step: a group's steps wait for each other, other groups' do not.
KERNEL_ENTRY void quantize_row(Format format, int group, const float* x, int64_t n_cols, int8_t* q, uint16_t* scales) {
  constexpr int64_t side_by_side = 8;
  const Rounding& how = format == Format::i8 ? rounding_i8 : rounding_i4;
  const bool search = format == Format::i4 || is_narrow(n_cols);
  float last[max_group];  // of a group cut short, with zeros behind
  for (int64_t begin = 0; begin < n_cols; begin += side_by_side * group) {
    const int64_t n_groups = min(side_by_side, (n_cols - begin + group - 1) / group);
    const float* from[side_by_side];
    int64_t n[side_by_side];
    ScaleTries tries[side_by_side];
    float errors[side_by_side][16];
    for (int64_t g = 0; g < n_groups; ++g) {
      from[g] = x + begin + g * group;
      n[g] = min(group, n_cols - begin - g * group);
      if (n[g] == group) continue;
      n[g] = padded_copy(from[g], n[g], last);
      from[g] = last;
    }
    for (int64_t g = 0; g < n_groups; ++g) set_tries(how, from[g], n[g], tries[g]);
    if (search) {
      for (int64_t g = 0; g < n_groups; ++g) set_errors(how, from[g], n[g], tries[g], errors[g]);
    }
    for (int64_t g = 0; g < n_groups; ++g) {
      const int best = search ? first_least(errors[g]) : 0;
      const int64_t at = begin + g * group, n_left = min(group, n_cols - at);
      int8_t rounded[max_group];
      int8_t* to = n_left == n[g] ? q + at : rounded;
      scales[at / group] = static_cast<uint16_t>(tries[g].bits[best]);
      round_to_bytes(from[g], n[g], tries[g].inverses[best], how.low, how.high, to);
      if (to == rounded) __builtin_memcpy(q + at, rounded, static_cast<size_t>(n_left));
    }
  }
}

// --- activations ----------------------------------------------------------------------------------------------------------------

KERNEL_ENTRY size_t act_bytes(int64_t n_cols) {
  return static_cast<size_t>(round_up((is_narrow(n_cols) ? 2 : 1) * n_act_groups(n_cols) * static_cast<int64_t>(sizeof(ActGroup)), 64));
}

/// Quantizes `lanes` groups side by side: what is taken over a group's columns (maximum, sum) ends in a lane of one vector.
KERNEL_INLINE void quantize_groups(const float* const (&x)[lanes], ActGroup* const (&to)[lanes]) {
  constexpr int n_vectors = act_group / lanes;
  Floats largest[lanes];
#pragma GCC unroll 16
  for (int g = 0; g < lanes; ++g) {
    F most(0.0f);
    for (int v = 0; v < n_vectors; ++v) most = max(most, abs(load(x[g] + v * lanes)));
    largest[g] = raw(most);
  }
  const F most = from_raw(fold(largest, [](Floats a, Floats b) { return raw(max(from_raw(a), from_raw(b))); }));
  float scales[lanes], inverses[lanes];
  store(scales, most / F(127.0f));
  store(inverses, select(most > F(0.0f), F(127.0f) / most, F(0.0f)));
  Ints sums[lanes];
#pragma GCC unroll 16
  for (int g = 0; g < lanes; ++g) {
    Ints sum = {};
    for (int v = 0; v < n_vectors; ++v) {
      // As round_clamped: the adder rounds, and the integer is what then stands in the low bits.
      const F magic(12582912.0f);
      const F bounded = min(max(load(x[g] + v * lanes) * F(inverses[g]), F(-127.0f)), F(127.0f));
      const Ints q = (Ints)raw(bounded + magic) - (Ints)raw(magic);
      store_bytes(to[g]->q + v * lanes, q);
      sum += q;
    }
    sums[g] = sum;
  }
  const auto plus = [](Ints a, Ints b) { return a + b; };
#if defined(KERNEL_DOT_PAIRS)
  Ints is_first = {}, firsts[lanes];
  for (int i = 0; i < lanes; ++i) is_first[i] = i % 4 < 2 ? -1 : 0;
  for (int g = 0; g < lanes; ++g) firsts[g] = sums[g] & is_first;
  const Ints first = fold(firsts, plus);
#endif
  const Ints sum = fold(sums, plus);
  for (int g = 0; g < lanes; ++g) {
    to[g]->scale = scales[g];
    to[g]->correction_8 = -8 * sum[g];
    to[g]->correction_128 = -128 * sum[g];
#if defined(KERNEL_DOT_PAIRS)
    to[g]->correction_8_pairs[0] = static_cast<int16_t>(-8 * first[g]);
    to[g]->correction_8_pairs[1] = static_cast<int16_t>(-8 * (sum[g] - first[g]));
#endif
  }
}

/// Columns [begin, end) of n_rows rows; `rest`: of what `rows`, quantized already, leaves of them, into the rows that follow.
__attribute__((noinline, noclone, flatten)) void quantize_rows(const float* x, int64_t x_stride, int64_t n_rows, int64_t n_cols, int64_t begin,
                                                               int64_t end, void* rows, int64_t row_stride, bool rest) {
  const float* from[lanes];
  ActGroup* to[lanes];
  alignas(64) float own[lanes][act_group];
  int n = 0;
  for (int64_t r = 0; r < n_rows; ++r) {
    auto* groups = reinterpret_cast<ActGroup*>(static_cast<uint8_t*>(rows) + r * row_stride);
    for (int64_t c = begin; c < end; c += act_group) {
      const ActGroup& first = groups[c / act_group];
      from[n] = x + r * x_stride + c;
      to[n] = groups + c / act_group + (rest ? n_act_groups(n_cols) : 0);
      if (c + act_group > end || rest) {
        const int64_t width = min(act_group, end - c);
        for (int64_t i = width; i < act_group; ++i) own[n][i] = 0;
        for (int64_t i = 0; i < width; ++i) own[n][i] = rest ? from[n][i] - static_cast<float>(first.q[i]) * first.scale : from[n][i];
        from[n] = own[n];
      }
      if (++n == lanes) {
        quantize_groups(from, to);
        n = 0;
      }
    }
  }
  if (n == 0) return;
  for (int g = n; g < lanes; ++g) {  // the last one again
    from[g] = from[n - 1];
    to[g] = to[n - 1];
  }
  quantize_groups(from, to);
}

KERNEL_ENTRY void quantize_act(const float* x, int64_t x_stride, int64_t n_rows, int64_t n_cols, int64_t begin, int64_t end, void* rows,
                               int64_t row_stride) {
  quantize_rows(x, x_stride, n_rows, n_cols, begin, end, rows, row_stride, false);
  if (is_narrow(n_cols)) quantize_rows(x, x_stride, n_rows, n_cols, begin, end, rows, row_stride, true);
}
