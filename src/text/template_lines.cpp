#include "text/template_lines.h"

#include <istream>
#include <ostream>

#include "base/error.h"
#include "base/json.h"
#include "text/chat_template.h"

namespace engine {

namespace {

constexpr size_t max_template_bytes = size_t{4} << 20;

std::string source_of(const Json& request) {
  const auto text = request.find("template");
  const auto file = request.find("template_file");
  if (text != request.end() && text->is_string()) return text->get<std::string>();
  if (file != request.end() && file->is_string()) return read_text_file(file->get<std::string>(), max_template_bytes);
  throw Error("line: expected \"template\" or \"template_file\" with a string");
}

std::string render(Json request) {
  const std::string source = source_of(request);
  Json context = request.contains("context") ? std::move(request["context"]) : Json::object();
  if (!context.is_object()) throw Error("context: expected an object");
  JinjaTemplate::Options options;
  bool continue_final_message = false;
  if (const auto it = context.find("now"); it != context.end()) {
    if (!it->is_string()) throw Error("now: expected a date and time such as 2025-01-31T12:00:00");
    options.now = it->get<std::string>();
    context.erase(it);
  }
  if (const auto it = context.find("continue_final_message"); it != context.end()) {
    if (!it->is_boolean()) throw Error("continue_final_message: expected true or false");
    continue_final_message = it->get<bool>();
    context.erase(it);
  }
  JinjaTemplate::Variables variables;
  for (const auto& [name, value] : context.items()) variables.push_back({name, &value});
  std::string text;
  for (const TextSpan& span : render_chat(JinjaTemplate(source), source, variables, options, continue_final_message))
    text += span.text;
  return text;
}

}  // namespace

std::string render_template_line(std::string_view line) {
  Json reply = Json::object();
  try {
    Json request = parse_json(line, "line");
    if (!request.is_object()) throw Error(std::string("line: expected an object, got ") + request.type_name());
    reply["id"] = request.contains("id") ? request["id"] : Json();
    reply["output"] = render(std::move(request));
  } catch (const Error& e) {
    reply["error"] = e.message;
  }
  return dump_json(reply);
}

int run_template_jsonl(std::istream& in, std::ostream& out) {
  std::string line;
  while (std::getline(in, line)) {
    if (line.empty() || line == "\r") continue;
    out << render_template_line(line) << '\n';
    if (in.rdbuf()->in_avail() <= 0) out.flush();
  }
  out.flush();
  return 0;
}

}  // namespace engine
