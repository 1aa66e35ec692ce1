// Readers of one call, byte by byte. Inside text/: used by the answer's parsers.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "base/json_stream.h"
#include "text/answer_parser.h"

namespace engine {

class CallReader {
 public:
  enum class Step : uint8_t { more, done, wrong };
  virtual ~CallReader() = default;
  virtual Step push(char c) = 0;
};

/// {"name": "f", "arguments": {...}} from its first brace to its last. Other usual keys are understood ("parameters", "tool_name", a string
/// "function"), arguments also as JSON in a string. `only_usual_keys`: any other key makes it no call, otherwise it is passed over.
std::unique_ptr<CallReader> read_call_object(AnswerParser& out, const AnswerSyntax& syntax, bool only_usual_keys);
/// Formats with Body::named and Body::parameters, from behind `open` to the end of the arguments.
std::unique_ptr<CallReader> read_named_call(AnswerParser& out, const AnswerSyntax& syntax);
/// Formats with Body::python and Body::literal: one call, without the brackets of a list.
std::unique_ptr<CallReader> read_literal_call(AnswerParser& out, const AnswerSyntax& syntax);

std::unique_ptr<AnswerParser> make_harmony_parser(const AnswerSyntax& syntax);

inline bool is_blank(char c) { return c == ' ' || c == '\n' || c == '\t' || c == '\r'; }
inline bool is_name_char(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' || c == '_' || c == '.';
}

/// Bytes at the end of `text` that may be the beginning of `marker`, not all of it.
size_t beginning_of(std::string_view marker, std::string_view text);

}  // namespace engine
