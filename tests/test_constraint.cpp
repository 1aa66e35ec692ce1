// Grammars, JSON Schemas as grammars, and masks of a vocabulary.
#include "runtime/constraint.h"

#include <doctest/doctest.h>

#include <chrono>
#include <cmath>
#include <limits>
#include <random>

#include "base/error.h"
#include "runtime/json_schema.h"
#include "support.h"
#include "tiny_engine.h"
#include "tokenizer_support.h"

using namespace engine;
using test::message_of;
using Element = Grammar::Element;

namespace {

Element one(char c) {
  ByteSet set;
  set.set(static_cast<uint8_t>(c));
  return Element::of(set);
}

/// Whether `text` is a sentence, given in one piece and byte by byte.
bool matches(const std::shared_ptr<const Grammar>& grammar, std::string_view text) {
  GrammarMatcher whole(grammar), bytewise(grammar);
  const bool possible = whole.accepts(text);
  CHECK(whole.advance(text) == possible);
  bool each = true;
  for (const char c : text) each = each && bytewise.advance(std::string_view(&c, 1));
  CHECK(each == possible);
  if (possible) CHECK(whole.complete() == bytewise.complete());
  return possible && whole.complete();
}

struct Row {
  const char* schema;
  std::vector<const char*> good, bad;
};

void check_rows(const std::vector<Row>& rows) {
  for (const Row& row : rows) {
    INFO(row.schema);
    const auto grammar = json_schema_grammar(parse_json(row.schema, "schema"));
    for (const char* text : row.good) CHECK_MESSAGE(matches(grammar, text), text);
    for (const char* text : row.bad) CHECK_MESSAGE(!matches(grammar, text), text);
  }
}

}  // namespace

TEST_CASE("a grammar with recursion, choices and nothing") {
  Grammar::Builder builder;
  // s -> "" | "a" s "b" | "c"
  const auto s = builder.add_rule();
  builder.add_alternative(s, {});
  builder.add_alternative(s, {one('a'), Element::of(s), one('b')});
  builder.add_alternative(s, {one('c')});
  const auto grammar = builder.finish(s);
  for (const char* text : {"", "ab", "aabb", "c", "acb", "aacbb"}) CHECK_MESSAGE(matches(grammar, text), text);
  for (const char* text : {"a", "b", "aab", "abb", "abab", "cc", "acbc"}) CHECK_MESSAGE(!matches(grammar, text), text);

  GrammarMatcher matcher(grammar);
  CHECK(matcher.complete());
  CHECK_FALSE(matcher.finished());
  CHECK(matcher.advance("a"));
  CHECK_FALSE(matcher.advance("bb"));  // and nothing changed
  CHECK(matcher.accepts("acbb"));
  CHECK(matcher.advance("cb"));
  CHECK(matcher.finished());
  CHECK_FALSE(matcher.accepts("b"));
}

TEST_CASE("depth is bounded, and what was begun can be ended at every depth") {
  Grammar::Builder builder;
  // s -> "()" | "(" s ")" : at the deepest level only the first is left.
  const auto s = builder.add_rule({{one('('), one(')')}});
  builder.add_alternative(s, {one('('), Element::of(s), one(')')});
  GrammarMatcher matcher(builder.finish(s));
  int depth = 0;
  while (matcher.advance("(")) ++depth;
  CHECK(depth == Grammar::max_depth + 1);
  for (int i = 0; i < depth; ++i) CHECK(matcher.advance(")"));
  CHECK(matcher.finished());
  // A list at its end needs no depth.
  Grammar::Builder other;
  const auto list = other.add_rule();
  other.add_alternative(list, {});
  other.add_alternative(list, {one('x'), Element::of(list)});
  CHECK(matches(other.finish(list), std::string(100'000, 'x')));
}

TEST_CASE("rules without end, and circles") {
  Grammar::Builder endless;
  const auto e = endless.add_rule();
  endless.add_alternative(e, {one('x'), Element::of(e)});
  CHECK(message_of([&] { endless.finish(e); }).find("finite text") != std::string::npos);
  Grammar::Builder circle;
  const auto a = circle.add_rule(), b = circle.add_rule();
  circle.add_alternative(a, {Element::of(b)});
  circle.add_alternative(b, {Element::of(a)});
  circle.add_alternative(b, {one('y')});
  circle.add_alternative(a, {Element::of(a), one('z')});  // left recursion: as deep as the limit
  const auto grammar = circle.finish(a);
  CHECK(matches(grammar, "y"));
  CHECK(matches(grammar, "yzz"));
  CHECK_FALSE(matches(grammar, "z"));
}

TEST_CASE("states are forgotten and found again") {
  Grammar::Builder builder;
  const auto rule = builder.add_rule({{one('.')}});
  builder.add_alternative(rule, {one('('), Element::of(rule), one(')')});
  builder.add_alternative(rule, {one('['), Element::of(rule), one(']')});
  // Brackets nest in so many ways that the tables overflow.
  GrammarMatcher matcher(builder.finish(rule));
  std::mt19937 random(1);
  REQUIRE(matcher.advance("(["));
  for (int i = 0; i < 2000; ++i) {
    std::string text, end;
    for (int k = 0; k < 40; ++k) {
      const bool round = random() % 2 == 0;
      text += round ? '(' : '[';
      end.insert(end.begin(), round ? ')' : ']');
    }
    REQUIRE(matcher.accepts(text + "." + end + "])"));
    REQUIRE_FALSE(matcher.accepts(text + "." + end + ")"));
  }
  CHECK(matcher.advance(".])"));
  CHECK(matcher.finished());
}

TEST_CASE("any JSON object") {
  const auto grammar = json_object_grammar();
  for (const char* text : {"{}", " {}", "{ }", "{\n  \"a\": 1\n}", R"({"a":[1,-2.5e+10,"x\n\u00e9\ud83d\ude00 é😀",true,false,null,{},[ ]],"":{"b":0}})"}) {
    CHECK_MESSAGE(matches(grammar, text), text);
  }
  for (const char* text : {"", "[]", "1", "{", "{} ", "{a:1}", "{\"a\"}", "{\"a\":}", "{\"a\":1,}", "{,}", "{\"a\":01}", "{\"a\":1.}", "{\"a\":.5}",
                           "{\"a\":+1}", "{\"a\":1e}", "{\"a\":\"\n\"}", "{\"a\":\"\\x\"}", "{\"a\":\"\\u12g4\"}", R"({"a":"\ud83d"})",
                           R"({"a":"\ude00"})", "{\"a\":\"\xff\"}", "{\"a\":\"\xc0\xaf\"}", "{\"a\":\"\xed\xa0\x80\"}", "{\"a\":  1}",
                           "{\"a\":1234567890123456}", "{\"a\":1e100}", "{'a':1}", "{\"a\":nul}"}) {
    CHECK_MESSAGE(!matches(grammar, text), text);
  }
  CHECK(matches(grammar, "{\"a\":\n" + std::string(32, ' ') + "1}"));
  CHECK_FALSE(matches(grammar, "{\"a\":\n" + std::string(33, ' ') + "1}"));
  // Deep nesting stops, and can always be closed.
  GrammarMatcher matcher(grammar);
  std::string text = "{\"a\":", closing = "}";
  REQUIRE(matcher.advance(text));
  for (const std::string opening = "[{\"a\":"; matcher.advance(opening); text += opening) closing = "}]" + closing;
  REQUIRE(matcher.advance("1"));
  text += "1";
  CHECK(closing.size() > 80);
  CHECK(matcher.advance(closing));
  CHECK(matcher.finished());
  CHECK_NOTHROW(parse_json(text + closing, "answer"));
}

TEST_CASE("blanks are bounded everywhere, and leave room for JSON as people write it") {
  const Json deep = parse_json(R"({"a": [[[[[[{"b": {"c": [1, {"d": []}]}}]]]]]], "e": {"f": {"g": {}}}})", "value");
  const auto any = json_object_grammar();
  for (const int indent : {-1, 1, 2}) CHECK_MESSAGE(matches(any, deep.dump(indent)), indent);
  CHECK(matches(any, deep["e"].dump(4)));
  CHECK(matches(any, dump_json(deep)));
  const auto of_schema = json_schema_grammar(parse_json(R"({"type":"object","properties":{"a":{"type":"array","items":{"type":"integer"}},"b":{"enum":[null,true]},
      "c":{"type":"array","prefixItems":[{"type":"number"}]}},"additionalProperties":{"type":"string"}})", "schema"));
  // Wherever blanks may stand, they run out: a line's end and 32 of them, or one.
  for (const auto& grammar : {any, of_schema}) {
    for (const std::string text : {"", "{", "{\"a\":", "{\"a\":[", "{\"a\":[1,", "{\"a\":[]", "{\"b\":true", "{\"b\":null,", "{\"c\":[", "{\"c\":[1", "{\"x\":\"\"", "{\"x\":\"\","}) {
      GrammarMatcher matcher(grammar);
      if (!matcher.advance(text)) continue;  // the schema has no such member there
      for (const std::string blanks : {" ", "\n", "\t", "\r"}) {
        size_t longest = 0;
        std::string run = blanks;
        while (longest < 100 && matcher.accepts(run)) longest = run.size(), run += matcher.accepts(run + " ") ? " " : matcher.accepts(run + "\n") ? "\n" : "\t";
        CHECK_MESSAGE(longest <= 33, text, " ", longest);
      }
    }
  }
}

TEST_CASE("oneOf takes schemas that exclude each other") {
  const auto refusal = [](const std::string& choices) { return message_of([&] { json_schema_grammar(parse_json(R"({"$defs":{"n":{"type":"number"}},"oneOf":[)" + choices + "]}", "schema")); }); };
  for (const char* choices : {
           R"({"type":"integer"},{"type":"string"},{"type":["null","boolean"]})", R"({"const":1},{"const":2},{"enum":[3,"1"]})", R"({"const":"a"},{"type":"number"})",
           R"({"type":"object"},{"type":"array"})", R"({"$ref":"#/$defs/n"},{"type":"string"})", R"({"anyOf":[{"type":"null"},{"const":5}]},{"type":"string"},{"const":6})",
           R"({"properties":{"kind":{"const":"cat"}},"required":["kind"]},{"properties":{"kind":{"const":"dog"},"n":{"type":"integer"}},"required":["kind"]})",
           R"({"properties":{"k":{"type":"object","properties":{"v":{"enum":[1,2]}},"required":["v"]}},"required":["k"]},{"properties":{"k":{"properties":{"v":{"const":3}},"required":["v"]}},"required":["k"]})",
           R"({"properties":{"a":{"type":"string"}},"required":["a"]},{"properties":{"b":{"type":"string"}},"additionalProperties":false})",
           R"({"type":"string"})", R"(false,{"type":"string"})",
       }) {
    CHECK_MESSAGE(refusal(choices) == "", choices);
  }
  for (const char* choices : {
           R"({"type":"integer"},{"type":"number"})", R"({"const":1},{"enum":[2,1.0]})", R"({"const":"a"},{"type":"string"})", R"({},{"type":"string"})", R"(true,{"type":"string"})",
           R"({"type":["null","string"]},{"type":"string"})", R"({"$ref":"#/$defs/n"},{"type":"integer"})", R"({"anyOf":[{"type":"null"},{"type":"string"}]},{"const":"x"})",
           R"({"properties":{"a":{"type":"string"}}},{"properties":{"b":{"type":"string"}}})",
           R"({"properties":{"kind":{"const":"cat"}}},{"properties":{"kind":{"const":"dog"}},"required":["kind"]})",
           R"({"properties":{"kind":{"const":"cat"}},"required":["kind"]},{"properties":{"kind":{"type":"string"}},"required":["kind"]})",
           R"({"type":"array","items":{"type":"string"}},{"type":"array","items":{"type":"null"}})", R"({"$ref":"#"},{"type":"string"})",
       }) {
    const std::string message = refusal(choices);
    CHECK_MESSAGE(message.starts_with("schema.oneOf: expected schemas that exclude each other"), choices, " -> ", message);
    CHECK_MESSAGE(message.find("got [0] and [1]") != std::string::npos, message);
  }
  const auto pets = json_schema_grammar(parse_json(R"({"oneOf":[{"properties":{"kind":{"const":"cat"}},"required":["kind"]},
      {"properties":{"kind":{"const":"dog"},"n":{"type":"integer"}},"required":["kind"]}]})", "schema"));
  CHECK(matches(pets, R"({"kind":"cat"})"));
  CHECK(matches(pets, R"({"kind":"dog","n":1})"));
  CHECK_FALSE(matches(pets, R"({"kind":"cat","n":1})"));
}

TEST_CASE("schemas") {
  check_rows({
      {"true", {"1", "\"x\"", "{\"a\":[]}"}, {"", "x"}},
      {"{}", {"null", "[1, 2]"}, {"nul"}},
      {R"({"type":"integer"})", {"0", "-12", " 7"}, {"1.0", "01", "\"1\"", "7 "}},
      {R"({"type":"number"})", {"0", "-1.5e-3", "2E5"}, {"true", "1e", "-"}},
      {R"({"type":["string","null"]})", {"\"\"", "null"}, {"0"}},
      {R"({"type":"boolean","title":"t","description":"d","default":true,"examples":[true],"$schema":"s","$id":"i","$comment":"c"})", {"true"}, {"1"}},
      {R"({"enum":["a\"b", 1, null, {"k":[1]}, "é"]})", {"\"a\\\"b\"", "1", "null", "{\"k\":[1]}", "\"é\""}, {"\"a\"", "2", "11"}},
      {R"({"enum":["a", 1, 2.0], "type":"integer"})", {"1", "2.0"}, {"\"a\""}},
      {R"({"const":"x"})", {"\"x\""}, {"\"y\""}},
      {R"({"type":"string","minLength":2,"maxLength":3})", {"\"ab\"", "\"éé\"", R"("\ud83d\ude00x")", "\"\\n\\n\\n\"", "\"abc\""}, {"\"a\"", "\"é\"", "\"abcd\"", R"("\ud83d\ude00")"}},
      {R"({"minLength":1})", {"\"a\"", "\"abcdefgh\""}, {"\"\"", "1"}},
      {R"({"type":"string","maxLength":0})", {"\"\""}, {"\"a\""}},
      {R"({"type":"array"})", {"[]", "[1,\"a\"]"}, {"{}"}},
      {R"({"type":"array","items":{"type":"integer"}})", {"[]", "[ 1 , 2 ]", "[1,2,3,4]"}, {"[\"a\"]", "[1,]", "[,1]"}},
      {R"({"type":"array","items":{"type":"integer"},"minItems":2})", {"[1,2]", "[1,2,3,4,5]"}, {"[]", "[1]"}},
      {R"({"type":"array","items":{"type":"integer"},"minItems":1,"maxItems":3})", {"[1]", "[1,2]", "[1,2,3]"}, {"[]", "[1,2,3,4]"}},
      {R"({"type":"array","items":{"type":"integer"},"maxItems":0})", {"[]", "[ ]"}, {"[1]"}},
      {R"({"items":false})", {"[]"}, {"[1]"}},
      {R"({"prefixItems":[{"type":"integer"},{"type":"string"}]})", {"[]", "[1]", "[1,\"a\"]"}, {"[\"a\"]", "[1,\"a\",2]"}},
      {R"({"prefixItems":[{"type":"integer"}],"items":{"type":"null"},"minItems":2})", {"[1,null]", "[1,null,null]"}, {"[1]", "[null,null]", "[1,1]"}},
      {R"({"type":"object"})", {"{}", R"({"a":1,"b":{}})"}, {"[]"}},
      {R"({"type":"object","properties":{"a":{"type":"integer"},"b":{"type":"string"}},"required":["a","b"],"additionalProperties":false})",
       {R"({"a":1,"b":"x"})", "{\n  \"a\": 1,\n  \"b\": \"x\"\n}"},
       {"{}", R"({"a":1})", R"({"b":"x","a":1})", R"({"a":1,"b":"x","c":1})", R"({"a":1,"b":2})", R"({"a":1,,"b":"x"})"}},
      {R"({"properties":{"a":{"type":"integer"},"b":{"type":"integer"},"c":{"type":"integer"}},"required":["b"]})",
       {R"({"b":1})", R"({"a":1,"b":2})", R"({"b":1,"c":2})", R"({"a":1,"b":2,"c":3})"}, {"{}", R"({"a":1})", R"({"a":1,"c":2})", R"({"b":1,"d":2})", R"({,"b":1})"}},
      {R"({"properties":{"a":{"type":"integer"},"b":{"type":"integer"}}})", {"{}", "{ }", R"({"a":1})", R"({"b":1})", R"({"a":1,"b":1})"}, {R"({"b":1,"a":1})", R"({"a":1,})"}},
      {R"({"type":"object","additionalProperties":{"type":"integer"}})", {"{}", R"({"x":1,"é":2})"}, {R"({"x":"y"})"}},
      {R"({"properties":{"ab":{"type":"integer"},"é":{"type":"null"}},"additionalProperties":{"type":"string"}})",
       {"{}", R"({"ab":1})", R"({"ab":1,"x":"y"})", R"({"a":"y"})", R"({"abc":"y"})", R"({"ac":"y","z":"1"})", R"({"aé":"y"})", R"({"é":null})"},
       {R"({"ab":"y"})", R"({"x":"y","ab":"y"})", R"({"x":1})", R"({"\u0061b":"y"})", R"({"é":"y"})", R"({"":1})"}},
      {R"({"required":["k"],"additionalProperties":{"type":"integer"}})", {R"({"k":1})", R"({"k":1,"j":2})"}, {"{}", R"({"j":2})"}},
      {R"({"properties":{"no":false,"yes":{"type":"null"}}})", {"{}", R"({"yes":null})"}, {R"({"no":1})"}},
      {R"({"anyOf":[{"type":"integer"},{"type":"array","items":{"type":"null"}}]})", {"3", "[null]"}, {"null", "[3]"}},
      {R"({"oneOf":[{"const":1},{"const":12}]})", {"1", "12"}, {"2", "112"}},
      {R"({"allOf":[{"$ref":"#/$defs/x"}],"$defs":{"x":{"type":"boolean"}}})", {"true"}, {"1"}},
      {R"({"$ref":"#/definitions/a~1b","definitions":{"a/b":{"const":null}}})", {"null"}, {"1"}},
      {R"({"type":"object","properties":{"v":{"type":"integer"},"next":{"anyOf":[{"$ref":"#"},{"type":"null"}]}},"required":["v","next"]})",
       {R"({"v":1,"next":null})", R"({"v":1,"next":{"v":2,"next":{"v":3,"next":null}}})"}, {R"({"v":1})", R"({"v":1,"next":{"v":2}})"}},
      {R"({"anyOf":[{"$ref":"#"},{"const":5}]})", {"5"}, {"6"}},
  });
}

TEST_CASE("schemas that are refused") {
  const auto refusal = [](const std::string& schema) { return message_of([&] { json_schema_grammar(parse_json(schema, "schema")); }); };
  for (const char* keyword : {"pattern", "format", "minimum", "maximum", "multipleOf", "not", "if", "uniqueItems", "patternProperties", "minProperties",
                              "dependentRequired", "contains", "nullable"}) {
    const std::string message = refusal(R"({"properties":{"p":{"items":{")" + std::string(keyword) + R"(":1}}}})");
    CHECK(message == "schema.properties.p.items: keyword '" + std::string(keyword) + "' is not supported");
  }
  const std::pair<const char*, const char*> rows[] = {
      {"5", "schema: expected a schema"},
      {R"({"type":"text"})", "schema.type: expected a type of JSON"},
      {R"({"type":[]})", "schema.type: expected at least one"},
      {R"({"maxLength":-1})", "schema.maxLength: expected a whole number from 0"},
      {R"({"maxLength":1.5})", "schema.maxLength"},
      {R"({"type":"array","maxItems":257})", "schema.maxItems: expected a whole number from 0 to 256, got 257"},
      {R"({"minItems":18446744073709551615})", "schema.minItems"},
      {R"({"enum":[]})", "schema.enum: expected a list of values"},
      {R"({"enum":["a"],"maxLength":1})", "keyword 'maxLength' beside 'enum'"},
      {R"({"anyOf":[]})", "schema.anyOf: expected a list"},
      {R"({"anyOf":[{}],"type":"object"})", "keyword 'type' beside 'anyOf'"},
      {R"({"allOf":[{},{}]})", "schema.allOf: more than one"},
      {R"({"anyOf":[{},7]})", "schema.anyOf[1]: expected a schema"},
      {R"({"$ref":"http://x/y"})", "schema.$ref: expected a place in this schema"},
      {R"({"$ref":"#/$defs/none"})", "schema.$ref"},
      {R"({"$ref":"#/a~2"})", "schema.$ref"},
      {R"({"required":["a"],"additionalProperties":false})", "schema.required: expected names of properties"},
      {R"({"properties":[]})", "schema.properties: expected an object"},
      {"false", "finite text"},
      {R"({"$ref":"#"})", "finite text"},
      {R"({"minLength":3,"maxLength":2})", "finite text"},
      {R"({"enum":["a"],"type":"integer"})", "finite text"},
      {R"({"properties":{"x":{"$ref":"#"}},"required":["x"]})", "finite text"},
  };
  for (const auto& [schema, expected] : rows) CHECK_MESSAGE(refusal(schema).find(expected) != std::string::npos, schema, " -> ", refusal(schema));
  std::string deep;
  for (int i = 0; i < 100; ++i) deep += R"({"items":)";
  CHECK(refusal(deep + "true" + std::string(100, '}')).find("levels") != std::string::npos);
  Json wide;
  for (int i = 0; i < 257; ++i) wide["properties"]["p" + std::to_string(i)] = true;
  CHECK(message_of([&] { json_schema_grammar(wide); }).find("at most 256 properties") != std::string::npos);
  Json large;
  for (int i = 0; i < 200; ++i) large["properties"]["p" + std::to_string(i)] = {{"type", "string"}, {"minLength", 4000}};
  CHECK(message_of([&] { json_schema_grammar(large); }).find("rules") != std::string::npos);
}

TEST_CASE("bytes of tokens") {
  for (const char* name : {"qwen3", "llama3", "gpt_oss", "deepseek_v3", "gpt_neox", "gemma3", "llama2", "llama2_metaspace", "mistral_v01"}) {
    FIXTURE_OR_RETURN(directory, std::string("tokenizers/") + name);
    INFO(name);
    const Tokenizer tokenizer = Tokenizer::from_directory(directory);
    REQUIRE(tokenizer.has_token_bytes());
    for (const Json& c : test::read_json_lines(directory + "/cases.jsonl")) {
      const std::vector<int32_t> ids = c["ids"];
      std::string joined;
      for (const int32_t id : ids) joined += tokenizer.token_bytes(id);
      std::string expected = c["decoded"];
      // What the decoder takes off the very begin.
      const bool stripped = !joined.empty() && joined[0] == ' ' && std::string_view(name).find("gemma") == std::string_view::npos && joined.size() == expected.size() + 1;
      CHECK_MESSAGE((stripped ? joined.substr(1) : joined) == expected, c["text"].get<std::string>());
    }
  }
  CHECK(test::TokenizerDirectory(Json{{"model", test::tiny_tokenizer()["model"]}}).load().has_token_bytes() == false);  // joined by blanks
}

TEST_CASE("masks allow what the grammar allows, token by token") {
  test::TempDir dir;
  dir.write("tokenizer.json", [] {
    Json tokenizer = test::tiny_tokenizer();
    for (const char* text : {"{\"", "\":", "\u0120true", "tr", "ue", "}}", "\"}", "12", "1}", "\u010a\u0120\u0120", "ab", "abc"}) {
      const size_t id = tokenizer["model"]["vocab"].size();
      tokenizer["model"]["vocab"][text] = id;
    }
    return dump_json(tokenizer);
  }());
  const Tokenizer tokenizer = Tokenizer::from_directory(dir.path());
  const auto table = std::make_shared<const TokenTable>(tokenizer);
  const auto grammar = json_schema_grammar(parse_json(R"({"properties":{"a":{"type":"integer"},"abc":{"enum":[true,"abba"]}}})", "schema"));
  std::mt19937 random(5);
  for (int round = 0; round < 50; ++round) {
    GrammarConstraint constraint(grammar, table, {2});
    GrammarMatcher reference(grammar);
    std::string text;
    while (!constraint.finished()) {
      std::vector<float> logits(static_cast<size_t>(tokenizer.vocab_size()) + 7, 1.0f);  // a model's vocabulary may be larger
      const size_t n = constraint.mask(logits);
      std::vector<int32_t> allowed;
      for (int32_t id = 0; id < static_cast<int32_t>(logits.size()); ++id) {
        const bool possible = logits[static_cast<size_t>(id)] == 1.0f;
        CHECK(possible == constraint.allows(id));
        const std::string bytes = tokenizer.token_bytes(id);
        const bool expected = id == 2 ? reference.complete() : id > 3 && !bytes.empty() && reference.accepts(bytes);
        CHECK(possible == expected);
        if (possible) allowed.push_back(id);
      }
      REQUIRE(n == allowed.size());
      REQUIRE(n > 0);
      const int32_t token = allowed[random() % n];
      constraint.accept(token);
      text += tokenizer.token_bytes(token);
      REQUIRE(reference.advance(tokenizer.token_bytes(token)));
    }
    CHECK_MESSAGE(matches(grammar, text), text);
    CHECK_NOTHROW(parse_json(text, "answer", true));
  }
}

TEST_CASE("ends of sequence come when the text is complete") {
  test::TempDir dir;
  dir.write("tokenizer.json", dump_json(test::tiny_tokenizer()));
  const Tokenizer tokenizer = Tokenizer::from_directory(dir.path());
  GrammarConstraint number(json_schema_grammar({{"type", "integer"}}), std::make_shared<const TokenTable>(tokenizer), {2});
  const int32_t digit = *tokenizer.token_to_id("7");
  CHECK_FALSE(number.allows(2));
  CHECK(number.allows(digit));
  number.accept(digit);
  CHECK(number.allows(2));
  CHECK(number.allows(digit));
  CHECK_FALSE(number.allows(3));  // another control token
  CHECK_FALSE(number.allows(-1));
  CHECK_FALSE(number.allows(1 << 20));
  CHECK_FALSE(number.finished());
}

TEST_CASE("the mask of a large vocabulary takes milliseconds") {
  FIXTURE_OR_RETURN(directory, "tokenizers/qwen3");
  const Tokenizer tokenizer = Tokenizer::from_directory(directory);
  using Clock = std::chrono::steady_clock;
  const auto ms_since = [](Clock::time_point start) { return std::chrono::duration<double, std::milli>(Clock::now() - start).count(); };
  Clock::time_point start = Clock::now();
  const auto table = std::make_shared<const TokenTable>(tokenizer);
  MESSAGE("table of ", table->entries().size(), " tokens: ", ms_since(start), " ms");
  const auto grammar = json_schema_grammar(parse_json(
      R"({"type":"object","properties":{"name":{"type":"string"},"short":{"type":"string","maxLength":200},"n":{"type":"number"},"any":{}},"additionalProperties":true})",
      "schema"));
  GrammarConstraint constraint(grammar, table, {151645});
  GrammarMatcher matcher(grammar);
  std::vector<double> times;
  for (const char* piece : {"{", "\"", "name", "\":", " \"", "The", " quick", "\",", " \"", "short", "\":\"", "brown", " fox", "\"", ", \"n\":", " 1", "2", ",",
                            "\"any\": [", "{\"x", "\": ", "{}", "}]", ",\"more", " of", " it\":", "1}"}) {
    std::vector<float> logits(151936, 0.0f);
    start = Clock::now();
    const size_t n = constraint.mask(logits);
    times.push_back(ms_since(start));
    CHECK(n > 0);
    for (const int32_t id : tokenizer.encode(piece, false)) {
      REQUIRE(constraint.allows(id));
      constraint.accept(id);
    }
  }
  CHECK(constraint.finished());
  std::vector<double> sorted(times);
  std::sort(sorted.begin(), sorted.end());
  MESSAGE("masks: median ", sorted[sorted.size() / 2], " ms, longest ", sorted.back(), " ms");
  CHECK(sorted[sorted.size() / 2] < 100);  // some ten times what it takes, for slow and busy machines
}
