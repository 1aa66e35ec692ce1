// One ISA level's kernels. Meson compiles this file once a level, with that level's flags and
//   ENGINE_KERNEL_TABLE  the one symbol it exports
//   ENGINE_KERNEL_LEVEL  the level's name
//   ENGINE_KERNEL_PORTABLE, if it is to be written without intrinsics (`generic` but on x86-64)
// Everything else has internal linkage and nothing may run before main: code compiled for AVX-512 must never be reached,
// not even through a merged inline function, on a CPU that lacks it. tests/gates/one_symbol.py checks the objects.
#include <cstddef>
#include <cstdint>
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

extern const Table ENGINE_KERNEL_TABLE;
const Table ENGINE_KERNEL_TABLE = {
    .name = ENGINE_KERNEL_LEVEL,
    .matmul = {matmul<F32>, matmul<Bf16>, matmul<F16>, matmul_quantized<Int8Weights>, matmul_quantized<Int4Weights>,
               matmul_quantized<Mxfp4Weights>, matmul_mxfp4},
    .row_grain = {tile_rows, tile_rows, tile_rows, pack_rows, pack_rows, pack_rows, pack_rows},
    .scratch_bytes = all_scratch_bytes,
    .get_row = get_row,
    .quantize_row = quantize_row,
    .packed_block_bytes = packed_block_bytes,
    .pack_block = pack_block,
    .act_bytes = act_bytes,
    .quantize_act = quantize_act,
    .int8_peak = int8_peak,
    .read_all = read_all,
    .rms_norm = rms_norm,
    .layer_norm = layer_norm,
    .rope = rope,
    .rope_interleaved = rope_interleaved,
    .gated_activation = gated_activation,
    .clamped_swiglu = clamped_swiglu,
    .add = add,
    .add_scaled = add_scaled,
    .scale = scale,
    .clamp = clamp,
    .softcap = softcap,
    .max = max_of,
    .argmax = argmax,
    .exp_sum = exp_sum,
    .kv_bytes = kv_bytes,
    .kv_store = kv_store,
    .attend = attend,
    .attention_scratch_bytes = attention_scratch_bytes,
    .attention_merge = attention_merge,
    .attention_finish = attention_finish,
};

}  // namespace engine::kernels
