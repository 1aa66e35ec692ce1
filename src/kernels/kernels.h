// The kernel table: everything that is computed on tensors, one constant table of function pointers for each ISA level.
//
// Kernels are plain functions on raw memory: no containers, no exceptions, no allocation, no threads. The caller splits
// the work (matmul by rows, attention by heads and query tiles) and calls from as many threads as it likes.
//
// Determinism: for one ISA level every output element is a sum in one fixed order that depends only on the operands' own
// lengths, never on how many rows or tokens the call covers or where a tile begins. So results are bit-equal for any
// split of the work. Levels differ from each other by rounding only.
#pragma once

#include <cstddef>
#include <cstdint>

namespace engine::kernels {

// --- formats -----------------------------------------------------------------------------------------------------------

/// Weight formats; a row of the table's `matmul` each.
///   f32, bf16, f16  lie in memory as in the file (row-major), so that mapped files are used in place; float32 activations
///   i8, i4          packed in blocks of pack_rows rows (see formats.inl); value = q * scale with one float16 scale for a group of
///                   columns, q in [-128, 127] or [-8, 7]; activations quantized to int8 by quantize_act
///   mxfp4, mxfp4_i8 the OCP Microscaling format MXFP4 in the same blocks: value = e2m1[q] * 2^(scale - 127), q in [0, 15], a scale (e8m0) for
///                   32 columns. The same bytes twice: with float32 activations, and with quantized ones. n_cols is a multiple of 32
enum class Format : uint8_t { f32, bf16, f16, i8, i4, mxfp4_i8, mxfp4, count };
inline constexpr int n_formats = static_cast<int>(Format::count);
inline constexpr int n_float_formats = static_cast<int>(Format::i8);
constexpr bool is_packed(Format format) { return format >= Format::i8; }
/// Of an element in float formats.
constexpr int64_t element_bytes(Format format) { return format == Format::f32 ? 4 : 2; }
constexpr bool is_mxfp4(Format format) { return format == Format::mxfp4 || format == Format::mxfp4_i8; }
/// The kernel reads activations as quantize_act makes them.
constexpr bool has_int8_activations(Format format) { return is_packed(format) && format != Format::mxfp4; }

/// A weight matrix [n_rows, n_cols] (n_rows outputs), not owned. `data` need not be aligned.
struct Matrix {
  const void* data = nullptr;
  int64_t n_rows = 0;
  int64_t n_cols = 0;
  Format format = Format::f32;
  int group = 0;  // columns that share a scale: 32, 64 or 128 (MXFP4: 32); 0 in float formats
};

/// Rows that a packed block interleaves.
inline constexpr int pack_rows = 16;
/// Columns of an activation row that share a scale.
inline constexpr int act_group_cols = 32;
/// Activation rows of fewer columns are quantized twice: what the first 8 bits leave, to 8 bits again. int8 matrices multiply with both:
/// errors of few columns do not average out, and speed is no concern of models that small. Their scales are looked for, too (quantize_row).
inline constexpr int64_t narrow_cols = 512;
constexpr bool is_narrow(int64_t n_cols) { return n_cols < narrow_cols; }

/// How many bytes ahead of its loads a product with one token asks for weights: `near` for the first-level cache, `far` for the second; 0: it
/// leaves that to the hardware's prefetchers, which are slow to follow on some processors and were hindered on others (SPEED.md). Weights that
/// lie as in the file, and MXFP4 with float activations, are asked for only where there is a `far`. Changes no result.
struct WeightsAhead {
  int64_t near = 0, far = 0;
};
extern const WeightsAhead weights_ahead;

/// Element types of the KV cache.
enum class KvFormat : uint8_t { f32, bf16, i8, count };
inline constexpr int n_kv_formats = static_cast<int>(KvFormat::count);

/// Tokens a KV block holds. A block's part for one layer and kv head is K, transposed so that the scores of all its tokens are computed
/// side by side in SIMD lanes, followed by V (attention.inl has the layouts); i8 has a scale for each token's K and V of a head.
inline constexpr int kv_block_tokens = 16;

/// Keys per attention segment: long contexts are cut at multiples of this absolute position; segments can be computed by
/// different threads and are merged in order.
inline constexpr int kv_segment_tokens = 512;

enum class Activation : uint8_t { silu, gelu, gelu_tanh, relu, relu2, count };

/// One tile of attention: `n_queries` query rows that share one kv head of one sequence, against the keys of one segment.
struct AttentionTile {
  const float* q;                 // [n_queries] rows of d_head floats, q_stride floats apart, already scaled
  int64_t q_stride;
  int n_queries;
  const int32_t* first_key;       // [n_queries] first position each query sees (0, or its window's start)
  const int32_t* last_key;        // [n_queries] last position each query sees, inclusive (its own)
  const std::byte* const* blocks; // the sequence's KV blocks in order of position
  size_t offset;                  // bytes from a block's start to this layer's and head's K
  int d_head;
  KvFormat format;
  float softcap;                  // scores become softcap * tanh(score / softcap); 0: off
  int32_t segment;                // keys [segment * kv_segment_tokens, + kv_segment_tokens) are looked at
};

/// The state of a softmax over some of the keys, per query: running maximum (-inf: no key seen), sum of exp(score - maximum), and
/// the weighted sum of values, not yet divided.
struct AttentionPart {
  float* max;   // [n_queries]
  float* sum;   // [n_queries]
  float* value; // [n_queries][d_head]
};

// --- the table ---------------------------------------------------------------------------------------------------------

struct Table {
  const char* name;

  /// y[t * y_stride + r] = dot(w row r, x row t) for r in [row_begin, row_end), t in [0, n_tokens). x has rows x_stride bytes apart:
  /// n_cols floats, or what quantize_act made (has_int8_activations). row_begin is a multiple of `row_grain` (row_end too, or n_rows).
  /// `scratch` is this thread's own, scratch_bytes(n_cols) bytes, 64-byte aligned.
  void (*matmul[n_formats])(const Matrix& w, int64_t row_begin, int64_t row_end, const void* x, int64_t x_stride,
                            int64_t n_tokens, float* y, int64_t y_stride, void* scratch);
  int row_grain[n_formats];
  size_t (*scratch_bytes)(int64_t n_cols);

  /// out[0..n_cols) = row `row` of w, widened or dequantized (embedding look-up).
  void (*get_row)(const Matrix& w, int64_t row, float* out);

  /// q [n_cols] and float16 scales [ceil(n_cols / group)] of one row in i8 or i4: round to nearest; int4, and int8 in narrow rows, look for
  /// the scale with the least squared error. The same bits on every level. x must be finite.
  void (*quantize_row)(Format format, int group, const float* x, int64_t n_cols, int8_t* q, uint16_t* scales);
  /// Bytes of a packed block: pack_rows rows of n_cols columns. A multiple of 64.
  size_t (*packed_block_bytes)(Format format, int64_t n_cols, int group);
  /// Packs q [n_rows][n_cols] with scales [n_rows][n_groups] into a block; rows from n_rows (at most pack_rows) on are zeros. Scales are
  /// float16; those of MXFP4 are the exponents as stored, 0 to 255.
  void (*pack_block)(Format format, int group, const int8_t* q, const uint16_t* scales, int n_rows, int64_t n_cols, std::byte* block);

  /// Bytes of a quantized activation row, a multiple of 64.
  size_t (*act_bytes)(int64_t n_cols);
  /// Quantizes columns [begin, end) of n_rows activation rows of n_cols, x_stride floats apart in x (of which x is column 0) and row_stride
  /// bytes apart in `rows`. begin is a multiple of act_group_cols, end too or n_cols. Each group of columns gets a float32 scale of its own.
  void (*quantize_act)(const float* x, int64_t x_stride, int64_t n_rows, int64_t n_cols, int64_t begin, int64_t end, void* rows,
                       int64_t row_stride);

  /// For measuring: `rounds` times the innermost work of i8's or i4's products on data in registers, of which this returns the multiply-adds
  /// done. Where int8 takes several instructions, nibbles take fewer.
  int64_t (*int8_peak)(Format format, int64_t rounds);
  /// Reads n bytes (a multiple of 256) as fast as this level's loads can, and returns something that depends on all of them.
  uint64_t (*read_all)(const void* data, size_t n);

  /// y = x / sqrt(mean(x^2) + eps) * weight; weight null: 1. x and y may be the same.
  void (*rms_norm)(const float* x, const float* weight, float eps, float* y, int64_t n);
  /// y = (x - mean) / sqrt(variance + eps) * weight + bias; bias null: 0, weight null: 1.
  void (*layer_norm)(const float* x, const float* weight, const float* bias, float eps, float* y, int64_t n);

  /// Rotate-half rotary embedding in place: pairs (i, i + half) for i < half, with cos/sin [half] of this position.
  void (*rope)(float* x, const float* cos, const float* sin, int64_t half);
  /// The same with adjacent pairs (2i, 2i + 1).
  void (*rope_interleaved)(float* x, const float* cos, const float* sin, int64_t half);

  /// y = activation(gate) * up (up null: activation(gate)). y may be gate.
  void (*gated_activation)(Activation kind, const float* gate, const float* up, float* y, int64_t n);
  /// GPT-OSS's: y = (up + 1) * gate * sigmoid(1.702 gate) with gate clamped from above to limit and up to +-limit. y may be gate.
  void (*clamped_swiglu)(const float* gate, const float* up, float limit, float* y, int64_t n);
  void (*add)(const float* a, const float* b, float* y, int64_t n);              // y = a + b
  void (*add_scaled)(const float* a, float scale, float* y, int64_t n);          // y += scale * a
  void (*scale)(float* x, float factor, int64_t n);                              // x *= factor
  void (*clamp)(float* x, float low, float high, int64_t n);
  void (*softcap)(float* x, float cap, int64_t n);                               // x = cap * tanh(x / cap)

  /// max(x); -inf for n = 0; NaN counts as -inf.
  float (*max)(const float* x, int64_t n);
  /// Index of the first largest element (as torch.argmax on distinct values); NaN counts as -inf; 0 for n = 0.
  int64_t (*argmax)(const float* x, int64_t n);
  /// y = exp(x - shift), returns the sum of y in float64. y may be x.
  double (*exp_sum)(const float* x, float shift, float* y, int64_t n);

  /// Bytes of one block of one layer and one kv head (K and V), a multiple of 64.
  size_t (*kv_bytes)(KvFormat format, int d_head);
  /// Stores one position's k and v (d_head floats each) in slot `slot` of a block's part for one layer and head.
  void (*kv_store)(KvFormat format, const float* k, const float* v, int d_head, int slot, std::byte* part);

  /// Attention of a tile over one segment's keys; overwrites `part`. `scratch`: attention_scratch_bytes(d_head).
  void (*attend[n_kv_formats])(const AttentionTile& tile, const AttentionPart& part, void* scratch);  // by tile.format
  size_t (*attention_scratch_bytes)(int d_head);
  /// Merges `part` (a later segment) into `into` (all earlier ones) for n_queries.
  void (*attention_merge)(const AttentionPart& into, const AttentionPart& part, int n_queries, int d_head);
  /// out rows (out_stride floats apart) = value / (sum + exp(sink - max)); `sink` null: no sink; else one logit per query, which
  /// takes part in the softmax but has no value (GPT-OSS).
  void (*attention_finish)(const AttentionPart& part, const float* sink, int n_queries, int d_head, float* out,
                           int64_t out_stride);
};

// --- choice of level -----------------------------------------------------------------------------------------------------

/// An ISA level that is compiled in. `usable`: this CPU and operating system can run it (cpu.h).
struct Level {
  const char* name;   // "generic"; x86-64: "avx2", "avxvnni" (AVX2 and 256-bit VNNI), "avx512", "avx512vnni", "avx512bf16" (that is, VNNI and BF16);
                      // ARM: "neon", "dotprod", "i8mm" (that is, I8MM and BF16)
  const Table* table;
  bool usable;
};

/// All levels compiled in, slowest first. Static storage.
const Level* levels(int* n_levels);

/// The table in use: the best usable level, unless `select` chose another. ENGINE_ISA is read by the caller (cli), not here.
const Table& table();

/// Forces a level by name. Returns false (and changes nothing) if it is unknown or not usable here.
bool select(const char* name);

}  // namespace engine::kernels
