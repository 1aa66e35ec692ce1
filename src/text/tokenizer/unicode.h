// Character classes as Hugging Face's tokenizers library sees them (Unicode 16), and UTF-8.
//
// Own tables, because the classes of PCRE2 and utf8proc are some Unicode versions behind and differ between
// distributions, while the ids of a tokenizer must not depend on where it was built.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace engine::tok {

/// General categories, in the order of the generated table.
enum class Category : uint8_t {
  cn,
  lu,
  ll,
  lt,
  lm,
  lo,
  mn,
  mc,
  me,
  nd,
  nl,
  no,
  pc,
  pd,
  ps,
  pe,
  pi,
  pf,
  po,
  sm,
  sc,
  sk,
  so,
  zs,
  zl,
  zp,
  cc,
  cf,
  co,
  cs
};
inline constexpr int kCategoryCount = 30;

using CategoryMask = uint32_t;
constexpr CategoryMask mask_of(Category c) { return 1u << static_cast<int>(c); }
constexpr CategoryMask mask_between(Category first, Category last) { return (mask_of(last) << 1) - mask_of(first); }
inline constexpr CategoryMask kLetters = mask_between(Category::lu, Category::lo);
inline constexpr CategoryMask kMarks = mask_between(Category::mn, Category::me);
inline constexpr CategoryMask kNumbers = mask_between(Category::nd, Category::no);
inline constexpr CategoryMask kPunctuation = mask_between(Category::pc, Category::po);
inline constexpr CategoryMask kSymbols = mask_between(Category::sm, Category::so);

namespace char_flags {
inline constexpr uint8_t category = 31;
inline constexpr uint8_t white_space = 32;
inline constexpr uint8_t word = 64;       // the regex engine's \w
inline constexpr uint8_t composes = 128;  // NFC changes it, moves it, or joins it to what stands before it
}  // namespace char_flags

inline constexpr uint32_t kCodePoints = 0x110000;

struct CharTable {
  static constexpr int block_bits = 8;
  static constexpr size_t max_blocks = 256;
  uint8_t index[kCodePoints >> block_bits];
  uint8_t blocks[max_blocks << block_bits];
};
extern const CharTable char_table;

inline uint8_t char_info(uint32_t cp) {
  return char_table
      .blocks[(size_t{char_table.index[cp >> CharTable::block_bits]} << CharTable::block_bits) | (cp & 255)];
}
inline Category category(uint32_t cp) { return static_cast<Category>(char_info(cp) & char_flags::category); }
inline bool in_categories(uint32_t cp, CategoryMask mask) {
  return (mask >> (char_info(cp) & char_flags::category)) & 1;
}
inline bool is_white_space(uint32_t cp) { return char_info(cp) & char_flags::white_space; }
inline bool is_word(uint32_t cp) { return char_info(cp) & char_flags::word; }

/// The Digits pre-tokenizer's and the Punctuation pre-tokenizer's classes.
bool is_numeric(uint32_t cp);
bool is_punctuation(uint32_t cp);
/// Word characters as added tokens with single_word see them (another regex engine's \w).
inline bool is_added_token_word(uint32_t cp) {
  if (cp >= 0xB2 && cp <= 0xBE && cp != 0xB5 && cp != 0xBA) return false;
  return is_word(cp) || cp == 0x200C || cp == 0x200D;
}

/// True if the normalizers treat `cp` as unassigned (they work with Unicode 9), though newer Unicode normalizes it.
bool normalizes_as_unassigned(uint32_t cp);

/// Inclusive ranges of code points, ascending.
using RangeSet = std::vector<std::pair<uint32_t, uint32_t>>;
/// Ranges of all code points whose info byte satisfies (info & flag) != 0, or whose category is in the mask.
RangeSet ranges_of_flag(uint8_t flag);
RangeSet ranges_of_categories(CategoryMask mask);
/// By lower-case name ("han"); false if the script is not one of the tables'.
bool ranges_of_script(std::string_view name, RangeSet* out);
RangeSet range_union(const RangeSet& a, const RangeSet& b);
RangeSet range_complement(const RangeSet& a);
RangeSet range_intersection(const RangeSet& a, const RangeSet& b);

// --- UTF-8 ---

/// Length of the sequence that a lead byte of valid UTF-8 begins.
inline size_t sequence_length(unsigned char lead) { return lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4; }

/// Decodes one code point of valid UTF-8 and moves on.
inline uint32_t next_code_point(const char*& p) {
  const auto b = [&](int i) { return static_cast<uint32_t>(static_cast<unsigned char>(p[i])); };
  const uint32_t lead = b(0);
  if (lead < 0x80) return p += 1, lead;
  if (lead < 0xE0) {
    const uint32_t cp = (lead & 31) << 6 | (b(1) & 63);
    return p += 2, cp;
  }
  if (lead < 0xF0) {
    const uint32_t cp = (lead & 15) << 12 | (b(1) & 63) << 6 | (b(2) & 63);
    return p += 3, cp;
  }
  const uint32_t cp = (lead & 7) << 18 | (b(1) & 63) << 12 | (b(2) & 63) << 6 | (b(3) & 63);
  return p += 4, cp;
}
/// The code point that ends at `p`; `p` moves to its begin. `begin` < p.
inline uint32_t previous_code_point(const char*& p) {
  do --p;
  while ((static_cast<unsigned char>(*p) & 0xC0) == 0x80);
  const char* q = p;
  return next_code_point(q);
}

void append_code_point(std::string& out, uint32_t cp);

/// Length of the valid UTF-8 sequence at the start of `s` (not empty). If there is none: 0, and *bad is the length of
/// the maximal subpart that one U+FFFD replaces (WHATWG, and Rust's from_utf8_lossy); *truncated if `s` could still
/// become valid.
size_t valid_sequence(std::string_view s, size_t* bad, bool* truncated);
bool is_valid_utf8(std::string_view s);
/// Appends `s` with invalid parts replaced by U+FFFD. Returns the length of an incomplete sequence at the end that was
/// left out if `keep_incomplete`, otherwise 0.
size_t append_lossy(std::string& out, std::string_view s, bool keep_incomplete);

/// For messages: control characters become escapes, invalid UTF-8 U+FFFD, and what is long is cut.
std::string one_line(std::string_view s);

inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";

// --- the byte alphabet of GPT-2 ---

/// The character that stands for a byte in byte-level vocabularies: itself if printable Latin-1, else U+0100 + n.
uint32_t byte_to_char(uint8_t byte);
/// -1 if the character stands for no byte.
struct CharToByte {
  int16_t bytes[324];
};
extern const CharToByte char_to_byte_table;
inline int char_to_byte(uint32_t cp) { return cp < 324 ? char_to_byte_table.bytes[cp] : -1; }

}  // namespace engine::tok
