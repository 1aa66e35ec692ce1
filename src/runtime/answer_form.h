// What a chat template says of the answers to its prompts.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "text/answer_parser.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace engine {

struct AnswerForm {
  std::shared_ptr<AnswerSyntax> syntax;   // without functions; null: answers are text
  ThoughtState thought = ThoughtState::none;
  std::vector<int32_t> shown_special;     // special tokens that its parser has to see
};
/// `with_tools`: answers may call some. `prompt`: what the template made of a conversation.
AnswerForm answer_form(const ChatTemplate& chat_template, const Tokenizer& tokenizer, std::span<const int32_t> prompt, bool with_tools);

}  // namespace engine
