#include "kernels/cpu.h"

#if defined(__x86_64__)
#include <cpuid.h>

#include <cstdint>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace engine::kernels {

#if defined(__x86_64__)

namespace {

bool bit(uint32_t word, int index) { return (word >> index & 1u) != 0; }

/// The first word of the maker's name.
uint32_t maker() {
  uint32_t a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(0, &a, &b, &c, &d) != 0 ? b : 0;
}

uint64_t enabled_state() {
  uint32_t low = 0, high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return static_cast<uint64_t>(high) << 32 | low;
}

}  // namespace

// Bit numbers: Intel SDM volume 2, CPUID leaves 1 and 7; volume 1, 13.3 (XCR0). The family: AMD APM volume 3, E.3.2.
CpuFeatures detect_cpu() {
  CpuFeatures features;
  uint32_t a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid(1, &a, &b, &c, &d) == 0) return features;
  const bool osxsave = bit(c, 27);
  const bool fma = bit(c, 12);
  const bool f16c = bit(c, 29);
  const uint32_t family = (a >> 8 & 15) + (a >> 20 & 255);  // base and extended, of processors where the base is 15
  if (!osxsave || __get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return features;
  const uint64_t state = enabled_state();
  constexpr uint64_t ymm = 0x6;    // SSE and AVX
  constexpr uint64_t zmm = 0xe6;   // and opmask, ZMM_Hi256, Hi16_ZMM
  features.is_intel = maker() == signature_INTEL_ebx;
  features.is_zen5 = maker() == signature_AMD_ebx && family >= 0x1a;
  features.avx2 = (state & ymm) == ymm && bit(b, 5) && fma && f16c;
  const bool f = bit(b, 16), dq = bit(b, 17), bw = bit(b, 30), vl = bit(b, 31), cd = bit(b, 28);
  features.avx512 = features.avx2 && (state & zmm) == zmm && f && dq && bw && vl && cd;
  features.avx512_vnni = features.avx512 && bit(c, 11);
  const bool has_leaf_7_1 = a >= 1;
  if (has_leaf_7_1 && __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0) {
    features.avx_vnni = features.avx2 && bit(a, 4);
    features.avx512_bf16 = features.avx512_vnni && bit(a, 5);
  }
  return features;
}

#elif defined(__aarch64__) && defined(__linux__)

// Bit numbers: Linux's arch/arm64 elf_hwcaps documentation and asm/hwcap.h.
CpuFeatures detect_cpu() {
  CpuFeatures features;
  const unsigned long first = getauxval(AT_HWCAP), second = getauxval(AT_HWCAP2);
  features.dotprod = (first >> 20 & 1) != 0;
  features.i8mm = features.dotprod && (second >> 13 & 1) != 0 && (second >> 14 & 1) != 0;
  return features;
}

#else

CpuFeatures detect_cpu() { return {}; }

#endif

}  // namespace engine::kernels
