#include "runtime/answer_form.h"

#include <algorithm>
#include <string>

namespace engine {
namespace {

constexpr size_t prompt_end = 16;  // tokens of the prompt in which an open thought is looked for

}  // namespace

AnswerForm answer_form(const ChatTemplate& chat_template, const Tokenizer& tokenizer, std::span<const int32_t> prompt, bool with_tools) {
  const std::string& source = chat_template.source(with_tools);
  AnswerForm form;
  auto syntax = std::make_shared<AnswerSyntax>();
  syntax->format = find_tool_call_format(source);
  // Channels are taken apart in any case: without it, an answer would begin with the model's thoughts.
  const bool channels = syntax->format != nullptr && syntax->format->body == ToolCallFormat::Body::harmony;
  if (!with_tools && !channels) syntax->format = nullptr;
  if (!channels) syntax->thoughts = find_thought_tags(source);
  if (syntax->format == nullptr && syntax->thoughts == nullptr) return form;
  const auto show = [&](std::string_view marker) {
    const auto id = tokenizer.token_to_id(marker);
    if (id && tokenizer.is_special(*id)) form.shown_special.push_back(*id);
  };
  if (syntax->format != nullptr) {
    for (const std::string_view marker : syntax->format->markers()) show(marker);
  }
  if (syntax->thoughts != nullptr) {
    show(syntax->thoughts->open);
    show(syntax->thoughts->close);
    form.thought = thought_state(*syntax->thoughts, tokenizer.decode(prompt.last(std::min(prompt.size(), prompt_end)), false));
    syntax->begins_thinking = form.thought == ThoughtState::open;
  }
  form.syntax = std::move(syntax);
  return form;
}

}  // namespace engine
