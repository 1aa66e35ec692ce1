// Vectors of four floats for processors that have no row in simd.inl: plain operators on GCC's vectors, of which the compiler makes what the
// target has, down to four scalar operations. The same interface as xsimd's batch, as far as the kernels use it.

typedef float PortableFloats __attribute__((vector_size(16)));
typedef int32_t PortableMask __attribute__((vector_size(16)));

struct F {
  using register_type = PortableFloats;
  static constexpr int size = 4;
  PortableFloats v;

  F() = default;
  KERNEL_INLINE F(float x) : v{x, x, x, x} {}
  KERNEL_INLINE F(PortableFloats x) : v(x) {}
  KERNEL_INLINE operator PortableFloats() const { return v; }

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
  PortableMask v;
  KERNEL_INLINE Mask(PortableMask x) : v(x) {}
  friend KERNEL_INLINE Mask operator|(Mask a, Mask b) { return a.v | b.v; }
};
KERNEL_INLINE Mask operator<(F a, F b) { return a.v < b.v; }
KERNEL_INLINE Mask operator>(F a, F b) { return a.v > b.v; }
KERNEL_INLINE Mask operator==(F a, F b) { return a.v == b.v; }

KERNEL_INLINE F select(Mask which, F yes, F no) {
  return (PortableFloats)((which.v & (PortableMask)yes.v) | (~which.v & (PortableMask)no.v));
}
KERNEL_INLINE bool any(Mask which) { return (which.v[0] | which.v[1] | which.v[2] | which.v[3]) != 0; }
KERNEL_INLINE F min(F a, F b) { return select(b < a, b, a); }
KERNEL_INLINE F max(F a, F b) { return select(a < b, b, a); }
KERNEL_INLINE F abs(F x) { return (PortableFloats)((PortableMask)x.v & 0x7fffffff); }

template <class Fn>
KERNEL_INLINE F each_lane(F x, Fn f) {
  return PortableFloats{f(x.v[0]), f(x.v[1]), f(x.v[2]), f(x.v[3])};
}
KERNEL_INLINE F exp_lanes(F x) {
  return each_lane(x, [](float lane) { return __builtin_expf(lane); });
}
KERNEL_INLINE F tanh(F x) {
  return each_lane(x, [](float lane) { return __builtin_tanhf(lane); });
}
KERNEL_INLINE F erf(F x) {
  return each_lane(x, [](float lane) { return __builtin_erff(lane); });
}

/// a * b + c, fused if the target has an instruction for that (a call into the C library would take a hundred times as long).
KERNEL_INLINE F fma(F a, F b, F c) {
#if defined(__FP_FAST_FMAF)
  return PortableFloats{__builtin_fmaf(a.v[0], b.v[0], c.v[0]), __builtin_fmaf(a.v[1], b.v[1], c.v[1]),
                        __builtin_fmaf(a.v[2], b.v[2], c.v[2]), __builtin_fmaf(a.v[3], b.v[3], c.v[3])};
#else
  return a * b + c;
#endif
}
