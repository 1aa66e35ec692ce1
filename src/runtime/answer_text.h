// The text of an answer as its tokens come: decoding, stop strings, and what may be shown already.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "text/tokenizer.h"

namespace engine {

/// Finds stop strings in text that arrives in pieces, also across pieces.
class StopMatcher {
 public:
  StopMatcher() = default;
  /// `before`: the text in front of the first piece. As in Transformers, a stop string may begin there, but must end in a piece.
  StopMatcher(std::vector<std::string> stop_strings, std::string_view before);

  /// True if a stop string ends within `piece`.
  bool push(std::string_view piece);

  /// Bytes at the end of `text` that could be the beginning of a stop string.
  size_t held_back(std::string_view text) const;
  /// Where the first stop string in `text` begins; npos if there is none.
  size_t find(std::string_view text) const;
  bool empty() const { return stop_strings_.empty(); }

 private:
  std::vector<std::string> stop_strings_;
  size_t longest_ = 0;
  std::string tail_;  // the last longest_ - 1 bytes before the next piece
};

class AnswerText {
 public:
  /// `keep_stop`: a stop string that ends the answer stays in the text, as in Transformers; otherwise the text ends before it, and no beginning
  /// of one is shown before it is certain to be none. `shown_special`: shown in spite of `skip_special`.
  AnswerText(const Tokenizer& tokenizer, std::span<const int32_t> prompt, std::vector<std::string> stop_strings, bool skip_special,
             bool keep_stop, std::span<const int32_t> shown_special = {});

  /// Adds a token. True if it completes a stop string: then nothing more may be pushed.
  bool push(int32_t token);
  /// Ends the text: everything held back is certain now.
  void finish();
  /// Text that became certain since the last call.
  std::string take();

 private:
  Detokenizer shown_;
  // Stop strings are looked for in the text with special tokens, so that "<|im_end|>" can be one.
  std::optional<Detokenizer> searched_;
  StopMatcher matcher_;
  bool keep_stop_;
  std::string pending_;  // decoded, not yet taken
  bool open_ = true;     // a beginning of a stop string at the end of pending_ is held back
  bool cut_ = false;     // ended before a stop string
};

}  // namespace engine
