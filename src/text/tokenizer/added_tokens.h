// Tokens that are cut out of the text before anything else looks at it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "text/tokenizer/text_piece.h"

namespace engine::tok {

class NormalizerChain;
class Vocab;

struct AddedToken {
  std::string content;
  bool single_word = false;
  bool lstrip = false;
  bool rstrip = false;
  bool normalized = true;
  bool special = false;
  bool operator==(const AddedToken&) const = default;
};

/// Takes what the text is cut into, in order.
class AddedTokenSink {
 public:
  virtual void take_token(int32_t id) = 0;
  virtual void take_text(const Piece& piece) = 0;

 protected:
  ~AddedTokenSink() = default;
};

class AddedTokens {
 public:
  static constexpr size_t max_content_bytes = 1024;  // bounds the work at one position of a text

  /// As the library's add_tokens: content that the vocabulary holds has its id there, other content gets the next free
  /// one, whatever number the file gives. Adding the same content again replaces flags. Throws Error.
  void add(const AddedToken& token, const Vocab& vocab);
  /// To be called after the last add.
  void finish(const NormalizerChain& normalizer);

  /// Cuts `piece` at tokens matched on raw text (`normalized` false), or at those matched on normalized text.
  /// Tokens that could steer the model are recognised only where all their characters are trusted.
  void split(const Piece& piece, bool normalized, AddedTokenSink& sink) const;
  bool any(bool normalized) const { return !tries_[normalized].nodes.empty(); }

  /// -1 if there is no such token.
  int32_t find(std::string_view content) const;
  const AddedToken* by_id(int32_t id) const;
  bool is_special_content(std::string_view content) const;
  /// Highest id + 1, 0 if there are none.
  int32_t limit() const { return limit_; }
  template <class F>
  void for_each(F&& f) const {
    for (const auto& [id, index] : by_id_) f(id, tokens_[index]);
  }

  /// True for tokens that a chat template may use to mark structure: special ones, and others that look like markup
  /// rather than like words, blanks or an HTML element.
  static bool is_control(const AddedToken& token);

 private:
  struct Node {
    int32_t token = -1;  // index into tokens_
    int32_t child = -1, sibling = -1;
    uint8_t byte = 0;
  };
  struct Trie {
    std::vector<Node> nodes;  // empty: no tokens
    int32_t roots[256];
    void insert(std::string_view text, int32_t token);
  };
  struct Found {
    int32_t token;
    size_t begin, end;
  };
  bool find_match(const Trie& trie, const Piece& piece, size_t from, Found* found) const;

  std::vector<AddedToken> tokens_;  // in the order of adding; a replaced one keeps its place
  std::vector<int32_t> ids_;        // of tokens_
  std::vector<bool> control_;       // of tokens_
  std::unordered_map<std::string, size_t> by_content_;
  std::unordered_map<int32_t, size_t> by_id_;
  std::unordered_map<std::string, bool> special_contents_;
  Trie tries_[2];  // raw, normalized
  int32_t limit_ = 0;
  int32_t max_id_ = -1;
};

}  // namespace engine::tok
