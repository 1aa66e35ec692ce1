// The SIMD verbs that all kernels are written in. The other .inl files are the same source for every level; only the
// lane count and the few functions below change. Included inside the anonymous namespace of isa.cpp.

#define KERNEL_INLINE inline __attribute__((always_inline))
// Table entries pull in everything they call: an inline function of xsimd or std that stayed out of line would be a weak symbol,
// and the linker could hand this level's copy of it to code that runs on a lesser CPU (tests/gates/one_symbol.py).
#define KERNEL_ENTRY __attribute__((flatten))

#if !defined(__x86_64__)
#if defined(__aarch64__) && !defined(ENGINE_KERNEL_PORTABLE)
#define KERNEL_NEON 1
#endif
#include "kernels/portable.inl"
#else
#if defined(__AVX512F__)
using Arch = xsimd::avx512bw;
#elif defined(__AVX2__)
using Arch = xsimd::fma3<xsimd::avx2>;
#else
using Arch = xsimd::sse2;
#endif
using F = xsimd::batch<float, Arch>;
using Mask = xsimd::batch_bool<float, Arch>;

KERNEL_INLINE F select(Mask which, F yes, F no) { return xsimd::select(which, yes, no); }
KERNEL_INLINE bool any(Mask which) { return xsimd::any(which); }
KERNEL_INLINE F min(F a, F b) { return xsimd::min(a, b); }
KERNEL_INLINE F max(F a, F b) { return xsimd::max(a, b); }
KERNEL_INLINE F abs(F x) { return xsimd::abs(x); }
KERNEL_INLINE F exp_lanes(F x) { return xsimd::exp(x); }
KERNEL_INLINE F tanh(F x) { return xsimd::tanh(x); }
KERNEL_INLINE F erf(F x) { return xsimd::erf(x); }

/// a * b + c: fused wherever the level has it, spelled out because the files are compiled with -ffp-contract=off (what the
/// compiler fuses would depend on the surroundings, and the bits with it). xsimd 8.1 has no fused form for AVX-512.
KERNEL_INLINE F fma(F a, F b, F c) {
#if defined(__AVX512F__)
  return F(_mm512_fmadd_ps(a, b, c));
#elif defined(__FMA__)
  return F(_mm256_fmadd_ps(a, b, c));
#else
  return a * b + c;
#endif
}
#endif
constexpr int lanes = static_cast<int>(F::size);

/// Operand of an asm statement that changes v for all the compiler knows, and leaves it where it is.
#if defined(__AVX512F__)
#define KERNEL_IN_REGISTER(v) "+v"(v)
#elif defined(__x86_64__)
#define KERNEL_IN_REGISTER(v) "+x"(v)
#elif defined(__aarch64__)
#define KERNEL_IN_REGISTER(v) "+w"(v)
#else
#define KERNEL_IN_REGISTER(v) "+m"(v)  // nothing but memory holds four at once
#endif

// GCC vectors of the same widths: for shuffles and widenings that have no name in xsimd 8.1.
typedef float Floats __attribute__((vector_size(lanes * 4)));
typedef int32_t Ints __attribute__((vector_size(lanes * 4)));
typedef uint32_t Words __attribute__((vector_size(lanes * 4)));
typedef uint16_t Halves __attribute__((vector_size(lanes * 2)));
typedef double Doubles __attribute__((vector_size(lanes * 4)));     // half as many
typedef float HalfFloats __attribute__((vector_size(lanes * 2)));

KERNEL_INLINE Floats raw(F v) { return (Floats)(typename F::register_type)v; }
KERNEL_INLINE F from_raw(Floats v) { return F((typename F::register_type)v); }

template <class V, class T>
KERNEL_INLINE V load_as(const T* p) {
  V v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

/// Asks for the `bytes` (a multiple of a line, or one line) that lie `ahead` behind p.
KERNEL_INLINE void ask_for(const void* p, const WeightsAhead& ahead, int64_t bytes) {
  const auto* from = static_cast<const char*>(p);
  if (ahead.near != 0) {
    for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(from + ahead.near + at);
  }
  if (ahead.far != 0) {
    for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(from + ahead.far + at, 0, 2);
  }
}

// --- element types: how a format's elements become floats ---------------------------------------------------------------

struct F32 {
  using Element = float;
  static KERNEL_INLINE F load(const float* p) { return F::load_unaligned(p); }
};

struct Bf16 {
  using Element = uint16_t;
  static KERNEL_INLINE F load(const uint16_t* p) {
#if defined(__AVX512F__)
    const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return F(_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16)));
#elif defined(__AVX2__)
    const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return F(_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16)));
#elif defined(KERNEL_NEON)
    return from_raw((Floats)vshll_n_u16(vld1_u16(p), 16));
#else
    return from_raw((Floats)(__builtin_convertvector(load_as<Halves>(p), Words) << 16));
#endif
  }
};

struct F16 {
  using Element = uint16_t;
  static KERNEL_INLINE F load(const uint16_t* p) {
#if defined(__AVX512F__)
    return F(_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
#elif defined(__F16C__)
    return F(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#elif defined(KERNEL_NEON)
    return from_raw((Floats)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))));
#else
    const Words h = __builtin_convertvector(load_as<Halves>(p), Words);
    const Words sign = (h & 0x8000u) << 16;
    const Words rest = h & 0x7fffu;
    // Exponent rebased from 15 to 127; infinities and NaNs need the same step again to reach 255.
    const Words rebase = Words{} + (112u << 23);
    const Words normal = (rest << 13) + rebase + ((Words)(rest >= 0x7c00u) & rebase);
    const Floats small = __builtin_convertvector((Ints)rest, Floats) * 0x1p-24f;  // subnormals: units of 2^-24
    const Words is_small = (Words)(rest < 0x400u);
    return from_raw((Floats)(sign | (is_small & (Words)small) | (~is_small & normal)));
#endif
  }
};

/// The first n (< lanes) elements at p, zeros behind; reads nothing beyond them.
template <class Type>
KERNEL_INLINE F load_first(const typename Type::Element* p, int64_t n) {
  typename Type::Element buffer[lanes] = {};
  __builtin_memcpy(buffer, p, static_cast<size_t>(n) * sizeof *p);
  return Type::load(buffer);
}

KERNEL_INLINE F load(const float* p) { return F::load_unaligned(p); }
KERNEL_INLINE void store(float* p, F v) { v.store_unaligned(p); }
KERNEL_INLINE void store_first(float* p, F v, int64_t n) {
  float buffer[lanes];
  store(buffer, v);
  __builtin_memcpy(p, buffer, static_cast<size_t>(n) * sizeof *p);
}

/// Round to nearest even, as torch does; NaN stays NaN.
KERNEL_INLINE uint16_t to_bf16(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, 4);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

// --- arithmetic --------------------------------------------------------------------------------------------------------

// Shuffles within each 128-bit part, at any width.
#if defined(__AVX512F__)
#define KERNEL_SHUFFLE(a, b, i, j, k, l)                                                                             \
  __builtin_shufflevector(a, b, i, j, (k) + 0, (l) + 0, (i) + 4, (j) + 4, (k) + 4, (l) + 4, (i) + 8, (j) + 8, (k) + 8, \
                          (l) + 8, (i) + 12, (j) + 12, (k) + 12, (l) + 12)
constexpr int second = 16;
#elif defined(__AVX2__)
#define KERNEL_SHUFFLE(a, b, i, j, k, l) \
  __builtin_shufflevector(a, b, i, j, k, l, (i) + 4, (j) + 4, (k) + 4, (l) + 4)
constexpr int second = 8;
#else
#define KERNEL_SHUFFLE(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
constexpr int second = 4;
#endif

typedef float Float4 __attribute__((vector_size(16)));

/// The sums of the lanes of four vectors, side by side. The one horizontal sum of all dot products: its order is
/// ((0 + 2) + (1 + 3)) in each 128 bits, then the upper half added to the lower until 128 bits are left.
KERNEL_INLINE Float4 sum_lanes(F a, F b, F c, F d) {
  const Floats ab = KERNEL_SHUFFLE(raw(a), raw(b), 0, second, 1, second + 1) +
                    KERNEL_SHUFFLE(raw(a), raw(b), 2, second + 2, 3, second + 3);
  const Floats cd = KERNEL_SHUFFLE(raw(c), raw(d), 0, second, 1, second + 1) +
                    KERNEL_SHUFFLE(raw(c), raw(d), 2, second + 2, 3, second + 3);
  const Floats sums = KERNEL_SHUFFLE(ab, cd, 0, 1, second, second + 1) + KERNEL_SHUFFLE(ab, cd, 2, 3, second + 2, second + 3);
#if defined(__AVX512F__)
  const auto half = __builtin_shufflevector(sums, sums, 0, 1, 2, 3, 4, 5, 6, 7) +
                    __builtin_shufflevector(sums, sums, 8, 9, 10, 11, 12, 13, 14, 15);
  return __builtin_shufflevector(half, half, 0, 1, 2, 3) + __builtin_shufflevector(half, half, 4, 5, 6, 7);
#elif defined(__AVX2__)
  return __builtin_shufflevector(sums, sums, 0, 1, 2, 3) + __builtin_shufflevector(sums, sums, 4, 5, 6, 7);
#else
  return sums;
#endif
}

template <class V, size_t... i>
KERNEL_INLINE V even_lanes(V a, V b, std::index_sequence<i...>) { return __builtin_shufflevector(a, b, (2 * i)...); }
template <class V, size_t... i>
KERNEL_INLINE V odd_lanes(V a, V b, std::index_sequence<i...>) { return __builtin_shufflevector(a, b, (2 * i + 1)...); }

/// All lanes of v[i], neighbours first, in lane i. Overwrites v.
template <class V, class Op>
KERNEL_INLINE V fold(V (&v)[lanes], Op op) {
  constexpr std::make_index_sequence<lanes> all;
#pragma GCC unroll 4
  for (int n = lanes / 2; n > 0; n /= 2) {
#pragma GCC unroll 8
    for (int i = 0; i < n; ++i) v[i] = op(even_lanes(v[2 * i], v[2 * i + 1], all), odd_lanes(v[2 * i], v[2 * i + 1], all));
  }
  return v[0];
}

KERNEL_INLINE float sum_lanes(F a) { return sum_lanes(a, a, a, a)[0]; }

KERNEL_INLINE float max_lanes(F a) {
#if defined(__AVX512F__)
  return _mm512_reduce_max_ps(a);
#elif defined(KERNEL_NEON)
  return vmaxnmvq_f32((float32x4_t)raw(a));
#else
  float buffer[lanes];
  store(buffer, a);
  float best = buffer[0];
  for (int i = 1; i < lanes; ++i) best = buffer[i] > best ? buffer[i] : best;
  return best;
#endif
}

/// exp, tanh, erf within 2.5 units in the last place; exp is 0 below -87.3 or -88 and infinite above 88.37 or 88.72.
KERNEL_INLINE F exp(F x) {
#if defined(__AVX512F__)
  // exp(n ln 2 + r) = 2^n * exp(r), |r| <= ln 2 / 2, by Cephes' polynomial of degree 7; half of xsimd's instructions.
  const __m512 bounded = _mm512_min_ps(_mm512_set1_ps(89.0f), x);  // the second operand is what comes out if one is NaN
  const __mmask16 not_small = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-87.33654f), _CMP_NLT_UQ);
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(bounded, _mm512_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), bounded);
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
  __m512 p = _mm512_fmadd_ps(_mm512_set1_ps(1.9875691500e-4f), r, _mm512_set1_ps(1.3981999507e-3f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(8.3334519073e-3f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.1665795894e-2f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.6666665459e-1f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.0000001201e-1f));
  p = _mm512_add_ps(_mm512_fmadd_ps(_mm512_mul_ps(r, r), p, r), _mm512_set1_ps(1.0f));
  return F(_mm512_maskz_scalef_ps(not_small, p, n));
#else
  return exp_lanes(x);
#endif
}
KERNEL_INLINE float exp(float x) {
  float y[lanes];
  store(y, exp(F(x)));
  return y[0];
}

KERNEL_INLINE int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
KERNEL_INLINE int64_t max(int64_t a, int64_t b) { return a > b ? a : b; }
KERNEL_INLINE int64_t round_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }
