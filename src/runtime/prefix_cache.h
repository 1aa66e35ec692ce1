// Keys and values of earlier sequences, found again by their tokens.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "model/kv_cache.h"

namespace engine {

/// A tree of token prefixes in its flat form: whole sequences in lexicographic order, where the longest common prefix with anything is a
/// neighbour of the place where it would stand. Blocks of common prefixes are shared by reference, so that a system prompt of many
/// conversations is kept once. No entry is a prefix of another. Not thread-safe.
class PrefixCache {
 public:
  explicit PrefixCache(KvPool& pool) : pool_(pool) {}

  /// Shares the keys and values of the longest known prefix of `tokens`, at most `max_tokens` long. Empty if there is none.
  KvSequence find(std::span<const int32_t> tokens, int64_t max_tokens);

  /// Takes over `kv`, which holds the keys and values of all of `tokens`.
  void insert(std::span<const int32_t> tokens, KvSequence kv);

  /// Gives up a block's worth at the end of the entry that was not used for longest. False if there is nothing to give up. The pool gains a block
  /// only if nobody else holds it.
  bool evict();

  void clear() { entries_.clear(); }
  size_t n_entries() const { return entries_.size(); }

 private:
  struct Less {
    using is_transparent = void;
    bool operator()(std::span<const int32_t> a, std::span<const int32_t> b) const;
  };
  struct Entry {
    KvSequence kv;
    uint64_t last_used;
  };
  using Entries = std::map<std::vector<int32_t>, Entry, Less>;

  void insert_node(Entries::node_type node);

  KvPool& pool_;
  Entries entries_;
  uint64_t clock_ = 0;
};

}  // namespace engine
