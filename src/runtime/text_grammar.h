// Grammars of free text in which something is looked for.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "runtime/grammar.h"
#include "text/thought_tags.h"

namespace engine {

/// Whether a marker is one token of the vocabulary, to be asked for as such (see TokenTable). Empty: none is.
using IsToken = std::function<bool(std::string_view marker)>;

void append_text(Grammar::Sequence& out, std::string_view text);
void append_marker(Grammar::Sequence& out, std::string_view marker, const IsToken& is_token);

struct FreeText {
  ByteSet bytes = ByteSet().set();          // that it may have
  std::optional<Grammar::RuleId> wide = {};  // characters beside them
  bool may_end = false;                     // without the marker
};
/// A text up to `marker`, and then `found`. The rules are the states of Knuth's, Morris' and Pratt's search: where i bytes of the marker have come,
/// rule i; the text begins with rule 0. The first of the marker's bytes that `text` does not have, and all behind it, come in their order only.
std::vector<Grammar::RuleId> text_until(Grammar::Builder& builder, std::string_view marker, const FreeText& text, Grammar::RuleId found);

/// Sentences of `grammar`, and those behind a thought. `begun`: the answer begins inside of one, which has to end.
std::shared_ptr<const Grammar> grammar_behind_thought(const Grammar& grammar, const ThoughtTags& tags, bool begun, const IsToken& is_token);

}  // namespace engine
