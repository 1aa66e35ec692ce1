#include "text/tokenizer/vocab.h"

#include <bit>
#include <chrono>
#include <cstring>
#include <random>

#include "text/tokenizer/unicode.h"

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

}  // namespace

uint64_t process_seed() {
  static const uint64_t seed = [] {
    std::random_device device;
    const uint64_t clock = static_cast<uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count());
    return ((static_cast<uint64_t>(device()) << 32) ^ device() ^ clock) | 1;
  }();
  return seed;
}

uint64_t hash_bytes(std::string_view s) {
  static const uint64_t seed = process_seed();
  constexpr uint64_t k1 = 0x9E3779B97F4A7C15u, k2 = 0xD6E8FEB86659FD93u;
  const char* p = s.data();
  size_t n = s.size();
  uint64_t h = seed ^ (n * k1);
  while (n > 16) {
    h = mix(load64(p) ^ h, load64(p + 8) ^ k2);
    p += 16;
    n -= 16;
  }
  uint64_t a = 0, b = 0;
  if (n >= 8) {
    a = load64(p);
    b = load64(p + n - 8);
  } else if (n >= 4) {
    a = load32(p);
    b = load32(p + n - 4);
  } else if (n > 0) {
    a = static_cast<uint64_t>(static_cast<unsigned char>(p[0])) << 16 |
        static_cast<uint64_t>(static_cast<unsigned char>(p[n / 2])) << 8 | static_cast<unsigned char>(p[n - 1]);
  }
  return mix(mix(a ^ h, b ^ k1) ^ seed, k2);
}

bool Vocab::to_bytes(std::string_view spelling, char* out, size_t* size) {
  const unsigned char* p = reinterpret_cast<const unsigned char*>(spelling.data());
  const unsigned char* end = p + spelling.size();
  char* begin = out;
  while (p < end) {
    uint32_t cp = *p++;
    if (cp >= 0x80) {  // the alphabet ends at U+0143, so two bytes
      if (cp < 0xC2 || cp > 0xC5 || p == end) return false;
      cp = (cp & 31) << 6 | (*p++ & 63);
    }
    const int byte = char_to_byte(cp);
    if (byte < 0) return false;
    *out++ = static_cast<char>(byte);
  }
  *size = static_cast<size_t>(out - begin);
  return true;
}

bool Vocab::add(std::string_view spelling, int32_t id) {
  if (static_cast<size_t>(id) >= entries_.size()) entries_.resize(static_cast<size_t>(id) + 1, Entry{0, kNone});
  if (entries_[id].size != kNone) return false;
  const size_t offset = blob_.size();
  uint32_t flag = 0;
  size_t size = spelling.size();
  blob_.resize(offset + size);
  if (byte_mode_ && to_bytes(spelling, blob_.data() + offset, &size)) {
    flag = kBytes;
    blob_.resize(offset + size);
  } else {
    size = spelling.size();
    if (size > 0) std::memcpy(blob_.data() + offset, spelling.data(), size);
  }
  entries_[id] = Entry{static_cast<uint32_t>(offset), static_cast<uint32_t>(size) | flag};
  ++count_;
  if (size > longest_) longest_ = size;
  return true;
}

int32_t Vocab::index() {
  blob_.shrink_to_fit();
  entries_.shrink_to_fit();
  const size_t slots = std::bit_ceil(count_ * 3 / 2 + 16);
  slots_.assign(slots, Slot{0, -1});
  shift_ = 64 - std::countr_zero(slots);
  for (int32_t id = 0; id < limit(); ++id) {
    if (entries_[id].size == kNone) continue;
    const uint64_t hash = hash_bytes(text(id));
    size_t i = slot_of(hash);
    for (; slots_[i].id >= 0; i = (i + 1) & (slots - 1)) {
      if (slots_[i].tag == static_cast<uint32_t>(hash) && entries_[slots_[i].id].size == entries_[id].size &&
          text(slots_[i].id) == text(id))
        return id;
    }
    slots_[i] = Slot{static_cast<uint32_t>(hash), id};
  }
  return -1;
}

int32_t Vocab::lookup(std::string_view text, uint64_t hash, bool bytes) const {
  const uint32_t tag = static_cast<uint32_t>(hash);
  const uint32_t size = static_cast<uint32_t>(text.size()) | (bytes ? kBytes : 0);
  for (size_t i = slot_of(hash);; i = (i + 1) & (slots_.size() - 1)) {
    const Slot slot = slots_[i];
    if (slot.id < 0) return -1;
    if (slot.tag != tag) continue;
    const Entry entry = entries_[slot.id];
    if (entry.size == size && std::memcmp(blob_.data() + entry.offset, text.data(), text.size()) == 0) return slot.id;
  }
}

int32_t Vocab::find(std::string_view spelling) const {
  if (byte_mode_) {
    std::string bytes(spelling.size(), '\0');
    size_t size = 0;
    if (to_bytes(spelling, bytes.data(), &size)) return find_text(std::string_view(bytes).substr(0, size));
  }
  return lookup(spelling, hash_bytes(spelling), false);
}

std::string Vocab::spelling(int32_t id) const {
  if (!is_bytes(id)) return std::string(text(id));
  std::string out;
  for (const char c : text(id)) append_code_point(out, byte_to_char(static_cast<uint8_t>(c)));
  return out;
}

}  // namespace engine::tok
