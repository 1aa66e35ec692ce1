// A hash table of 12-byte slots, five to a cache line: most lookups, of what is there and of what is not, read one line
// and take no branch that is hard to foretell.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

#include "base/buffer.h"

namespace engine::tok {

/// Slot: 12 bytes, `bool is_free() const` true if all of them are zero. It never grows, and nothing is taken out of it.
template <class Slot>
class LineTable {
 public:
  /// Empties the table and makes room for n slots.
  void reset(size_t n) {
    lines_ = Buffer((n * 8 / 5 / kSlots + 2) * sizeof(Line), true);  // five in eight are filled
  }

  /// The slot for which match(slot) is true, or null. `hash` as when it was put in; match is false for free slots.
  template <class Match>
  const Slot* find(uint64_t hash, Match&& match) const {
    for (const Line* line = line_of(hash);; line = next(line)) {
      uint32_t hits = 0;
#pragma GCC unroll 5
      for (size_t i = 0; i < kSlots; ++i) hits |= static_cast<uint32_t>(match(line->slots[i])) << i;
      if (hits != 0) return &line->slots[std::countr_zero(hits)];
      if (line->slots[kSlots - 1].is_free()) return nullptr;
    }
  }
  /// The same, or the free slot that it is to be put into.
  template <class Match>
  Slot& find_or_free(uint64_t hash, Match&& match) {
    for (Line* line = line_of(hash);; line = next(line))
      for (Slot& slot : line->slots)
        if (slot.is_free() || match(slot)) return slot;
  }
  /// Always inlined: gcc takes a function that only prefetches for one without effect and drops calls of it.
  [[gnu::always_inline]] void prefetch(uint64_t hash) const { __builtin_prefetch(line_of(hash)); }

  /// Calls f(slot) for each that is not free.
  template <class F>
  void for_each(F&& f) const {
    for (const Line* line = lines(); line != lines() + n_lines(); ++line)
      for (const Slot& slot : line->slots)
        if (!slot.is_free()) f(slot);
  }

 private:
  static_assert(sizeof(Slot) == 12);
  static constexpr size_t kSlots = 5;
  struct alignas(64) Line {
    Slot slots[kSlots];
  };
  Line* lines() const { return lines_.as<Line>(); }
  size_t n_lines() const { return lines_.size() / sizeof(Line); }
  Line* line_of(uint64_t hash) const { return lines() + ((hash >> 32) * static_cast<uint64_t>(n_lines()) >> 32); }
  Line* next(const Line* line) const { return lines() + (line + 1 == lines() + n_lines() ? 0 : line + 1 - lines()); }

  Buffer lines_;
};

}  // namespace engine::tok
