#include "text/tokenizer/normalizer.h"

#include <utf8proc.h>

#include <algorithm>
#include <optional>

#include "base/error.h"
#include "text/tokenizer/regex.h"
#include "text/tokenizer/unicode.h"

namespace engine::tok {

const Json& member(const Json& object, const char* component, const char* name) {
  const auto it = object.find(name);
  if (it == object.end()) throw Error(std::string(component) + ": expected a field '" + name + "'");
  return *it;
}
std::string string_member(const Json& object, const char* component, const char* name) {
  const Json& value = member(object, component, name);
  if (!value.is_string())
    throw Error(std::string(component) + ": " + name + ": expected a string, got " + value.type_name());
  if (value.get_ref<const std::string&>().size() > 100'000)
    throw Error(std::string(component) + ": " + name + ": expected at most 100000 bytes");
  return value.get<std::string>();
}
bool bool_member(const Json& object, const char* component, const char* name, bool fallback) {
  const auto it = object.find(name);
  if (it == object.end() || it->is_null()) return fallback;
  if (!it->is_boolean())
    throw Error(std::string(component) + ": " + name + ": expected true or false, got " + it->type_name());
  return it->get<bool>();
}
int64_t int_member(const Json& object, const char* component, const char* name, int64_t low, int64_t high) {
  const Json& value = member(object, component, name);
  if (!value.is_number_integer() || value.get<int64_t>() < low || value.get<int64_t>() > high ||
      value.get<uint64_t>() > uint64_t{1} << 62)
    throw Error(std::string(component) + ": " + name + ": expected a whole number from " + std::to_string(low) +
                " to " + std::to_string(high));
  return value.get<int64_t>();
}
std::string component_type(const Json& object, const char* where) {
  if (!object.is_object()) throw Error(std::string(where) + ": expected an object, got " + object.type_name());
  return string_member(object, where, "type");
}

namespace {

// --- Unicode normal forms ---

// The library's tables are Unicode 9's: characters that are newer count as unassigned.
int combining_class(uint32_t cp) {
  if (cp < 0x300) return 0;
  const int ccc = utf8proc_get_property(static_cast<utf8proc_int32_t>(cp))->combining_class;
  return ccc != 0 && normalizes_as_unassigned(cp) ? 0 : ccc;
}

void decompose(uint32_t cp, bool compatibility, std::vector<uint32_t>& out) {
  if (cp < 0xA0 || normalizes_as_unassigned(cp)) return out.push_back(cp);
  utf8proc_int32_t parts[32];
  int boundary = 0;
  const utf8proc_option_t options =
      static_cast<utf8proc_option_t>(UTF8PROC_DECOMPOSE | (compatibility ? UTF8PROC_COMPAT : 0));
  const utf8proc_ssize_t n = utf8proc_decompose_char(static_cast<utf8proc_int32_t>(cp), parts, 32, options, &boundary);
  if (n <= 0 || n > 32) return out.push_back(cp);
  for (utf8proc_ssize_t i = 0; i < n; ++i) out.push_back(static_cast<uint32_t>(parts[i]));
}

/// The primary composite of two characters, or 0.
uint32_t composite(uint32_t a, uint32_t b) {
  utf8proc_int32_t pair[3] = {static_cast<utf8proc_int32_t>(a), static_cast<utf8proc_int32_t>(b), 0};
  const utf8proc_option_t options = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE);
  if (utf8proc_normalize_utf32(pair, 2, options) != 1) return 0;
  const uint32_t cp = static_cast<uint32_t>(pair[0]);
  return normalizes_as_unassigned(cp) ? 0 : cp;
}

void reorder(std::vector<uint32_t>& cps) {
  for (size_t i = 0; i < cps.size();) {
    if (combining_class(cps[i]) == 0) {
      ++i;
      continue;
    }
    size_t end = i;
    while (end < cps.size() && combining_class(cps[end]) != 0) ++end;
    std::stable_sort(cps.begin() + static_cast<ptrdiff_t>(i), cps.begin() + static_cast<ptrdiff_t>(end),
                     [](uint32_t a, uint32_t b) { return combining_class(a) < combining_class(b); });
    i = end;
  }
}

// The canonical composition algorithm of UAX #15.
void compose(std::vector<uint32_t>& cps) {
  size_t out = 0;
  ptrdiff_t starter = -1;
  int last_class = 0;  // of what stands between the starter and here; 0 with something between: blocked
  for (size_t i = 0; i < cps.size(); ++i) {
    const uint32_t cp = cps[i];
    const int ccc = combining_class(cp);
    const bool adjacent = starter >= 0 && static_cast<size_t>(starter) + 1 == out;
    if (starter >= 0 && (adjacent || (last_class != 0 && last_class < ccc))) {
      if (const uint32_t joined = composite(cps[static_cast<size_t>(starter)], cp)) {
        cps[static_cast<size_t>(starter)] = joined;
        continue;
      }
    }
    if (ccc == 0) starter = static_cast<ptrdiff_t>(out);
    last_class = ccc;
    cps[out++] = cp;
  }
  cps.resize(out);
}

class UnicodeNormalizer : public Normalizer {
 public:
  explicit UnicodeNormalizer(NormalForm form)
      : compatibility_(form == NormalForm::nfkc || form == NormalForm::nfkd),
        composed_(form == NormalForm::nfc || form == NormalForm::nfkc) {}

  bool apply(const Piece& in, PieceBuffer& out) const override {
    const char* begin = in.text.data();
    const char* end = begin + in.text.size();
    // Segments begin at characters that no form moves or joins to what stands before them; only those with something to
    // do are worked on.
    const char* p = begin;
    const char* copied = begin;
    const char* segment = begin;
    bool changed = false, work = false;
    std::vector<uint32_t> cps;
    std::string text;
    const auto close = [&](const char* segment_end) {
      if (!work) return;
      work = false;
      cps.clear();
      for (const char* q = segment; q < segment_end;) decompose(next_code_point(q), compatibility_, cps);
      reorder(cps);
      if (composed_) compose(cps);
      text.clear();
      for (const uint32_t cp : cps) append_code_point(text, cp);
      if (text == std::string_view(segment, static_cast<size_t>(segment_end - segment))) return;
      if (!changed) out.start(in);
      changed = true;
      out.copy(static_cast<size_t>(copied - begin), static_cast<size_t>(segment - begin));
      out.append(text, static_cast<size_t>(segment - begin), static_cast<size_t>(segment_end - begin));
      copied = segment_end;
    };
    while (p < end) {
      if (static_cast<unsigned char>(*p) < 0x80) {
        close(p);
        segment = p++;
        continue;
      }
      const char* here = p;
      const uint32_t cp = next_code_point(p);
      const bool joins = char_info(cp) & char_flags::composes;
      const bool changes = joins || ((compatibility_ || !composed_) && decomposes(cp));
      if (!joins && !(compatibility_ && changes)) {
        close(here);
        segment = here;
      }
      work |= changes;
    }
    close(end);
    if (changed) out.copy(static_cast<size_t>(copied - begin), in.text.size());
    return changed;
  }

 private:
  bool decomposes(uint32_t cp) const {
    std::vector<uint32_t> parts;
    decompose(cp, compatibility_, parts);
    return parts.size() != 1 || parts[0] != cp;
  }
  bool compatibility_, composed_;
};

// --- the small ones ---

/// A normalizer that maps each character on its own to a text (empty: removed).
class CharNormalizer : public Normalizer {
 public:
  bool apply(const Piece& in, PieceBuffer& out) const final {
    const char* begin = in.text.data();
    const char* end = begin + in.text.size();
    const char* copied = begin;
    bool changed = false;
    std::string mapped;
    for (const char* p = begin; p < end;) {
      const char* here = p;
      const uint32_t cp = next_code_point(p);
      mapped.clear();
      if (!map(cp, mapped)) continue;
      if (!changed) out.start(in);
      changed = true;
      out.copy(static_cast<size_t>(copied - begin), static_cast<size_t>(here - begin));
      out.append(mapped, static_cast<size_t>(here - begin), static_cast<size_t>(p - begin));
      copied = p;
    }
    if (changed) out.copy(static_cast<size_t>(copied - begin), in.text.size());
    return changed;
  }

 private:
  /// False: the character stays.
  virtual bool map(uint32_t cp, std::string& out) const = 0;
};

class Lowercase : public CharNormalizer {
  bool map(uint32_t cp, std::string& out) const override {
    if (cp == 0x130) return out = "i\xCC\x87", true;  // the one character with a longer lower case
    const uint32_t lower = lower_case(cp);
    if (lower == cp) return false;
    append_code_point(out, lower);
    return true;
  }
  static uint32_t lower_case(uint32_t cp) {
    // Pairs that Unicode 16 added.
    if (cp == 0xA7CB) return 0x264;
    if (cp == 0xA7CC || cp == 0xA7DA) return cp + 1;
    if (cp == 0xA7DC) return 0x19B;
    if (cp >= 0x10D50 && cp <= 0x10D65) return cp + 0x20;
    if (cp == 0x1C89) return 0x1C8A;
    return static_cast<uint32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(cp)));
  }
};

class StripAccents : public CharNormalizer {
  bool map(uint32_t cp, std::string&) const override { return in_categories(cp, kMarks); }
};

class ByteLevelNormalizer : public CharNormalizer {
  bool map(uint32_t cp, std::string& out) const override {
    std::string bytes;
    append_code_point(bytes, cp);
    for (const char c : bytes) append_code_point(out, byte_to_char(static_cast<uint8_t>(c)));
    return out != bytes;
  }
};

class BertClean : public CharNormalizer {
 public:
  BertClean(bool clean, bool chinese) : clean_(clean), chinese_(chinese) {}

 private:
  bool map(uint32_t cp, std::string& out) const override {
    if (clean_) {
      if (cp == 0 || cp == 0xFFFD) return true;
      const bool blank = cp == '\t' || cp == '\n' || cp == '\r' || is_white_space(cp);
      if (!blank && in_categories(cp, mask_of(Category::cc) | mask_of(Category::cf) | mask_of(Category::cn) |
                                          mask_of(Category::co)))
        return true;
      if (blank) return out = " ", cp != ' ';
    }
    if (chinese_ && is_chinese(cp)) {
      out = " ";
      append_code_point(out, cp);
      out += ' ';
      return true;
    }
    return false;
  }
  static bool is_chinese(uint32_t c) {
    return (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3400 && c <= 0x4DBF) || (c >= 0x20000 && c <= 0x2A6DF) ||
           (c >= 0x2A700 && c <= 0x2B73F) || (c >= 0x2B740 && c <= 0x2B81F) || (c >= 0x2B920 && c <= 0x2CEAF) ||
           (c >= 0xF900 && c <= 0xFAFF) || (c >= 0x2F800 && c <= 0x2FA1F);
  }
  bool clean_, chinese_;
};

class BertStripAccents : public CharNormalizer {
  bool map(uint32_t cp, std::string&) const override { return in_categories(cp, mask_of(Category::mn)); }
};

class Prepend : public Normalizer {
 public:
  explicit Prepend(std::string text) : text_(std::move(text)) {}
  bool apply(const Piece& in, PieceBuffer& out) const override {
    if (in.text.empty()) return false;
    out.start(in);
    out.append_insertion(text_);
    out.copy(0, in.text.size());
    return true;
  }

 private:
  std::string text_;
};

class Strip : public Normalizer {
 public:
  Strip(bool left, bool right) : left_(left), right_(right) {}
  bool apply(const Piece& in, PieceBuffer& out) const override {
    const char* begin = in.text.data();
    const char* end = begin + in.text.size();
    const char* p = begin;
    while (left_ && p < end) {
      const char* next = p;
      if (!is_white_space(next_code_point(next))) break;
      p = next;
    }
    const char* q = end;
    while (right_ && q > p) {
      const char* before = q;
      if (!is_white_space(previous_code_point(before))) break;
      q = before;
    }
    if (p == begin && q == end) return false;
    out.start(in);
    out.copy(static_cast<size_t>(p - begin), static_cast<size_t>(q - begin));
    return true;
  }

 private:
  bool left_, right_;
};

class ReplaceString : public Normalizer {
 public:
  ReplaceString(std::string pattern, std::string content)
      : pattern_(std::move(pattern)), content_(std::move(content)) {}
  bool apply(const Piece& in, PieceBuffer& out) const override {
    size_t at = in.text.find(pattern_);
    if (at == std::string_view::npos) return false;
    out.start(in);
    size_t copied = 0;
    for (; at != std::string_view::npos; at = in.text.find(pattern_, copied)) {
      out.copy(copied, at);
      out.append(content_, at, at + pattern_.size());
      copied = at + pattern_.size();
    }
    out.copy(copied, in.text.size());
    return true;
  }

 private:
  std::string pattern_, content_;
};

class ReplaceRegex : public Normalizer {
 public:
  ReplaceRegex(const std::string& pattern, std::string content) : regex_(pattern), content_(std::move(content)) {}
  bool apply(const Piece& in, PieceBuffer& out) const override {
    Regex::Matcher matcher(regex_, in.text);
    size_t begin, end, copied = 0;
    bool changed = false;
    for (size_t from = 0; from <= in.text.size() && matcher.find(from, &begin, &end);) {
      if (!changed) out.start(in);
      changed = true;
      out.copy(copied, begin);
      out.append(content_, begin, end);
      copied = end;
      from = end > begin            ? end
             : end < in.text.size() ? end + sequence_length(static_cast<unsigned char>(in.text[end]))
                                    : end + 1;
    }
    if (changed) out.copy(copied, in.text.size());
    return changed;
  }

 private:
  Regex regex_;
  std::string content_;
};

constexpr int kMaxDepth = 16;

}  // namespace

std::unique_ptr<Normalizer> make_unicode_normalizer(NormalForm form) {
  return std::make_unique<UnicodeNormalizer>(form);
}

void NormalizerChain::add(const Json& json, int depth) {
  if (depth > kMaxDepth) throw Error("normalizer: expected at most 16 nested sequences");
  const std::string type = component_type(json, "normalizer");
  const auto push = [&](auto step) { steps_.push_back(std::move(step)); };
  if (type == "Sequence") {
    const Json& items = member(json, "normalizer Sequence", "normalizers");
    if (!items.is_array()) throw Error("normalizer Sequence: normalizers: expected a list");
    for (const Json& item : items) add(item, depth + 1);
  } else if (type == "NFC") {
    push(make_unicode_normalizer(NormalForm::nfc));
  } else if (type == "NFD") {
    push(make_unicode_normalizer(NormalForm::nfd));
  } else if (type == "NFKC") {
    push(make_unicode_normalizer(NormalForm::nfkc));
  } else if (type == "NFKD") {
    push(make_unicode_normalizer(NormalForm::nfkd));
  } else if (type == "Lowercase") {
    push(std::make_unique<Lowercase>());
  } else if (type == "StripAccents") {
    push(std::make_unique<StripAccents>());
  } else if (type == "ByteLevel") {
    push(std::make_unique<ByteLevelNormalizer>());
  } else if (type == "Prepend") {
    push(std::make_unique<Prepend>(string_member(json, "normalizer Prepend", "prepend")));
  } else if (type == "Strip") {
    push(std::make_unique<Strip>(bool_member(json, "normalizer Strip", "strip_left", true),
                                 bool_member(json, "normalizer Strip", "strip_right", true)));
  } else if (type == "Replace") {
    const std::string content = string_member(json, "normalizer Replace", "content");
    const Json& pattern = member(json, "normalizer Replace", "pattern");
    if (!pattern.is_object())
      throw Error("normalizer Replace: pattern: expected {\"String\": ...} or {\"Regex\": ...}");
    if (pattern.contains("String")) {
      const std::string text = string_member(pattern, "normalizer Replace: pattern", "String");
      if (text.empty()) throw Error("normalizer Replace: pattern: expected a text that is not empty");
      push(std::make_unique<ReplaceString>(text, content));
    } else {
      push(std::make_unique<ReplaceRegex>(string_member(pattern, "normalizer Replace: pattern", "Regex"), content));
    }
  } else if (type == "BertNormalizer") {
    const char* name = "normalizer BertNormalizer";
    const bool clean = bool_member(json, name, "clean_text", true),
               chinese = bool_member(json, name, "handle_chinese_chars", true);
    const bool lower = bool_member(json, name, "lowercase", true);
    if (clean || chinese) push(std::make_unique<BertClean>(clean, chinese));
    if (bool_member(json, name, "strip_accents", lower)) {
      push(make_unicode_normalizer(NormalForm::nfd));
      push(std::make_unique<BertStripAccents>());
    }
    if (lower) push(std::make_unique<Lowercase>());
  } else {
    throw Error("normalizer: expected a supported type, got '" + type + "'");
  }
}

NormalizerChain NormalizerChain::from_json(const Json& json) {
  NormalizerChain chain;
  if (!json.is_null()) chain.add(json, 0);
  return chain;
}

Piece NormalizerChain::apply(const Piece& in, PieceBuffer& a, PieceBuffer& b) const {
  Piece piece = in;
  bool into_a = true;
  for (const auto& step : steps_) {
    PieceBuffer& out = into_a ? a : b;
    if (!step->apply(piece, out)) continue;
    piece = out.piece();
    into_a = !into_a;
  }
  return piece;
}

std::string NormalizerChain::apply(std::string_view text) const {
  PieceBuffer a, b;
  return std::string(apply(Piece{text}, a, b).text);
}

}  // namespace engine::tok
