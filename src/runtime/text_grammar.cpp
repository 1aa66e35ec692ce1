#include "runtime/text_grammar.h"

#include "runtime/constraint.h"

namespace engine {
namespace {

using Element = Grammar::Element;
using RuleId = Grammar::RuleId;
using Sequence = Grammar::Sequence;

constexpr int max_blanks = 4;  // between a thought and what follows

Element byte(char c) {
  ByteSet set;
  set.set(static_cast<uint8_t>(c));
  return Element::of(set);
}

}  // namespace

void append_text(Sequence& out, std::string_view text) {
  for (const char c : text) out.push_back(byte(c));
}

void append_marker(Sequence& out, std::string_view marker, const IsToken& is_token) {
  const bool token = !marker.empty() && is_token && is_token(marker);
  if (token) out.push_back(byte(TokenTable::control_byte));
  append_text(out, marker);
  if (token) out.push_back(byte(TokenTable::control_byte));
}

std::vector<RuleId> text_until(Grammar::Builder& builder, std::string_view marker, const FreeText& text, RuleId found) {
  std::vector<RuleId> states;
  for (size_t i = 0; i < marker.size(); ++i) states.push_back(builder.add_rule());
  states.push_back(found);
  for (size_t i = 0; i < marker.size(); ++i) {
    std::vector<ByteSet> to(marker.size() + 1);
    for (size_t c = 0; c < 256; ++c) {
      if (!text.bytes[c] && c != static_cast<uint8_t>(marker[i])) continue;
      const std::string seen = std::string(marker.substr(0, i)) + static_cast<char>(c);
      size_t n = seen.size();
      while (!marker.starts_with(std::string_view(seen).substr(seen.size() - n))) --n;
      to[n].set(c);
    }
    if (text.may_end) builder.add_alternative(states[i], {});
    for (size_t n = 0; n < to.size(); ++n) {
      if (to[n].any()) builder.add_alternative(states[i], {Element::of(to[n]), Element::of(states[n])});
    }
    if (text.wide) builder.add_alternative(states[i], {Element::of(*text.wide), Element::of(states[0])});
  }
  return states;
}

std::shared_ptr<const Grammar> grammar_behind_thought(const Grammar& grammar, const ThoughtTags& tags, bool begun, const IsToken& is_token) {
  Grammar::Builder b;
  const RuleId answer = b.add_grammar(grammar);
  ByteSet blank;
  for (const char c : std::string_view(" \n")) blank.set(static_cast<uint8_t>(c));
  RuleId after = answer;
  for (int n = 0; n < max_blanks; ++n) after = b.add_rule({{Element::of(answer)}, {Element::of(blank), Element::of(after)}});
  // As a token the tag has the byte of tokens behind it.
  const RuleId found = b.add_rule({{Element::of(after)}, {byte(TokenTable::control_byte), Element::of(after)}});
  const RuleId thought = text_until(b, tags.close, {}, found)[0];
  if (begun) return b.finish(thought);
  const RuleId start = b.add_rule({{Element::of(answer)}});
  for (const std::string_view before : {"", "\n"}) {
    Sequence opened;
    append_text(opened, before);
    append_marker(opened, tags.open, is_token);
    append_text(opened, tags.word);
    opened.push_back(Element::of(thought));
    b.add_alternative(start, std::move(opened));
  }
  return b.finish(start);
}

}  // namespace engine
