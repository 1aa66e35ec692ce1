#include "runtime/prefix_cache.h"

#include <doctest/doctest.h>

#include <cstring>
#include <random>

using namespace engine;

namespace {

/// A pool of blocks of 64 bytes; the first bytes of a block hold what a test writes there.
KvLayout tiny_layout() {
  KvLayout layout;
  layout.n_layers = layout.n_kv_heads = 1;
  layout.part_bytes = layout.block_bytes = 64;
  return layout;
}

/// A sequence of n tokens of its own blocks, marked.
KvSequence make(KvPool& pool, int64_t n, char mark) {
  KvSequence kv(pool);
  REQUIRE(kv.reserve(n));
  kv.set_size(n);
  for (std::byte* block : kv.blocks()) std::memset(block, mark, 64);
  return kv;
}

std::vector<int32_t> count_up(int64_t n, int32_t from = 0) {
  std::vector<int32_t> out;
  for (int64_t i = 0; i < n; ++i) out.push_back(from + static_cast<int32_t>(i));
  return out;
}

}  // namespace

TEST_CASE("the longest known prefix is found, and never more than allowed") {
  KvPool pool(tiny_layout(), 100);
  PrefixCache cache(pool);
  CHECK(cache.find(count_up(5), 5).size() == 0);
  cache.insert(count_up(40), make(pool, 40, 'a'));
  std::vector<int32_t> other = count_up(40);
  other[20] = 999;
  cache.insert(other, make(pool, 40, 'b'));

  CHECK(cache.find(count_up(40), 39).size() == 39);
  CHECK(cache.find(count_up(100), 99).size() == 40);
  CHECK(cache.find(count_up(10), 9).size() == 9);
  CHECK(cache.find(count_up(5, 7), 4).size() == 0);
  std::vector<int32_t> third = count_up(40);
  third[25] = 7;
  const KvSequence a = cache.find(third, 39);
  CHECK(a.size() == 25);
  CHECK(static_cast<char>(*a.blocks()[0]) == 'a');
  third[20] = 999;
  const KvSequence b = cache.find(third, 39);
  CHECK(b.size() == 25);
  CHECK(static_cast<char>(*b.blocks()[0]) == 'b');
}

TEST_CASE("an extension replaces what it extends, a prefix of something known adds nothing") {
  KvPool pool(tiny_layout(), 100);
  PrefixCache cache(pool);
  cache.insert(count_up(20), make(pool, 20, 'a'));
  cache.insert(count_up(40), make(pool, 40, 'b'));
  CHECK(cache.n_entries() == 1);
  CHECK(pool.used_blocks() == 3);
  cache.insert(count_up(10), make(pool, 10, 'c'));
  CHECK(cache.n_entries() == 1);
  CHECK(pool.used_blocks() == 3);
  cache.insert({}, KvSequence(pool));
  CHECK(cache.n_entries() == 1);
}

TEST_CASE("eviction takes the end of what was not used for longest") {
  KvPool pool(tiny_layout(), 10);
  PrefixCache cache(pool);
  cache.insert(count_up(40), make(pool, 40, 'a'));           // 3 blocks
  cache.insert(count_up(40, 1000), make(pool, 40, 'b'));     // 3 blocks
  CHECK(cache.find(count_up(40), 40).size() == 40);          // the first is the younger one now
  CHECK(cache.evict());
  CHECK(pool.used_blocks() == 5);
  CHECK(cache.find(count_up(40, 1000), 40).size() == 32);    // and now the second
  CHECK(cache.evict());
  CHECK(cache.find(count_up(40), 40).size() == 32);
  while (cache.evict()) {
  }
  CHECK(pool.used_blocks() == 0);
  CHECK(cache.n_entries() == 0);
}

TEST_CASE("what a running sequence shares stays valid when the cache lets go of it") {
  KvPool pool(tiny_layout(), 10);
  PrefixCache cache(pool);
  cache.insert(count_up(40), make(pool, 40, 'a'));
  KvSequence running = cache.find(count_up(40), 36);
  CHECK(pool.used_blocks() == 3);
  REQUIRE(running.reserve(37));  // writes into the shared third block: a copy
  CHECK(pool.used_blocks() == 4);
  while (cache.evict()) {
  }
  CHECK(pool.used_blocks() == 3);
  for (const std::byte* block : running.blocks()) CHECK(static_cast<char>(*block) == 'a');
}

TEST_CASE("against a plain list: random sequences over a small alphabet") {
  std::mt19937 random(5);
  KvPool pool(tiny_layout(), 100000);
  PrefixCache cache(pool);
  std::vector<std::vector<int32_t>> known;
  for (int round = 0; round < 400; ++round) {
    std::vector<int32_t> tokens(1 + random() % 60);
    for (int32_t& t : tokens) t = static_cast<int32_t>(random() % 2);
    size_t expected = 0;
    for (const auto& k : known) {
      const auto end = std::mismatch(tokens.begin(), tokens.end(), k.begin(), k.end()).first;
      expected = std::max(expected, static_cast<size_t>(end - tokens.begin()));
    }
    REQUIRE(cache.find(tokens, static_cast<int64_t>(tokens.size())).size() == static_cast<int64_t>(expected));
    cache.insert(tokens, make(pool, static_cast<int64_t>(tokens.size()), 'x'));
    known.push_back(tokens);
  }
  cache.clear();
  CHECK(pool.used_blocks() == 0);
}
