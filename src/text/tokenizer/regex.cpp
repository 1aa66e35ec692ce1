#include "text/tokenizer/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <charconv>
#include <chrono>
#include <cstdlib>
#include <vector>

#include "base/error.h"
#include "text/tokenizer/unicode.h"
#if defined(ENGINE_PCRE2_WITHOUT_JIT)
#include "text/tokenizer/no_jit.inl"
#endif

namespace engine::tok {
namespace {

constexpr size_t kMaxPattern = 100'000;
constexpr int kMaxNesting = 100;
// Backtracking that any sane splitter stays far below. A match is tried at each position, so this bounds one try, and
// kMaxHeap its memory.
constexpr uint32_t kMatchLimit = 2'000'000;
constexpr size_t kMaxTranslated = size_t{4} << 20;
constexpr uint32_t kMaxHeapKiB = 64 * 1024;

std::string code_point_escape(uint32_t cp) {
  char digits[8];
  const auto end = std::to_chars(digits, digits + sizeof digits, cp, 16).ptr;
  return "\\x{" + std::string(digits, end) + "}";
}

std::string class_of(const RangeSet& set) {
  if (set.empty()) return "(?!)";
  std::string out = "[";
  for (const auto& [first, last] : set) {
    // PCRE2 refuses surrogates in a class's ends; no valid text holds them.
    const uint32_t low = first >= 0xD800 && first < 0xE000 ? 0xE000 : first;
    const uint32_t high = last >= 0xD800 && last < 0xE000 ? 0xD7FF : last;
    if (low > high) continue;
    out += code_point_escape(low);
    if (high > low) out += "-" + code_point_escape(high);
  }
  return out == "[" ? "(?!)" : out + "]";
}

/// Translates by recursive descent over classes and a flat walk over everything else.
class Translator {
 public:
  explicit Translator(std::string_view pattern) : whole_(pattern), p_(pattern.data()), end_(p_ + pattern.size()) {}

  std::string run() {
    std::vector<size_t> open_groups;
    while (p_ < end_) {
      if (out_.size() > kMaxTranslated) fail("fewer classes");
      const char c = *p_;
      if (c == '\\') {
        begin_atom();
        escape();
      } else if (c == '[') {
        begin_atom();
        ++p_;
        out_ += class_of(bracket(0));
      } else if (c == '(') {
        if (open_groups.size() >= kMaxNesting) fail("fewer nested groups");
        open_groups.push_back(out_.size());
        group_head();
      } else if (c == ')') {
        if (open_groups.empty()) fail("no ')' without '('");
        atom_ = open_groups.back();
        open_groups.pop_back();
        out_ += c;
        ++p_;
      } else if (c == '{' && quantifier()) {
      } else {
        if (c != '*' && c != '+' && c != '?') begin_atom();
        const size_t size = sequence_length(static_cast<unsigned char>(c));
        out_.append(p_, size);
        p_ += size;
      }
    }
    return out_;
  }

 private:
  [[noreturn]] void fail(std::string_view what) const {
    throw Error("pattern '" + one_line(whole_) + "': expected " + std::string(what));
  }
  void begin_atom() { atom_ = out_.size(); }

  // (?m) means "dot matches newline" in Ruby's syntax; PCRE2 calls that s. ^ and $ always match at lines.
  void group_head() {
    out_ += *p_++;
    if (p_ == end_ || *p_ != '?') return;
    const char* q = p_ + 1;
    while (q < end_ && (*q == 'i' || *q == 'm' || *q == 'x' || *q == '-')) ++q;
    if (q == end_ || (*q != ':' && *q != ')')) return;
    for (; p_ < q; ++p_) out_ += *p_ == 'm' ? 's' : *p_;
    if (*q == ':') out_ += *p_++;
  }

  // {n,m}+ repeats the repetition in Ruby's syntax and is possessive in PCRE2's; {,m} means {0,m}.
  bool quantifier() {
    const char* q = p_ + 1;
    std::string low, high;
    while (q < end_ && *q >= '0' && *q <= '9') low += *q++;
    const bool comma = q < end_ && *q == ',';
    if (comma)
      for (++q; q < end_ && *q >= '0' && *q <= '9'; ++q) high += *q;
    if (q == end_ || *q != '}' || (low.empty() && high.empty())) return false;
    p_ = q + 1;
    if (low.empty()) low = "0";
    out_ += "{" + low + (comma ? "," + high : "") + "}";
    if (p_ < end_ && *p_ == '+') {
      ++p_;
      out_.insert(atom_, "(?:");
      out_ += ")+";
    }
    return true;
  }

  void escape() {
    RangeSet set;
    const bool word = p_ + 1 < end_ && (p_[1] == 'w' || p_[1] == 'W');
    if (p_ + 1 < end_ && (p_[1] == 'b' || p_[1] == 'B')) {
      // PCRE2's own word characters are others.
      const std::string w = class_of(word_set(false));
      out_ += p_[1] == 'b' ? "(?:(?<=" + w + ")(?!" + w + ")|(?<!" + w + ")(?=" + w + "))"
                           : "(?:(?<=" + w + ")(?=" + w + ")|(?<!" + w + ")(?!" + w + "))";
      p_ += 2;
      return;
    }
    if (word) {
      out_ += class_of(p_[1] == 'w' ? word_set(false) : range_complement(word_set(false)));
      p_ += 2;
      return;
    }
    if (class_escape(&set)) {
      out_ += class_of(set);
      return;
    }
    uint32_t cp;
    if (character_escape(&cp)) {
      out_ += code_point_escape(cp);
      return;
    }
    const char c = p_ + 1 < end_ ? p_[1] : '\0';
    if (std::string_view("AzZGKRXk123456789").find(c) == std::string_view::npos) fail(std::string("no escape \\") + c);
    out_.append(p_, 2);
    p_ += 2;
    if (c == 'k')
      while (p_ < end_ && p_[-1] != '>') out_ += *p_++;
  }

  // \p{..} \P{..} \d \s \w \h and their negations. Leaves p_ alone if it is something else.
  bool class_escape(RangeSet* set) {
    if (p_ + 1 >= end_) fail("a character after '\\'");
    const char c = p_[1];
    switch (c) {
      case 'd':
      case 'D':
        *set = ranges_of_categories(mask_of(Category::nd));
        break;
      case 's':
      case 'S':
        *set = ranges_of_flag(char_flags::white_space);
        break;
      case 'w':
      case 'W':
        *set = word_set(true);
        break;
      case 'h':
      case 'H':
        *set = {{'0', '9'}, {'A', 'F'}, {'a', 'f'}};
        break;
      case 'p':
      case 'P':
        return property(c == 'P', set);
      default:
        return false;
    }
    p_ += 2;
    if (c >= 'A' && c <= 'Z') *set = range_complement(*set);
    return true;
  }

  // Oniguruma holds the numbers of Latin-1 that are not digits for word characters, but not within brackets.
  static RangeSet word_set(bool in_brackets) {
    const RangeSet all = ranges_of_flag(char_flags::word);
    if (!in_brackets) return all;
    return range_intersection(all, range_complement({{0xB2, 0xB3}, {0xB9, 0xB9}, {0xBC, 0xBE}}));
  }

  bool property(bool negated, RangeSet* set) {
    const char* q = p_ + 2;
    if (q == end_ || *q != '{') fail("'{' after \\p");
    ++q;
    if (q < end_ && *q == '^') negated = !negated, ++q;
    std::string name;
    for (; q < end_ && *q != '}'; ++q) {
      if (*q == ' ' || *q == '_' || *q == '-') continue;
      name += *q >= 'A' && *q <= 'Z' ? static_cast<char>(*q - 'A' + 'a') : *q;
    }
    if (q == end_) fail("'}' after \\p{");
    p_ = q + 1;
    if (!named_set(name, set)) fail("a known class, got \\p{" + name + "}");
    if (negated) *set = range_complement(*set);
    return true;
  }

  static bool named_set(std::string_view name, RangeSet* set) {
    struct Row {
      std::string_view name, long_name;
      CategoryMask mask;
    };
    using C = Category;
    static constexpr Row rows[] = {
        {"l", "letter", kLetters},
        {"lu", "uppercaseletter", mask_of(C::lu)},
        {"ll", "lowercaseletter", mask_of(C::ll)},
        {"lt", "titlecaseletter", mask_of(C::lt)},
        {"lm", "modifierletter", mask_of(C::lm)},
        {"lo", "otherletter", mask_of(C::lo)},
        {"m", "mark", kMarks},
        {"mn", "nonspacingmark", mask_of(C::mn)},
        {"mc", "spacingmark", mask_of(C::mc)},
        {"me", "enclosingmark", mask_of(C::me)},
        {"n", "number", kNumbers},
        {"nd", "decimalnumber", mask_of(C::nd)},
        {"nl", "letternumber", mask_of(C::nl)},
        {"no", "othernumber", mask_of(C::no)},
        {"p", "punctuation", kPunctuation},
        {"pc", "connectorpunctuation", mask_of(C::pc)},
        {"pd", "dashpunctuation", mask_of(C::pd)},
        {"ps", "openpunctuation", mask_of(C::ps)},
        {"pe", "closepunctuation", mask_of(C::pe)},
        {"pi", "initialpunctuation", mask_of(C::pi)},
        {"pf", "finalpunctuation", mask_of(C::pf)},
        {"po", "otherpunctuation", mask_of(C::po)},
        {"s", "symbol", kSymbols},
        {"sm", "mathsymbol", mask_of(C::sm)},
        {"sc", "currencysymbol", mask_of(C::sc)},
        {"sk", "modifiersymbol", mask_of(C::sk)},
        {"so", "othersymbol", mask_of(C::so)},
        {"z", "separator", mask_between(C::zs, C::zp)},
        {"zs", "spaceseparator", mask_of(C::zs)},
        {"zl", "lineseparator", mask_of(C::zl)},
        {"zp", "paragraphseparator", mask_of(C::zp)},
        {"c", "other", mask_of(C::cn) | mask_of(C::cc) | mask_of(C::cf) | mask_of(C::co) | mask_of(C::cs)},
        {"cn", "unassigned", mask_of(C::cn)},
        {"cc", "control", mask_of(C::cc)},
        {"cf", "format", mask_of(C::cf)},
        {"co", "privateuse", mask_of(C::co)},
        {"cs", "surrogate", mask_of(C::cs)},
        {"cntrl", "cntrl", mask_of(C::cc)},
        {"digit", "digit", mask_of(C::nd)},
    };
    for (const Row& row : rows) {
      if (name != row.name && name != row.long_name) continue;
      *set = ranges_of_categories(row.mask);
      return true;
    }
    if (name == "space" || name == "whitespace") return *set = ranges_of_flag(char_flags::white_space), true;
    if (name == "word") return *set = word_set(true), true;
    if (name == "any") return *set = {{0, kCodePoints - 1}}, true;
    if (name == "ascii") return *set = {{0, 0x7F}}, true;
    return ranges_of_script(name, set);
  }

  bool character_escape(uint32_t* cp) {
    const char c = p_[1];
    const auto hex = [&](const char* q, size_t min_digits, size_t max_digits) {
      uint32_t value = 0;
      size_t n = 0;
      for (; q < end_ && n < max_digits; ++q, ++n) {
        const int d = *q >= '0' && *q <= '9'   ? *q - '0'
                      : *q >= 'a' && *q <= 'f' ? *q - 'a' + 10
                      : *q >= 'A' && *q <= 'F' ? *q - 'A' + 10
                                               : -1;
        if (d < 0) break;
        value = value * 16 + static_cast<uint32_t>(d);
      }
      if (n < min_digits || value >= kCodePoints || (value >= 0xD800 && value < 0xE000)) fail("a code point");
      *cp = value;
      return q;
    };
    switch (c) {
      case 'n':
        *cp = '\n';
        break;
      case 'r':
        *cp = '\r';
        break;
      case 't':
        *cp = '\t';
        break;
      case 'f':
        *cp = '\f';
        break;
      case 'v':
        *cp = '\v';
        break;
      case 'a':
        *cp = '\a';
        break;
      case 'e':
        *cp = 0x1B;
        break;
      case '0':
        *cp = 0;
        break;
      case 'u':
        p_ = hex(p_ + 2, 4, 4);
        return true;
      case 'x':
        if (p_ + 2 < end_ && p_[2] == '{') {
          p_ = hex(p_ + 3, 1, 8);
          if (p_ == end_ || *p_ != '}') fail("'}' after \\x{");
          ++p_;
        } else {
          p_ = hex(p_ + 2, 1, 2);
        }
        return true;
      default: {
        const unsigned char u = static_cast<unsigned char>(c);
        if ((u >= '0' && u <= '9') || (u >= 'a' && u <= 'z') || (u >= 'A' && u <= 'Z')) return false;
        ++p_;
        *cp = next_code_point(p_);
        return true;
      }
    }
    p_ += 2;
    return true;
  }

  // After '['. Ruby's classes nest and intersect: [a-z&&[^aeiou]].
  RangeSet bracket(int depth) {
    if (depth > kMaxNesting) fail("fewer nested classes");
    bool negated = false;
    if (p_ < end_ && *p_ == '^') negated = true, ++p_;
    RangeSet result = {{0, kCodePoints - 1}}, part;
    std::vector<std::pair<uint32_t, uint32_t>> singles;
    const auto close_part = [&] {
      for (const auto& r : singles) part.push_back(r);
      result = range_intersection(result, range_union(part, {}));
      part.clear();
      singles.clear();
    };
    for (bool first = true;; first = false) {
      if (p_ == end_) fail("']'");
      if (*p_ == ']' && !first) break;
      if (*p_ == '&' && p_ + 1 < end_ && p_[1] == '&') {
        p_ += 2;
        close_part();
        continue;
      }
      RangeSet set;
      if (*p_ == '[') {
        if (p_ + 1 < end_ && p_[1] == ':') {
          set = posix_class();
        } else {
          ++p_;
          set = bracket(depth + 1);
        }
        part.insert(part.end(), set.begin(), set.end());
        continue;
      }
      if (*p_ == '\\' && class_escape(&set)) {
        part.insert(part.end(), set.begin(), set.end());
        continue;
      }
      const uint32_t low = class_character();
      if (p_ + 1 < end_ && *p_ == '-' && p_[1] != ']') {
        ++p_;
        const uint32_t high = class_character();
        if (high < low) fail("a range that is not empty");
        singles.emplace_back(low, high);
      } else {
        singles.emplace_back(low, low);
      }
    }
    ++p_;
    close_part();
    return negated ? range_complement(result) : result;
  }

  uint32_t class_character() {
    if (p_ == end_) fail("']'");
    uint32_t cp;
    if (*p_ != '\\') return next_code_point(p_);
    if (p_ + 1 < end_ && p_[1] == 'b') return p_ += 2, 8;
    if (p_ + 1 >= end_ || !character_escape(&cp)) fail("a character in a class");
    return cp;
  }

  // [:alpha:] and so on, after the outer '['.
  RangeSet posix_class() {
    const std::string_view rest(p_, static_cast<size_t>(end_ - p_));
    const size_t close = rest.find(":]");
    if (close == std::string_view::npos) fail("':]'");
    std::string_view name = rest.substr(2, close - 2);
    p_ += close + 2;
    const bool negated = name.starts_with('^');
    if (negated) name.remove_prefix(1);
    RangeSet set;
    bool known = true;
    if (name == "punct")
      set = ranges_of_categories(kPunctuation | kSymbols);
    else if (name == "digit" || name == "space" || name == "word" || name == "ascii" || name == "cntrl")
      named_set(name, &set);
    else
      known = false;
    if (!known) fail("a known class, got [:" + std::string(name) + ":]");
    return negated ? range_complement(set) : set;
  }

  std::string_view whole_;
  const char* p_;
  const char* end_;
  std::string out_;
  size_t atom_ = 0;  // where the atom that a quantifier would apply to begins in out_
};

}  // namespace

std::string translate_pattern(std::string_view pattern) {
  if (pattern.size() > kMaxPattern)
    throw Error("pattern: expected at most 100000 bytes, got " + std::to_string(pattern.size()));
  return Translator(pattern).run();
}

std::string quote_pattern(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (std::string_view("\\^$.|?*+()[]{}#-&").find(c) != std::string_view::npos) out += '\\';
    out += c;
  }
  return out;
}

struct Regex::Impl {
  pcre2_code* code = nullptr;
  pcre2_match_context* context = nullptr;
  std::string pattern;  // as messages show it
  ~Impl() {
    pcre2_code_free(code);
    pcre2_match_context_free(context);
  }
};

Regex::Regex(std::string_view pattern) : impl_(std::make_unique<Impl>()) {
  impl_->pattern = one_line(pattern);
  const std::string translated = translate_pattern(pattern);
  pcre2_compile_context* compile = pcre2_compile_context_create(nullptr);
  if (compile == nullptr) throw std::bad_alloc();
  pcre2_set_newline(compile, PCRE2_NEWLINE_LF);
  int error = 0;
  PCRE2_SIZE offset = 0;
  impl_->code =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                    PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error, &offset, compile);
  pcre2_compile_context_free(compile);
  if (impl_->code == nullptr) {
    PCRE2_UCHAR message[256];
    pcre2_get_error_message(error, message, sizeof message);
    throw Error("pattern '" + impl_->pattern + "': " + reinterpret_cast<const char*>(message));
  }
  impl_->context = pcre2_match_context_create(nullptr);
  if (impl_->context == nullptr) throw std::bad_alloc();
  pcre2_set_match_limit(impl_->context, kMatchLimit);
  pcre2_set_heap_limit(impl_->context, kMaxHeapKiB);
}
Regex::~Regex() = default;
Regex::Regex(Regex&&) noexcept = default;

Regex::Matcher::Matcher(const Regex& regex, std::string_view text)
    : regex_(regex), text_(text), data_(pcre2_match_data_create(1, nullptr)) {
  if (data_ == nullptr) throw std::bad_alloc();
}
Regex::Matcher::~Matcher() { pcre2_match_data_free(static_cast<pcre2_match_data*>(data_)); }

// The limit on one match bounds a try; a pattern that keeps just below it at every position would still take for ever.
void Regex::Matcher::check_time() {
  using Clock = std::chrono::steady_clock;
  const int64_t now = std::chrono::duration_cast<std::chrono::microseconds>(Clock::now().time_since_epoch()).count();
  if (started_us_ == 0) started_us_ = now;
  const int64_t allowed_us = 10'000'000 + static_cast<int64_t>(text_.size()) * 4;
  if (now - started_us_ > allowed_us) throw Error("pattern '" + regex_.impl_->pattern + "': too slow on this text");
}

bool Regex::Matcher::find(size_t from, size_t* begin, size_t* end) {
  if (n_finds_++ % 16 == 0) check_time();
  const Impl& regex = *regex_.impl_;
  auto* data = static_cast<pcre2_match_data*>(data_);
  const auto subject = reinterpret_cast<PCRE2_SPTR>(text_.data());
  const int result = pcre2_match(regex.code, subject, text_.size(), from, PCRE2_NO_UTF_CHECK, data, regex.context);
  if (result == PCRE2_ERROR_NOMATCH) return false;
  if (result < 0) {
    PCRE2_UCHAR message[256];
    pcre2_get_error_message(result, message, sizeof message);
    throw Error("pattern '" + regex.pattern + "': too costly on this text: " + reinterpret_cast<const char*>(message));
  }
  const PCRE2_SIZE* ends = pcre2_get_ovector_pointer(data);
  *begin = ends[0];
  *end = ends[1] < ends[0] ? ends[0] : ends[1];
  return true;
}

}  // namespace engine::tok
