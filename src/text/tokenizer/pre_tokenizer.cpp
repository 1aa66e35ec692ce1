#include "text/tokenizer/pre_tokenizer.h"

#include <optional>

#include "base/error.h"
#include "text/tokenizer/normalizer.h"
#include "text/tokenizer/regex.h"
#include "text/tokenizer/splitters.h"
#include "text/tokenizer/unicode.h"

namespace engine::tok {
namespace {

enum class Behavior { removed, isolated, merged_with_previous, merged_with_next, contiguous };

Behavior behavior_from(const std::string& name, const char* component) {
  if (name == "Removed") return Behavior::removed;
  if (name == "Isolated") return Behavior::isolated;
  if (name == "MergedWithPrevious") return Behavior::merged_with_previous;
  if (name == "MergedWithNext") return Behavior::merged_with_next;
  if (name == "Contiguous") return Behavior::contiguous;
  throw Error(std::string(component) +
              ": behavior: expected Removed, Isolated, MergedWithPrevious, MergedWithNext or Contiguous, got '" + name +
              "'");
}

/// Turns the sequence of matches and the gaps between them into pieces.
class Cutter {
 public:
  Cutter(const Piece& piece, Behavior behavior, bool invert, PieceSink& next)
      : piece_(piece), next_(next), behavior_(behavior), invert_(invert) {}

  void match(size_t begin, size_t end) {
    if (begin > done_) segment(done_, begin, invert_);
    if (end > begin) segment(begin, end, !invert_);
    done_ = end;
  }
  void finish() {
    if (done_ < piece_.text.size()) segment(done_, piece_.text.size(), invert_);
    flush();
  }

 private:
  void segment(size_t begin, size_t end, bool is_match) {
    bool join = false;
    switch (behavior_) {
      case Behavior::isolated:
        next_.take(piece_.sub(begin, end));
        return;
      case Behavior::removed:
        if (!is_match) next_.take(piece_.sub(begin, end));
        return;
      case Behavior::contiguous:
        join = is_match == pending_match_;
        break;
      case Behavior::merged_with_previous:
        join = is_match && !pending_match_;
        break;
      case Behavior::merged_with_next:
        join = pending_match_ && !is_match;
        break;
    }
    if (!(join && pending_end_ > pending_begin_)) {
      flush();
      pending_begin_ = begin;
    }
    pending_end_ = end;
    pending_match_ = is_match;
  }
  void flush() {
    if (pending_end_ > pending_begin_) next_.take(piece_.sub(pending_begin_, pending_end_));
    pending_begin_ = pending_end_;
  }

  const Piece& piece_;
  PieceSink& next_;
  Behavior behavior_;
  bool invert_;
  size_t done_ = 0, pending_begin_ = 0, pending_end_ = 0;
  bool pending_match_ = false;
};

/// Cuts with a hand-written splitter.
class KnownSplit : public PreTokenizer {
 public:
  KnownSplit(FindMatch find, Behavior behavior, bool invert) : find_(find), behavior_(behavior), invert_(invert) {}
  void split(const Piece& piece, PieceSink& next) const override {
    Cutter cutter(piece, behavior_, invert_, next);
    size_t begin, end;
    for (size_t from = 0; from < piece.text.size() && find_(piece.text, from, &begin, &end); from = end)
      cutter.match(begin, end);
    cutter.finish();
  }

 private:
  FindMatch find_;
  Behavior behavior_;
  bool invert_;
};

class RegexSplit : public PreTokenizer {
 public:
  RegexSplit(const std::string& pattern, Behavior behavior, bool invert)
      : regex_(pattern), behavior_(behavior), invert_(invert) {}
  void split(const Piece& piece, PieceSink& next) const override {
    Cutter cutter(piece, behavior_, invert_, next);
    Regex::Matcher matcher(regex_, piece.text);
    size_t begin, end;
    for (size_t from = 0; from < piece.text.size() && matcher.find(from, &begin, &end);) {
      cutter.match(begin, end);
      from = end > begin               ? end
             : end < piece.text.size() ? end + sequence_length(static_cast<unsigned char>(piece.text[end]))
                                       : end + 1;
    }
    cutter.finish();
  }

 private:
  Regex regex_;
  Behavior behavior_;
  bool invert_;
};

class StringSplit : public PreTokenizer {
 public:
  StringSplit(std::string pattern, Behavior behavior, bool invert)
      : pattern_(std::move(pattern)), behavior_(behavior), invert_(invert) {}
  void split(const Piece& piece, PieceSink& next) const override {
    Cutter cutter(piece, behavior_, invert_, next);
    for (size_t at = piece.text.find(pattern_); at != std::string_view::npos;
         at = piece.text.find(pattern_, at + pattern_.size()))
      cutter.match(at, at + pattern_.size());
    cutter.finish();
  }

 private:
  std::string pattern_;
  Behavior behavior_;
  bool invert_;
};

/// Cuts at characters of a class, each a match of its own.
class CharSplit : public PreTokenizer {
 public:
  using Test = bool (*)(uint32_t cp);
  CharSplit(Test test, Behavior behavior) : test_(test), behavior_(behavior) {}
  void split(const Piece& piece, PieceSink& next) const override {
    Cutter cutter(piece, behavior_, false, next);
    const char* begin = piece.text.data();
    const char* end = begin + piece.text.size();
    for (const char* p = begin; p < end;) {
      const char* here = p;
      if (test_(next_code_point(p))) cutter.match(static_cast<size_t>(here - begin), static_cast<size_t>(p - begin));
    }
    cutter.finish();
  }

 private:
  Test test_;
  Behavior behavior_;
};

bool is_digit_char(uint32_t cp) { return cp < 0x80 ? cp >= '0' && cp <= '9' : is_numeric(cp); }

/// The blank in front that ByteLevel can ask for.
class PrefixSpace : public PreTokenizer {
 public:
  void split(const Piece& piece, PieceSink& next) const override {
    if (piece.text.starts_with(' ')) return next.take(piece);
    PieceBuffer buffer;
    buffer.start(piece);
    buffer.append_insertion(" ");
    buffer.copy(0, piece.text.size());
    next.take(buffer.piece());
  }
};

class MapBytes : public PreTokenizer {
 public:
  void split(const Piece& piece, PieceSink& next) const override {
    PieceBuffer buffer;
    buffer.start(piece);
    std::string mapped;
    const size_t size = piece.text.size();
    for (size_t i = 0, end; i < size; i = end) {
      end = i + sequence_length(static_cast<unsigned char>(piece.text[i]));
      mapped.clear();
      for (size_t k = i; k < end; ++k) append_code_point(mapped, byte_to_char(static_cast<uint8_t>(piece.text[k])));
      buffer.append(mapped, i, end);
    }
    next.take(buffer.piece());
  }
};

class Metaspace : public PreTokenizer {
 public:
  enum class Scheme { always, first, never };
  Metaspace(std::string replacement, Scheme scheme, bool split)
      : replacement_(std::move(replacement)), scheme_(scheme), split_(split) {}

  void split(const Piece& piece, PieceSink& next) const override {
    PieceBuffer buffer;
    buffer.start(piece);
    const std::string_view text = piece.text;
    const bool wants_prefix = scheme_ == Scheme::always || (scheme_ == Scheme::first && piece.at_start);
    if (wants_prefix && !text.starts_with(' ') && !text.starts_with(replacement_))
      buffer.append_insertion(replacement_);
    size_t copied = 0;
    for (size_t at = text.find(' '); at != std::string_view::npos; at = text.find(' ', copied)) {
      buffer.copy(copied, at);
      buffer.append(replacement_, at, at + 1);
      copied = at + 1;
    }
    buffer.copy(copied, text.size());
    const Piece result = buffer.piece();
    if (!split_) return next.take(result);
    Cutter cutter(result, Behavior::merged_with_next, false, next);
    for (size_t at = result.text.find(replacement_); at != std::string_view::npos;
         at = result.text.find(replacement_, at + replacement_.size()))
      cutter.match(at, at + replacement_.size());
    cutter.finish();
  }

 private:
  std::string replacement_;
  Scheme scheme_;
  bool split_;
};

std::unique_ptr<PreTokenizer> make_regex_split(const std::string& pattern, Behavior behavior, bool invert) {
  if (const FindMatch find = known_splitter(pattern)) return std::make_unique<KnownSplit>(find, behavior, invert);
  return std::make_unique<RegexSplit>(pattern, behavior, invert);
}

std::unique_ptr<PreTokenizer> make_split(const Json& json) {
  const char* name = "pre_tokenizer Split";
  const Behavior behavior = behavior_from(string_member(json, name, "behavior"), name);
  const bool invert = bool_member(json, name, "invert", false);
  const Json& pattern = member(json, name, "pattern");
  if (!pattern.is_object())
    throw Error(std::string(name) + ": pattern: expected {\"String\": ...} or {\"Regex\": ...}");
  if (!pattern.contains("String"))
    return make_regex_split(string_member(pattern, "pre_tokenizer Split: pattern", "Regex"), behavior, invert);
  std::string text = string_member(pattern, "pre_tokenizer Split: pattern", "String");
  if (text.empty()) throw Error(std::string(name) + ": pattern: expected a text that is not empty");
  return std::make_unique<StringSplit>(std::move(text), behavior, invert);
}

std::unique_ptr<PreTokenizer> make_metaspace(const Json& json) {
  const char* name = "pre_tokenizer Metaspace";
  std::string replacement = string_member(json, name, "replacement");
  if (replacement.empty() || sequence_length(static_cast<unsigned char>(replacement[0])) != replacement.size())
    throw Error(std::string(name) + ": replacement: expected one character, got '" + replacement + "'");
  // Old files say add_prefix_space, newer ones prepend_scheme.
  std::string scheme = bool_member(json, name, "add_prefix_space", true) ? "always" : "never";
  if (json.contains("prepend_scheme")) scheme = string_member(json, name, "prepend_scheme");
  if (scheme != "always" && scheme != "first" && scheme != "never")
    throw Error(std::string(name) + ": prepend_scheme: expected always, first or never, got '" + scheme + "'");
  return std::make_unique<Metaspace>(std::move(replacement),
                                     scheme == "always"  ? Metaspace::Scheme::always
                                     : scheme == "first" ? Metaspace::Scheme::first
                                                         : Metaspace::Scheme::never,
                                     bool_member(json, name, "split", true));
}

constexpr int kMaxDepth = 16;
constexpr size_t kMaxSteps = 64;

}  // namespace

void PreTokenizerChain::add_byte_level(const Json& json) {
  const char* name = "pre_tokenizer ByteLevel";
  if (bool_member(json, name, "add_prefix_space", true)) steps_.push_back(std::make_unique<PrefixSpace>());
  if (bool_member(json, name, "use_regex", true))
    steps_.push_back(make_regex_split(std::string(kGpt2Pattern), Behavior::isolated, false));
  steps_.push_back(std::make_unique<MapBytes>());
  ends_in_bytes_ = true;
}

void PreTokenizerChain::add(const Json& json, int depth) {
  if (depth > kMaxDepth) throw Error("pre_tokenizer: expected at most 16 nested sequences");
  if (steps_.size() > kMaxSteps) throw Error("pre_tokenizer: expected at most 64 steps");
  const std::string type = component_type(json, "pre_tokenizer");
  if (type == "Sequence") {
    const Json& items = member(json, "pre_tokenizer Sequence", "pretokenizers");
    if (!items.is_array()) throw Error("pre_tokenizer Sequence: pretokenizers: expected a list");
    for (const Json& item : items) add(item, depth + 1);
    return;
  }
  ends_in_bytes_ = false;
  if (type == "ByteLevel") {
    add_byte_level(json);
  } else if (type == "Split") {
    steps_.push_back(make_split(json));
  } else if (type == "Metaspace") {
    steps_.push_back(make_metaspace(json));
  } else if (type == "Digits") {
    const bool individual = bool_member(json, "pre_tokenizer Digits", "individual_digits", false);
    steps_.push_back(
        std::make_unique<CharSplit>(is_digit_char, individual ? Behavior::isolated : Behavior::contiguous));
  } else if (type == "Punctuation") {
    const char* name = "pre_tokenizer Punctuation";
    const Behavior behavior =
        json.contains("behavior") ? behavior_from(string_member(json, name, "behavior"), name) : Behavior::isolated;
    steps_.push_back(std::make_unique<CharSplit>(is_punctuation, behavior));
  } else if (type == "Whitespace") {
    steps_.push_back(std::make_unique<KnownSplit>(find_word_or_signs, Behavior::removed, true));
  } else if (type == "WhitespaceSplit") {
    steps_.push_back(std::make_unique<CharSplit>(is_white_space, Behavior::removed));
  } else if (type == "BertPreTokenizer") {
    steps_.push_back(std::make_unique<CharSplit>(is_white_space, Behavior::removed));
    steps_.push_back(std::make_unique<CharSplit>(is_punctuation, Behavior::isolated));
  } else if (type == "CharDelimiterSplit") {
    const std::string delimiter = string_member(json, "pre_tokenizer CharDelimiterSplit", "delimiter");
    if (delimiter.empty()) throw Error("pre_tokenizer CharDelimiterSplit: delimiter: expected one character");
    steps_.push_back(std::make_unique<StringSplit>(delimiter, Behavior::removed, false));
  } else {
    throw Error("pre_tokenizer: expected a supported type, got '" + type + "'");
  }
}

PreTokenizerChain PreTokenizerChain::from_json(const Json& json) {
  PreTokenizerChain chain;
  if (!json.is_null()) chain.add(json, 0);
  return chain;
}

class PreTokenizerChain::Next final : public PieceSink {
 public:
  Next(const PreTokenizerChain& chain, size_t step, PieceSink& sink) : chain_(chain), sink_(sink), step_(step) {}
  void take(const Piece& piece) override {
    if (!piece.text.empty()) chain_.run_from(step_, piece, sink_);
  }

 private:
  const PreTokenizerChain& chain_;
  PieceSink& sink_;
  size_t step_;
};

void PreTokenizerChain::run_from(size_t step, const Piece& piece, PieceSink& sink) const {
  const size_t n = steps_.size() - (leave_bytes_ ? 1 : 0);
  if (step == n) return sink.take(piece);
  if (step + 1 == n) return steps_[step]->split(piece, sink);
  Next next(*this, step + 1, sink);
  steps_[step]->split(piece, next);
}

}  // namespace engine::tok
