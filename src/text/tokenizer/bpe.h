// Byte-pair encoding with the semantics of Hugging Face tokenizers' BPE model.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/tokenizer/line_table.h"
#include "text/tokenizer/vocab.h"

namespace engine::tok {

struct BpeOptions {
  std::optional<std::string> unk_token;
  std::string continuing_subword_prefix;
  std::string end_of_word_suffix;
  bool fuse_unk = false;
  bool byte_fallback = false;
  bool ignore_merges = false;
};

/// What merging a pair of tokens gives: `rank` orders merges (lowest first).
struct Merge {
  uint32_t rank = kNone;
  int32_t id = -1;
  static constexpr uint32_t kNone = 0xFFFFFFFF;
  explicit operator bool() const { return rank != kNone; }
};

/// (left id, right id) -> Merge. Ids and ranks fit 24 bits (kMaxTokenId), so that a slot is 12 bytes.
class MergeTable {
 public:
  static constexpr size_t max_merges = kMaxTokenId;
  struct Row {
    int32_t left, right, id;
  };
  /// Row i has rank i. Of equal pairs the last counts, as in the library's hash map.
  void build(const std::vector<Row>& rows);
  /// Rank kNone if the pair does not merge.
  Merge find(int32_t left, int32_t right) const {
    const uint64_t key = key_of(left, right);
    const Slot* slot = slots_.find(hash_of(key), [&](const Slot& s) { return s.key() == key; });
    return slot != nullptr ? Merge{slot->c >> 8, slot->id()} : Merge{};
  }
  [[gnu::always_inline]] void prefetch(int32_t left, int32_t right) const {
    slots_.prefetch(hash_of(key_of(left, right)));
  }
  /// Calls f(left, right, id) for each, in no order.
  template <class F>
  void for_each(F&& f) const {
    slots_.for_each([&](const Slot& s) {
      f(static_cast<int32_t>(s.key() >> 24) - 2, static_cast<int32_t>(s.key() & 0xFFFFFF), s.id());
    });
  }

 private:
  struct Slot {
    uint32_t a = 0;  // low 32 bits of the key
    uint32_t b = 0;  // id's low 16 bits, key's high 16 bits
    uint32_t c = 0;  // rank, id's high 8 bits
    bool is_free() const { return key() == 0; }
    uint64_t key() const { return static_cast<uint64_t>(b & 0xFFFF) << 32 | a; }
    int32_t id() const { return static_cast<int32_t>((c & 0xFF) << 16 | b >> 16); }
  };
  /// 48 bits, never 0, for no token (-1) on the left neither.
  static uint64_t key_of(int32_t left, int32_t right) {
    return (static_cast<uint64_t>(left) + 2) << 24 | static_cast<uint32_t>(right);
  }
  uint64_t hash_of(uint64_t key) const {
    const uint64_t h = (key ^ key >> 23) * multiplier_;
    return (h ^ h >> 32) * 0x9E3779B97F4A7C15u;
  }

  LineTable<Slot> slots_;
  uint64_t multiplier_ = 1;
};

/// Working memory of encoding, with a memo of frequent pre-tokens. One a thread at a time; results do not depend on it.
class BpeScratch {
 public:
  BpeScratch();
  ~BpeScratch();
  BpeScratch(const BpeScratch&) = delete;

 private:
  friend class Bpe;
  struct CacheEntry;
  struct FreeDeleter {
    void operator()(CacheEntry* p) const;
  };
  std::unique_ptr<CacheEntry[], FreeDeleter> cache_;
  std::vector<int32_t> symbols_;
  std::vector<uint32_t> links_;
};

class Bpe {
 public:
  /// `vocab` is indexed.
  Bpe(BpeOptions options, Vocab vocab);
  Bpe(Bpe&&) noexcept;
  Bpe& operator=(Bpe&&) noexcept;
  ~Bpe();

  /// To be called once: takes the merges in order of rank and prepares tables. Throws Error if unk_token is not in the
  /// vocabulary.
  void finish(const std::vector<MergeTable::Row>& merges, bool ignore_merges);

  const Vocab& vocab() const { return vocab_; }
  const BpeOptions& options() const { return options_; }

  /// Tells which ids must never come out of untrusted text (flags by id, one past the highest id or shorter).
  void set_control_ids(std::vector<bool> is_control);
  /// True if plain text can reach a control id through the vocabulary or the merges.
  bool text_reaches_control() const { return text_reaches_control_; }

  /// Appends the ids of one pre-token. `text`: raw bytes in byte mode, UTF-8 otherwise; not empty. `untrusted`: the ids
  /// set by set_control_ids are avoided.
  void encode(std::string_view text, bool untrusted, BpeScratch& scratch, std::vector<int32_t>& out) const;

 private:
  void encode_part(std::string_view text, bool first, bool last, bool untrusted, BpeScratch& scratch,
                   std::vector<int32_t>& out) const;
  void encode_uncached(std::string_view text, bool untrusted, BpeScratch& scratch, std::vector<int32_t>& out) const;
  void initial_symbols(std::string_view text, bool untrusted, std::vector<int32_t>& symbols) const;
  int32_t symbol_of(std::string_view symbol, bool untrusted) const;
  void merge_few(std::vector<int32_t>& symbols, bool untrusted) const;
  void merge_many(BpeScratch& scratch, bool untrusted) const;
  Merge find_merge(int32_t left, int32_t right, bool untrusted) const {
    const Merge m = merges_.find(left, right);
    return untrusted && m && is_control(m.id) ? Merge{} : m;
  }
  bool is_control(int32_t id) const { return static_cast<size_t>(id) < is_control_.size() && is_control_[id]; }
  void find_split_points();
  bool splits_before(std::string_view text, size_t position) const;

  BpeOptions options_;
  Vocab vocab_;
  MergeTable merges_;
  int32_t unk_ = -1;
  int32_t byte_symbol_[256];    // byte mode: the byte's token; otherwise of ASCII characters. -1: none
  int32_t byte_fallback_[256];  // "<0xXX>"
  bool plain_symbols_ = true;   // no continuing_subword_prefix, no end_of_word_suffix
  std::vector<bool> is_control_;
  bool text_reaches_control_ = false;
  bool splits_at_blank_ = false;
  std::vector<uint32_t> joins_blank_;  // characters that some merge joins with a following U+2581
};

}  // namespace engine::tok
