// One ISA level's kernels. Meson compiles this file once a level, with that level's flags and
//   ENGINE_KERNEL_TABLE  the one symbol it exports
//   ENGINE_KERNEL_LEVEL  the level's name
//   ENGINE_KERNEL_ONLY_DOT, ENGINE_KERNEL_ONLY_ATTEND, if only what multiplies int8 or what attends to bfloat16 is compiled: a level that
//                        does the rest as the level below leaves those entries null (kernels.cpp)
//   ENGINE_KERNEL_PORTABLE, if it is to be written without intrinsics (`generic` but on x86-64)
// Everything else has internal linkage and nothing may run before main: code compiled for AVX-512 must never be reached,
// not even through a merged inline function, on a CPU that lacks it. tests/gates/one_symbol.py checks the objects.
#include <cstddef>
#include <cstdint>
#include <utility>
#if defined(__x86_64__)
#include <xsimd/xsimd.hpp>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "kernels/kernels.h"

namespace engine::kernels {
namespace {

#include "kernels/simd.inl"
//
#include "kernels/matmul.inl"
//
#include "kernels/formats.inl"
//
#include "kernels/packing.inl"
//
#include "kernels/quantized.inl"
//
#include "kernels/mxfp4.inl"
//
#include "kernels/elementwise.inl"
//
#include "kernels/attention.inl"

}  // namespace

// DOT: what multiplies int8, and what packs and unpacks weights for that. ATTEND: attention to bfloat16. REST: what is the same for levels above.
#if defined(ENGINE_KERNEL_ONLY_DOT) || defined(ENGINE_KERNEL_ONLY_ATTEND)
#define REST(entry) {}
#else
#define REST(entry) entry
#define ENGINE_KERNEL_ONLY_DOT
#define ENGINE_KERNEL_ONLY_ATTEND
#endif
#if defined(ENGINE_KERNEL_ONLY_DOT)
#define DOT(entry) entry
#else
#define DOT(entry) {}
#endif
#if defined(ENGINE_KERNEL_ONLY_ATTEND)
#define ATTEND(entry) entry
#else
#define ATTEND(entry) {}
#endif

extern const Table ENGINE_KERNEL_TABLE;
const Table ENGINE_KERNEL_TABLE = {
    .name = ENGINE_KERNEL_LEVEL,
    .matmul = {REST(matmul<F32>), REST(matmul<Bf16>), REST(matmul<F16>), DOT(matmul_quantized<Int8Weights>),
               DOT(matmul_quantized<Int4Weights>), DOT(matmul_quantized<Mxfp4Weights>), REST(matmul_mxfp4)},
    .row_grain = {REST(tile_rows), REST(tile_rows), REST(tile_rows), REST(pack_rows), REST(pack_rows), REST(pack_rows), REST(pack_rows)},
    .scratch_bytes = DOT(all_scratch_bytes),
    .get_row = DOT(get_row),
    .quantize_row = REST(quantize_row),
    .packed_block_bytes = REST(packed_block_bytes),
    .pack_block = DOT(pack_block),
    .act_bytes = REST(act_bytes),
    .quantize_act = REST(quantize_act),
    .int8_peak = DOT(int8_peak),
    .read_all = REST(read_all),
    .rms_norm = REST(rms_norm),
    .layer_norm = REST(layer_norm),
    .rope = REST(rope),
    .rope_interleaved = REST(rope_interleaved),
    .gated_activation = REST(gated_activation),
    .clamped_swiglu = REST(clamped_swiglu),
    .add = REST(add),
    .add_scaled = REST(add_scaled),
    .scale = REST(scale),
    .clamp = REST(clamp),
    .softcap = REST(softcap),
    .max = REST(max_of),
    .argmax = REST(argmax),
    .exp_sum = REST(exp_sum),
    .kv_bytes = REST(kv_bytes),
    .kv_store = REST(kv_store),
    .attend = {REST(attend<KvF32>), ATTEND(attend<KvBf16>), REST(attend<KvI8>)},
    .attention_scratch_bytes = ATTEND(attention_scratch_bytes),
    .attention_merge = REST(attention_merge),
    .attention_finish = REST(attention_finish),
};

}  // namespace engine::kernels
