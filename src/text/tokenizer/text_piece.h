// Text on its way through the tokenizer, with the memory of which of it may hold control tokens.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace engine::tok {

inline constexpr size_t kMaxTextBytes = size_t{1} << 30;

/// A piece of text (valid UTF-8) somebody else owns. If all of it has one origin `trust` is null and `trusted` tells
/// which; otherwise trust[i] != 0 means that byte i is trusted.
struct Piece {
  std::string_view text;
  const uint8_t* trust = nullptr;
  bool trusted = true;
  bool at_start = false;  // begins where the whole input begins

  Piece sub(size_t begin, size_t end) const {
    return {text.substr(begin, end - begin), trust != nullptr ? trust + begin : nullptr, trusted,
            at_start && begin == 0};
  }
  bool trusted_between(size_t begin, size_t end) const {
    return trust == nullptr ? trusted : std::find(trust + begin, trust + end, uint8_t{0}) == trust + end;
  }
  bool all_trusted() const { return trusted_between(0, text.size()); }
};

/// Text that a stage makes out of a piece. Characters take the trust of those that they came from; one that came from
/// several is trusted if all of them are.
class PieceBuffer {
 public:
  void start(const Piece& from) {
    bytes_.clear();
    trust_.clear();
    from_ = from;
    bytes_.reserve(from.text.size() + from.text.size() / 8 + 8);
  }
  /// Appends `bytes`, which come from [begin, end) of the source.
  void append(std::string_view bytes, size_t begin, size_t end) {
    check(bytes.size());
    bytes_.append(bytes);
    if (from_.trust != nullptr) trust_.insert(trust_.end(), bytes.size(), from_.trusted_between(begin, end) ? 1 : 0);
  }
  void append_insertion(std::string_view bytes) { append(bytes, 0, 0); }  // by the tokenizer's maker: trusted
  void copy(size_t begin, size_t end) {
    check(end - begin);
    bytes_.append(from_.text, begin, end - begin);
    if (from_.trust != nullptr) trust_.insert(trust_.end(), from_.trust + begin, from_.trust + end);
  }
  Piece piece() const {
    return {bytes_, from_.trust != nullptr ? trust_.data() : nullptr, from_.trusted, from_.at_start};
  }

 private:
  // Rules of a model file that make text longer and longer end here; no genuine rule comes near.
  void check(size_t more) const {
    if (bytes_.size() + more > from_.text.size() * 32 + (size_t{1} << 24))
      throw Error("tokenizer: expected normalized text of at most 32 times the text's size, got more");
  }
  std::string bytes_;
  std::vector<uint8_t> trust_;
  Piece from_;
};

}  // namespace engine::tok
