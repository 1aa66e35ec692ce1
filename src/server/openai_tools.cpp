// What a chat template says of answers: thoughts and calls are read out of them. Tools that a request offers the model go into the template.
#include <algorithm>

#include "runtime/answer_form.h"
#include "runtime/tool_grammar.h"
#include "server/openai.h"

namespace engine::server {
namespace {

constexpr size_t max_tools = 128, max_tool_name = 64;  // as OpenAI's
constexpr const char* xml_tools = "xml_tools";

bool is_tool_name(const Json& name) {
  if (!name.is_string()) return false;
  const std::string& text = name.get_ref<const std::string&>();
  const auto plain = [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' || c == '_' || c == '.'; };
  return !text.empty() && text.size() <= max_tool_name && std::all_of(text.begin(), text.end(), plain);
}

/// /v1/responses has the function's fields beside the type, chat in an object of their own.
Json read_tool(const Json& tool, const std::string& where, std::set<std::string>& strict_names) {
  if (!tool.is_object()) bad_field(where, "an object", tool);
  if (tool.value("type", Json()) != "function") {
    throw ApiError(400, where + ".type: expected function; other tools are not supported here", where + ".type", "unsupported_parameter");
  }
  Json function = Json::object();
  if (const auto nested = tool.find("function"); nested != tool.end()) {
    if (!nested->is_object()) bad_field(where + ".function", "an object", *nested);
    function = *nested;
  } else {
    for (const auto& [key, value] : tool.items()) {
      if (key != "type") function[key] = value;
    }
  }
  const Json name = function.value("name", Json());
  if (!is_tool_name(name)) bad_field(where + ".function.name", "1 to 64 letters, digits, '_', '-' or '.'", name);
  if (const Json p = function.value("parameters", Json()); !p.is_null() && !p.is_object()) bad_field(where + ".function.parameters", "an object", p);
  const Json strict = function.value("strict", Json());
  if (!strict.is_null() && !strict.is_boolean()) bad_field(where + ".function.strict", "true or false", strict);
  if (strict == true) strict_names.insert(name.get<std::string>());
  function.erase("strict");
  return {{"type", "function"}, {"function", std::move(function)}};
}

/// tool_choice of a request that has tools: "none" takes them away.
void read_choice(const Json& choice, Tools& tools) {
  if (choice == "none") tools.offered = nullptr;
  if (choice == "none" || choice == "auto") return;
  tools.required = true;
  if (choice == "required") return;
  if (!choice.is_object() || choice.value("type", Json()) != "function") bad_field("tool_choice", "none, auto, required or a function", choice);
  const Json function = choice.value("function", choice);
  const Json name = function.is_object() ? function.value("name", Json()) : Json();
  if (!name.is_string()) bad_field("tool_choice", "a function's name", name);
  tools.only = name.get<std::string>();
  for (const Json& tool : tools.offered) {
    if (tool["function"]["name"] == name) return;
  }
  throw ApiError(400, "tool_choice: expected one of the tools, got another function", "tool_choice", "invalid_value");
}

}  // namespace

Tools read_tools(Fields& fields) {
  Tools out;
  const Json* choice = fields.find("tool_choice");
  out.parallel = fields.boolean("parallel_tool_calls").value_or(true);
  const Json* tools = fields.find("tools");
  if (tools != nullptr && !tools->is_array()) bad_field("tools", "a list", *tools);
  if (tools == nullptr || tools->empty()) {
    if (choice != nullptr && !choice->is_null() && *choice != "none" && *choice != "auto") {
      throw ApiError(400, "tool_choice: goes with tools, got none", "tool_choice", "invalid_value");
    }
    return out;
  }
  if (tools->size() > max_tools) {
    throw ApiError(400, "tools: expected at most " + std::to_string(max_tools) + ", got " + std::to_string(tools->size()), "tools");
  }
  out.offered = Json::array();
  for (size_t i = 0; i < tools->size(); ++i) out.offered.push_back(read_tool((*tools)[i], "tools[" + std::to_string(i) + "]", out.strict));
  if (choice != nullptr) read_choice(*choice, out);
  return out;
}

namespace {

[[noreturn]] void refuse(const std::string& message) { throw ApiError(400, message, message.substr(0, message.find(':')), "unsupported_parameter"); }

/// What `g` must be to hold the calls that `tools` asks for.
void constrain_calls(App& app, const Tools& tools, const AnswerSyntax& syntax, const IsToken& is_token, Generation& g) {
  ToolGrammarOptions options;
  options.text = !tools.required;
  options.several = !g.work.one_call;
  options.strict = tools.strict;
  options.is_token = is_token;
  try {
    if (g.work.grammar == nullptr || tools.required) g.work.grammar = tool_call_grammar(syntax, options);
    GrammarConstraint(g.work.grammar, app.engine.token_table(), {});  // what does not serve is told now
  } catch (const Error& error) {
    refuse("tools: " + error.message);
  }
}

}  // namespace

void read_answers(App& app, const Tools& tools, Generation& g) {
  const bool offered = !tools.offered.is_null();
  const Tokenizer& tokenizer = app.engine.tokenizer();
  AnswerForm form = answer_form(*app.engine.chat_template(), tokenizer, g.work.prompts.front(), offered);
  if (form.syntax == nullptr || form.syntax->format == nullptr) {
    if (tools.required) refuse("tool_choice: the form in which this model's chat template wants calls is not known here");
    if (offered && !tools.strict.empty()) refuse("tools: strict: the form in which this model's chat template wants calls is not known here");
  }
  if (form.syntax == nullptr) return;
  AnswerSyntax& syntax = *form.syntax;
  const IsToken is_token = [&](std::string_view marker) {
    const auto id = tokenizer.token_to_id(marker);
    return id && tokenizer.is_added(*id);
  };
  if (syntax.format != nullptr) {
    for (const Json& tool : tools.offered) {
      const Json& function = tool["function"];
      const std::string name = function["name"];
      if (tools.only.empty() || name == tools.only) syntax.functions[name] = function.value("parameters", Json());
    }
    g.work.one_call = !tools.parallel || !tools.only.empty();
    if (tools.required || !tools.strict.empty()) constrain_calls(app, tools, syntax, is_token, g);
  }
  // What has a form may come behind a thought, unless the prompt has had its thought.
  if (g.work.grammar != nullptr && syntax.thoughts != nullptr && form.thought != ThoughtState::closed) {
    g.work.grammar = grammar_behind_thought(*g.work.grammar, *syntax.thoughts, syntax.begins_thinking, is_token);
  }
  g.work.shown_special = std::move(form.shown_special);
  g.work.syntax = std::move(form.syntax);
}

void offer_tools(const App& app, const Tools& tools, ChatRenderOptions& render) {
  render.tools = tools.offered;
  if (tools.offered.is_null()) return;
  // SmolLM 3's own name for them.
  if (app.engine.chat_template()->source(true).find(xml_tools) != std::string::npos && !render.extra.contains(xml_tools)) render.extra[xml_tools] = tools.offered;
}

std::vector<int32_t> encode_conversation(App& app, const Json& messages, const ChatRenderOptions& render) {
  std::vector<int32_t> ids = app.engine.encode_chat(messages, render);
  if (render.tools.is_null()) return ids;
  ChatRenderOptions without = render;
  without.tools = nullptr;
  without.extra.erase(xml_tools);
  // Tools that never reach the model would be a promise that nobody keeps.
  if (app.engine.chat_template()->render_text(messages, without) == app.engine.chat_template()->render_text(messages, render)) {
    throw ApiError(400, "tools: this model's chat template has no place for them", "tools", "unsupported_parameter");
  }
  return ids;
}

Json checked_tool_calls(const Json& calls, const std::string& where) {
  if (!calls.is_array()) bad_field(where, "a list", calls);
  Json out = calls;
  for (Json& call : out) {
    if (!call.is_object() || !call.contains("function") || !call["function"].is_object()) bad_field(where, "objects with a function", call);
    const auto arguments = call["function"].find("arguments");
    if (arguments == call["function"].end() || !arguments->is_string()) continue;
    // OpenAI has JSON in a string here; templates are written for the object, as Transformers has it.
    try {
      Json parsed = parse_json(arguments->get_ref<const std::string&>(), where, true);
      if (parsed.is_object()) *arguments = std::move(parsed);
    } catch (const Error&) {  // what a model wrote is not always JSON: it is shown as it was
    }
  }
  return out;
}

}  // namespace engine::server
