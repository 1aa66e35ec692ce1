// The pre-tokenizers of tokenizer.json.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/json.h"
#include "text/tokenizer/text_piece.h"

namespace engine::tok {

/// Takes the pieces that come out.
class PieceSink {
 public:
  virtual void take(const Piece& piece) = 0;

 protected:
  ~PieceSink() = default;
};

class PreTokenizer {
 public:
  virtual ~PreTokenizer() = default;
  /// Cuts a piece (not empty) and hands the parts on in order. Parts may be empty.
  virtual void split(const Piece& piece, PieceSink& next) const = 0;
};

/// A chain of pre-tokenizers, nested sequences flattened.
class PreTokenizerChain {
 public:
  /// From tokenizer.json's "pre_tokenizer" (null: none). Throws Error that names the component which is not supported.
  static PreTokenizerChain from_json(const Json& json);

  /// True if the last step turns text into characters of the byte alphabet, which may be left undone by who reads
  /// bytes.
  bool ends_in_bytes() const { return ends_in_bytes_; }
  /// Leaves the last byte step undone: pieces come out as plain UTF-8.
  void leave_bytes() { leave_bytes_ = true; }

  void run(const Piece& piece, PieceSink& sink) const { run_from(0, piece, sink); }

 private:
  class Next;
  void add(const Json& json, int depth);
  void add_byte_level(const Json& json);
  void run_from(size_t step, const Piece& piece, PieceSink& sink) const;

  std::vector<std::unique_ptr<PreTokenizer>> steps_;
  bool ends_in_bytes_ = false;
  bool leave_bytes_ = false;
};

}  // namespace engine::tok
