// Calls of tools in answers, format by format.
#include "text/answer_parser.h"

#include <doctest/doctest.h>

#include <ctime>
#include <random>

#include "base/json_stream.h"
#include "support.h"
#include "tokenizer_support.h"

using namespace engine;

namespace {

/// What a client sees of an answer: text, calls as "name arguments", thoughts.
struct Seen {
  std::string text, reasoning;
  std::vector<std::string> calls;
  bool operator==(const Seen&) const = default;
};

std::ostream& operator<<(std::ostream& out, const Seen& seen) {
  out << "text [" << seen.text << "] reasoning [" << seen.reasoning << "]";
  for (const std::string& call : seen.calls) out << " call [" << call << "]";
  return out;
}

void see(const std::vector<AnswerPart>& parts, Seen& seen) {
  using Kind = AnswerPart::Kind;
  for (const AnswerPart& part : parts) {
    switch (part.kind) {
      case Kind::text: seen.text += part.text; break;
      case Kind::reasoning: seen.reasoning += part.text; break;
      case Kind::call_begin: seen.calls.push_back(part.text + " "); break;
      case Kind::arguments: seen.calls.back() += part.text; break;
      case Kind::call_end: CHECK(parse_json(seen.calls.back().substr(seen.calls.back().find(' ')), "arguments").is_object()); break;
      case Kind::call_broken:
        seen.calls.pop_back();
        seen.text += part.text;
        break;
    }
  }
}

const ToolCallFormat& format_named(std::string_view name) {
  for (const ToolCallFormat& row : tool_call_formats()) {
    if (row.name == name) return row;
  }
  FAIL("no such format");
  return tool_call_formats().front();
}

AnswerSyntax syntax_of(std::string_view format) {
  AnswerSyntax syntax;
  syntax.format = &format_named(format);
  syntax.functions["get_weather"] = parse_json(R"({"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"},
    "tags": {"type": "array"}, "note": {"type": ["string", "null"]}}})", "schema");
  syntax.functions["now"] = nullptr;
  return syntax;
}

Seen read(const AnswerSyntax& syntax, const std::vector<std::string>& pieces) {
  const auto parser = make_answer_parser(syntax);
  Seen seen;
  for (const std::string& piece : pieces) {
    parser->push(piece);
    see(parser->take(), seen);
  }
  parser->finish();
  see(parser->take(), seen);
  CHECK(parser->n_calls() == static_cast<int>(seen.calls.size()));
  return seen;
}

/// Whole, byte by byte, in two pieces cut at every place, and in pieces of random sizes.
Seen read_in_every_way(const AnswerSyntax& syntax, const std::string& answer) {
  const Seen whole = read(syntax, {answer});
  std::vector<std::string> bytes;
  for (const char c : answer) bytes.emplace_back(1, c);
  CHECK(read(syntax, bytes) == whole);
  for (size_t i = 0; i <= answer.size(); ++i) CHECK(read(syntax, {answer.substr(0, i), answer.substr(i)}) == whole);
  std::mt19937 random(1);
  for (int round = 0; round < 20; ++round) {
    std::vector<std::string> pieces;
    for (size_t i = 0; i < answer.size(); i += pieces.back().size()) pieces.push_back(answer.substr(i, 1 + random() % 9));
    CHECK(read(syntax, pieces) == whole);
  }
  return whole;
}

struct Row {
  const char* format;
  std::string answer;
  const char* text;
  std::vector<std::string> calls;
  const char* reasoning = "";
};

void check_rows(const std::vector<Row>& rows) {
  for (const Row& row : rows) {
    INFO(row.format, ": ", row.answer);
    CHECK(read_in_every_way(syntax_of(row.format), row.answer) == Seen{row.text, row.reasoning, row.calls});
  }
}

const std::string oslo = R"(get_weather {"city": "Oslo"})", now = "now {}";

}  // namespace

namespace {

const std::vector<Row>& good_rows() {
  static const std::vector<Row> rows = {
      {"hermes", "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Oslo\"}}\n</tool_call>", "", {oslo}},
      {"hermes", "Let me look.\n<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Oslo\"}}\n</tool_call>\n<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>",
       "Let me look.", {oslo, now}},
      {"llama3", R"({"name": "get_weather", "parameters": {"city": "Oslo"}})", "", {oslo}},
      {"llama3", R"(<|python_tag|>{"name": "get_weather", "parameters": {"city": "Oslo"}})", "", {oslo}},
      {"llama3", "\n\n{\"type\": \"function\", \"name\": \"get_weather\", \"parameters\": {\"city\": \"Oslo\"}}; {\"name\": \"now\", \"parameters\": {}}\n", "", {oslo, now}},
      {"llama3", R"({"type": "function", "function": "get_weather", "parameters": {"city": "Oslo"}})", "", {oslo}},
      {"mistral", R"([TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Oslo"}, "id": "aB3dE6gH9"}, {"name": "now", "arguments": {}}])", "", {oslo, now}},
      {"mistral", R"(Well.[TOOL_CALLS]{"name": "get_weather", "arguments": {"city": "Oslo"}})", "Well.", {oslo}},
      {"mistral-args", R"([TOOL_CALLS]get_weather[CALL_ID]aB3dE6gH9[ARGS]{"city": "Oslo"}[TOOL_CALLS]now[ARGS]{})", "", {oslo, now}},
      {"mistral-args", R"([TOOL_CALLS] [{"name": "now", "arguments": {}}])", "", {now}},
      {"granite", R"(<|tool_call|>[{"name": "get_weather", "arguments": {"city": "Oslo"}}])", "", {oslo}},
      {"nemotron", R"(<TOOLCALL>[{"name": "get_weather", "arguments": {"city": "Oslo"}}]</TOOLCALL>)", "", {oslo}},
      {"command-r7b", "I will look.<|START_ACTION|>[\n    {\"tool_call_id\": \"0\", \"tool_name\": \"get_weather\", \"parameters\": {\"city\": \"Oslo\"}},\n    {\"tool_call_id\": \"1\", \"tool_name\": \"now\", \"parameters\": {}}\n]<|END_ACTION|>",
       "I will look.", {oslo, now}},
      {"functionary", R"(Wait.<function=get_weather>{"city": "Oslo"}</function><function=now>{}</function>)", "Wait.", {oslo, now}},
      {"qwen3-coder", "Yes.\n\n<tool_call>\n<function=get_weather>\n<parameter=city>\nOslo\n</parameter>\n</function>\n</tool_call>\n<tool_call>\n<function=now>\n</function>\n</tool_call>",
       "Yes.", {oslo, now}},
      {"qwen3-coder", "<tool_call>\n<function=get_weather>\n<parameter=city>\n5\n</parameter>\n<parameter=days>\n5\n</parameter>\n<parameter=tags>\n[1, \"<b>\"]\n</parameter>\n<parameter=note>\nnull\n</parameter>\n"
       "<parameter=more>\n{\"a\": 1}\n</parameter>\n<parameter=rest>\ntwo\nlines </para>\n</parameter>\n</function>\n</tool_call>",
       "", {R"(get_weather {"city": "5", "days": 5, "tags": [1,"<b>"], "note": null, "more": {"a":1}, "rest": "two\nlines </para>"})"}},
      {"qwen3-coder", "<tool_call>\n<function=get_weather>\n<parameter=city>\n\nOslo\n\n</parameter>\n</function>\n</tool_call>", "", {R"(get_weather {"city": "\nOslo\n"})"}},
      {"glm", "Yes.\n<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Oslo</arg_value>\n</tool_call>\n<tool_call>now\n</tool_call>", "Yes.", {oslo, now}},
      {"glm", "<tool_call>get_weather<arg_key>city</arg_key><arg_value>\n5\n</arg_value><arg_key>days</arg_key><arg_value>5</arg_value></tool_call><tool_call>now</tool_call>", "", {R"(get_weather {"city": "\n5\n", "days": 5})", now}},
      {"minimax", "Yes.\n<minimax:tool_call>\n<invoke name=\"get_weather\">\n<parameter name=\"city\">Oslo</parameter>\n</invoke>\n<invoke name=\"now\">\n</invoke>\n</minimax:tool_call>", "Yes.", {oslo, now}},
      {"minimax", "<minimax:tool_call><invoke name=\"now\"></invoke></minimax:tool_call>\n<minimax:tool_call><invoke name=\"now\"></invoke></minimax:tool_call>ok", "ok", {now, now}},
      {"deepseek-v3", "Look.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n{\"city\": \"Oslo\"}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>", "Look.", {oslo, now}},
      {"deepseek-v3.1", R"(<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{"city": "Oslo"}<｜tool▁call▁end｜><｜tool▁call▁begin｜>now<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>)", "", {oslo, now}},
      {"kimi-k2", R"(<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>{"city": "Oslo"}<|tool_call_end|><|tool_call_begin|>functions.now:1<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>)", "", {oslo, now}},
      {"phi4", R"(<|tool_call|>[{"name": "get_weather", "arguments": {"city": "Oslo"}}]<|/tool_call|>)", "", {oslo}},
      {"phi4", R"(<|tool_call|>{"name": "now", "arguments": {}}<|/tool_call|>)", "", {now}},
      {"lfm2", "<|tool_call_start|>[get_weather(city='Oslo'), now()]<|tool_call_end|>Well.", "Well.", {R"(get_weather {"city":"Oslo"})", now}},
      {"lfm2.5", "<|tool_call_start|>get_weather( city = \"O's \\\"(lo\\u00e9\" , days=-1.5e+3, tags=[True, None, (1, 'b'), {'c': \"d\\n\"},], )<|tool_call_end|>", "",
       {R"(get_weather {"city":"O's \"(loé","days":-1500.0,"tags":[true,null,[1,"b"],{"c":"d\n"}]})"}},
      {"lfm2", R"(<|tool_call_start|>[{"name": "now", "arguments": {}}]<|tool_call_end|>)", "", {now}},
      {"functiongemma", "<start_function_call>call:get_weather{city:<escape>Os\"l}o<escape>,days:5,tags:[<escape>a<escape>,{b:null}]}<end_function_call><start_function_call>call:now{}<end_function_call>", "",
       {R"(get_weather {"city":"Os\"l}o","days":5,"tags":["a",{"b":null}]})", now}},
      {"gemma4", R"(<|tool_call>call:get_weather{city:<|"|>Oslo<|"|>,note:<|"|><|"|>,tags:[{<|"|>a b<|"|>:true}]}<tool_call|>Let me look.)", "Let me look.",
       {R"(get_weather {"city":"Oslo","note":"","tags":[{"a b":true}]})"}},
      {"gemma4", R"(<|tool_call>call:get_weather{city: "Oslo", "days": 5}<tool_call|>)", "", {R"(get_weather {"city":"Oslo","days":5})"}},
      {"seed", "<seed:tool_call>\n<function=get_weather>\n<parameter=city>Oslo</parameter>\n</function>\n</seed:tool_call>", "", {oslo}},
      {"harmony", "<|channel|>analysis<|message|>The user asks.<|end|><|start|>assistant<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{\"city\": \"Oslo\"}<|call|>",
       "", {oslo}, "The user asks."},
      {"harmony", " to=functions.get_weather<|channel|>commentary json<|message|>{\"city\": \"Oslo\"}<|call|>", "", {oslo}},
      {"harmony", "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant<|channel|>commentary to=functions.now<|message|> {}", "I look.", {now}},
      {"harmony", "<|channel|>analysis<|message|>Easy: a<b.<|end|><|start|>assistant<|channel|>final<|message|>It is <|x|> 4.<|return|>", "It is <|x|> 4.", {}, "Easy: a<b."},
      {"harmony", "plain <|end|>", "plain ", {}},
  };
  return rows;
}

}  // namespace

TEST_CASE("calls in every format") {
  check_rows(good_rows());
  for (const ToolCallFormat& format : tool_call_formats()) {
    CHECK_MESSAGE(std::any_of(good_rows().begin(), good_rows().end(), [&](const Row& row) { return row.format == std::string_view(format.name) && !row.calls.empty(); }), format.name);
  }
}

TEST_CASE("damaged answers are read the same in one piece and byte by byte") {
  std::mt19937 random(7);
  for (int round = 0; round < 4000; ++round) {
    const Row& row = good_rows()[random() % good_rows().size()];
    std::string answer = (random() % 3 == 0 ? "<think>a</think>" : "") + row.answer;
    for (int n = 1 + static_cast<int>(random() % 3); n > 0; --n) {
      const size_t at = random() % answer.size(), size = 1 + random() % 12;
      switch (random() % 4) {
        case 0: answer.erase(at, size); break;
        case 1: answer.insert(at, answer.substr(random() % answer.size(), size)); break;
        case 2: answer[at] = "<>{}[]()\"'\\,:= \n|a0"[random() % 19]; break;
        default: answer.resize(at + 1);
      }
      if (answer.empty()) answer = "<";
    }
    AnswerSyntax syntax = syntax_of(row.format);
    syntax.thoughts = random() % 2 == 0 ? find_thought_tags("</think>") : nullptr;
    syntax.begins_thinking = random() % 4 == 0;
    std::vector<std::string> bytes;
    for (const char c : answer) bytes.emplace_back(1, c);
    INFO(row.format, ": ", answer);
    CHECK(read(syntax, bytes) == read(syntax, {answer}));
  }
}

TEST_CASE("what calls look like when models are careless") {
  const std::string spaced = "get_weather { \"city\" : \"Oslo\" , \"days\":[ 1.5e3,-0, true,\n{\"x\":\"\\u00e9 } ]\"} ] }";
  check_rows({
      // The other order, no arguments, arguments as a string, other keys, a list, marker left out or followed by something else.
      {"hermes", R"(<tool_call>{"arguments": {"city": "Oslo"}, "name": "get_weather"}</tool_call>)", "", {oslo}},
      {"hermes", R"(<tool_call>{"name": "now"}</tool_call>)", "", {now}},
      {"hermes", R"(<tool_call>{"name": "now", "arguments": null}</tool_call>)", "", {now}},
      {"hermes", R"(<tool_call>{"name": "get_weather", "arguments": "{\"city\": \"Oslo\"}"}</tool_call>)", "", {oslo}},
      {"hermes", R"(<tool_call>{"why": [1, {"name": "x"}], "name": "get_weather", "arguments": {"city": "Oslo"}, "n": -1.5}</tool_call>)", "", {oslo}},
      {"hermes", R"(<tool_call>[{"name": "now", "arguments": {}}, {"name": "get_weather", "arguments": {"city": "Oslo"}}]</tool_call>)", "", {now, oslo}},
      {"hermes", R"(<tool_call>{"name": "now", "arguments": {}})", "", {now}},
      {"hermes", "<tool_call>{\"name\": \"now\", \"arguments\": {}}\n</tool_", "", {now}},
      {"hermes", "<tool_call>{\"name\": \"now\", \"arguments\": {}}}\n</tool_call>", "}\n</tool_call>", {now}},
      {"hermes", "<tool_call>{\"name\": \"now\", \"arguments\": {}}\n<tool_call>{\"name\": \"now\", \"arguments\": {}} and so on\n", " and so on\n", {now, now}},
      {"hermes", "<tool_call>{\"name\": \"get_weather\", \"arguments\": " + spaced.substr(12) + "}</tool_call>  \n", "", {spaced}},
      {"hermes", "a <tool_call>{\"name\": \"now\"}</tool_call>\nb\n", "a\nb\n", {now}},
      {"mistral", R"([TOOL_CALLS][{"name": "now", "arguments": {}}, )", "", {now}},
      {"llama3", R"({"name": "now", "parameters": {}}{"name": "now", "parameters": {}})", "", {now, now}},
  });
}

TEST_CASE("what is no call stays text, every byte of it") {
  std::vector<Row> rows;
  for (const char* answer : {
           "just text", " blanks around \n", "a < b and <tool and <tool_cal", "<tool_call>", "<tool_call>\n", "</tool_call>",
           "<tool_call>\n{\"name\": \"other\", \"arguments\": {}}\n</tool_call>",
           "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Os",
           "x\n<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": Oslo}}\n</tool_call> y",
           "<tool_call>{\"name\": \"now\", \"arguments\": []}</tool_call>", "<tool_call>{\"name\": \"now\", \"arguments\": \"{\"}</tool_call>",
           "<tool_call>{\"name\": \"now\", \"arguments\": \"5\"}</tool_call>", "<tool_call>{\"name\": 5, \"arguments\": {}}</tool_call>",
           "<tool_call>{\"name\": \"now\", \"name\": \"now\"}</tool_call>", "<tool_call>{\"arguments\": {}}</tool_call>", "<tool_call>{}</tool_call>",
           "<tool_call>{\"name\": \"now\",}</tool_call>", "<tool_call>{'name': 'now'}</tool_call>", "<tool_call>{\"name\" \"now\"}</tool_call>",
           "<tool_call>now()</tool_call>", "<tool_call>[]</tool_call>", "<tool_call>[1]</tool_call>", "<tool_call>\"now\"</tool_call>",
           "{\"name\": \"now\", \"arguments\": {}}", "<tool_call>{\"name\": \"now\", \"arguments\": {\"a\": tru}}",
           "<tool_call>{\"name\": \"now\", \"arguments\": {\"a\": 01}}", "<tool_call>{\"name\": \"now\", \"arguments\": {\"a\": \"\n\"}}",
       }) {
    rows.push_back({"hermes", answer, answer, {}});
  }
  for (const char* answer : {R"({"name": "other", "parameters": {}})", R"({"answer": 42})", R"({"name": "now", "parameters": {)", R"(["name"])", "{", "{{", " {} ",
                             R"(See: {"name": "now", "parameters": {}})", "<|python_tag|>print(1)", R"({"name": "now", "x": 1})", "; {\"name\": \"now\"}"}) {
    rows.push_back({"llama3", answer, answer, {}});
  }
  for (const char* answer : {"[TOOL_CALLS]", "[TOOL_CALLS] [", "[TOOL_CALLS][]", "[TOOL_CALLS][{\"name\": \"other\"}]", "[TOOL_CALLS]now{}", "[TOOL_CALL"}) {
    rows.push_back({"mistral", answer, answer, {}});
  }
  for (const char* answer : {"[TOOL_CALLS]other[ARGS]{}", "[TOOL_CALLS]now[ARGS]", "[TOOL_CALLS]now[ARGS]{\"a\"", "[TOOL_CALLS]now[ARGS]5", "[TOOL_CALLS]now", "[TOOL_CALLS]now[CALL"}) {
    rows.push_back({"mistral-args", answer, answer, {}});
  }
  for (const char* answer : {"<tool_call>\n<function=other>\n</function>", "<tool_call>\n<function=now>\n", "<tool_call>\n<function=now>\n<parameter=x", "<tool_call><function=get_weather><parameter=city>Oslo</parameter>",
                             "<tool_call>\n<function=get_weather>\n<parameter=city>\nOslo\n</parameter>\nwrong</function>"}) {
    rows.push_back({"qwen3-coder", answer, answer, {}});
  }
  for (const char* answer : {"<tool_call>now</tool_call", "<tool_call>other\n</tool_call>", "<tool_call>get_weather\n<arg_key>city</arg_key>\nOslo", "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Oslo</tool_call>"}) {
    rows.push_back({"glm", answer, answer, {}});
  }
  for (const char* answer : {"<|tool_call_start|>[other()]<|tool_call_end|>", "<|tool_call_start|>[now(", "<|tool_call_start|>[now(1)]", "<|tool_call_start|>[get_weather(city=Oslo)]<|tool_call_end|>",
                             "<|tool_call_start|>[get_weather(city='a', city='b')]", "<|tool_call_start|>[get_weather(city='\\x41')]", "<|tool_call_start|>print(now())", "<|tool_call_start|>[now(a=[1})]"}) {
    rows.push_back({"lfm2", answer, answer, {}});
  }
  for (const char* answer : {"<start_function_call>call:other{}<end_function_call>", "<start_function_call>now{}", "<start_function_call>call:get_weather{city:<escape>Oslo}<end_function_call>",
                             "<start_function_call>call:get_weather{city}", "<start_function_call>call:get_weather{days:01}", "<start_function_call>call:get_weather{city:Oslo}"}) {
    rows.push_back({"functiongemma", answer, answer, {}});
  }
  for (const char* answer : {"<minimax:tool_call>\n<invoke name=\"other\">\n</invoke>", "<minimax:tool_call>\n<invoke name=now>", "<minimax:tool_call>\n</minimax:tool_call>"}) rows.push_back({"minimax", answer, answer, {}});
  for (const char* answer : {"<|tool_calls_section_begin|><|tool_call_begin|>functions.other:0<|tool_call_argument_begin|>{}", "<|tool_calls_section_begin|><|tool_call_begin|>now", "<|tool_calls_section_begin|>"}) {
    rows.push_back({"kimi-k2", answer, answer, {}});
  }
  for (const char* answer : {"to=functions.now", " to=functions.now", "<|channel|>commentary to=functions.other<|message|>{}", "<|channel|>commentary to=functions.now<|message|>{\"a\": ",
                             "<|channel|>commentary to=functions.now<|message|>now"}) {
    rows.push_back({"harmony", answer, answer, {}});
  }
  check_rows(rows);
  // What comes before and behind stands where it stood, and calls that are whole stay.
  check_rows({
      {"hermes", "<tool_call>oops <tool_call>{\"name\": \"now\"}</tool_call>", "<tool_call>oops", {now}},
      {"hermes", "<tool_call>{\"name\": \"now\", \"arguments\": {<tool_call>{\"name\": \"now\"}</tool_call>", "<tool_call>{\"name\": \"now\", \"arguments\": {", {now}},
      {"mistral", R"([TOOL_CALLS][{"name": "now", "arguments": {}}, {"name": "get_wea)", R"(, {"name": "get_wea)", {now}},
      {"mistral", R"([TOOL_CALLS][{"name": "now", "arguments": {}} and)", " and", {now}},
      // The second call of a block.
      {"kimi-k2", "<|tool_calls_section_begin|><|tool_call_begin|>functions.now:0<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_call_begin|>functions.other:1<|tool_call_argument_begin|>{}", "<|tool_call_begin|>functions.other:1<|tool_call_argument_begin|>{}", {now}},
      {"minimax", "<minimax:tool_call>\n<invoke name=\"now\">\n</invoke>\n<invoke name=\"get_weather\">\n<parameter name=\"city\">Os", "\n<invoke name=\"get_weather\">\n<parameter name=\"city\">Os", {now}},
      {"deepseek-v3.1", "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>now<｜tool▁sep｜>{} and more", " and more", {now}},
      {"harmony", "<|channel|>commentary to=functions.now<|message|>{\"a\" <|end|><|start|>assistant<|channel|>final<|message|>Hm.", "<|channel|>commentary to=functions.now<|message|>{\"a\" Hm.", {}},
  });
}

TEST_CASE("thoughts are taken out, and hold no calls") {
  const std::string call = "<tool_call>{\"name\": \"now\"}</tool_call>";
  struct Case {
    std::string answer, text, reasoning;
    std::vector<std::string> calls = {};
  };
  const auto check = [](const AnswerSyntax& syntax, const std::vector<Case>& cases) {
    for (const Case& c : cases) {
      INFO(c.answer);
      CHECK(read_in_every_way(syntax, c.answer) == Seen{c.text, c.reasoning, c.calls});
    }
  };
  const std::vector<Case> without_calls = {
      {"<think>\nHm, 2 < 3.\n\nSo: 4.\n</think>\n\nIt is 4.\n", "It is 4.\n", "Hm, 2 < 3.\n\nSo: 4."},
      {"\n<think></think>\nYes.", "Yes.", ""},
      {"<think>\n\n</think>\n\n", "", ""},
      {"<think>a</think> <think> b </think>c", "c", "a\n\nb"},
      {"<think>a</think></think>c", "</think>c", "a"},
      {"<think>a <think> b</think>c", "c", "a <think> b"},
      {"<think>a</thin k></thinK></think>c", "c", "a</thin k></thinK>"},
      {"<think>cut \n", "", "cut"},
      {"<think>cut</thi", "", "cut</thi"},
      {"<think", "<think", ""},
      {"  <thinking>no</thinking>", "  <thinking>no</thinking>", ""},
      {"The tag <think>x</think> is text here.", "The tag <think>x</think> is text here.", ""},
      {"\n a </think>", "\n a </think>", ""},
      {"<think>a</think>\n<thi", "<thi", "a"},
  };
  AnswerSyntax plain;
  plain.thoughts = find_thought_tags("</think>");
  check(plain, without_calls);
  AnswerSyntax syntax = syntax_of("hermes");
  syntax.thoughts = plain.thoughts;
  check(syntax, without_calls);
  check(syntax, {
      {"<think>\nI could say " + call + ".\n</think>\n\n" + call, "", "I could say " + call + ".", {now}},
      {"<think>" + call, "", call},
      {"<think>a</think>\n\nWell.\n" + call + "\n<think>b</think>\n" + call, "Well.", "a\n\nb", {now, now}},
      {"<think>a</think>\n\n<tool_call>{\"name\": \"other\"}</tool_call>", "<tool_call>{\"name\": \"other\"}</tool_call>", "a"},
      {call + "\nb", "\nb", "", {now}},
  });
  // The prompt has the opening tag.
  syntax.begins_thinking = plain.begins_thinking = true;
  const std::vector<Case> begun = {
      {"\nHm.\n</think>\n\nYes.", "Yes.", "Hm."}, {"<think>\nHm.</think>Yes.", "Yes.", "Hm."}, {"\n</think>\n\nYes.", "Yes.", ""}, {"never ends", "", "never ends"}, {"<thin", "", "<thin"},
  };
  check(plain, begun);
  check(syntax, begun);
  check(syntax, {{call + "</think>" + call, "", call, {now}}});
  AnswerSyntax llama = syntax_of("llama3");
  llama.thoughts = plain.thoughts;
  check(llama, {{"<think>{}</think>\n{\"name\": \"now\", \"parameters\": {}}", "", "{}", {now}}, {"<think>a</think>\n{\"x\": 1}", "{\"x\": 1}", "a"}});
  AnswerSyntax cohere = syntax_of("command-r7b");
  cohere.thoughts = find_thought_tags("<|END_THINKING|>");
  check(cohere, {{"<|START_THINKING|>I will look.<|END_THINKING|><|START_ACTION|>[{\"tool_call_id\": \"0\", \"tool_name\": \"now\", \"parameters\": {}}]<|END_ACTION|>", "", "I will look.", {now}}});
  AnswerSyntax gemma;
  gemma.thoughts = find_thought_tags("<|channel>thought\n<channel|>");
  check(gemma, {{"<|channel>thought\nHm.\n<channel|>Yes.", "Yes.", "Hm."}, {"<|channel>other\nHm.\n<channel|>Yes.", "<|channel>other\nHm.\n<channel|>Yes.", ""}});
}

TEST_CASE("a template tells its thoughts' tags, and a prompt where they stand") {
  FIXTURE_OR_RETURN(path, "templates/cases.jsonl");
  using State = ThoughtState;
  struct Expected {
    const char* close;
    State user_only, thinking_on, thinking_off;
  };
  const std::map<std::string, Expected> expected = {
      {"Qwen-Qwen3-0.6B", {"</think>", State::none, State::none, State::closed}}, {"Qwen-QwQ-32B", {"</think>", State::closed, State::open, State::closed}},
      {"Qwen3.5-4B", {"</think>", State::open, State::open, State::closed}}, {"HuggingFaceTB-SmolLM3-3B", {"</think>", State::none, State::none, State::closed}},
      {"deepseek-ai-DeepSeek-R1-Distill-Llama-8B", {"</think>", State::open, State::open, State::open}},
      {"deepseek-ai-DeepSeek-V3.1", {"</think>", State::closed, State::open, State::closed}}, {"GLM-4.6", {"</think>", State::none, State::none, State::closed}},
      {"MiniMax-M2", {"</think>", State::open, State::open, State::open}}, {"NVIDIA-Nemotron-Nano-v2", {"</think>", State::open, State::open, State::open}},
      {"ibm-granite-granite-3.3-2B-Instruct", {"</think>", State::none, State::none, State::none}},
      {"CohereForAI-c4ai-command-r7b-12-2024-tool_use", {"<|END_THINKING|>", State::closed, State::none, State::closed}},
      {"ByteDance-Seed-OSS", {"</seed:think>", State::none, State::none, State::none}}, {"google-gemma-4-31B-it", {"<channel|>", State::closed, State::none, State::closed}},
      {"Qwen-Qwen2.5-7B-Instruct", {"", State::none, State::none, State::none}}, {"meta-llama-Llama-3.1-8B-Instruct", {"", State::none, State::none, State::none}}};
  const std::string folder = path.substr(0, path.rfind('/'));
  size_t n_seen = 0;
  for (const Json& c : test::read_json_lines(path)) {
    const auto row = expected.find(c["template"]);
    const std::string name = c["case"];
    if (row == expected.end() || !c.contains("output") || (name != "user_only" && name != "thinking_on" && name != "thinking_off")) continue;
    INFO(row->first, " ", name);
    const ThoughtTags* tags = find_thought_tags(read_text_file(folder + "/" + row->first + ".jinja"));
    CHECK(std::string(tags == nullptr ? "" : tags->close) == row->second.close);
    if (tags == nullptr) continue;
    const std::string output = c["output"];
    CHECK(thought_state(*tags, output) == (name == "user_only" ? row->second.user_only : name == "thinking_on" ? row->second.thinking_on : row->second.thinking_off));
    ++n_seen;
  }
  CHECK(n_seen >= 3 * (expected.size() - 2) - 3);
}

TEST_CASE("no more is held back than may become a marker, and arguments come as they are written") {
  const AnswerSyntax syntax = syntax_of("hermes");
  const auto parser = make_answer_parser(syntax);
  const auto after = [&](std::string_view text) {
    parser->push(text);
    std::string shown;
    for (const AnswerPart& part : parser->take()) {
      static const char* const kinds[] = {"T", "R", "B", "A", "E", "X"};
      shown += std::string(kinds[static_cast<int>(part.kind)]) + "(" + part.text + ")";
    }
    return shown;
  };
  CHECK(after("Let me") == "T(Let me)");
  CHECK(after(" see <tool") == "T( see)");
  CHECK(after("box> ") == "T( <toolbox>)");
  CHECK(after("it\n<tool_call>\n{\"name\": \"get_we") == "T( it)");
  CHECK(after("ather\", \"argu") == "");
  CHECK(after("ments\": {") == "B(get_weather)A({)");
  CHECK(after("\"city\": \"Os") == "A(\"city\": \"Os)");
  CHECK(after("lo\"}") == "A(lo\"})");
  CHECK(after("}\n</tool_call>\n") == "E()");
  CHECK(after("<tool_call>{\"name\": \"now\", \"arguments\": {\"a\": x") == "B(now)A({\"a\": )X(\n<tool_call>{\"name\": \"now\", \"arguments\": {\"a\": )T(x)");
}

TEST_CASE("time is linear in the text, whatever it is") {
  for (const std::string unit : {"<tool_call>{\"name\":\"now\",\"arguments\":{\"a\":\"", "<tool_call>", "<", " ", "\n<tool_call", "[TOOL_CALLS][", "{\"a\":", "<|start|>", " to=functions.now", "<think>", "<think>\n", "</think>", "</thin",
                                 "<|tool_call_start|>[now(a='", "<start_function_call>call:now{a:<escape>", "<tool_call>now\n<arg_key>", "<|tool_calls_section_begin|>"}) {
    for (const ToolCallFormat& format : tool_call_formats()) {
      AnswerSyntax syntax = syntax_of(format.name);
      syntax.thoughts = find_thought_tags("</think>");
      std::string text;
      while (text.size() < 100'000) text += unit;
      const auto parser = make_answer_parser(syntax);
      const std::clock_t start = std::clock();
      size_t n = 0;
      for (size_t i = 0; i < text.size(); i += 4) {
        parser->push(std::string_view(text).substr(i, 4));
        for (const AnswerPart& part : parser->take()) n += part.text.size();
      }
      parser->finish();
      for (const AnswerPart& part : parser->take()) n += part.text.size();
      INFO(format.name, " ", unit);
      CHECK(static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC < 2);
      if (parser->n_calls() == 0 && format.body != ToolCallFormat::Body::harmony) CHECK(n >= text.size() - 20);  // but for a tag and a blank or two
    }
  }
}

TEST_CASE("a template tells its format") {
  FIXTURE_OR_RETURN(directory, "templates");
  const std::vector<std::pair<const char*, const char*>> expected = {
      {"Qwen-Qwen2.5-7B-Instruct", "hermes"}, {"Qwen-Qwen3-0.6B", "hermes"}, {"Qwen-QwQ-32B", "hermes"}, {"ibm-granite-granite-4.0", "hermes"},
      {"NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use", "hermes"}, {"Qwen3-Coder", "qwen3-coder"}, {"Qwen3.5-4B", "qwen3-coder"},
      {"ByteDance-Seed-OSS", "seed"}, {"meta-llama-Llama-3.1-8B-Instruct", "llama3"}, {"meta-llama-Llama-3.2-3B-Instruct", "llama3"},
      {"meta-llama-Llama-3.3-70B-Instruct", "llama3"}, {"mistralai-Mistral-Nemo-Instruct-2407", "mistral"},
      {"Mistral-Small-3.2-24B-Instruct-2506", "mistral-args"}, {"ibm-granite-granite-3.3-2B-Instruct", "granite"}, {"openai-gpt-oss-120b", "harmony"},
      {"CohereForAI-c4ai-command-r7b-12-2024-tool_use", "command-r7b"}, {"meetkai-functionary-medium-v3.1", "functionary"},
      {"NVIDIA-Nemotron-Nano-v2", "nemotron"}, {"GLM-4.6", "glm"}, {"Kimi-K2-Instruct", "kimi-k2"}, {"LFM2-8B-A1B", "lfm2"}, {"MiniMax-M2", "minimax"}, {"Apertus-8B-Instruct", ""},
      {"deepseek-ai-DeepSeek-V3", "deepseek-v3"}, {"deepseek-ai-DeepSeek-V3.1", "deepseek-v3.1"}, {"deepseek-ai-DeepSeek-R1-Distill-Llama-8B", "deepseek-v3"}, {"google-gemma-3", ""},
      {"google-gemma-4-31B-it", "gemma4"}, {"CohereForAI-c4ai-command-r-plus-tool_use", ""}, {"meta-llama-Meta-Llama-3-8B", ""}, {"microsoft-Phi-3.5-mini-instruct", ""},
      {"mistralai-Mistral-7B-Instruct", ""}, {"databricks-dbrx-instruct", ""}, {"HuggingFaceTB-SmolLM3-3B", ""}};
  for (const auto& [name, format] : expected) {
    INFO(name);
    const ToolCallFormat* found = find_tool_call_format(read_text_file(directory + "/" + name + ".jinja"));
    CHECK(std::string(found == nullptr ? "" : found->name) == format);
  }
}

/// What templates write for calls in a conversation must be read as those calls: the format as the model learned it.
TEST_CASE("calls as templates write them are read back") {
  FIXTURE_OR_RETURN(path, "templates/cases.jsonl");
  const std::vector<std::pair<const char*, const char*>> markers = {  // template, what stands before the last answer
      {"Qwen-Qwen2.5-7B-Instruct", "<|im_start|>assistant\n"}, {"Qwen-QwQ-32B", "<|im_start|>assistant\n"}, {"ibm-granite-granite-4.0", "<|start_of_role|>assistant<|end_of_role|>"},
      {"NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use", "<|im_start|>assistant\n"}, {"Qwen3-Coder", "<|im_start|>assistant\n"},
      {"ByteDance-Seed-OSS", "<seed:bos>assistant\n"}, {"meta-llama-Llama-3.1-8B-Instruct", "assistant<|end_header_id|>\n\n"}, {"meta-llama-Llama-3.2-3B-Instruct", "assistant<|end_header_id|>\n\n"},
      {"mistralai-Mistral-Nemo-Instruct-2407", "[/INST]"}, {"Mistral-Small-3.2-24B-Instruct-2506", "[/INST]"}, {"openai-gpt-oss-120b", "<|start|>assistant"},
      {"CohereForAI-c4ai-command-r7b-12-2024-tool_use", "<|END_THINKING|>"}, {"meetkai-functionary-medium-v3.1", "assistant<|end_header_id|>\n\n"}, {"NVIDIA-Nemotron-Nano-v2", "Assistant\n"},
      {"GLM-4.6", "<think></think>"}, {"MiniMax-M2", "]~b]ai\n"}, {"deepseek-ai-DeepSeek-V3.1", "</think>"}, {"google-gemma-4-31B-it", "<|turn>model\n"}};
  const std::string folder = path.substr(0, path.rfind('/'));
  int n_read = 0;
  for (const Json& c : test::read_json_lines(path)) {
    const auto row = std::find_if(markers.begin(), markers.end(), [&](const auto& m) { return c["template"] == m.first; });
    if (c["case"] != "tool_call_pending" || row == markers.end() || !c.contains("output")) continue;
    INFO(std::string(row->first));
    const std::string output = c["output"];
    AnswerSyntax syntax;
    syntax.format = find_tool_call_format(read_text_file(folder + "/" + row->first + ".jinja"));
    for (const Json& tool : c["context"]["tools"]) syntax.functions[tool["function"]["name"].get<std::string>()] = tool["function"]["parameters"];
    const auto parser = make_answer_parser(syntax);
    parser->push(std::string_view(output).substr(output.rfind(row->second, output.rfind("Oslo")) + std::string_view(row->second).size()));
    parser->finish();
    Seen seen;
    see(parser->take(), seen);
    REQUIRE(seen.calls.size() == 1);
    const size_t blank = seen.calls[0].find(' ');
    CHECK(seen.calls[0].substr(0, blank) == "get_weather");
    CHECK(parse_json(seen.calls[0].substr(blank), "arguments") == Json{{"location", "Oslo"}});
    ++n_read;
  }
  CHECK(n_read == static_cast<int>(markers.size()));
}

TEST_CASE("JsonStream says where a value ends") {
  // Every strict value, alone and with something behind it, as the parser of whole texts judges it.
  for (const std::string text : {"{}", "[]", "\"\"", "0", "-0", "12.5e-3", "true", "false", "null", R"({"a": [1, {"b": "\"}]"}], "c\u00e9": -1})", "[[], [[]], {}]", "[ ]", "{ }", "1e5", "[1 , 2]"}) {
    JsonStream stream;
    for (size_t i = 0; i < text.size(); ++i) {
      const JsonStream::Step step = stream.push(text[i]);
      const bool number = text.find_first_of("{[\"tfn") != 0;
      CHECK(step == (i + 1 == text.size() && !number ? JsonStream::Step::last : JsonStream::Step::more));
    }
    if (text.find_first_of("{[\"tfn") != 0) CHECK(stream.push(',') == JsonStream::Step::beyond);
  }
  for (const std::string text : {"x", "tru ", "01", "-x", "1.x", "1ex", "[1,]", "{,", "{\"a\"}", "{\"a\":}", "{\"a\":1,}", "{a", "[1 2", "[}", "{]", "\"\\x", "\"\\u00g", "\"\n", " ", "nulL"}) {
    JsonStream stream;
    INFO(text);
    for (size_t i = 0; i + 1 < text.size(); ++i) CHECK(stream.push(text[i]) == JsonStream::Step::more);
    CHECK(stream.push(text.back()) == JsonStream::Step::wrong);
  }
  // Random texts of JSON's characters: right from the beginning to the end if, and only if, they parse.
  std::mt19937 random(7);
  int n_good = 0;
  for (int round = 0; round < 50'000; ++round) {
    std::string text(1, "{["[random() % 2]);
    JsonStream stream;
    JsonStream::Step step = stream.push(text[0]);
    while (step == JsonStream::Step::more && text.size() < 12) {
      text += "{}[],:\"\"0-1.e a"[random() % 16];
      step = stream.push(text.back());
    }
    const bool parses = test::message_of([&] { parse_json(text, "text"); }).empty();
    CHECK(parses == (step == JsonStream::Step::last));
    n_good += parses;
  }
  CHECK(n_good > 200);
  JsonStream deep;
  int depth = 0;
  while (deep.push('[') == JsonStream::Step::more) ++depth;
  CHECK(depth == 200);
}
