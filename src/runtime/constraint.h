// Answers that must have a given form: which tokens may come next.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "runtime/grammar.h"
#include "text/tokenizer.h"

namespace engine {

/// What one answer may say. Of that answer alone; the scheduler's thread calls it.
class TokenConstraint {
 public:
  virtual ~TokenConstraint() = default;
  virtual bool allows(int32_t token) = 0;
  /// Sets the scores of all other tokens to minus infinity. Returns how many are left.
  virtual size_t mask(std::span<float> logits) = 0;
  /// Adds an allowed token to the answer.
  virtual void accept(int32_t token) = 0;
  /// Nothing but an end can follow.
  virtual bool finished() const = 0;
};

/// The bytes of all tokens, in the order of their bytes. An added token stands there as the byte 0xFF, its name and 0xFF again: no text has such
/// bytes, so that a grammar allows it only where it asks for it. Immutable; takes some 10 bytes a token and the text.
class TokenTable {
 public:
  static constexpr size_t max_token_bytes = 256;  // longer ones are left out
  static constexpr char control_byte = '\xFF';
  /// Throws Error if the tokenizer's tokens have no bytes of their own.
  explicit TokenTable(const Tokenizer& tokenizer);

  struct Entry {
    int32_t id;
    uint32_t offset;
    uint16_t size;
    uint16_t shared;  // bytes that it has in common with the one before
  };
  std::span<const Entry> entries() const { return entries_; }
  std::string_view bytes(const Entry& entry) const { return std::string_view(blob_).substr(entry.offset, entry.size); }
  std::string_view bytes(int32_t id) const;  // empty: none

 private:
  std::string blob_;
  std::vector<Entry> entries_;
  std::vector<int32_t> place_;  // in entries_, by id; -1: none
};

/// The answer is a sentence of a grammar. End-of-sequence tokens may come once it is complete.
class GrammarConstraint final : public TokenConstraint {
 public:
  GrammarConstraint(std::shared_ptr<const Grammar> grammar, std::shared_ptr<const TokenTable> tokens, std::vector<int32_t> eos)
      : matcher_(std::move(grammar)), tokens_(std::move(tokens)), eos_(std::move(eos)) {}
  bool allows(int32_t token) override;
  size_t mask(std::span<float> logits) override;
  void accept(int32_t token) override;
  bool finished() const override { return matcher_.finished(); }

 private:
  bool is_eos(int32_t token) const;

  GrammarMatcher matcher_;
  std::shared_ptr<const TokenTable> tokens_;
  std::vector<int32_t> eos_;
  std::vector<float> kept_;
};

}  // namespace engine
