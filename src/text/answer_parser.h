// Takes an answer apart as it comes: text, thoughts and calls of tools. Knows no HTTP and no tokens.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "text/thought_tags.h"
#include "text/tool_format.h"

namespace engine {

/// A piece of an answer.
struct AnswerPart {
  enum class Kind : uint8_t {
    text,
    reasoning,
    call_begin,   // text: the function's name
    arguments,    // text: a piece of a JSON object, of the call that has begun
    call_end,
    call_broken,  // the call that has begun is none after all: its text as it stands in the answer, markers included
  };
  Kind kind = Kind::text;
  std::string text;
};

struct AnswerSyntax {
  const ToolCallFormat* format = nullptr;  // null: nothing is a call
  std::map<std::string, Json, std::less<>> functions;  // a JSON Schema of the parameters (null: none) by name; calls of others stay text
  const ThoughtTags* thoughts = nullptr;  // null: nothing is a thought
  bool begins_thinking = false;           // the prompt ended inside of one
};

/// Parts depend on the text alone, not on how it is cut into pieces (neighbours of one kind joined). Nothing of the text is lost but markers around
/// calls and thoughts, and blanks beside them. A thought stands at the answer's begin, behind another one or behind a call; nothing in it is a call, and a
/// tag elsewhere is text. What looks like a call and is none (no JSON, a function that there is not, an answer cut short) stays text.
/// Text is held back only while it may be a marker's beginning or the blanks before it. Linear time.
class AnswerParser {
 public:
  virtual ~AnswerParser() = default;
  virtual void push(std::string_view text) = 0;
  /// The answer has ended.
  virtual void finish() = 0;

  /// Parts since the last time; pieces of one kind are joined.
  std::vector<AnswerPart> take();
  int n_calls() const { return n_calls_; }  // that have ended well

  // --- for readers of calls ---
  void add(AnswerPart::Kind kind, std::string_view text);
  void begin_call(std::string_view name);
  void add_arguments(std::string_view text) { add(AnswerPart::Kind::arguments, text); }
  void end_call();
  /// The call under way (maybe not begun yet) is none.
  void break_call(std::string_view text);

 private:
  std::vector<AnswerPart> parts_;
  bool in_call_ = false;
  int n_calls_ = 0;
};

/// `syntax` must outlive the parser.
std::unique_ptr<AnswerParser> make_answer_parser(const AnswerSyntax& syntax);

}  // namespace engine
