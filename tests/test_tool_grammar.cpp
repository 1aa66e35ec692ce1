// Grammars of calls: what they allow is what the parser of answers reads as calls.
#include "runtime/tool_grammar.h"

#include <doctest/doctest.h>

#include <random>

#include "base/error.h"
#include "runtime/constraint.h"
#include "runtime/json_schema.h"
#include "support.h"

using namespace engine;
using test::message_of;

namespace {

const ToolCallFormat& format_named(std::string_view name) {
  for (const ToolCallFormat& row : tool_call_formats()) {
    if (row.name == name) return row;
  }
  FAIL("no such format");
  return tool_call_formats().front();
}

AnswerSyntax syntax_of(const ToolCallFormat& format) {
  AnswerSyntax syntax;
  syntax.format = &format;
  syntax.functions["add"] = parse_json(R"({"type": "object", "properties": {"x": {"type": "integer"}, "u": {"enum": ["m", "km"]}}, "required": ["x"],
    "additionalProperties": false})", "schema");
  syntax.functions["add_all"] = nullptr;
  return syntax;
}

std::string without_control_bytes(std::string text) {
  std::erase(text, TokenTable::control_byte);
  return text;
}

/// Some sentence: random bytes that may follow, until nothing can or it could end there for the third time.
std::string sentence_of(const std::shared_ptr<const Grammar>& grammar, std::mt19937& random) {
  GrammarMatcher matcher(grammar);
  std::string text;
  int n_ends = 0;
  while (!matcher.finished() && !(matcher.complete() && ++n_ends == 3)) {
    std::string next;
    for (int c = 0; c < 256; ++c) {
      const char byte = static_cast<char>(c);
      if (matcher.accepts(std::string_view(&byte, 1))) next += byte;
    }
    REQUIRE(!next.empty());
    text += next[random() % next.size()];
    REQUIRE(matcher.advance(std::string_view(text).substr(text.size() - 1)));
  }
  return text;
}

bool begins(const std::shared_ptr<const Grammar>& grammar, std::string_view text) { return GrammarMatcher(grammar).accepts(text); }

}  // namespace

TEST_CASE("sentences are calls and nothing else") {
  std::mt19937 random(1);
  for (const ToolCallFormat& format : tool_call_formats()) {
    if (format.body == ToolCallFormat::Body::python || format.body == ToolCallFormat::Body::literal) continue;
    INFO(format.name);
    const AnswerSyntax syntax = syntax_of(format);
    for (const bool several : {false, true}) {
      for (const bool tokens : {false, true}) {
        ToolGrammarOptions options;
        options.several = several;
        options.is_token = [&](std::string_view) { return tokens; };
        const auto grammar = tool_call_grammar(syntax, options);
        for (int round = 0; round < 20; ++round) {
          const std::string sentence = sentence_of(grammar, random);
          INFO(sentence);
          CHECK((sentence.find(TokenTable::control_byte) != std::string::npos) == (tokens && !format.bare));
          const auto parser = make_answer_parser(syntax);
          parser->push(without_control_bytes(sentence));
          parser->finish();
          if (several) CHECK(parser->n_calls() >= 1);
          else CHECK(parser->n_calls() == 1);
          for (const AnswerPart& part : parser->take()) {
            CHECK(part.kind != AnswerPart::Kind::call_broken);
            if (part.kind == AnswerPart::Kind::text) CHECK(part.text.find_first_not_of(" \n") == std::string::npos);
          }
        }
      }
    }
  }
}

TEST_CASE("text is free until a call begins") {
  for (const ToolCallFormat& format : tool_call_formats()) {
    if (format.body == ToolCallFormat::Body::python || format.body == ToolCallFormat::Body::literal) {
      CHECK(message_of([&] { tool_call_grammar(syntax_of(format), {}); }).find("cannot be asked for") != std::string::npos);
      continue;
    }
    INFO(format.name);
    ToolGrammarOptions options;
    options.text = true;
    const auto grammar = tool_call_grammar(syntax_of(format), options);
    const std::string open(format.open);
    for (const std::string text : {"", "Any text: \"{[<tool\xFF<|im_end|>\xFF \xC3\xA9", "a <<|[T<tool_cal and so on"}) {
      GrammarMatcher matcher(grammar);
      CHECK(matcher.advance(text));
      CHECK(matcher.complete());
      CHECK_FALSE(matcher.finished());
    }
    for (const std::string& begin : {"Well: " + open, "<" + open, "\xFF" + open + "\xFF"}) {
      CHECK(begins(grammar, begin));
      CHECK_FALSE(begins(grammar, begin + "nothing"));
      CHECK_FALSE(begins(grammar, begin + "{\"city\""));
    }
    if (format.bare) CHECK_FALSE(begins(grammar, " {\"a"));
  }
  ToolGrammarOptions options;
  options.text = true;
  const auto hermes = tool_call_grammar(syntax_of(format_named("hermes")), options);
  const std::string call = "<tool_call>\n{\"name\": \"add\", \"arguments\": {\"x\": 5}}\n</tool_call>";
  CHECK(begins(hermes, "a" + call + " b " + call + "\nc"));
  CHECK_FALSE(begins(hermes, "a" + call + " b <tool_call>{\"name\": \"add\", \"arguments\": {\"y\""));
  const auto llama = tool_call_grammar(syntax_of(format_named("llama3")), options);
  CHECK(begins(llama, "{\"name\": \"add\", \"parameters\": {\"x\": 5}}; {\"name\": \"add_all\", \"parameters\": {}}"));
  CHECK(begins(llama, "Set {1, 2}"));
  const auto harmony = tool_call_grammar(syntax_of(format_named("harmony")), options);
  CHECK(begins(harmony, "\xFF<|channel|>\xFF" "analysis\xFF<|message|>\xFFI add {1}\xFF<|end|>\xFF\xFF<|start|>\xFF" "assistant to=functions.add\xFF<|channel|>\xFF" "commentary json\xFF<|message|>\xFF{\"x\": 5}\xFF<|call|>\xFF"));
  CHECK_FALSE(begins(harmony, "to=functions.add\xFF<|message|>\xFF{\"y\""));
  CHECK_FALSE(begins(harmony, "to=functions.adder"));
}

TEST_CASE("what has a form may come behind a thought") {
  const ThoughtTags& tags = *find_thought_tags("</think>");
  const auto matches = [](const std::shared_ptr<const Grammar>& grammar, const std::string& text) {
    GrammarMatcher matcher(grammar);
    return matcher.advance(text) && matcher.complete();
  };
  const auto json = json_object_grammar();
  const std::string object = R"({"a": 1})";
  for (const bool tokens : {false, true}) {
    const IsToken is_token = [&](std::string_view) { return tokens; };
    const std::string mark = tokens ? "\xFF" : "", open = mark + "<think>" + mark, close = mark + "</think>" + mark;
    const auto free = grammar_behind_thought(*json, tags, false, is_token);
    for (const std::string& good : {object, open + close + object, "\n" + open + "\nAny {text} </thin\xC3\xA9 \xFF<tool_call>\xFF\n" + close + "\n\n" + object}) CHECK_MESSAGE(matches(free, good), good);
    for (const std::string& bad : {open + object, open + "thought", "thought" + close + object, open + close + "\n\n\n\n\n\n" + object, open + close + "text", object + open}) CHECK_FALSE_MESSAGE(matches(free, bad), bad);
    const auto begun = grammar_behind_thought(*json, tags, true, is_token);
    for (const std::string& good : {"\n\n" + close + object, "thought" + close + "\n\n" + object, object + close + object}) CHECK_MESSAGE(matches(begun, good), good);
    for (const std::string& bad : {object, std::string("thought"), close + close, "thought" + close}) CHECK_FALSE_MESSAGE(matches(begun, bad), bad);
    CHECK_FALSE(begins(begun, "thought" + close + "text"));
  }
  // Where an answer is free until a call begins, a thought holds none, and there may be no thought.
  ToolGrammarOptions options;
  options.text = true;
  AnswerSyntax syntax = syntax_of(tool_call_formats()[0]);
  syntax.format = &format_named("hermes");
  const auto calls = grammar_behind_thought(*tool_call_grammar(syntax, options), tags, false, {});
  const std::string call = "<tool_call>\n{\"name\": \"add\", \"arguments\": {\"x\": 5}}\n</tool_call>";
  for (const std::string& good : {std::string("text"), "text " + call, "<think>or <tool_call> so</think>\n" + call, std::string("<think>a</think>b")}) CHECK_MESSAGE(matches(calls, good), good);
  CHECK_FALSE(begins(calls, "<think>a</think>b <tool_call>nothing"));
}

namespace {

/// A call of `f` with a parameter `p` whose text is `value`.
std::string tagged(const ToolCallFormat& format, const std::string& value) {
  const std::string name(format.name), line = format.value_lines ? "\n" : "";
  std::string out(format.open);
  if (!format.name_open.empty()) out += "\n";
  out += std::string(format.name_open) + "f" + std::string(format.name_close) + "\n" + std::string(format.key_open) + "p" + std::string(format.key_close);
  out += std::string(format.value_open) + line + value + line + std::string(format.value_close) + "\n" + std::string(format.call_close);
  return out + (format.close.empty() ? "" : "\n" + std::string(format.close));
}

}  // namespace

TEST_CASE("parameters in tags are what their schemas say") {
  struct Row {
    const char* schema;  // of p
    std::vector<std::pair<const char*, const char*>> good;  // text, and what is read
    std::vector<const char*> bad;
  };
  const std::vector<Row> rows = {
      {R"({"type": "string"})", {{"", R"("")"}, {"Oslo", R"("Oslo")"}, {"5", R"("5")"}, {"two\nlines < é \"x\" </para", R"("two\nlines < é \"x\" </para")"}, {"{\"a\":1}", R"("{\"a\":1}")"}}, {"\xFF", "\x01"}},
      {R"({"type": "integer"})", {{"5", "5"}, {"-12", "-12"}}, {"", "x", "1.5", "\"5\""}},
      {R"({"type": "boolean"})", {{"true", "true"}}, {"True", "1"}},
      {R"({"enum": ["m", "km", 5, "5", null]})", {{"m", R"("m")"}, {"km", R"("km")"}, {"5", "5"}, {"null", "null"}}, {"x", "\"m\"", "mm"}},
      {R"({"type": "string", "enum": ["m", 5]})", {{"m", R"("m")"}}, {"5"}},
      {R"({"type": ["string", "null"]})", {{"null", "null"}, {"x", R"("x")"}, {"5", R"("5")"}, {"[1", R"("[1")"}}, {}},
      {R"({"anyOf": [{"type": "integer"}, {"type": "null"}]})", {{"5", "5"}, {"null", "null"}}, {"x"}},
      {R"({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "integer"}}]})", {{"[1,2]", "[1,2]"}, {"x", R"("x")"}, {"", R"("")"}}, {"[\"a\"]", "{\"a\":1}", " [true]"}},
      {R"({"$ref": "#/$defs/point"})", {{R"({"x": 1})", R"({"x":1})"}}, {R"({"x": "1"})", "x"}},
      {R"({"type": "array", "items": {"$ref": "#/$defs/point"}})", {{R"([{"x": 1}])", R"([{"x":1}])"}}, {"[1]"}},
      {"{}", {{"x", R"("x")"}, {"5", "5"}, {R"({"a": 1})", R"({"a":1})"}}, {}},
  };
  for (const char* name : {"qwen3-coder", "seed", "glm", "minimax"}) {
    const ToolCallFormat& format = format_named(name);
    for (const Row& row : rows) {
      AnswerSyntax syntax;
      syntax.format = &format;
      syntax.functions["f"] = parse_json(R"({"type": "object", "properties": {"p": )" + std::string(row.schema) + R"(}, "required": ["p"],
        "$defs": {"point": {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}}})", "schema");
      ToolGrammarOptions options;
      options.strict = {"f"};
      const auto grammar = tool_call_grammar(syntax, options);
      const auto matches = [&](const std::string& text) {
        GrammarMatcher matcher(grammar);
        return matcher.advance(text) && matcher.complete();
      };
      for (const auto& [text, json] : row.good) {
        const std::string answer = tagged(format, text);
        INFO(name, " ", row.schema, " ", answer);
        CHECK(matches(answer));
        const auto parser = make_answer_parser(syntax);
        parser->push(answer);
        parser->finish();
        std::string arguments;
        for (const AnswerPart& part : parser->take()) {
          CHECK(part.kind != AnswerPart::Kind::text);
          if (part.kind == AnswerPart::Kind::arguments) arguments += part.text;
        }
        CHECK(arguments == "{\"p\": " + std::string(json) + "}");
      }
      for (const char* text : row.bad) CHECK_FALSE_MESSAGE(matches(tagged(format, text)), name, " ", row.schema, " ", text);
    }
  }
}

TEST_CASE("which parameters come in tags, and what cannot be kept to") {
  AnswerSyntax syntax;
  syntax.format = &format_named("qwen3-coder");
  ToolGrammarOptions options;
  options.strict = {"f"};
  const auto matches = [&](const std::vector<std::pair<std::string, std::string>>& parameters) {
    std::string text = "<tool_call>\n<function=f>\n";
    for (const auto& [key, value] : parameters) text += "<parameter=" + key + ">\n" + value + "\n</parameter>\n";
    GrammarMatcher matcher(tool_call_grammar(syntax, options));
    return matcher.advance(text + "</function>\n</tool_call>") && matcher.complete();
  };
  syntax.functions["f"] = parse_json(R"({"properties": {"a": {"type": "integer"}, "b": {"type": "string"}, "c": {"type": "null"}}, "required": ["b"]})", "schema");
  CHECK(matches({{"b", "x"}}));
  CHECK(matches({{"a", "1"}, {"b", "x"}, {"c", "null"}}));
  CHECK_FALSE(matches({}));
  CHECK_FALSE(matches({{"a", "1"}}));
  CHECK_FALSE(matches({{"b", "x"}, {"a", "1"}}));
  CHECK_FALSE(matches({{"b", "x"}, {"b", "x"}}));
  CHECK_FALSE(matches({{"b", "x"}, {"d", "x"}}));
  syntax.functions["f"] = nullptr;
  CHECK(matches({}));
  CHECK_FALSE(matches({{"a", "1"}}));
  syntax.functions["f"] = parse_json(R"({"additionalProperties": {"type": "integer"}, "required": ["k"]})", "schema");
  CHECK(matches({{"k", "1"}}));
  CHECK(matches({{"k", "1"}, {"any", "2"}, {"other.key", "3"}}));
  CHECK_FALSE(matches({{"any", "2"}}));
  CHECK_FALSE(matches({{"k", "x"}}));
  for (const auto& [schema, expected] : std::vector<std::pair<const char*, const char*>>{
           {R"({"properties": {"p": {"type": "string", "maxLength": 3}}})", "minLength and maxLength"}, {R"({"properties": {"a>b": {}}})", "schema.properties: expected names"},
           {R"({"properties": {"p": {"enum": ["</parameter>"]}}})", "schema.enum: expected values"}, {R"({"anyOf": [{"properties": {"p": {}}}, {"properties": {"q": {}}}]})", "one object's schema"}}) {
    syntax.functions["f"] = parse_json(schema, "schema");
    options.strict = {"f"};
    const std::string message = message_of([&] { tool_call_grammar(syntax, options); });
    CHECK_MESSAGE(message.starts_with("f: schema"), message);
    CHECK_MESSAGE(message.find(expected) != std::string::npos, message);
    options.strict = {};
    CHECK(matches({{"any", "thing\n at all"}, {"p", "1"}}));
    CHECK(matches({}));
  }
}

TEST_CASE("choices of choices end somewhere") {
  Json schema = {{"type", "object"}, {"properties", {{"p", {{"$ref", "#/$defs/c0"}}}}}};
  for (int i = 0; i < 7; ++i) {
    Json choices = Json::array();
    for (int k = 0; k < 200; ++k) choices.push_back({{"$ref", "#/$defs/c" + std::to_string(i + 1)}});
    schema["$defs"]["c" + std::to_string(i)]["anyOf"] = choices;
  }
  schema["$defs"]["c7"] = {{"type", "integer"}};
  AnswerSyntax syntax;
  syntax.format = &format_named("glm");
  syntax.functions["f"] = schema;
  ToolGrammarOptions options;
  options.strict = {"f"};
  CHECK(message_of([&] { tool_call_grammar(syntax, options); }).find("fewer choices") != std::string::npos);
  options.strict = {};
  CHECK(begins(tool_call_grammar(syntax, options), "<tool_call>f\n<arg_key>p</arg_key>\n<arg_value>x</arg_value>\n</tool_call>"));
  const auto parser = make_answer_parser(syntax);
  parser->push("<tool_call>f\n<arg_key>p</arg_key>\n<arg_value>5</arg_value>\n</tool_call>");
  CHECK(parser->n_calls() == 1);
}

TEST_CASE("pieces of a format are tokens where the vocabulary has them") {
  ToolGrammarOptions options;
  options.several = false;
  options.is_token = [](std::string_view marker) { return marker == "<|tool_calls_section_begin|>" || marker == "<|tool_call_begin|>" || marker == "</arg_value>"; };
  const auto kimi = tool_call_grammar(syntax_of(format_named("kimi-k2")), options);
  CHECK(begins(kimi, "\xFF<|tool_calls_section_begin|>\xFF\xFF<|tool_call_begin|>\xFF" "functions.add:0<|tool_call_argument_begin|>{\"x\": 5}<|tool_call_end|><|tool_calls_section_end|>"));
  CHECK_FALSE(begins(kimi, "<|tool_calls_section_begin|>"));
  AnswerSyntax syntax;
  syntax.format = &format_named("glm");
  syntax.functions["f"] = parse_json(R"({"properties": {"p": {"type": "string"}}, "required": ["p"]})", "schema");
  const auto glm = tool_call_grammar(syntax, options);
  CHECK(begins(glm, "<tool_call>f\n<arg_key>p</arg_key>\n<arg_value>text </arg\xFF</arg_value>\xFF\n</tool_call>"));
  CHECK_FALSE(begins(glm, "<tool_call>f\n<arg_key>p</arg_key>\n<arg_value>text\xFF<"  "tool_call>\xFF"));
}

TEST_CASE("schemas that cannot be kept to") {
  AnswerSyntax syntax = syntax_of(tool_call_formats()[0]);
  for (const ToolCallFormat& row : tool_call_formats()) {
    if (row.bare) syntax.format = &row;
  }
  ToolGrammarOptions options;
  for (const char* schema : {R"({"type": "object", "properties": {"when": {"type": "string", "format": "date"}}})", R"({"type": "array"})", R"({"required": ["a"], "properties": {"a": false}})"}) {
    INFO(schema);
    syntax.functions["add"] = parse_json(schema, "schema");
    options.strict = {};
    CHECK(begins(tool_call_grammar(syntax, options), R"({"name": "add", "parameters": {"any": [1]}})"));
    options.strict = {"add"};
    CHECK(message_of([&] { tool_call_grammar(syntax, options); }).starts_with("add: schema"));
  }
  syntax.functions["add"] = parse_json("{}", "schema");
  CHECK(begins(tool_call_grammar(syntax, options), R"({"name": "add", "parameters": {"any": [1]}})"));
  CHECK_FALSE(begins(tool_call_grammar(syntax, options), R"({"name": "add", "parameters": 5)"));
}
