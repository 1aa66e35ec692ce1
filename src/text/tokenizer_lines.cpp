#include "text/tokenizer_lines.h"

#include <istream>
#include <ostream>

#include "base/error.h"
#include "base/json.h"

namespace engine {
namespace {

bool flag(const Json& request, const char* name, bool fallback) {
  const auto it = request.find(name);
  if (it == request.end() || it->is_null()) return fallback;
  if (!it->is_boolean()) throw Error(std::string(name) + ": expected true or false, got " + it->type_name());
  return it->get<bool>();
}

/// Parses a request, lets `answer` fill the reply, and turns errors into replies.
template <class F>
std::string reply_to(std::string_view line, F&& answer) {
  Json reply = Json::object();
  try {
    const Json request = parse_json(line, "line");
    if (!request.is_object()) throw Error(std::string("line: expected an object, got ") + request.type_name());
    if (request.contains("id")) reply["id"] = request["id"];
    answer(request, reply);
  } catch (const Error& e) {
    reply["error"] = e.message;
  }
  return dump_json(reply);
}

std::vector<int32_t> ids_of(const Json& request) {
  const auto it = request.find("ids");
  if (it == request.end() || !it->is_array()) throw Error("ids: expected a list of token ids");
  std::vector<int32_t> ids;
  ids.reserve(it->size());
  for (const Json& id : *it) {
    if (!id.is_number_integer()) throw Error(std::string("ids: expected whole numbers, got ") + id.type_name());
    // Whatever cannot be an id is as unknown as one that the vocabulary lacks.
    const bool fits = id.is_number_unsigned() ? id.get<uint64_t>() <= INT32_MAX : false;
    ids.push_back(fits ? id.get<int32_t>() : -1);
  }
  return ids;
}

template <class F>
void for_each_line(std::istream& in, std::ostream& out, F&& answer) {
  for (std::string line; std::getline(in, line);) {
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    out << answer(line) << '\n';
    if (in.rdbuf()->in_avail() <= 0) out.flush();
  }
  out.flush();
}

}  // namespace

std::string tokenize_line(const Tokenizer& tokenizer, std::string_view line) {
  return reply_to(line, [&](const Json& request, Json& reply) {
    const auto text = request.find("text");
    if (text == request.end() || !text->is_string()) throw Error("text: expected a string");
    reply["ids"] = tokenizer.encode(text->get_ref<const std::string&>(), flag(request, "add_special_tokens", true));
  });
}

std::string detokenize_line(const Tokenizer& tokenizer, std::string_view line) {
  return reply_to(line, [&](const Json& request, Json& reply) {
    const std::vector<int32_t> ids = ids_of(request);
    const bool skip = flag(request, "skip_special_tokens", false);
    reply["text"] = tokenizer.decode(ids, skip);
    Json pieces = Json::array();
    Detokenizer stream(tokenizer, skip);
    for (const int32_t id : ids) pieces.push_back(stream.push(id));
    if (std::string rest = stream.flush(); !rest.empty()) pieces.push_back(std::move(rest));
    reply["pieces"] = std::move(pieces);
  });
}

void tokenize_lines(const Tokenizer& tokenizer, std::istream& in, std::ostream& out) {
  for_each_line(in, out, [&](std::string_view line) { return tokenize_line(tokenizer, line); });
}

void detokenize_lines(const Tokenizer& tokenizer, std::istream& in, std::ostream& out) {
  for_each_line(in, out, [&](std::string_view line) { return detokenize_line(tokenizer, line); });
}

}  // namespace engine
