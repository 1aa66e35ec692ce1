// The model's vocabulary: token texts by id, ids by text. Flat arrays only: one blob of text, no allocation a token.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/buffer.h"
#include "text/tokenizer/line_table.h"
#include "text/tokenizer/unicode.h"

namespace engine::tok {

/// Ids above this are refused: they would make every array indexed by id absurdly large.
inline constexpr int32_t kMaxTokenId = 10'000'000;

/// Odd and drawn once a process: hashes that a model file cannot aim at.
uint64_t process_seed();

/// Where a text would stand in the tables; computed once, used to prefetch and to find.
struct TextKey {
  uint64_t word;  // up to 8 bytes: the text itself, padded with zeros
  uint64_t hash;
};
TextKey key_of(std::string_view text);
/// The same, faster, of a text with 8 readable bytes from its begin on.
TextKey key_of_padded(std::string_view text);

class Vocab {
 public:
  /// In byte mode the texts of byte-level tokens ("Ġthe") are held as the bytes they stand for (" the"); the few that
  /// hold a character outside the byte alphabet are kept as they are spelled and marked.
  /// `max_bytes`: more than all spellings together have.
  Vocab(bool byte_mode, size_t max_bytes) : byte_mode_(byte_mode), blob_(max_bytes + kPadding) {
    entries_.reserve(std::min(max_bytes / 16, size_t{1} << 20));
  }

  /// `spelling` as in the file; 0 <= id <= kMaxTokenId. False if the id is taken.
  bool add(std::string_view spelling, int32_t id);
  /// Prepares finding; to be called once after the last add. Returns the id of a token whose text another one has too,
  /// or -1.
  int32_t index();

  /// By spelling as in the file; -1 if there is none.
  int32_t find(std::string_view spelling) const;
  /// By text as held: raw bytes in byte mode.
  int32_t find_text(std::string_view text) const { return find_text(text, key_of(text)); }
  int32_t find_text(std::string_view text, const TextKey& key) const {
    return text.size() <= kShort ? find_short(key, text.size(), byte_mode_) : find_long(text, key, byte_mode_);
  }
  /// Inlined as LineTable's.
  [[gnu::always_inline]] void prefetch(std::string_view text, const TextKey& key) const {
    if (text.size() <= kShort)
      short_slots_.prefetch(key.hash);
    else
      __builtin_prefetch(&long_slots_[slot_of(key.hash, long_slots_.size())]);
  }

  bool has(int32_t id) const {
    return id >= 0 && static_cast<size_t>(id) < entries_.size() && entries_[id].size != kNone;
  }
  /// The text as held. `id` must exist.
  std::string_view text(int32_t id) const {
    return {blob_.as<char>() + entries_[id].offset, entries_[id].size & kSizeMask};
  }
  /// True if text(id) is bytes and not the spelling.
  bool is_bytes(int32_t id) const { return entries_[id].size & kBytes; }
  std::string spelling(int32_t id) const;

  /// Turns a spelling into raw bytes; false if a character is outside the byte alphabet. `out` has room for
  /// spelling.size() bytes.
  static bool to_bytes(std::string_view spelling, char* out, size_t* size);
  /// The same for one character: reads it at p (at least two readable bytes, or an ASCII one), -1 if it is outside the
  /// alphabet.
  static int to_byte(const char*& p) {
    const unsigned char lead = static_cast<unsigned char>(*p++);
    if (lead < 0x80) return char_to_byte_table.bytes[lead];
    if (lead < 0xC2 || lead > 0xC5) return -1;  // the alphabet ends at U+0143, so two bytes
    const unsigned char next = static_cast<unsigned char>(*p++);
    return (next & 0xC0) == 0x80 ? char_to_byte((lead & 31u) << 6 | (next & 63u)) : -1;
  }

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
  // Texts of up to 8 bytes, the most by far, are found within their slot.
  static constexpr size_t kShort = 8;
  static constexpr size_t kPadding = 8;  // readable behind each text
  static constexpr uint32_t kFree = 0xFFFFFFFF;
  struct ShortSlot {
    uint32_t low = 0, high = 0;  // the text's bytes
    uint32_t tail = 0;           // id << 6 | 1 << 5 | bytes flag << 4 | size
    bool is_free() const { return tail == 0; }
    int32_t id() const { return static_cast<int32_t>(tail >> 6); }
  };
  static uint32_t kind_of(uint32_t size, bool bytes) { return 32u | (bytes ? 16u : 0u) | size; }
  /// True for the slot of a text of up to 8 bytes.
  static auto short_match(const TextKey& key, uint32_t size, bool bytes) {
    return [word = key.word, kind = kind_of(size, bytes)](const ShortSlot& slot) {
      return ((word ^ (static_cast<uint64_t>(slot.high) << 32 | slot.low)) | ((slot.tail ^ kind) & 63)) == 0;
    };
  }
  struct LongSlot {
    uint32_t tag;
    uint32_t id;  // kFree
  };
  static size_t slot_of(uint64_t hash, size_t n_slots) {
    return static_cast<size_t>((hash >> 32) * static_cast<uint64_t>(n_slots) >> 32);
  }
  int32_t find_short(const TextKey& key, size_t size, bool bytes) const {
    const ShortSlot* slot = short_slots_.find(key.hash, short_match(key, static_cast<uint32_t>(size), bytes));
    return slot != nullptr ? slot->id() : -1;
  }
  int32_t find_long(std::string_view text, const TextKey& key, bool bytes) const;
  bool insert(int32_t id, const TextKey& key);

  bool byte_mode_;
  Buffer blob_;  // what is beyond blob_size_ takes no memory
  size_t blob_size_ = 0;
  std::vector<Entry> entries_;
  LineTable<ShortSlot> short_slots_;
  std::vector<LongSlot> long_slots_;
  size_t count_ = 0;
  size_t longest_ = 0;
};

}  // namespace engine::tok
