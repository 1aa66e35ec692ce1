// What this CPU and operating system can execute.
#pragma once

namespace engine::kernels {

/// Groups of instructions that a level may need. All false on other processor families.
struct CpuFeatures {
  bool avx2 = false;         // AVX2, FMA and F16C, with the ymm state saved by the operating system
  bool avx_vnni = false;     // 256-bit VNNI without AVX-512; implies avx2
  bool avx512 = false;       // AVX-512 F, BW, DQ, VL, with the zmm and mask state saved; implies avx2
  bool avx512_vnni = false;  // implies avx512
  bool avx512_bf16 = false;  // implies avx512_vnni
  bool is_intel = false;     // the makers, for weights_ahead in kernels.h
  bool is_zen5 = false;      // AMD's family 1Ah, or later
  bool dotprod = false;      // SDOT
  bool i8mm = false;         // SMMLA and the bfloat16 instructions; implies dotprod
};

/// On x86-64 asks cpuid and XGETBV. XGETBV matters: hypervisors and kernels may switch off state that cpuid still lists. On 64-bit ARM asks
/// the kernel (AT_HWCAP), which lists what it lets programs use.
CpuFeatures detect_cpu();

}  // namespace engine::kernels
