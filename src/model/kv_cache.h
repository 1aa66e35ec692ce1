// The KV cache: fixed-size blocks with reference counts from one pool with a hard bound, so that sequences share prefixes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "kernels/kernels.h"
#include "model/model.h"
#include "model/spec.h"

namespace engine {

/// Where things lie: a block holds [n_layers][n_kv_heads] parts of part_bytes, each K then V (see kernels.h). Blocks come in slabs of
/// slab_blocks, whose parts for one layer and head lie side by side, [n_layers][n_kv_heads][slab_blocks]: what attention reads of one
/// sequence is then a long stretch of memory, which hardware prefetchers follow.
struct KvLayout {
  kernels::KvFormat format = kernels::KvFormat::f32;
  int n_layers = 0, n_kv_heads = 0, d_head = 0;
  size_t part_bytes = 0;
  size_t block_bytes = 0;  // of all layers
  int64_t slab_blocks = 1;
  /// From a block's address, which is that of its first part, to another part.
  size_t offset(int layer, int kv_head) const {
    return (static_cast<size_t>(layer) * n_kv_heads + kv_head) * part_bytes * static_cast<size_t>(slab_blocks);
  }
  static KvLayout of(const ModelSpec& spec, kernels::KvFormat format);
};

/// float32 beside float weights, so that nothing is lost; bfloat16 beside quantized ones, where its rounding does not show and long
/// contexts read half.
kernels::KvFormat natural_kv_format(const Model& model);

/// Owns all blocks. Memory is taken from the system when first needed and given back when the pool goes. Not thread-safe: one
/// scheduler owns it.
class KvPool {
 public:
  /// At most `max_blocks` blocks of layout.block_bytes.
  KvPool(const KvLayout& layout, int64_t max_blocks);
  ~KvPool();
  KvPool(const KvPool&) = delete;
  KvPool& operator=(const KvPool&) = delete;

  const KvLayout& layout() const { return layout_; }
  int64_t max_blocks() const { return max_blocks_; }
  int64_t free_blocks() const { return max_blocks_ - n_used_; }
  int64_t used_blocks() const { return n_used_; }

  /// A block with one reference; null if the pool is exhausted.
  std::byte* allocate();
  void retain(std::byte* block);
  void release(std::byte* block);
  bool shared(const std::byte* block) const;  // more than one reference
  void copy(const std::byte* from, std::byte* to) const;

 private:
  struct Impl;
  KvLayout layout_;
  int64_t max_blocks_;
  int64_t n_used_ = 0;
  std::unique_ptr<Impl> impl_;
};

/// The keys and values of one token sequence: references to blocks of a pool, in order of position. Movable.
class KvSequence {
 public:
  explicit KvSequence(KvPool& pool) : pool_(&pool) {}
  ~KvSequence() { truncate(0); }
  KvSequence(KvSequence&& other) noexcept;
  KvSequence& operator=(KvSequence&& other) noexcept;

  int64_t size() const { return n_tokens_; }  // positions stored
  std::span<std::byte* const> blocks() const { return blocks_; }

  /// Makes room for positions [size(), n_tokens), copying a shared last block before it is written. False, with nothing changed, if the
  /// pool has too few blocks.
  bool reserve(int64_t n_tokens);
  /// Blocks that reserve(n_tokens) would take.
  int64_t blocks_needed(int64_t n_tokens) const;
  /// Positions [0, n) stay; blocks that are not needed go back.
  void truncate(int64_t n_tokens);
  /// A new sequence that shares this one's first n positions (whole blocks by reference; a part of a block is copied on first write).
  KvSequence share(int64_t n_tokens) const;
  /// Called by the decoder after it stored positions up to n_tokens.
  void set_size(int64_t n_tokens) { n_tokens_ = n_tokens; }
  KvPool& pool() const { return *pool_; }

 private:
  KvPool* pool_;
  std::vector<std::byte*> blocks_;
  int64_t n_tokens_ = 0;
};

}  // namespace engine
