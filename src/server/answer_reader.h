// An answer's text on its way to a client: thoughts and calls of tools taken out of it.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "server/answer.h"

namespace engine::server {

/// Reads one choice of an answer, piece by piece. Without a syntax all is text.
class AnswerReader {
 public:
  explicit AnswerReader(const Work& work);

  /// The parts that `text` adds. With Work::one_call nothing comes after the first call.
  std::vector<AnswerPart> read(std::string_view text);
  /// What the answer's end adds.
  std::vector<AnswerPart> finish();
  int n_calls() const { return parser_ == nullptr ? 0 : parser_->n_calls(); }

 private:
  std::vector<AnswerPart> take();

  std::unique_ptr<AnswerParser> parser_;
  bool one_call_ = false, over_ = false;
};

struct ToolCall {
  std::string id, name, arguments;
};

/// A whole answer.
struct ReadAnswer {
  std::string text, reasoning;
  std::vector<ToolCall> calls;
};
ReadAnswer read_answer(const Work& work, std::string_view text);

/// A new id for a call, in the form that the model's templates know.
std::string new_call_id(const Work& work);

}  // namespace engine::server
