#include "text/tokenizer/vocab.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <random>
#include <stdexcept>

namespace engine::tok {
namespace {

uint64_t load64(const char* p) {
  uint64_t v;
  std::memcpy(&v, p, 8);
  return v;
}
uint32_t load32(const char* p) {
  uint32_t v;
  std::memcpy(&v, p, 4);
  return v;
}
uint64_t mix(uint64_t a, uint64_t b) {
  const unsigned __int128 product = static_cast<unsigned __int128>(a) * b;
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

constexpr uint64_t k1 = 0x9E3779B97F4A7C15u, k2 = 0xD6E8FEB86659FD93u;
TextKey short_key(uint64_t word, size_t n, uint64_t seed) { return {word, mix(word ^ seed, k1 + 2 * n)}; }

}  // namespace

uint64_t process_seed() {
  static const uint64_t seed = [] {
    std::random_device device;
    const uint64_t clock = static_cast<uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count());
    return ((static_cast<uint64_t>(device()) << 32) ^ device() ^ clock) | 1;
  }();
  return seed;
}

TextKey key_of(std::string_view s) {
  static const uint64_t seed = process_seed();
  const char* p = s.data();
  size_t n = s.size();
  if (n <= 8) {
    uint64_t word = 0;
    if (n == 8)
      word = load64(p);
    else if (n >= 4)
      word = load32(p) | static_cast<uint64_t>(load32(p + n - 4)) << (8 * (n - 4));
    else
      for (size_t i = 0; i < n; ++i) word |= static_cast<uint64_t>(static_cast<unsigned char>(p[i])) << (8 * i);
    return short_key(word, n, seed);
  }
  uint64_t h = seed ^ (n * k1);
  for (; n > 16; p += 16, n -= 16) h = mix(load64(p) ^ h, load64(p + 8) ^ k2);
  if (n >= 8)
    h = mix(load64(p) ^ h, load64(p + n - 8) ^ k2);
  else
    for (; n > 0; ++p, --n) h = (h ^ static_cast<unsigned char>(*p)) * k1;
  return {0, mix(h ^ seed, k2)};
}

TextKey key_of_padded(std::string_view s) {
  static const uint64_t seed = process_seed();
  const size_t n = s.size();
  if (n > 8) return key_of(s);
  const uint64_t word = n == 0 ? 0 : load64(s.data()) & ~uint64_t{0} >> (64 - 8 * n);
  return short_key(word, n, seed);
}

bool Vocab::to_bytes(std::string_view spelling, char* out, size_t* size) {
  const char* p = spelling.data();
  const char* end = p + spelling.size();
  char* begin = out;
  while (p < end) {
    if (end - p == 1 && static_cast<unsigned char>(*p) >= 0x80) return false;
    const int byte = to_byte(p);
    if (byte < 0) return false;
    *out++ = static_cast<char>(byte);
  }
  *size = static_cast<size_t>(out - begin);
  return true;
}

bool Vocab::add(std::string_view spelling, int32_t id) {
  if (static_cast<size_t>(id) == entries_.size())
    entries_.push_back(Entry{0, kNone});
  else if (static_cast<size_t>(id) > entries_.size())
    entries_.resize(static_cast<size_t>(id) + 1, Entry{0, kNone});
  if (entries_[id].size != kNone) return false;
  if (blob_.size() - kPadding - blob_size_ < spelling.size()) throw std::logic_error("Vocab: more text than announced");
  char* out = blob_.as<char>() + blob_size_;
  uint32_t flag = 0;
  size_t size = spelling.size();
  if (byte_mode_ && to_bytes(spelling, out, &size)) {
    flag = kBytes;
  } else {
    size = spelling.size();
    if (size > 0) std::memcpy(out, spelling.data(), size);
  }
  entries_[id] = Entry{static_cast<uint32_t>(blob_size_), static_cast<uint32_t>(size) | flag};
  blob_size_ += size;
  ++count_;
  if (size > longest_) longest_ = size;
  return true;
}

int32_t Vocab::index() {
  size_t n_short = 0;
  for (const Entry& e : entries_) n_short += e.size != kNone && (e.size & kSizeMask) <= kShort;
  short_slots_.reset(n_short);
  long_slots_.assign((count_ - n_short) * 8 / 5 + 8, LongSlot{0, kFree});
  // Some dozens at a time, so that the accesses to the tables overlap.
  constexpr int32_t batch = 32;
  TextKey keys[batch];
  for (int32_t first = 0; first < limit(); first += batch) {
    const int32_t last = std::min(limit(), first + batch);
    for (int32_t id = first; id < last; ++id) {
      if (!has(id)) continue;
      keys[id - first] = key_of_padded(text(id));
      prefetch(text(id), keys[id - first]);
    }
    for (int32_t id = first; id < last; ++id)
      if (has(id) && !insert(id, keys[id - first])) return id;
  }
  return -1;
}

bool Vocab::insert(int32_t id, const TextKey& key) {
  const bool bytes = is_bytes(id);
  const uint32_t size = entries_[id].size & kSizeMask;
  if (size <= kShort) {
    ShortSlot& slot = short_slots_.find_or_free(key.hash, short_match(key, size, bytes));
    if (!slot.is_free()) return false;
    const uint32_t tail = static_cast<uint32_t>(id) << 6 | kind_of(size, bytes);
    slot = {static_cast<uint32_t>(key.word), static_cast<uint32_t>(key.word >> 32), tail};
  } else {
    if (find_long(text(id), key, bytes) >= 0) return false;
    size_t i = slot_of(key.hash, long_slots_.size());
    while (long_slots_[i].id != kFree) i = i + 1 == long_slots_.size() ? 0 : i + 1;
    long_slots_[i] = {static_cast<uint32_t>(key.hash), static_cast<uint32_t>(id)};
  }
  return true;
}

int32_t Vocab::find_long(std::string_view text, const TextKey& key, bool bytes) const {
  const uint32_t size = static_cast<uint32_t>(text.size()) | (bytes ? kBytes : 0);
  for (size_t i = slot_of(key.hash, long_slots_.size());; i = i + 1 == long_slots_.size() ? 0 : i + 1) {
    const LongSlot slot = long_slots_[i];
    if (slot.id == kFree) return -1;
    if (slot.tag != static_cast<uint32_t>(key.hash)) continue;
    const Entry entry = entries_[slot.id];
    if (entry.size == size && std::memcmp(blob_.as<char>() + entry.offset, text.data(), text.size()) == 0)
      return static_cast<int32_t>(slot.id);
  }
}

int32_t Vocab::find(std::string_view spelling) const {
  if (byte_mode_) {
    std::string bytes(spelling.size(), '\0');
    size_t size = 0;
    if (to_bytes(spelling, bytes.data(), &size)) return find_text(std::string_view(bytes).substr(0, size));
  }
  const TextKey key = key_of(spelling);
  return spelling.size() <= kShort ? find_short(key, spelling.size(), false) : find_long(spelling, key, false);
}

std::string Vocab::spelling(int32_t id) const {
  if (!is_bytes(id)) return std::string(text(id));
  std::string out;
  for (const char c : text(id)) append_code_point(out, byte_to_char(static_cast<uint8_t>(c)));
  return out;
}

}  // namespace engine::tok
