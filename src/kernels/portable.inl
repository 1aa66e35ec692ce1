// Vectors of four floats for every processor but x86-64: operators of GCC's vectors, of which the compiler makes what the target has, down to
// four scalar operations, and on ARM a few intrinsics for what these cannot say. Included by simd.inl.
//
// xsimd would do for ARM, but its functions that convert vectors stay behind as weak symbols (see KERNEL_ENTRY).

typedef float FourFloats __attribute__((vector_size(16)));
typedef int32_t FourInts __attribute__((vector_size(16)));

/// The interface of xsimd's batch, as far as the kernels use it.
struct F {
  using register_type = FourFloats;
  static constexpr int size = 4;
  FourFloats v;

  F() = default;
  KERNEL_INLINE F(float x) : v{x, x, x, x} {}
  KERNEL_INLINE F(FourFloats x) : v(x) {}
  KERNEL_INLINE operator FourFloats() const { return v; }

  static KERNEL_INLINE F load_unaligned(const float* p) {
    F x;
    __builtin_memcpy(&x.v, p, sizeof x.v);
    return x;
  }
  KERNEL_INLINE void store_unaligned(float* p) const { __builtin_memcpy(p, &v, sizeof v); }

  friend KERNEL_INLINE F operator+(F a, F b) { return a.v + b.v; }
  friend KERNEL_INLINE F operator-(F a, F b) { return a.v - b.v; }
  friend KERNEL_INLINE F operator*(F a, F b) { return a.v * b.v; }
  friend KERNEL_INLINE F operator/(F a, F b) { return a.v / b.v; }
};

/// All bits of a lane set where a comparison holds.
struct Mask {
  FourInts v;
  KERNEL_INLINE Mask(FourInts x) : v(x) {}
  friend KERNEL_INLINE Mask operator|(Mask a, Mask b) { return a.v | b.v; }
};
KERNEL_INLINE Mask operator<(F a, F b) { return a.v < b.v; }
KERNEL_INLINE Mask operator>(F a, F b) { return a.v > b.v; }
KERNEL_INLINE Mask operator==(F a, F b) { return a.v == b.v; }

KERNEL_INLINE F select(Mask which, F yes, F no) {
  return (FourFloats)((which.v & (FourInts)yes.v) | (~which.v & (FourInts)no.v));
}
KERNEL_INLINE bool any(Mask which) { return (which.v[0] | which.v[1] | which.v[2] | which.v[3]) != 0; }
KERNEL_INLINE F abs(F x) { return (FourFloats)((FourInts)x.v & 0x7fffffff); }

#if defined(KERNEL_NEON)
KERNEL_INLINE F min(F a, F b) { return (FourFloats)vminq_f32(a.v, b.v); }
KERNEL_INLINE F max(F a, F b) { return (FourFloats)vmaxq_f32(a.v, b.v); }
#else
KERNEL_INLINE F min(F a, F b) { return select(b < a, b, a); }
KERNEL_INLINE F max(F a, F b) { return select(a < b, b, a); }
#endif

/// a * b + c, fused if the target has an instruction for that (a call into the C library would take a hundred times as long).
KERNEL_INLINE F fma(F a, F b, F c) {
#if defined(KERNEL_NEON)
  return (FourFloats)vfmaq_f32(c.v, a.v, b.v);
#elif defined(__FP_FAST_FMAF)
  return FourFloats{__builtin_fmaf(a.v[0], b.v[0], c.v[0]), __builtin_fmaf(a.v[1], b.v[1], c.v[1]),
                    __builtin_fmaf(a.v[2], b.v[2], c.v[2]), __builtin_fmaf(a.v[3], b.v[3], c.v[3])};
#else
  return a * b + c;
#endif
}

/// exp(n ln 2 + r) = 2^n * exp(r), |r| <= ln 2 / 2, by Cephes' polynomial of degree 7.
KERNEL_INLINE F exp_lanes(F x) {
  const F magic(12582912.0f);  // 1.5 * 2^23: the adder rounds, and the integer is what then stands in the low bits
  const F bounded = min(x, F(89.0f));
  const F shifted = bounded * F(1.44269504f) + magic;
  const F n = shifted - magic;
  F r = fma(n, F(-0.693359375f), bounded);
  r = fma(n, F(2.12194440e-4f), r);
  F p = fma(F(1.9875691500e-4f), r, F(1.3981999507e-3f));
  p = fma(p, r, F(8.3334519073e-3f));
  p = fma(p, r, F(4.1665795894e-2f));
  p = fma(p, r, F(1.6666665459e-1f));
  p = fma(p, r, F(5.0000001201e-1f));
  p = fma(r * r, p, r) + F(1.0f);
  // In two factors, since 2^128 is not a float.
  const FourInts exponent = (FourInts)shifted.v - (FourInts)magic.v;
  const FourInts half = exponent >> 1;
  const F scaled = p * F((FourFloats)((half + 127) << 23)) * F((FourFloats)((exponent - half + 127) << 23));
  return select(x < F(-87.33654f), F(0.0f), scaled);
}

/// Cephes' odd polynomial near zero, else 1 - 2 / (exp(2 |x|) + 1) with x's sign.
KERNEL_INLINE F tanh(F x) {
  const F square = x * x;
  F p = fma(F(-5.70498872745e-3f), square, F(2.06390887954e-2f));
  p = fma(p, square, F(-5.37397155531e-2f));
  p = fma(p, square, F(1.33314422036e-1f));
  p = fma(p, square, F(-3.33332819422e-1f));
  const F near_zero = fma(p * square, x, x);
  const F size = abs(x);
  const F far = F(1.0f) - F(2.0f) / (exp_lanes(size + size) + F(1.0f));
  const F signed_far = (FourFloats)((FourInts)far.v | ((FourInts)x.v & INT32_MIN));
  return select(size > F(0.625f), signed_far, near_zero);
}

/// Only the exact GELU needs it, which hardly any model has.
KERNEL_INLINE F erf(F x) {
  return FourFloats{__builtin_erff(x.v[0]), __builtin_erff(x.v[1]), __builtin_erff(x.v[2]), __builtin_erff(x.v[3])};
}
