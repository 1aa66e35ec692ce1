#include "model/kv_cache.h"

#include <algorithm>
#include <cstring>
#include <unordered_map>
#include <utility>

#include "base/buffer.h"
#include "base/error.h"

namespace engine {

using kernels::kv_block_tokens;

kernels::KvFormat natural_kv_format(const Model& model) {
  return model.quantized() ? kernels::KvFormat::bf16 : kernels::KvFormat::f32;
}

KvLayout KvLayout::of(const ModelSpec& spec, kernels::KvFormat format) {
  KvLayout l;
  l.format = format;
  l.n_layers = spec.n_layers;
  l.n_kv_heads = spec.n_kv_heads;
  l.d_head = spec.d_head;
  l.part_bytes = kernels::table().kv_bytes(format, spec.d_head);
  l.block_bytes = l.part_bytes * static_cast<size_t>(spec.n_layers) * static_cast<size_t>(spec.n_kv_heads);
  l.slab_blocks = std::clamp<int64_t>(static_cast<int64_t>((size_t{8} << 20) / l.block_bytes), 1, 64);
  return l;
}

/// Blocks live in slabs of several; references are counted in a map by address, which is small and off the hot path.
struct KvPool::Impl {
  std::vector<Buffer> slabs;
  std::vector<std::byte*> free;
  std::unordered_map<const std::byte*, uint32_t> references;
};

KvPool::KvPool(const KvLayout& layout, int64_t max_blocks)
    : layout_(layout), max_blocks_(max_blocks), impl_(std::make_unique<Impl>()) {}

KvPool::~KvPool() = default;

std::byte* KvPool::allocate() {
  if (n_used_ == max_blocks_) return nullptr;
  if (impl_->free.empty()) {
    // Huge pages take memory for blocks that are not used yet: not for the first slab, of which a short chat needs a part, nor where the
    // pool's bound leaves less than a slab.
    const bool huge_pages = !impl_->slabs.empty() && max_blocks_ - n_used_ >= layout_.slab_blocks;
    impl_->slabs.emplace_back(layout_.block_bytes * static_cast<size_t>(layout_.slab_blocks), huge_pages);
    for (int64_t i = layout_.slab_blocks; i-- > 0;) impl_->free.push_back(impl_->slabs.back().data() + i * layout_.part_bytes);
  }
  std::byte* block = impl_->free.back();
  impl_->free.pop_back();
  impl_->references[block] = 1;
  ++n_used_;
  return block;
}

void KvPool::retain(std::byte* block) { ++impl_->references.at(block); }

void KvPool::release(std::byte* block) {
  const auto found = impl_->references.find(block);
  ASSERT(found != impl_->references.end());
  if (--found->second > 0) return;
  impl_->references.erase(found);
  impl_->free.push_back(block);
  --n_used_;
}

void KvPool::copy(const std::byte* from, std::byte* to) const {
  for (int layer = 0; layer < layout_.n_layers; ++layer) {
    for (int head = 0; head < layout_.n_kv_heads; ++head) {
      std::memcpy(to + layout_.offset(layer, head), from + layout_.offset(layer, head), layout_.part_bytes);
    }
  }
}

bool KvPool::shared(const std::byte* block) const { return impl_->references.at(block) > 1; }

KvSequence::KvSequence(KvSequence&& other) noexcept
    : pool_(other.pool_), blocks_(std::move(other.blocks_)), n_tokens_(std::exchange(other.n_tokens_, 0)) {
  other.blocks_.clear();
}

KvSequence& KvSequence::operator=(KvSequence&& other) noexcept {
  std::swap(pool_, other.pool_);
  std::swap(blocks_, other.blocks_);
  std::swap(n_tokens_, other.n_tokens_);
  return *this;
}

int64_t KvSequence::blocks_needed(int64_t n_tokens) const {
  if (n_tokens <= n_tokens_) return 0;
  const int64_t wanted = (n_tokens + kv_block_tokens - 1) / kv_block_tokens;
  const bool copy = n_tokens_ % kv_block_tokens != 0 && pool_->shared(blocks_[n_tokens_ / kv_block_tokens]);
  return std::max<int64_t>(0, wanted - static_cast<int64_t>(blocks_.size())) + (copy ? 1 : 0);
}

bool KvSequence::reserve(int64_t n_tokens) {
  if (blocks_needed(n_tokens) > pool_->free_blocks()) return false;
  if (n_tokens <= n_tokens_) return true;
  if (n_tokens_ % kv_block_tokens != 0) {
    std::byte*& last = blocks_[n_tokens_ / kv_block_tokens];
    if (pool_->shared(last)) {
      std::byte* copy = pool_->allocate();
      pool_->copy(last, copy);
      pool_->release(last);
      last = copy;
    }
  }
  const size_t wanted = static_cast<size_t>((n_tokens + kv_block_tokens - 1) / kv_block_tokens);
  while (blocks_.size() < wanted) blocks_.push_back(pool_->allocate());
  return true;
}

void KvSequence::truncate(int64_t n_tokens) {
  n_tokens_ = std::min(n_tokens_, n_tokens);
  const size_t kept = static_cast<size_t>((n_tokens_ + kv_block_tokens - 1) / kv_block_tokens);
  while (blocks_.size() > kept) {
    pool_->release(blocks_.back());
    blocks_.pop_back();
  }
}

KvSequence KvSequence::share(int64_t n_tokens) const {
  KvSequence out(*pool_);
  out.n_tokens_ = std::min(n_tokens, n_tokens_);
  const size_t n_blocks = static_cast<size_t>((out.n_tokens_ + kv_block_tokens - 1) / kv_block_tokens);
  out.blocks_.assign(blocks_.begin(), blocks_.begin() + static_cast<std::ptrdiff_t>(n_blocks));
  for (std::byte* block : out.blocks_) pool_->retain(block);
  return out;
}

}  // namespace engine
