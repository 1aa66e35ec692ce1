#include "text/tokenizer/unicode.h"

#include <algorithm>
#include <cstring>
#include <iterator>

namespace engine::tok {
namespace {

#include "text/tokenizer/unicode_tables.inc"

static_assert(kBlockBits == CharTable::block_bits && kBlockCount <= static_cast<int>(CharTable::max_blocks));

template <size_t n>
constexpr void expand(const uint16_t (&runs)[n], uint8_t* out) {
  for (size_t i = 0; i < n; i += 2)
    for (int k = 0; k < runs[i + 1]; ++k) *out++ = static_cast<uint8_t>(runs[i]);
}

constexpr CharTable make_table() {
  CharTable table{};
  expand(kIndexRuns, table.index);
  expand(kBlockRuns, table.blocks);
  return table;
}

template <size_t n>
bool in_ranges(const uint32_t (&ranges)[n], uint32_t cp) {
  size_t low = 0, high = n / 2;
  while (low < high) {
    const size_t mid = (low + high) / 2;
    if (ranges[2 * mid + 1] < cp)
      low = mid + 1;
    else
      high = mid;
  }
  return low < n / 2 && ranges[2 * low] <= cp;
}

RangeSet ranges_where(auto&& predicate) {
  RangeSet out;
  for (uint32_t cp = 0; cp < kCodePoints; ++cp) {
    if (!predicate(char_info(cp))) continue;
    if (!out.empty() && out.back().second + 1 == cp)
      out.back().second = cp;
    else
      out.emplace_back(cp, cp);
  }
  return out;
}

}  // namespace

constexpr CharTable char_table = make_table();

bool normalizes_as_unassigned(uint32_t cp) { return in_ranges(kNormalizedAsUnassigned, cp); }
bool is_numeric(uint32_t cp) { return in_ranges(kNumericRanges, cp); }
bool is_punctuation(uint32_t cp) { return in_ranges(kPunctuationRanges, cp); }

RangeSet ranges_of_flag(uint8_t flag) {
  return ranges_where([=](uint8_t info) { return (info & flag) != 0; });
}
RangeSet ranges_of_categories(CategoryMask mask) {
  return ranges_where([=](uint8_t info) { return (mask >> (info & char_flags::category)) & 1; });
}

bool ranges_of_script(std::string_view name, RangeSet* out) {
  for (const Script& script : kScripts) {
    if (name != script.name) continue;
    out->clear();
    for (size_t i = 0; i < script.count; ++i) out->emplace_back(script.ranges[2 * i], script.ranges[2 * i + 1]);
    return true;
  }
  return false;
}

RangeSet range_union(const RangeSet& a, const RangeSet& b) {
  RangeSet all = a, out;
  all.insert(all.end(), b.begin(), b.end());
  std::sort(all.begin(), all.end());
  for (const auto& r : all) {
    if (!out.empty() && r.first <= out.back().second + 1)
      out.back().second = std::max(out.back().second, r.second);
    else
      out.push_back(r);
  }
  return out;
}

RangeSet range_complement(const RangeSet& a) {
  RangeSet out;
  uint32_t next = 0;
  for (const auto& [first, last] : a) {
    if (first > next) out.emplace_back(next, first - 1);
    next = last + 1;
  }
  if (next < kCodePoints) out.emplace_back(next, kCodePoints - 1);
  return out;
}

RangeSet range_intersection(const RangeSet& a, const RangeSet& b) {
  return range_complement(range_union(range_complement(a), range_complement(b)));
}

void append_code_point(std::string& out, uint32_t cp) {
  const auto put = [&](uint32_t byte) { out.push_back(static_cast<char>(byte)); };
  if (cp < 0x80) {
    put(cp);
  } else if (cp < 0x800) {
    put(0xC0 | cp >> 6);
    put(0x80 | (cp & 63));
  } else if (cp < 0x10000) {
    put(0xE0 | cp >> 12);
    put(0x80 | (cp >> 6 & 63));
    put(0x80 | (cp & 63));
  } else {
    put(0xF0 | cp >> 18);
    put(0x80 | (cp >> 12 & 63));
    put(0x80 | (cp >> 6 & 63));
    put(0x80 | (cp & 63));
  }
}

size_t valid_sequence(std::string_view s, size_t* bad, bool* truncated) {
  const auto b = [&](size_t i) { return static_cast<unsigned char>(s[i]); };
  *bad = 1;
  *truncated = false;
  const unsigned char lead = b(0);
  if (lead < 0x80) return 1;
  if (lead < 0xC2 || lead > 0xF4) return 0;
  const size_t length = sequence_length(lead);
  // The second byte's range excludes overlong forms, surrogates and what lies above U+10FFFF.
  const unsigned char low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  const unsigned char high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  for (size_t i = 1; i < length; ++i) {
    if (i == s.size()) {
      *bad = i;
      *truncated = true;
      return 0;
    }
    if (i == 1 ? (b(1) < low || b(1) > high) : (b(i) & 0xC0) != 0x80) {
      *bad = i;
      return 0;
    }
  }
  return length;
}

bool is_valid_utf8(std::string_view s) {
  size_t i = 0, bad;
  bool truncated;
  while (i < s.size()) {
    if (i + 8 <= s.size()) {
      uint64_t word;
      std::memcpy(&word, s.data() + i, 8);
      if ((word & 0x8080808080808080u) == 0) {
        i += 8;
        continue;
      }
    }
    const size_t length = valid_sequence(s.substr(i), &bad, &truncated);
    if (length == 0) return false;
    i += length;
  }
  return true;
}

size_t append_lossy(std::string& out, std::string_view s, bool keep_incomplete) {
  size_t begin = 0, i = 0, bad;
  bool truncated;
  while (i < s.size()) {
    const size_t length = valid_sequence(s.substr(i), &bad, &truncated);
    if (length > 0) {
      i += length;
      continue;
    }
    out.append(s, begin, i - begin);
    if (truncated && keep_incomplete) return s.size() - i;
    out += kReplacementCharacter;
    i += bad;
    begin = i;
  }
  out.append(s, begin, i - begin);
  return 0;
}

std::string one_line(std::string_view s) {
  constexpr size_t max_bytes = 400;
  std::string valid, out;
  append_lossy(valid, s.substr(0, max_bytes), false);
  for (const char c : valid) {
    if (c == '\n')
      out += "\\n";
    else if (c == '\r')
      out += "\\r";
    else
      out += static_cast<unsigned char>(c) < 0x20 || c == 0x7F ? ' ' : c;
  }
  return s.size() > max_bytes ? out + "..." : out;
}

namespace {
// Printable Latin-1 except the blank, NBSP and the soft hyphen stand for themselves; the 68 others are U+0100 and on,
// in order.
constexpr bool stands_for_itself(int b) { return (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE; }

struct ByteAlphabet {
  uint16_t chars[256];
  constexpr ByteAlphabet() : chars{} {
    uint16_t next = 256;
    for (int b = 0; b < 256; ++b) chars[b] = stands_for_itself(b) ? static_cast<uint16_t>(b) : next++;
  }
};
constexpr ByteAlphabet byte_alphabet;

constexpr CharToByte invert_alphabet() {
  CharToByte table{};
  for (int16_t& b : table.bytes) b = -1;
  for (int b = 0; b < 256; ++b) table.bytes[byte_alphabet.chars[b]] = static_cast<int16_t>(b);
  return table;
}
}  // namespace

constexpr CharToByte char_to_byte_table = invert_alphabet();

uint32_t byte_to_char(uint8_t byte) { return byte_alphabet.chars[byte]; }

}  // namespace engine::tok
