#include "text/tokenizer/splitters.h"

#include <cstdint>
#include <iterator>

#include "text/tokenizer/unicode.h"

namespace engine::tok {
namespace {

// What the patterns tell apart.
enum Kind : uint8_t { kLetter = 1, kNumber = 2, kSpace = 4, kNewline = 8 /* \r \n; also kSpace */, kOther = 16 };

struct AsciiKinds {
  uint8_t kinds[128];
  constexpr AsciiKinds() : kinds{} {
    for (int c = 0; c < 128; ++c) {
      const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
      const bool space = (c >= 9 && c <= 13) || c == ' ';
      kinds[c] = letter                   ? kLetter
                 : c >= '0' && c <= '9'   ? kNumber
                 : c == '\r' || c == '\n' ? (kSpace | kNewline)
                 : space                  ? kSpace
                                          : kOther;
    }
  }
};
constexpr AsciiKinds ascii;

uint8_t wide_kind(uint32_t cp) {
  const uint8_t info = char_info(cp);
  const CategoryMask bit = 1u << (info & char_flags::category);
  return bit & kLetters ? kLetter : bit & kNumbers ? kNumber : info & char_flags::white_space ? kSpace : kOther;
}

/// Kind of the character at p; *next is where the following one begins.
inline uint8_t kind_at(const char* p, const char** next) {
  const unsigned char c = static_cast<unsigned char>(*p);
  if (c < 0x80) {
    *next = p + 1;
    return ascii.kinds[c];
  }
  *next = p;
  return wide_kind(next_code_point(*next));
}

/// Skips characters of any of the kinds.
template <uint8_t kinds>
inline const char* skip(const char* p, const char* end) {
  const char* next;
  while (p < end && (kind_at(p, &next) & kinds) != 0) p = next;
  return p;
}

// (?i:'s|'t|'re|'ve|'m|'ll|'d). Case folding also lets U+017F stand for s. Null if it does not match.
const char* contraction(const char* p, const char* end, bool ignore_case) {
  if (p == end || *p != '\'' || p + 1 == end) return nullptr;
  const auto lower = [&](char c) { return ignore_case && c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; };
  const char first = lower(p[1]);
  if (first == 's' || first == 't' || first == 'm' || first == 'd') return p + 2;
  if (p + 2 == end) return nullptr;
  const char second = lower(p[2]);
  if ((first == 'r' && second == 'e') || (first == 'v' && second == 'e') || (first == 'l' && second == 'l'))
    return p + 3;
  if (ignore_case && static_cast<unsigned char>(p[1]) == 0xC5 && static_cast<unsigned char>(p[2]) == 0xBF) return p + 3;
  return nullptr;
}

// \s+(?!\S)|\s+ on a run of blanks that ends at run_end: all of it at the end of the text, else all but its last
// character, if it has more than one.
const char* blanks_before_text(const char* p, const char* run_end, const char* end) {
  if (run_end == end) return run_end;
  const char* last = run_end;
  previous_code_point(last);
  return last == p ? run_end : last;
}

// \s*[\r\n]+|\s+(?!\S)|\s+ : up to the last line end of the run, if there is one.
const char* blanks(const char* p, const char* end) {
  const char* run_end = p;
  const char* after_newline = nullptr;
  const char* next;
  while (run_end < end) {
    const uint8_t kind = kind_at(run_end, &next);
    if (!(kind & kSpace)) break;
    run_end = next;
    if (kind & kNewline) after_newline = run_end;
  }
  return after_newline != nullptr ? after_newline : blanks_before_text(p, run_end, end);
}

const char* newlines(const char* p, const char* end, bool slash) {
  while (p < end && (*p == '\r' || *p == '\n' || (slash && *p == '/'))) ++p;
  return p;
}

template <int max_digits>
const char* digits(const char* p, const char* end) {
  const char* next;
  for (int i = 0; i < max_digits && p < end && (kind_at(p, &next) & kNumber); ++i) p = next;
  return p;
}

//  ?[^\s\p{L}\p{N}]+[\r\n]* where p is at a blank or at such a character; null if it does not match.
const char* other_run(const char* p, const char* end, bool slash) {
  const char* q = *p == ' ' ? p + 1 : p;
  const char* run_end = skip<kOther>(q, end);
  return run_end == q ? nullptr : newlines(run_end, end, slash);
}

// 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
const char* match_gpt2(const char* p, const char* end) {
  if (const char* q = contraction(p, end, false)) return q;
  const char* q = *p == ' ' && p + 1 < end ? p + 1 : p;
  const char* next;
  const uint8_t kind = kind_at(q, &next);
  if (kind & kLetter) return skip<kLetter>(next, end);
  if (kind & kNumber) return skip<kNumber>(next, end);
  if (kind & kOther) return skip<kOther>(next, end);
  return blanks_before_text(p, skip<kSpace>(p, end), end);
}

// (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
template <int max_digits>
const char* match_llama3(const char* p, const char* end) {
  const char* next;
  const uint8_t kind = kind_at(p, &next);
  if (kind & kLetter) return skip<kLetter>(next, end);
  if (kind & kNumber) return digits<max_digits>(p, end);
  if (*p == '\'') {
    if (const char* q = contraction(p, end, true)) return q;
  }
  if (!(kind & kNewline) && next < end) {
    const char* after;
    if (kind_at(next, &after) & kLetter) return skip<kLetter>(after, end);
  }
  if (kind & kOther || *p == ' ') {
    if (const char* q = other_run(p, end, false)) return q;
  }
  return blanks(p, end);
}

// o200k: words split where case says so.
constexpr CategoryMask kUpper =
    mask_of(Category::lu) | mask_of(Category::lt) | mask_of(Category::lm) | mask_of(Category::lo) | kMarks;
constexpr CategoryMask kLower = mask_of(Category::ll) | mask_of(Category::lm) | mask_of(Category::lo) | kMarks;

inline CategoryMask category_bit(const char* p, const char** next) {
  *next = p;
  return 1u << (char_info(next_code_point(*next)) & char_flags::category);
}

// [upper]*[lower]+ from p; null if it does not match.
const char* upper_then_lower(const char* p, const char* end) {
  const char* q = p;
  const char* after_both = nullptr;  // end of the last character of the upper run that is in both classes
  const char* next;
  while (q < end) {
    const CategoryMask bit = category_bit(q, &next);
    if (!(bit & kUpper)) {
      if (!(bit & kLower)) break;
      do q = next;
      while (q < end && (category_bit(q, &next) & kLower));
      return q;
    }
    q = next;
    if (bit & kLower) after_both = q;
  }
  // The upper run has to give back: the lower run is the last character that can be either.
  return after_both;
}

const char* upper_run(const char* p, const char* end) {
  const char* next;
  while (p < end && (category_bit(p, &next) & kUpper)) p = next;
  return p;
}

template <int max_digits, bool contractions>
const char* match_o200k(const char* p, const char* end) {
  const char* next;
  const uint8_t kind = kind_at(p, &next);
  const char* word = nullptr;
  const bool prefix = !(kind & (kLetter | kNumber | kNewline));
  if (prefix && next < end) word = upper_then_lower(next, end);
  // Without the prefix: what stands there is a letter, or a mark (which is a prefix too, if a word follows).
  if (word == nullptr) word = upper_then_lower(p, end);
  if (word == nullptr && prefix) {
    const char* q = upper_run(next, end);
    if (q != next) word = q;
  }
  if (word == nullptr) {
    const char* q = upper_run(p, end);
    if (q != p) word = q;
  }
  if (word != nullptr) {
    if constexpr (contractions) {
      if (const char* q = contraction(word, end, true)) return q;
    }
    return word;
  }
  if (kind & kNumber) return digits<max_digits>(p, end);
  if (kind & kOther || *p == ' ') {
    if (const char* q = other_run(p, end, true)) return q;
  }
  return blanks(p, end);
}

template <const char* (*match)(const char*, const char*)>
bool find_everywhere(std::string_view text, size_t from, size_t* begin, size_t* end) {
  *begin = from;
  *end = static_cast<size_t>(match(text.data() + from, text.data() + text.size()) - text.data());
  return true;
}

// \p{N}{1,k}
template <int max_digits>
bool find_digits(std::string_view text, size_t from, size_t* begin, size_t* end) {
  const char* text_end = text.data() + text.size();
  const char* p = text.data() + from;
  const char* next;
  while (p < text_end && !(kind_at(p, &next) & kNumber)) p = next;
  if (p == text_end) return false;
  *begin = static_cast<size_t>(p - text.data());
  *end = static_cast<size_t>(digits<max_digits>(p, text_end) - text.data());
  return true;
}

// [一-龥぀-ゟ゠-ヿ]+ : U+4E00-9FA5, U+3040-309F, U+30A0-30FF, all three bytes long and begun by E3 to E9.
bool is_deepseek_cjk(const char* p) {
  const unsigned char lead = static_cast<unsigned char>(*p);
  if (lead < 0xE3 || lead > 0xE9) return false;
  const uint32_t cp = next_code_point(p);
  return (cp >= 0x4E00 && cp <= 0x9FA5) || (cp >= 0x3040 && cp <= 0x30FF);
}
bool find_deepseek_cjk(std::string_view text, size_t from, size_t* begin, size_t* end) {
  const char* text_end = text.data() + text.size();
  const char* p = text.data() + from;
  while (p < text_end && !is_deepseek_cjk(p)) p += sequence_length(static_cast<unsigned char>(*p));
  if (p == text_end) return false;
  *begin = static_cast<size_t>(p - text.data());
  while (p < text_end && is_deepseek_cjk(p)) p += 3;
  *end = static_cast<size_t>(p - text.data());
  return true;
}

// [ASCII punctuation][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
// Null where nothing matches: at a digit, a control or an unassigned character with no word after it.
const char* match_deepseek(const char* p, const char* end) {
  constexpr CategoryMask word = kLetters | kMarks, sign = kPunctuation | kSymbols;
  const auto is_ascii_letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); };
  const auto run = [&](const char* q, CategoryMask mask) {
    const char* next;
    while (q < end && (category_bit(q, &next) & mask)) q = next;
    return q;
  };
  const char* next;
  const uint8_t kind = kind_at(p, &next);
  const CategoryMask bit = category_bit(p, &next);
  if (static_cast<unsigned char>(*p) < 0x80 && bit & sign && next < end && is_ascii_letter(*next)) {
    const char* q = next;
    while (q < end && is_ascii_letter(*q)) ++q;
    return q;
  }
  if (!(kind & kNewline) && !(bit & (kLetters | sign))) {
    const char* q = run(next, word);
    if (q != next) return q;
  }
  if (bit & word) return run(next, word);
  if (bit & sign || *p == ' ') {
    const char* first = *p == ' ' ? next : p;
    const char* q = run(first, sign);
    if (q != first) return newlines(q, end, false);
  }
  return kind & kSpace ? blanks(p, end) : nullptr;
}

bool find_deepseek(std::string_view text, size_t from, size_t* begin, size_t* end) {
  const char* text_end = text.data() + text.size();
  for (const char* p = text.data() + from; p < text_end; p += sequence_length(static_cast<unsigned char>(*p))) {
    const char* q = match_deepseek(p, text_end);
    if (q == nullptr) continue;
    *begin = static_cast<size_t>(p - text.data());
    *end = static_cast<size_t>(q - text.data());
    return true;
  }
  return false;
}

struct Row {
  std::string_view pattern;
  FindMatch find;
};

constexpr Row rows[] = {
    {R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)", find_everywhere<match_gpt2>},
    // Llama 3, GPT-4
    {R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
     find_everywhere<match_llama3<3>>},
    // Qwen 2 and 3
    {R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
     find_everywhere<match_llama3<1>>},
    // GPT-4o, gpt-oss
    {R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
     find_everywhere<match_o200k<3, true>>},
    // Mistral's Tekken
    {R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
     find_everywhere<match_o200k<1, false>>},
    // DeepSeek V3
    {R"(\p{N}{1,3})", find_digits<3>},
    {R"(\p{N})", find_digits<1>},
    {"[一-龥぀-ゟ゠-ヿ]+", find_deepseek_cjk},
    {"[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| "
     "?[\\p{P}\\p{S}]+[\r\n]*|"
     "\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
     find_deepseek},
};

}  // namespace

bool find_word_or_signs(std::string_view text, size_t from, size_t* begin, size_t* end) {
  const char* text_end = text.data() + text.size();
  const char* p = text.data() + from;
  const auto kind = [&](const char* at, const char** next) {  // 0: blank, 1: word, 2: anything else
    *next = at;
    const uint32_t cp = next_code_point(*next);
    return is_white_space(cp) ? 0 : is_added_token_word(cp) ? 1 : 2;
  };
  const char* next;
  while (p < text_end && kind(p, &next) == 0) p = next;
  if (p == text_end) return false;
  *begin = static_cast<size_t>(p - text.data());
  const int first = kind(p, &next);
  while (p < text_end && kind(p, &next) == first) p = next;
  *end = static_cast<size_t>(p - text.data());
  return true;
}

const std::string_view kGpt2Pattern = rows[0].pattern;

FindMatch known_splitter(std::string_view pattern) {
  for (const Row& row : rows)
    if (row.pattern == pattern) return row.find;
  return nullptr;
}

}  // namespace engine::tok
