// The decoders of tokenizer.json, as a stream: tokens in, text out as soon as it is certain.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "text/tokenizer/regex.h"

namespace engine::tok {

/// Stands between a sequence of tokens and the sequence it becomes. A token may come in fragments.
class DecodeStep {
 public:
  virtual ~DecodeStep() = default;
  virtual void fragment(std::string_view text) = 0;
  virtual void end_token() = 0;
  /// No more tokens come.
  virtual void finish() = 0;
  /// Lets go of what is complete although a later token could still change it. For text that stands before what is
  /// wanted.
  virtual void settle() { next_->settle(); }
  void set_next(DecodeStep* next) { next_ = next; }

 protected:
  void emit_token(std::string_view text) {
    next_->fragment(text);
    next_->end_token();
  }
  DecodeStep* next_ = nullptr;
};

/// One decoding under way.
class DecodeStream {
 public:
  void add(std::unique_ptr<DecodeStep> step);
  void token(std::string_view text) {
    first()->fragment(text);
    first()->end_token();
  }
  void finish() { first()->finish(); }
  void settle() { first()->settle(); }
  /// What has come out since the last call.
  std::string take();

 private:
  class Output;
  DecodeStep* first() const { return steps_.front().get(); }
  std::vector<std::unique_ptr<DecodeStep>> steps_;  // the last is an Output
  friend class DecoderSpec;
  Output* output_ = nullptr;
};

/// What tokenizer.json says; makes streams.
class DecoderSpec {
 public:
  /// From tokenizer.json's "decoder" (null: tokens are joined by blanks). Throws Error that names the component.
  static DecoderSpec from_json(const Json& json);
  DecodeStream stream() const;
  /// What one token adds to a text that has begun before it, where that does not depend on its neighbours: bytes, maybe a part of a character.
  std::string token_bytes(std::string_view token) const;
  /// Whether it never depends on them, but for what a decoder takes off the text's begin.
  bool is_tokenwise() const;

 private:
  enum class Kind {
    join,
    byte_level,
    byte_fallback,
    fuse,
    strip,
    replace_string,
    replace_regex,
    metaspace,
    word_piece,
    bpe
  };
  struct Step {
    Kind kind;
    std::string pattern;  // replace: pattern; strip, metaspace: the character; word_piece: prefix; bpe: suffix
    std::string content;
    std::shared_ptr<const Regex> regex;
    size_t start = 0, stop = 0;
    bool flag = false;  // metaspace: the first token loses its blank; word_piece: clean up
  };
  static std::unique_ptr<DecodeStep> make(const Step& step);
  void add(const Json& json, int depth);
  std::vector<Step> steps_;
};

}  // namespace engine::tok
