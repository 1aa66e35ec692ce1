#include "server/answer_reader.h"

#include <sys/random.h>

#include <algorithm>
#include <utility>

namespace engine::server {

using Kind = AnswerPart::Kind;

AnswerReader::AnswerReader(const Work& work) : one_call_(work.one_call) {
  if (work.syntax != nullptr) parser_ = make_answer_parser(*work.syntax);
}

std::vector<AnswerPart> AnswerReader::read(std::string_view text) {
  if (parser_ == nullptr) return text.empty() ? std::vector<AnswerPart>() : std::vector<AnswerPart>{{Kind::text, std::string(text)}};
  parser_->push(text);
  return take();
}

std::vector<AnswerPart> AnswerReader::finish() {
  if (parser_ == nullptr) return {};
  parser_->finish();
  return take();
}

std::vector<AnswerPart> AnswerReader::take() {
  std::vector<AnswerPart> parts = parser_->take();
  if (over_) return {};
  const auto end = std::find_if(parts.begin(), parts.end(), [](const AnswerPart& part) { return part.kind == Kind::call_end; });
  if (one_call_ && end != parts.end()) {
    parts.erase(end + 1, parts.end());
    over_ = true;
  }
  return parts;
}

ReadAnswer read_answer(const Work& work, std::string_view text) {
  AnswerReader reader(work);
  ReadAnswer out;
  const auto add = [&](std::vector<AnswerPart> parts) {
    for (AnswerPart& part : parts) {
      switch (part.kind) {
        case Kind::text: out.text += part.text; break;
        case Kind::reasoning: out.reasoning += part.text; break;
        case Kind::call_begin: out.calls.push_back({new_call_id(work), std::move(part.text), {}}); break;
        case Kind::arguments: out.calls.back().arguments += part.text; break;
        case Kind::call_end: break;
        case Kind::call_broken:
          out.calls.pop_back();
          out.text += part.text;
          break;
      }
    }
  };
  add(reader.read(text));
  add(reader.finish());
  return out;
}

std::string new_call_id(const Work& work) {
  static constexpr char letters[] = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
  std::string id(work.syntax == nullptr || work.syntax->format == nullptr ? 24 : work.syntax->format->id_size, '\0');
  (void)!::getrandom(id.data(), id.size(), 0);
  for (char& c : id) c = letters[static_cast<unsigned char>(c) % (sizeof letters - 1)];
  return id.size() < 24 ? id : "call_" + id;
}

}  // namespace engine::server
