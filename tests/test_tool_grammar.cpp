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
    if (format.body == ToolCallFormat::Body::parameters) continue;
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
    if (format.body == ToolCallFormat::Body::parameters) continue;
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
  const auto format = [](std::string_view name) -> const ToolCallFormat& {
    for (const ToolCallFormat& row : tool_call_formats()) {
      if (row.name == name) return row;
    }
    FAIL("no such format");
    return tool_call_formats().front();
  };
  const auto hermes = tool_call_grammar(syntax_of(format("hermes")), options);
  const std::string call = "<tool_call>\n{\"name\": \"add\", \"arguments\": {\"x\": 5}}\n</tool_call>";
  CHECK(begins(hermes, "a" + call + " b " + call + "\nc"));
  CHECK_FALSE(begins(hermes, "a" + call + " b <tool_call>{\"name\": \"add\", \"arguments\": {\"y\""));
  const auto llama = tool_call_grammar(syntax_of(format("llama3")), options);
  CHECK(begins(llama, "{\"name\": \"add\", \"parameters\": {\"x\": 5}}; {\"name\": \"add_all\", \"parameters\": {}}"));
  CHECK(begins(llama, "Set {1, 2}"));
  const auto harmony = tool_call_grammar(syntax_of(format("harmony")), options);
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
  for (const ToolCallFormat& row : tool_call_formats()) {
    if (std::string_view(row.name) == "hermes") syntax.format = &row;
  }
  const auto calls = grammar_behind_thought(*tool_call_grammar(syntax, options), tags, false, {});
  const std::string call = "<tool_call>\n{\"name\": \"add\", \"arguments\": {\"x\": 5}}\n</tool_call>";
  for (const std::string& good : {std::string("text"), "text " + call, "<think>or <tool_call> so</think>\n" + call, std::string("<think>a</think>b")}) CHECK_MESSAGE(matches(calls, good), good);
  CHECK_FALSE(begins(calls, "<think>a</think>b <tool_call>nothing"));
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
