// The normalizers of tokenizer.json.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/json.h"
#include "text/tokenizer/text_piece.h"

namespace engine::tok {

class Normalizer {
 public:
  virtual ~Normalizer() = default;
  /// Writes the normalized text to `out`, or returns false if the text stays as it is (`out` may then hold anything).
  virtual bool apply(const Piece& in, PieceBuffer& out) const = 0;
};

/// A chain of normalizers, nested sequences flattened.
class NormalizerChain {
 public:
  /// From tokenizer.json's "normalizer" (null: none). Throws Error that names the component which is not supported.
  static NormalizerChain from_json(const Json& json);

  bool empty() const { return steps_.empty(); }
  /// The result points into `in` or into one of the buffers.
  Piece apply(const Piece& in, PieceBuffer& a, PieceBuffer& b) const;
  std::string apply(std::string_view text) const;

 private:
  std::vector<std::unique_ptr<Normalizer>> steps_;
  void add(const Json& json, int depth);
};

enum class NormalForm { nfc, nfd, nfkc, nfkd };
std::unique_ptr<Normalizer> make_unicode_normalizer(NormalForm form);

// Reading of components, shared with the other stages. Each throws Error naming component and field.
const Json& member(const Json& object, const char* component, const char* name);
std::string string_member(const Json& object, const char* component, const char* name);
bool bool_member(const Json& object, const char* component, const char* name, bool fallback);
int64_t int_member(const Json& object, const char* component, const char* name, int64_t low, int64_t high);
std::string component_type(const Json& object, const char* where);

}  // namespace engine::tok
