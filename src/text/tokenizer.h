// tokenizer.json: Hugging Face tokenizers' pipeline (added tokens, normalizer, pre-tokenizer, BPE, post-processor, decoder).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "text/jinja.h"

namespace engine {

class Tokenizer {
 public:
  /// Loads tokenizer.json with tokenizer_config.json and special_tokens_map.json beside it. Throws Error: file, what is not supported.
  /// tokenizer.json's own post-processor says which special tokens encode() adds; its truncation and padding are not applied, and
  /// neither is add_bos_token of tokenizer_config.json.
  static Tokenizer from_directory(const std::string& directory);
  ~Tokenizer();
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;

  /// As `Tokenizer.encode(text, add_special_tokens)` of the Rust library: special tokens written in the text are recognised.
  /// Invalid UTF-8 is replaced by U+FFFD first.
  std::vector<int32_t> encode(std::string_view text, bool add_special_tokens) const;

  /// Encodes rendered chat text. Control tokens are recognised in trusted spans only: every character of one must be trusted. In
  /// untrusted ones their characters are ordinary text, and what merging would make a control token of is left in smaller tokens.
  /// Otherwise the result is what encode() gives for the joined text: a span boundary by itself does not split a word, a
  /// normalisation or a pre-token. No special tokens are added. User text without any template is one untrusted span.
  ///
  /// Control tokens are the added tokens marked special (in tokenizer.json or named in the configuration) and those others whose
  /// content is not just letters, digits and blanks, HTML elements (Gemma's <td>, <h1>, ...) excepted.
  std::vector<int32_t> encode(std::span<const TextSpan> spans) const;

  /// As `decode(ids, skip_special_tokens)` of the Rust library. Ids outside the vocabulary are ignored.
  std::string decode(std::span<const int32_t> ids, bool skip_special_tokens) const;

  /// The bytes that a token adds to a text, maybe a part of a character; what a decoder takes off a text's very begin (Llama 2's blank) is there.
  /// Empty for ids outside the vocabulary.
  std::string token_bytes(int32_t id) const;
  /// Whether decode() joins token_bytes(). Not so for decoders that look at a token's neighbours (WordPiece, ...).
  bool has_token_bytes() const;

  int32_t vocab_size() const;                               // highest id + 1, added tokens included
  std::optional<int32_t> token_to_id(std::string_view token) const;
  std::string id_to_token(int32_t id) const;                // the vocabulary's own spelling; empty if there is none
  bool is_special(int32_t id) const;                        // added token with special: true
  bool is_added(int32_t id) const;

  /// From tokenizer_config.json / special_tokens_map.json, as token strings; empty if unset.
  const std::string& bos_token() const;
  const std::string& eos_token() const;
  const std::string& pad_token() const;
  const std::string& unk_token() const;
  int64_t model_max_length() const;  // 0: unknown

 private:
  friend class Detokenizer;
  struct Impl;
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

/// Turns ids into text one at a time. The pieces joined, with the flush at the end, equal decode() of all ids; no piece ends inside a
/// UTF-8 sequence. Linear time: the cost of a token does not depend on how many came before.
/// The tokenizer must outlive it.
class Detokenizer {
 public:
  /// `shown`: special tokens that are not skipped.
  Detokenizer(const Tokenizer& tokenizer, bool skip_special_tokens, std::span<const int32_t> shown = {});
  ~Detokenizer();
  Detokenizer(Detokenizer&&) noexcept;
  Detokenizer& operator=(Detokenizer&&) noexcept;

  /// Ids that stand before what is generated (the end of the prompt): they give context (a leading blank that is kept because it is
  /// not the start of the text) but no output. Call before the first push.
  void prime(std::span<const int32_t> ids);
  /// The text that is certain after this id; may be empty.
  std::string push(int32_t id);
  /// What is left: incomplete bytes become U+FFFD.
  std::string flush();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace engine
