// How models mark their thoughts: a row a family, found by the chat template's text.
#pragma once

#include <string>
#include <string_view>

namespace engine {

struct ThoughtTags {
  std::string_view open, close;
  std::string_view word = {};  // belongs to `open`, but is text where that is a token

  std::string opening() const { return std::string(open) + std::string(word); }
};

/// The tags that a template knows; null: none.
const ThoughtTags* find_thought_tags(std::string_view template_source);

/// Where a prompt leaves an answer with these tags.
enum class ThoughtState { open, closed, none };  // the prompt ended with the opening tag, with the closing one, or with neither
ThoughtState thought_state(const ThoughtTags& tags, std::string_view prompt_end);

}  // namespace engine
