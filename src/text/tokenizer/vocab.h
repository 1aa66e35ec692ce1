// The model's vocabulary: token texts by id, ids by text. Flat arrays only: one blob of text, no allocation a token.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace engine::tok {

/// Ids above this are refused: they would make every array indexed by id absurdly large.
inline constexpr int32_t kMaxTokenId = 10'000'000;

/// A hash that a model file cannot aim at (seeded once a process), for short strings.
uint64_t hash_bytes(std::string_view s);
uint64_t process_seed();

class Vocab {
 public:
  /// In byte mode the texts of byte-level tokens ("Ġthe") are held as the bytes they stand for (" the"); the few that
  /// hold a character outside the byte alphabet are kept as they are spelled and marked.
  explicit Vocab(bool byte_mode) : byte_mode_(byte_mode) {}

  /// `spelling` as in the file; 0 <= id <= kMaxTokenId. False if the id is taken.
  bool add(std::string_view spelling, int32_t id);
  /// Prepares finding; to be called once after the last add. Returns the id of a token whose text another one has too,
  /// or -1.
  int32_t index();

  /// By spelling as in the file; -1 if there is none.
  int32_t find(std::string_view spelling) const;
  /// By text as held: raw bytes in byte mode.
  int32_t find_text(std::string_view text) const { return find_text(text, hash_bytes(text)); }
  int32_t find_text(std::string_view text, uint64_t hash) const { return lookup(text, hash, byte_mode_); }
  void prefetch(uint64_t hash) const { __builtin_prefetch(&slots_[slot_of(hash)]); }

  bool has(int32_t id) const {
    return id >= 0 && static_cast<size_t>(id) < entries_.size() && entries_[id].size != kNone;
  }
  /// The text as held. `id` must exist.
  std::string_view text(int32_t id) const {
    return {blob_.data() + entries_[id].offset, entries_[id].size & kSizeMask};
  }
  /// True if text(id) is bytes and not the spelling.
  bool is_bytes(int32_t id) const { return entries_[id].size & kBytes; }
  std::string spelling(int32_t id) const;

  /// Turns a spelling into raw bytes; false if a character is outside the byte alphabet. `out` has room for
  /// spelling.size() bytes.
  static bool to_bytes(std::string_view spelling, char* out, size_t* size);

  bool byte_mode() const { return byte_mode_; }
  size_t count() const { return count_; }
  int32_t limit() const { return static_cast<int32_t>(entries_.size()); }  // highest id + 1
  size_t longest() const { return longest_; }                              // bytes of the longest text

 private:
  static constexpr uint32_t kNone = 0xFFFFFFFF, kBytes = 0x80000000, kSizeMask = 0x7FFFFFFF;
  struct Entry {
    uint32_t offset;
    uint32_t size;  // kNone, or the size with kBytes
  };
  struct Slot {
    uint32_t tag;
    int32_t id;  // -1: free
  };
  size_t slot_of(uint64_t hash) const { return hash >> shift_; }
  int32_t lookup(std::string_view text, uint64_t hash, bool bytes) const;

  bool byte_mode_;
  std::string blob_;
  std::vector<Entry> entries_;
  std::vector<Slot> slots_;
  int shift_ = 64;
  size_t count_ = 0;
  size_t longest_ = 0;
};

}  // namespace engine::tok
