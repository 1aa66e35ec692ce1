#include "text/tokenizer/decoder.h"

#include <algorithm>

#include "base/error.h"
#include "text/tokenizer/normalizer.h"
#include "text/tokenizer/unicode.h"

namespace engine::tok {
namespace {

/// A step that needs the whole token.
class WholeToken : public DecodeStep {
 public:
  void fragment(std::string_view text) final { token_ += text; }
  void end_token() final {
    take(token_);
    token_.clear();
  }

 protected:
  virtual void take(std::string& token) = 0;
  std::string token_;
};

/// No decoder: the tokens with blanks between.
class Join : public DecodeStep {
 public:
  void fragment(std::string_view text) override {
    if (between_) next_->fragment(" ");
    between_ = false;
    next_->fragment(text);
  }
  void end_token() override { between_ = true; }
  void finish() override {
    next_->end_token();
    next_->finish();
  }

 private:
  bool between_ = false;
};

/// Appends what a token stands for in the byte alphabet; one with a character outside of it stands for itself.
void append_byte_level(std::string& out, std::string_view token) {
  const size_t before = out.size();
  const char* end = token.data() + token.size();
  for (const char* p = token.data(); p < end;) {
    const int byte = char_to_byte(next_code_point(p));
    if (byte < 0) {
      out.resize(before);
      out += token;
      return;
    }
    out.push_back(static_cast<char>(byte));
  }
}

/// The byte that <0xAB> stands for; -1: another token.
int byte_of(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return -1;
  const auto digit = [](char c) {
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                  : -1;
  };
  const int high = digit(token[3]), low = digit(token[4]);
  return high < 0 || low < 0 ? -1 : high * 16 + low;
}

class ByteLevel : public WholeToken {
 public:
  void take(std::string& token) override {
    append_byte_level(bytes_, token);
    std::string text;
    const size_t incomplete = append_lossy(text, bytes_, true);
    bytes_.erase(0, bytes_.size() - incomplete);
    if (!text.empty()) next_->fragment(text);
  }
  void finish() override {
    std::string text;
    append_lossy(text, bytes_, false);
    bytes_.clear();
    next_->fragment(text);
    next_->end_token();
    next_->finish();
  }

 private:
  std::string bytes_;  // the begin of a character
};

// A run of byte tokens stands or falls as a whole: one bad byte makes U+FFFD of all, so nothing of it is certain before
// its end.
class ByteFallback : public WholeToken {
 public:
  void take(std::string& token) override {
    const int byte = byte_of(token);
    if (byte >= 0) return run_.push_back(static_cast<char>(byte));
    end_run();
    emit_token(token);
  }
  void finish() override {
    end_run();
    next_->finish();
  }
  void settle() override {
    size_t done = 0, bad;
    bool truncated;
    while (done < run_.size()) {
      const size_t n = valid_sequence(std::string_view(run_).substr(done), &bad, &truncated);
      if (n == 0) break;
      done += n;
    }
    if (done > 0) emit_token(std::string_view(run_).substr(0, done));
    run_.erase(0, done);
    next_->settle();
  }

 private:
  void end_run() {
    if (run_.empty()) return;
    if (is_valid_utf8(run_))
      emit_token(run_);
    else
      for (size_t i = 0; i < run_.size(); ++i) emit_token(kReplacementCharacter);
    run_.clear();
  }
  std::string run_;
};

class Fuse : public DecodeStep {
 public:
  void fragment(std::string_view text) override { next_->fragment(text); }
  void end_token() override {}
  void finish() override {
    next_->end_token();
    next_->finish();
  }
};

/// Takes up to `start` copies of a character off the begin of each token and up to `stop` off its end.
class Strip : public DecodeStep {
 public:
  Strip(std::string content, size_t start, size_t stop)
      : content_(std::move(content)), start_(start), stop_(stop), left_(start) {}
  void fragment(std::string_view text) override {
    while (left_ > 0 && !text.empty()) {
      if (text.starts_with(content_)) {
        text.remove_prefix(content_.size());
        --left_;
      } else {
        left_ = 0;
      }
    }
    if (stop_ == 0) {
      if (!text.empty()) next_->fragment(text);
      return;
    }
    held_ += text;
    // All but the last `stop` copies are certain.
    size_t keep = 0, copies = 0;
    while (copies < stop_ && std::string_view(held_).substr(0, held_.size() - keep).ends_with(content_)) {
      keep += content_.size();
      ++copies;
    }
    if (held_.size() > keep) {
      next_->fragment(std::string_view(held_).substr(0, held_.size() - keep));
      held_.erase(0, held_.size() - keep);
    }
  }
  void end_token() override {
    held_.clear();
    left_ = start_;
    next_->end_token();
  }
  void finish() override { next_->finish(); }

 private:
  std::string content_;
  size_t start_, stop_, left_;
  std::string held_;
};

class ReplaceString : public DecodeStep {
 public:
  ReplaceString(std::string pattern, std::string content)
      : pattern_(std::move(pattern)), content_(std::move(content)) {}
  void fragment(std::string_view text) override {
    held_ += text;
    size_t done = 0;
    for (size_t at = held_.find(pattern_); at != std::string::npos; at = held_.find(pattern_, done)) {
      if (at > done) next_->fragment(std::string_view(held_).substr(done, at - done));
      next_->fragment(content_);
      done = at + pattern_.size();
    }
    // What could be the begin of another match stays.
    size_t keep = std::min(pattern_.size() - 1, held_.size() - done);
    while (keep > 0 && !pattern_.starts_with(std::string_view(held_).substr(held_.size() - keep))) --keep;
    if (held_.size() - keep > done) next_->fragment(std::string_view(held_).substr(done, held_.size() - keep - done));
    held_.erase(0, held_.size() - keep);
  }
  void end_token() override {
    if (!held_.empty()) next_->fragment(held_);
    held_.clear();
    next_->end_token();
  }
  void finish() override { next_->finish(); }

 private:
  std::string pattern_, content_, held_;
};

class ReplaceRegex : public WholeToken {
 public:
  ReplaceRegex(std::shared_ptr<const Regex> regex, std::string content)
      : regex_(std::move(regex)), content_(std::move(content)) {}
  void take(std::string& token) override {
    Regex::Matcher matcher(*regex_, token);
    std::string out;
    size_t begin, end, copied = 0;
    for (size_t from = 0; from <= token.size() && matcher.find(from, &begin, &end);) {
      out.append(token, copied, begin - copied);
      out += content_;
      copied = end;
      from = end > begin          ? end
             : end < token.size() ? end + sequence_length(static_cast<unsigned char>(token[end]))
                                  : end + 1;
    }
    out.append(token, copied);
    emit_token(out);
  }
  void finish() override { next_->finish(); }

 private:
  std::shared_ptr<const Regex> regex_;
  std::string content_;
};

/// The replacement character becomes a blank, or nothing in the first token.
class Metaspace : public WholeToken {
 public:
  Metaspace(std::string replacement, bool drop_first) : replacement_(std::move(replacement)), drop_(drop_first) {}
  void take(std::string& token) override {
    std::string out;
    size_t done = 0;
    for (size_t at = token.find(replacement_); at != std::string::npos; at = token.find(replacement_, done)) {
      out.append(token, done, at - done);
      if (!drop_) out += ' ';
      done = at + replacement_.size();
    }
    out.append(token, done);
    drop_ = false;
    emit_token(out);
  }
  void finish() override { next_->finish(); }

 private:
  std::string replacement_;
  bool drop_;
};

void replace_all(std::string& text, std::string_view from, std::string_view to) {
  for (size_t at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size()))
    text.replace(at, from.size(), to);
}

class WordPiece : public WholeToken {
 public:
  WordPiece(std::string prefix, bool clean_up) : prefix_(std::move(prefix)), clean_up_(clean_up) {}
  void take(std::string& token) override {
    if (!first_) {
      if (token.starts_with(prefix_))
        token.erase(0, prefix_.size());
      else
        token.insert(token.begin(), ' ');
    }
    first_ = false;
    if (clean_up_) {
      static constexpr std::pair<const char*, const char*> rules[] = {
          {" .", "."},   {" ?", "?"},           {" !", "!"},   {" ,", ","},     {" ' ", "'"},   {" n't", "n't"},
          {" 'm", "'m"}, {" do not", " don't"}, {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"}};
      for (const auto& [from, to] : rules) replace_all(token, from, to);
    }
    emit_token(token);
  }
  void finish() override { next_->finish(); }

 private:
  std::string prefix_;
  bool clean_up_;
  bool first_ = true;
};

/// The end-of-word suffix becomes a blank, or nothing in the last token.
class BpeSuffix : public WholeToken {
 public:
  explicit BpeSuffix(std::string suffix) : suffix_(std::move(suffix)) {}
  void take(std::string& token) override {
    if (waits_) release(" ");
    waiting_ = token;
    waits_ = true;
  }
  void finish() override {
    if (waits_) release("");
    next_->finish();
  }

 private:
  void release(std::string_view with) {
    if (!suffix_.empty()) replace_all(waiting_, suffix_, with);
    emit_token(waiting_);
    waits_ = false;
  }
  std::string suffix_, waiting_;
  bool waits_ = false;
};

constexpr int kMaxDepth = 16;

}  // namespace

class DecodeStream::Output final : public DecodeStep {
 public:
  void fragment(std::string_view text) override { text_ += text; }
  void end_token() override {}
  void finish() override {}
  void settle() override {}
  std::string take() {
    std::string out;
    out.swap(text_);
    return out;
  }

 private:
  std::string text_;
};

void DecodeStream::add(std::unique_ptr<DecodeStep> step) {
  if (!steps_.empty()) steps_.back()->set_next(step.get());
  steps_.push_back(std::move(step));
}

std::string DecodeStream::take() { return output_->take(); }

std::unique_ptr<DecodeStep> DecoderSpec::make(const Step& step) {
  switch (step.kind) {
    case Kind::join:
      return std::make_unique<Join>();
    case Kind::byte_level:
      return std::make_unique<ByteLevel>();
    case Kind::byte_fallback:
      return std::make_unique<ByteFallback>();
    case Kind::fuse:
      return std::make_unique<Fuse>();
    case Kind::strip:
      return std::make_unique<Strip>(step.pattern, step.start, step.stop);
    case Kind::replace_string:
      return std::make_unique<ReplaceString>(step.pattern, step.content);
    case Kind::replace_regex:
      return std::make_unique<ReplaceRegex>(step.regex, step.content);
    case Kind::metaspace:
      return std::make_unique<Metaspace>(step.pattern, step.flag);
    case Kind::word_piece:
      return std::make_unique<WordPiece>(step.pattern, step.flag);
    case Kind::bpe:
      return std::make_unique<BpeSuffix>(step.pattern);
  }
  ASSERT(false);
}

DecodeStream DecoderSpec::stream() const {
  DecodeStream out;
  for (const Step& step : steps_) out.add(make(step));
  auto output = std::make_unique<DecodeStream::Output>();
  out.output_ = output.get();
  out.add(std::move(output));
  return out;
}

bool DecoderSpec::is_tokenwise() const {
  bool fused = false;
  for (const Step& step : steps_) {
    const bool strips_begin = step.kind == Kind::strip && fused && step.stop == 0;
    if (step.kind == Kind::fuse) fused = true;
    else if (step.kind == Kind::replace_string || step.kind == Kind::byte_level || step.kind == Kind::metaspace) {
      if (fused) return false;
    } else if (step.kind != Kind::byte_fallback && !strips_begin) {
      return false;
    }
  }
  return true;
}

std::string DecoderSpec::token_bytes(std::string_view token) const {
  std::string out(token);
  for (const Step& step : steps_) {
    if (step.kind == Kind::byte_level) {
      std::string bytes;
      append_byte_level(bytes, out);
      return bytes;
    }
    if (step.kind == Kind::replace_string) replace_all(out, step.pattern, step.content);
    if (step.kind == Kind::metaspace) replace_all(out, step.pattern, " ");
    if (step.kind == Kind::byte_fallback && byte_of(out) >= 0) return std::string(1, static_cast<char>(byte_of(out)));
  }
  return out;
}

void DecoderSpec::add(const Json& json, int depth) {
  if (depth > kMaxDepth) throw Error("decoder: expected at most 16 nested sequences");
  const std::string type = component_type(json, "decoder");
  Step step{};
  if (type == "Sequence") {
    const Json& items = member(json, "decoder Sequence", "decoders");
    if (!items.is_array()) throw Error("decoder Sequence: decoders: expected a list");
    if (items.size() > 64) throw Error("decoder Sequence: expected at most 64 decoders");
    for (const Json& item : items) add(item, depth + 1);
    return;
  }
  if (type == "ByteLevel") {
    step.kind = Kind::byte_level;
  } else if (type == "ByteFallback") {
    step.kind = Kind::byte_fallback;
  } else if (type == "Fuse") {
    step.kind = Kind::fuse;
  } else if (type == "Strip") {
    step.kind = Kind::strip;
    step.pattern = string_member(json, "decoder Strip", "content");
    if (step.pattern.empty()) throw Error("decoder Strip: content: expected one character");
    step.start = static_cast<size_t>(int_member(json, "decoder Strip", "start", 0, 1000));
    step.stop = static_cast<size_t>(int_member(json, "decoder Strip", "stop", 0, 1000));
  } else if (type == "Replace") {
    step.content = string_member(json, "decoder Replace", "content");
    const Json& pattern = member(json, "decoder Replace", "pattern");
    if (!pattern.is_object()) throw Error("decoder Replace: pattern: expected {\"String\": ...} or {\"Regex\": ...}");
    if (pattern.contains("String")) {
      step.kind = Kind::replace_string;
      step.pattern = string_member(pattern, "decoder Replace: pattern", "String");
      if (step.pattern.empty()) throw Error("decoder Replace: pattern: expected a text that is not empty");
    } else {
      step.kind = Kind::replace_regex;
      step.regex = std::make_shared<const Regex>(string_member(pattern, "decoder Replace: pattern", "Regex"));
    }
  } else if (type == "Metaspace") {
    step.kind = Kind::metaspace;
    step.pattern = string_member(json, "decoder Metaspace", "replacement");
    if (step.pattern.empty()) throw Error("decoder Metaspace: replacement: expected one character");
    step.flag = json.contains("prepend_scheme") ? string_member(json, "decoder Metaspace", "prepend_scheme") != "never"
                                                : bool_member(json, "decoder Metaspace", "add_prefix_space", true);
  } else if (type == "WordPiece") {
    step.kind = Kind::word_piece;
    step.pattern = string_member(json, "decoder WordPiece", "prefix");
    step.flag = bool_member(json, "decoder WordPiece", "cleanup", true);
  } else if (type == "BPEDecoder") {
    step.kind = Kind::bpe;
    step.pattern = string_member(json, "decoder BPEDecoder", "suffix");
  } else {
    throw Error("decoder: expected a supported type, got '" + type + "'");
  }
  steps_.push_back(std::move(step));
}

DecoderSpec DecoderSpec::from_json(const Json& json) {
  DecoderSpec spec;
  if (json.is_null())
    spec.steps_.push_back(Step{Kind::join, {}, {}, {}, 0, 0, false});
  else
    spec.add(json, 0);
  return spec;
}

}  // namespace engine::tok
