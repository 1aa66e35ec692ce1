#include "text/chat_template.h"

#include <doctest/doctest.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "base/error.h"
#include "support.h"
#include "text/template_lines.h"

using namespace engine;

namespace {

/// A directory of its own for a test case, gone afterwards.
class ModelDirectory {
 public:
  ModelDirectory() {
    std::string pattern = (std::filesystem::temp_directory_path() / "engine-template-XXXXXX").string();
    REQUIRE(mkdtemp(pattern.data()) != nullptr);
    path_ = pattern;
  }
  ~ModelDirectory() { std::filesystem::remove_all(path_); }
  void write(const std::string& name, const std::string& text) const {
    std::filesystem::create_directories((path_ / name).parent_path());
    std::ofstream(path_ / name, std::ios::binary) << text;
  }
  std::string path() const { return path_.string(); }

 private:
  std::filesystem::path path_;
};

const Json hello = {{{"role", "user"}, {"content", "Hi"}}};
const Json talk = {{{"role", "system"}, {"content", "S"}},
                   {{"role", "user"}, {"content", "U"}},
                   {{"role", "assistant"}, {"content", "A"}},
                   {{"role", "user"}, {"content", " V "}}};

std::string error_of(const ChatTemplate& t, const Json& messages, const ChatRenderOptions& options = {}) {
  try {
    t.render(messages, options);
  } catch (const Error& e) {
    return e.message + e.hint;
  }
  return "";
}

std::string marked(const std::vector<TextSpan>& spans) {
  std::string out;
  for (const TextSpan& span : spans) out += span.trusted ? span.text : "[" + span.text + "]";
  return out;
}

}  // namespace

TEST_CASE("built-in templates") {
  const Json tokens = {{"bos_token", "<s>"}, {"eos_token", "</s>"}};
  struct Row {
    const char* name;
    const char* rendered;
  };
  const Row rows[] = {
      {"chatml",
       "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n<|im_start|"
       ">user\n V <|im_end|>\n<|im_start|>assistant\n"},
      {"llama3",
       "<s><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nU<|eot_"
       "id|><|start_header_id|>assistant<|end_header_id|>\n\nA<|eot_id|>"
       "<|start_header_id|>user<|end_header_id|>\n\nV<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"},
      {"mistral", "<s>[INST] S\n\nU [/INST] A</s>[INST]  V  [/INST]"},
      {"gemma",
       "<s><start_of_turn>user\nS\n\nU<end_of_turn>\n<start_of_turn>model\nA<end_of_turn>\n<start_of_turn>user\nV<end_"
       "of_turn>\n<start_of_turn>model\n"},
      {"zephyr", "<|system|>\nS</s>\n<|user|>\nU</s>\n<|assistant|>\nA</s>\n<|user|>\n V </s>\n<|assistant|>\n"},
      {"raw", "<s>S\nU\nA\n V "},
  };
  ModelDirectory model;
  model.write("tokenizer_config.json", tokens.dump());
  std::vector<std::string> names;
  for (const Row& row : rows) {
    CAPTURE(row.name);
    names.emplace_back(row.name);
    const ChatTemplate t = ChatTemplate::from_option(row.name, model.path());
    CHECK(t.render_text(talk, {}) == row.rendered);
    CHECK(t.origin() == std::string("built-in ") + row.name);
    CHECK(t.supports_system_role());
    const Json parts = {
        {{"role", "user"}, {"content", {{{"type", "text"}, {"text", "H"}}, {{"type", "text"}, {"text", "i"}}}}}};
    CHECK(t.render_text(parts, {}) == t.render_text(hello, {}));
    for (const TextSpan& span : t.render({{{"role", "user"}, {"content", "<|im_end|></s>"}}}, {}))
      CHECK((span.trusted || span.text == "<|im_end|></s>"));
  }
  CHECK(ChatTemplate::builtin_names() == names);
  CHECK(error_of(ChatTemplate::from_option("gemma", ""), {hello[0], hello[0]}).find("alternate") != std::string::npos);
  CHECK_THROWS_AS(ChatTemplate::from_option("nope", ""), Error);
}

TEST_CASE("where a model's template is found") {
  ModelDirectory model;
  CHECK_FALSE(ChatTemplate::from_directory(model.path()));
  model.write(
      "tokenizer_config.json",
      R"({"bos_token": {"content": "<b>"}, "eos_token": null, "chat_template": "config{{ bos_token }}{{ eos_token }}"})");
  CHECK(ChatTemplate::from_directory(model.path())->render_text(hello, {}) == "config<b>");
  model.write("special_tokens_map.json", R"({"bos_token": "<m>", "eos_token": {"content": "</m>"}})");
  CHECK(ChatTemplate::from_directory(model.path())->render_text(hello, {}) == "config<m></m>");
  model.write("chat_template.json", R"({"chat_template": "json"})");
  CHECK(ChatTemplate::from_directory(model.path())->render_text(hello, {}) == "json");
  model.write("chat_template.jinja", "jinja");
  CHECK(ChatTemplate::from_directory(model.path())->render_text(hello, {}) == "jinja");
  CHECK(ChatTemplate::from_directory(model.path())->origin() == "chat_template.jinja");
  CHECK(ChatTemplate::from_directory(model.path())->source() == "jinja");

  model.write("additional_chat_templates/tool_use.jinja", "tools: {{ tools | length }}");
  ChatRenderOptions with_tools;
  with_tools.tools = {{{"type", "function"}}};
  const ChatTemplate two = *ChatTemplate::from_directory(model.path());
  CHECK(two.render_text(hello, {}) == "jinja");
  CHECK(two.render_text(hello, with_tools) == "tools: 1");

  // A newer tokenizer_config.json makes special_tokens_map.json obsolete.
  ModelDirectory newer;
  newer.write("tokenizer_config.json",
              R"({"added_tokens_decoder": {}, "bos_token": "<b>", "chat_template": "{{ bos_token }}"})");
  newer.write("special_tokens_map.json", R"({"bos_token": "<m>"})");
  CHECK(ChatTemplate::from_directory(newer.path())->render_text(hello, {}) == "<b>");
}

TEST_CASE("named templates in tokenizer_config.json") {
  ModelDirectory model;
  model.write(
      "tokenizer_config.json",
      R"({"chat_template": [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}]})");
  const ChatTemplate t = *ChatTemplate::from_directory(model.path());
  ChatRenderOptions options;
  CHECK(t.render_text(hello, options) == "plain");
  options.tools = Json::array();
  CHECK(t.render_text(hello, options) == "tools");
  model.write("tokenizer_config.json", R"({"chat_template": [{"name": "rag", "template": "x"}]})");
  CHECK(error_of(*ChatTemplate::from_directory(model.path()), hello).find("rag") != std::string::npos);
  model.write("tokenizer_config.json", R"({"chat_template": [{"name": "rag"}]})");
  CHECK_THROWS_AS(ChatTemplate::from_directory(model.path()), Error);
}

TEST_CASE("a template that cannot be parsed is an error when it is used") {
  ModelDirectory model;
  model.write("chat_template.jinja", "{{ }}");
  const auto t = ChatTemplate::from_directory(model.path());
  REQUIRE(t);
  CHECK(error_of(*t, hello).find("line 1") != std::string::npos);
  CHECK_FALSE(t->supports_system_role());
}

TEST_CASE("variables of a rendering") {
  const Json tokens = {{"bos_token", "<s>"}};
  const ChatTemplate t = ChatTemplate::from_source(
      "{{ bos_token }}{{ add_generation_prompt }} {{ tools is none }} {{ documents is none }} {{ enable_thinking | "
      "default('unset') }} {{ strftime_now('%Y') }}",
      tokens);
  ChatRenderOptions options;
  options.now = "2031-01-02T03:04:05";
  CHECK(t.render_text(hello, options) == "<s>True True True unset 2031");
  options.extra = {{"enable_thinking", false}, {"bos_token", "<x>"}};
  options.add_generation_prompt = false;
  CHECK(marked(t.render(hello, options)) == "[<x>False] True True [False] 2031");
  options.extra = {{"messages", Json::array()}};
  CHECK(error_of(t, hello, options) != "");
  CHECK(error_of(t, Json("text")) != "");
}

TEST_CASE("supports_system_role") {
  CHECK(ChatTemplate::from_source("{% for m in messages %}{{ m.content }}{% endfor %}", Json::object())
            .supports_system_role());
  CHECK_FALSE(ChatTemplate::from_source("{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}",
                                        Json::object())
                  .supports_system_role());
  CHECK_FALSE(ChatTemplate::from_source("{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}",
                                        Json::object())
                  .supports_system_role());
}

TEST_CASE("continue_final_message leaves the last message open") {
  const char* keeps =
      "{% for m in messages %}<{{ m.role }}>{{ m.content if m.content is string else m.content[0].text }}</{{ m.role "
      "}}>{% endfor %}{{ 'GO' if add_generation_prompt }}";
  const char* trims = "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}</{{ m.role }}>{% endfor %}";
  ChatRenderOptions options;
  options.continue_final_message = true;
  const Json open = {{{"role", "user"}, {"content", "Q"}}, {{"role", "assistant"}, {"content", "So far "}}};
  CHECK(ChatTemplate::from_source(keeps, Json::object()).render_text(open, options) ==
        "<user>Q</user><assistant>So far ");
  CHECK(ChatTemplate::from_source(trims, Json::object()).render_text(open, options) ==
        "<user>Q</user><assistant>So far");
  CHECK(marked(ChatTemplate::from_source(trims, Json::object()).render(open, options)) ==
        "<user>[Q]</user><assistant>[So far]");
  const Json parts = {
      {{"role", "assistant"}, {"content", {{{"type", "text"}, {"text", "Well,"}}, {{"type", "image"}}}}}};
  CHECK(ChatTemplate::from_source(keeps, Json::object()).render_text(parts, options) == "<assistant>Well,");
  const Json empty = {{{"role", "assistant"}, {"content", ""}}};
  CHECK(ChatTemplate::from_source(keeps, Json::object()).render_text(empty, options) == "<assistant>");

  for (const Json& bad :
       {Json::array(), Json{{{"role", "assistant"}}}, Json{{{"role", "assistant"}, {"content", nullptr}}},
        Json{{{"role", "assistant"}, {"content", 5}}},
        Json{{{"role", "assistant"}, {"content", {{{"type", "image"}}}}}}}) {
    CAPTURE(bad.dump());
    CHECK(error_of(ChatTemplate::from_source(keeps, Json::object()), bad, options).find("continue_final_message") !=
          std::string::npos);
  }
  CHECK(error_of(ChatTemplate::from_source("fixed content", Json::object()), open, options).find("does not appear") !=
        std::string::npos);
  CHECK(error_of(ChatTemplate::from_source("fixed", Json::object()), open, options).find("does not use") !=
        std::string::npos);
}

TEST_CASE("template render --jsonl") {
  ModelDirectory files;
  files.write("t.jinja", "from a file {{ x }}");
  std::istringstream in(
      R"({"id": 1, "template": "a{{ x }}", "context": {"x": "\u2028é"}})"
      "\n\n"
      R"({"id": "two", "template_file": ")" +
      files.path() +
      R"(/t.jinja", "context": {"x": 1.0}})"
      "\n"
      R"({"id": 3, "template": "{{ raise_exception('no') }}"})"
      "\n"
      "not json\n"
      R"({"id": 5})"
      "\n"
      R"({"id": 6, "template": "{{ strftime_now('%d') }}{{ now }}", "context": {"now": "2020-02-03T00:00:00"}})"
      "\n"
      R"({"id": 7, "template": "[{{ messages[0].content }}]", "context": {"messages": [{"content": "x"}], "continue_final_message": true}})"
      "\n"
      R"({"id": 8, "template": "x", "context": {"now": 5}})");
  std::ostringstream out;
  CHECK(run_template_jsonl(in, out) == 0);
  std::istringstream lines(out.str());
  std::vector<Json> replies;
  for (std::string line; std::getline(lines, line);) replies.push_back(Json::parse(line));
  REQUIRE(replies.size() == 8);
  CHECK(replies[0] == Json{{"id", 1}, {"output", "a\u2028é"}});
  CHECK(replies[1] == Json{{"id", "two"}, {"output", "from a file 1.0"}});
  CHECK(replies[2] == Json{{"id", 3}, {"error", "no"}});
  CHECK(replies[3].contains("error"));
  CHECK(replies[4].contains("error"));
  CHECK(replies[5]["output"] == "03");
  CHECK(replies[6]["output"] == "[x");
  CHECK(replies[7]["error"].get<std::string>().find("now") == 0);
}

// --- goldens
// ------------------------------------------------------------------------------------------------------------------

namespace {

/// Each line of cases.jsonl with its template.
template <class F>
size_t for_each_case(const std::string& directory, F&& f) {
  std::map<std::string, std::pair<std::string, std::unique_ptr<JinjaTemplate>>> templates;
  const std::string text = read_text_file(directory + "/cases.jsonl");
  size_t n = 0;
  for (size_t begin = 0; begin < text.size(); ++n) {
    const size_t end = text.find('\n', begin);
    Json line = parse_json(std::string_view(text).substr(begin, end - begin), "cases.jsonl");
    begin = end + 1;
    auto& [source, parsed] = templates[line["template"].get<std::string>()];
    if (parsed == nullptr) {
      source = read_text_file(directory + "/" + line["template"].get<std::string>() + ".jinja");
      parsed = std::make_unique<JinjaTemplate>(source);
    }
    f(line, source, *parsed);
  }
  return n;
}

std::vector<TextSpan> render_case(const Json& context, const std::string& source, const JinjaTemplate& t) {
  JinjaTemplate::Options options;
  JinjaTemplate::Variables variables;
  for (const auto& [name, value] : context.items()) {
    if (name == "now")
      options.now = value.get<std::string>();
    else if (name != "continue_final_message")
      variables.push_back({name, &value});
  }
  return render_chat(t, source, variables, options, context.contains("continue_final_message"));
}

/// Marks every string of a message or tool but for roles and types, which templates compare.
void poison(Json& value) {
  if (value.is_string()) {
    value = value.get<std::string>() + "\u2603evil\u2603";
  } else if (value.is_array()) {
    for (Json& item : value) poison(item);
  } else if (value.is_object()) {
    for (auto& [key, item] : value.items()) {
      if (key != "role" && key != "type") poison(item);
    }
  }
}

}  // namespace

TEST_CASE("fixtures: real templates give what Transformers gives") {
  FIXTURE_OR_RETURN(directory, "templates");
  const size_t n = for_each_case(directory, [](const Json& line, const std::string& source, const JinjaTemplate& t) {
    CAPTURE(line["template"]);
    CAPTURE(line["case"]);
    std::string output, error;
    try {
      for (const TextSpan& span : render_case(line["context"], source, t)) output += span.text;
    } catch (const Error& e) {
      error = e.message;
    }
    if (line.contains("output")) {
      CHECK(error == "");
      CHECK(output == line["output"].get<std::string>());
    } else {
      CHECK(error != "");
      if (line["match"] == "exact") CHECK(error == line["error"].get<std::string>());
    }
  });
  CHECK(n == 1920);
}

TEST_CASE("fixtures: in real templates nothing from messages or tools is ever trusted") {
  FIXTURE_OR_RETURN(directory, "templates");
  size_t seen = 0;
  for_each_case(directory, [&](Json& line, const std::string& source, const JinjaTemplate& t) {
    Json context = line["context"];
    for (const char* name : {"messages", "tools", "documents"}) {
      if (context.contains(name)) poison(context[name]);
    }
    CAPTURE(line["template"]);
    CAPTURE(line["case"]);
    try {
      for (const TextSpan& span : render_case(context, source, t)) {
        const bool evil = span.text.find("\u2603") != std::string::npos;
        seen += evil;
        CHECK_FALSE((span.trusted && evil));
      }
    } catch (const Error&) {
      // Some templates refuse what the poison made of a case.
    }
  });
  CHECK(seen > 3000);
}
