#include "runtime/prefix_cache.h"

#include <algorithm>

#include "base/error.h"

namespace engine {
namespace {

int64_t common_prefix(std::span<const int32_t> a, std::span<const int32_t> b) {
  return std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin();
}

bool starts_with(std::span<const int32_t> tokens, std::span<const int32_t> prefix) {
  return tokens.size() >= prefix.size() && std::equal(prefix.begin(), prefix.end(), tokens.begin());
}

}  // namespace

bool PrefixCache::Less::operator()(std::span<const int32_t> a, std::span<const int32_t> b) const {
  return std::lexicographical_compare(a.begin(), a.end(), b.begin(), b.end());
}

KvSequence PrefixCache::find(std::span<const int32_t> tokens, int64_t max_tokens) {
  const auto after = entries_.lower_bound(tokens);
  auto best = entries_.end();
  int64_t n_best = 0;
  const auto consider = [&](Entries::iterator it) {
    const int64_t n = std::min(common_prefix(tokens, it->first), max_tokens);
    if (n <= n_best) return;
    best = it;
    n_best = n;
  };
  if (after != entries_.end()) consider(after);
  if (after != entries_.begin()) consider(std::prev(after));
  if (best == entries_.end()) return KvSequence(pool_);
  best->second.last_used = ++clock_;
  return best->second.kv.share(n_best);
}

void PrefixCache::insert(std::span<const int32_t> tokens, KvSequence kv) {
  ASSERT(kv.size() == static_cast<int64_t>(tokens.size()));
  kv.truncate(kv.size());  // room reserved beyond goes back
  if (tokens.empty()) return;
  Entries one;
  one.emplace(std::vector<int32_t>(tokens.begin(), tokens.end()), Entry{std::move(kv), ++clock_});
  insert_node(one.extract(one.begin()));
}

void PrefixCache::insert_node(Entries::node_type node) {
  const auto after = entries_.lower_bound(node.key());
  if (after != entries_.end() && starts_with(after->first, node.key())) {
    after->second.last_used = std::max(after->second.last_used, node.mapped().last_used);
    return;
  }
  // Anything between a prefix and its extension starts with that prefix too, so only the neighbour can be one.
  if (after != entries_.begin() && starts_with(node.key(), std::prev(after)->first)) entries_.erase(std::prev(after));
  entries_.insert(std::move(node));
}

bool PrefixCache::evict() {
  if (entries_.empty()) return false;
  const auto oldest = std::min_element(entries_.begin(), entries_.end(),
                                       [](const auto& a, const auto& b) { return a.second.last_used < b.second.last_used; });
  Entries::node_type node = entries_.extract(oldest);
  const int64_t block = kernels::kv_block_tokens;
  const int64_t kept = (static_cast<int64_t>(node.key().size()) - 1) / block * block;
  node.key().resize(static_cast<size_t>(kept));
  node.mapped().kv.truncate(kept);
  if (kept > 0) insert_node(std::move(node));
  return true;
}

}  // namespace engine
