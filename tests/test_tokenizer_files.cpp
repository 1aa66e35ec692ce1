// Loading: configuration files, faults, limits; large inputs; the line protocols.
#include <doctest/doctest.h>

#include <atomic>
#include <cstdlib>
#include <ctime>
#include <random>
#include <sstream>
#include <thread>

#include "base/error.h"
#include "support.h"
#include "text/tokenizer_lines.h"
#include "tokenizer_support.h"

using namespace engine;
using Ids = std::vector<int32_t>;

namespace {

Json small_model() {
  return Json::parse(
      R"({"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
    "fuse_unk": false, "byte_fallback": false, "ignore_merges": false, "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]})");
}

Json with(const char* pointer, const Json& value, Json base) {
  base[Json::json_pointer(pointer)] = value;
  return base;
}

std::string error_of(const test::TokenizerDirectory& directory) {
  try {
    directory.load();
  } catch (const Error& e) {
    return e.message;
  }
  return {};
}

}  // namespace

TEST_CASE("faulty tokenizer.json files give one clear line") {
  const Json good = {{"model", small_model()}};
  const Json token = {{"id", 3},         {"content", "<x>"},    {"single_word", false}, {"lstrip", false},
                      {"rstrip", false}, {"normalized", false}, {"special", true}};
  const auto deep = [](const char* type, const char* list) {
    Json json = {{"type", "Fuse"}};
    for (int i = 0; i < 100; ++i) json = Json{{"type", type}, {list, Json::array({json})}};
    return json;
  };
  struct Row {
    Json parts;
    const char* part_of_message;
  };
  const Row rows[] = {
      {{{"model", nullptr}}, "expected an object"},
      {with("/model/type", "Unigram", good), "expected type BPE, got 'Unigram'"},
      {with("/model/type", "WordPiece", good), "WordPiece"},
      {with("/model/dropout", 0.1, good), "dropout"},
      {with("/model/unk_token", "nope", good), "unk_token"},
      {with("/model/unk_token", 3, good), "expected a string"},
      {with("/model/fuse_unk", "yes", good), "true or false"},
      {with("/model/vocab/a", -1, good), "an id from 0"},
      {with("/model/vocab/a", 2147483648, good), "an id from 0"},
      {with("/model/vocab/a", 10000001, good), "an id from 0"},
      {with("/model/vocab/a", 1.5, good), "an integer"},
      {with("/model/vocab/a", "0", good), "an integer"},
      {with("/model/vocab/a", 1, good), "an id of its own"},
      {with("/model/vocab", Json::array(), good), "an object"},
      {with("/model/merges", Json::object(), good), "an array"},
      {with("/model/merges/0", Json::array({"a", "c"}), good), "a token of the vocabulary"},
      {with("/model/merges/0", Json::array({"b", "a"}), good), "to make a token"},
      {with("/model/merges/0", Json::array({"a"}), good), "two tokens"},
      {with("/model/merges/0", Json::array({"a", "b", "c"}), good), "two tokens"},
      {with("/model/merges/0", "ab", good), "two tokens"},
      {with("/model/merges/0", "a b c", good), "two tokens"},
      {with("/model/merges/0", 7, good), "an array"},
      {with("/added_tokens", Json::object(), good), "an array"},
      {with("/added_tokens", Json::array({7}), good), "an object"},
      {with("/added_tokens", Json::parse(R"([{"id": 3}])"), good), "content"},
      {with("/added_tokens", Json::array({with("/content", std::string(2000, '<'), token)}), good), "1024 bytes"},
      {with("/added_tokens", Json::array({with("/special", 1, token)}), good), "true or false"},
      {with("/normalizer", {{"type", "Precompiled"}}, good), "Precompiled"},
      {with("/normalizer", {{"type", "Replace"}, {"pattern", "x"}, {"content", ""}}, good), "pattern"},
      {with("/normalizer", {{"type", "Replace"}, {"pattern", {{"Regex", "("}}}, {"content", ""}}, good), "pattern '('"},
      {with("/normalizer", 5, good), "expected an object"},
      {with("/normalizer", deep("Sequence", "normalizers"), good), "16 nested"},
      {with("/pre_tokenizer", {{"type", "UnicodeScripts"}}, good), "UnicodeScripts"},
      {with("/pre_tokenizer",
            {{"type", "Split"}, {"pattern", {{"String", ""}}}, {"behavior", "Isolated"}, {"invert", false}}, good),
       "not empty"},
      {with("/pre_tokenizer",
            {{"type", "Split"}, {"pattern", {{"String", "x"}}}, {"behavior", "isolated"}, {"invert", false}}, good),
       "behavior"},
      {with("/pre_tokenizer", {{"type", "Metaspace"}, {"replacement", "ab"}}, good), "one character"},
      {with("/pre_tokenizer", {{"type", "ByteLevel"}, {"use_regex", "no"}}, good), "use_regex"},
      {with("/pre_tokenizer", deep("Sequence", "pretokenizers"), good), "16 nested"},
      {with("/post_processor", {{"type", "Nope"}}, good), "Nope"},
      {with(
           "/post_processor",
           Json::parse(
               R"({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<x>", "type_id": 0}}], "special_tokens": {}})"),
           good),
       "'<x>'"},
      {with("/decoder", {{"type", "CTC"}}, good), "CTC"},
      {with("/decoder", {{"type", "Strip"}, {"content", " "}, {"start", -1}, {"stop", 0}}, good), "start"},
      {with("/decoder", {{"type", "Strip"}, {"content", " "}, {"start", 18446744073709551615u}, {"stop", 0}}, good),
       "start"},
      {with("/decoder", deep("Sequence", "decoders"), good), "16 nested"},
  };
  CHECK(error_of(test::TokenizerDirectory(good)) == "");
  for (const Row& row : rows) {
    INFO(row.parts.dump().substr(0, 300));
    const test::TokenizerDirectory directory(row.parts);
    const std::string message = error_of(directory);
    CHECK(message.find(row.part_of_message) != std::string::npos);
    CHECK(message.starts_with(directory.path()));
    CHECK(message.find('\n') == std::string::npos);
    if (message.find(row.part_of_message) == std::string::npos) MESSAGE("got: ", message);
  }
}

TEST_CASE("files that are not JSON") {
  const std::string good = Json{{"version", "1.0"}, {"model", small_model()}}.dump();
  const test::TokenizerDirectory directory;
  CHECK(error_of(directory).find("no such file") != std::string::npos);
  for (size_t n = 0; n < good.size(); ++n) {
    directory.write("tokenizer.json", good.substr(0, n));
    REQUIRE(error_of(directory) != "");
  }
  for (const std::string& text :
       {std::string("[]"), good + "x", std::string(100000, '['), "{\"model\":" + std::string(100000, '[') + "}",
        std::string("{\"model\":{},\"model\":{}}"), std::string("{\"a\":tru}"), std::string("{\"a\":01}"),
        std::string("{\"a\":\"\\x\"}"), std::string("{\"a\":\"\n\"}"), std::string("{\"a\":\"\\ud800\"}"),
        std::string("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"a\":1},\"merges\":[]}}"),
        std::string("{\"model\":{\"vocab\":{\"\xFF\":0},\"merges\":[]}}")}) {
    directory.write("tokenizer.json", text);
    INFO(text.substr(0, 80));
    CHECK(error_of(directory) != "");
  }
  directory.write("tokenizer.json", good);
  CHECK(error_of(directory) == "");
  for (const char* name : {"tokenizer_config.json", "special_tokens_map.json"}) {
    directory.write(name, "{");
    CHECK(error_of(directory).starts_with(directory.path() + "/" + name));
    directory.write(name, "{}");
  }
}

TEST_CASE("members in any order") {
  const test::TokenizerDirectory directory;
  directory.write(
      "tokenizer.json",
      R"({"model": {"merges": ["a b", "\u0120 ab"], "vocab": {"\u0120ab": 3, "\u0120": 4, "a": 0, "b": 1, "ab": 2}, "type": "BPE"},
    "decoder": {"type": "ByteLevel"}, "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}})");
  const Tokenizer tokenizer = directory.load();
  CHECK(tokenizer.encode("ab ab", true) == Ids{2, 3});
  CHECK(tokenizer.decode(Ids{2, 3, 99, -1}, false) == "ab ab");
  CHECK(tokenizer.id_to_token(3) == "Ġab");
  CHECK(tokenizer.token_to_id("Ġab") == 3);
  CHECK(tokenizer.token_to_id(" ab") == std::nullopt);
  CHECK(tokenizer.id_to_token(-5) == "");
  CHECK(tokenizer.vocab_size() == 5);
}

TEST_CASE("tokenizer_config.json and special_tokens_map.json") {
  const Json token = {{"id", 3},         {"content", "<x>"},    {"single_word", false}, {"lstrip", false},
                      {"rstrip", false}, {"normalized", false}, {"special", true}};
  const test::TokenizerDirectory directory(Json{{"added_tokens", Json::array({token})}, {"model", small_model()}});
  SUBCASE("named tokens, new ones added at the end") {
    directory.write(
        "tokenizer_config.json",
        R"({"bos_token": {"__type": "AddedToken", "content": "<x>", "lstrip": false}, "eos_token": "<eos>", "pad_token": null,
      "unk_token": "ab", "boi_token": "<img>", "additional_special_tokens": ["<y>", {"content": "<z>"}], "model_max_length": 1e30, "chat_template": "{{ 'x' }}"})");
    const Tokenizer tokenizer = directory.load();
    CHECK(tokenizer.bos_token() == "<x>");
    CHECK(tokenizer.eos_token() == "<eos>");
    CHECK(tokenizer.pad_token() == "");
    CHECK(tokenizer.unk_token() == "ab");
    CHECK(tokenizer.model_max_length() == 0);
    CHECK(tokenizer.encode("a<eos>ab<x><img><y><z>", false) == Ids{0, 4, 2, 3, 5, 6, 7});
    CHECK(tokenizer.is_special(4));
    CHECK(tokenizer.is_special(2));
    CHECK_FALSE(tokenizer.is_special(0));
    CHECK(tokenizer.is_added(3));
    CHECK_FALSE(tokenizer.is_added(1));
    CHECK(tokenizer.vocab_size() == 8);
    CHECK(tokenizer.decode(Ids{0, 4, 2, 3}, true) == "a");
  }
  SUBCASE("the list of added tokens overrides flags") {
    directory.write(
        "tokenizer_config.json",
        R"({"added_tokens_decoder": {"3": {"content": "<x>", "lstrip": true, "normalized": false, "rstrip": false, "single_word": false, "special": true}},
      "model_max_length": 77})");
    directory.write("special_tokens_map.json", R"({"bos_token": "<x>"})");  // not read beside the newer list
    const Tokenizer tokenizer = directory.load();
    CHECK(tokenizer.encode("a  <x>b", false) == Ids{0, 3, 1});
    CHECK(tokenizer.bos_token() == "");
    CHECK(tokenizer.model_max_length() == 77);
  }
  SUBCASE("the older file") {
    directory.write("tokenizer_config.json", R"({"bos_token": "old", "eos_token": "<x>"})");
    directory.write("special_tokens_map.json", R"({"bos_token": {"content": "<x>", "lstrip": false}})");
    const Tokenizer tokenizer = directory.load();
    CHECK(tokenizer.bos_token() == "<x>");
    CHECK(tokenizer.eos_token() == "<x>");
  }
  SUBCASE("an id that is no number") {
    directory.write("tokenizer_config.json", R"({"added_tokens_decoder": {"x": {"content": "<x>"}}})");
    CHECK(error_of(directory).find("expected an id") != std::string::npos);
  }
}

TEST_CASE("mutated files never crash") {
  // ENGINE_FUZZ_ROUNDS sets how many; run it under the sanitizers.
  const char* wanted = std::getenv("ENGINE_FUZZ_ROUNDS");
  const int rounds = wanted != nullptr ? std::atoi(wanted) : 60;
  std::mt19937 random(wanted != nullptr ? std::random_device()() : 11u);
  const char* bits[] = {"\"",     "{",        "}",        "[",       "]",           ",",    ":",
                        "null",   "-1",       "1e9",      "\\u0000", "\\ud83d",     "\xFF", "Ġ",
                        "<0x00>", "\"type\"", "Sequence", "0",       "99999999999", " "};
  for (const char* name : {"byte_level", "byte_fallback", "metaspace", "split_after_bytes", "word_ends"}) {
    const std::string original = read_text_file(test::data_file(std::string("tokenizers/") + name + "/tokenizer.json"));
    const test::TokenizerDirectory directory;
    for (int round = 0; round < rounds; ++round) {
      std::string text = original;
      for (uint32_t n = 1 + random() % 4; n > 0; --n) {
        // Most of the file is vocabulary: half of the changes go to its first part, where the components are.
        const size_t at = random() % (random() % 2 != 0 ? text.size() : std::min<size_t>(text.size(), 2500));
        switch (random() % 4) {
          case 0:
            text[at] = static_cast<char>(random());
            break;
          case 1:
            text.erase(at, 1 + random() % 30);
            break;
          case 2:
            text.insert(at, bits[random() % std::size(bits)]);
            break;
          default:
            text.insert(at, text.substr(random() % text.size(), random() % 60));
            break;
        }
        if (text.empty()) text = " ";
      }
      directory.write("tokenizer.json", text);
      try {
        const Tokenizer tokenizer = directory.load();
        std::string input = "The café <s>  word <mask> 日本語 123\n\n";
        for (int i = 0; i < 20; ++i) input += static_cast<char>(random());
        const Ids ids = tokenizer.encode(input, true);
        tokenizer.decode(ids, true);
        const TextSpan spans[] = {{input, false}, {"<s> x", true}};
        tokenizer.decode(tokenizer.encode(spans), false);
      } catch (const Error& e) {
        CHECK(e.message.find('\n') == std::string::npos);
      }
    }
  }
}

TEST_CASE("a million of the same, and ten megabytes, take time in proportion") {
  const auto seconds = [](const Tokenizer& tokenizer, const std::string& text) {
    const std::clock_t start = std::clock();  // processor time: other programs do not count
    const Ids ids = tokenizer.encode(text, false);
    CHECK(ids.size() <= text.size() + 2);
    return static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
  };
  const int slowness = test::slowness();
  if (slowness > 1) MESSAGE("texts ", slowness, " times shorter: ENGINE_TEST_SLOWNESS");
  const size_t million = 1'000'000 / static_cast<size_t>(slowness);
  std::string words;
  std::mt19937 random(3);
  while (words.size() < 10 * million) {
    for (uint32_t n = 1 + random() % 8; n > 0; --n) words += static_cast<char>('a' + random() % 20);
    words += random() % 9 == 0 ? '\n' : ' ';
  }
  for (const char* name : {"byte_level", "byte_fallback", "metaspace", "word_ends"}) {
    INFO(name);
    const Tokenizer tokenizer = Tokenizer::from_directory(test::data_file(std::string("tokenizers/") + name));
    for (const char c : {'A', ' ', 'e', '\n', '<', '\''}) {
      INFO("character ", c);
      CHECK(seconds(tokenizer, std::string(million, c)) < 10);  // quadratic time would be hours
    }
    CHECK(seconds(tokenizer, words) < 20);
    std::string edges;
    while (edges.size() < million) edges += "<r> \n";
    CHECK(seconds(tokenizer, edges) < 10);
  }
}

TEST_CASE("one tokenizer serves several threads") {
  const Tokenizer tokenizer = Tokenizer::from_directory(test::data_file("tokenizers/byte_level"));
  std::vector<std::string> texts;
  std::vector<Ids> expected;
  for (const Json& c : test::read_json_lines(test::data_file("tokenizers/byte_level/cases.jsonl"))) {
    if (c["add_special_tokens"]) continue;
    texts.push_back(c["text"]);
    expected.push_back(c["ids"]);
  }
  std::atomic<int> wrong = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&] {
      for (int round = 0; round < 20; ++round)
        for (size_t i = 0; i < texts.size(); ++i) wrong += tokenizer.encode(texts[i], false) != expected[i];
    });
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == 0);
}

TEST_CASE("priming gives context and no text") {
  const Tokenizer tokenizer = Tokenizer::from_directory(test::data_file("tokenizers/byte_fallback"));
  const Ids prompt = tokenizer.encode("the é", true), more = tokenizer.encode(" fox", false);
  Detokenizer primed(tokenizer, true), fresh(tokenizer, true);
  primed.prime(prompt);
  std::string with_context, without;
  for (const int32_t id : more) {
    with_context += primed.push(id);
    without += fresh.push(id);
  }
  with_context += primed.flush();
  without += fresh.flush();
  CHECK(with_context.ends_with("fox"));
  CHECK(with_context == " " + without);
  // Bytes of the prompt that are a whole character are not told again.
  const Ids bytes = {*tokenizer.token_to_id("<0xE4>"), *tokenizer.token_to_id("<0xB8>"),
                     *tokenizer.token_to_id("<0xAD>")};
  Detokenizer stream(tokenizer, true);
  stream.prime(bytes);
  CHECK(stream.flush() == "");
  Detokenizer half(tokenizer, true);
  half.prime(std::span(bytes).first(2));
  CHECK(half.push(bytes[2]) == "");
  CHECK(half.flush() == "中");
}

TEST_CASE("line protocols") {
  const Tokenizer tokenizer = Tokenizer::from_directory(test::data_file("tokenizers/byte_level"));
  const Json with_ends = parse_json(tokenize_line(tokenizer, R"({"text": "a fox"})"), "reply");
  const Json without =
      parse_json(tokenize_line(tokenizer, R"({"id": 7, "text": "a fox", "add_special_tokens": false})"), "reply");
  CHECK(with_ends["ids"].get<Ids>() == tokenizer.encode("a fox", true));
  CHECK(without["ids"].get<Ids>() == tokenizer.encode("a fox", false));
  CHECK(without["id"] == 7);
  const Json back = parse_json(
      detokenize_line(tokenizer, Json{{"ids", with_ends["ids"]}, {"skip_special_tokens", true}}.dump()), "reply");
  CHECK(back["text"] == " a fox");
  std::string joined;
  for (const Json& piece : back["pieces"]) joined += piece.get<std::string>();
  CHECK(joined == " a fox");
  CHECK(back["pieces"].size() == with_ends["ids"].size());
  // One piece more for what the end lets out.
  const int32_t lead = *tokenizer.token_to_id("Ã");
  const Json open = parse_json(detokenize_line(tokenizer, Json{{"ids", Json::array({lead})}}.dump()), "reply");
  CHECK(open["pieces"] == Json::array({"", "\uFFFD"}));
  for (const char* line : {"", "[]", "{", R"({"text": 1})", R"({})", R"({"text": "a", "add_special_tokens": 1})"})
    CHECK(parse_json(tokenize_line(tokenizer, line), "reply").contains("error"));
  for (const char* line : {R"({"ids": 1})", R"({"ids": [1.5]})", R"({"ids": ["a"]})", R"({})"})
    CHECK(parse_json(detokenize_line(tokenizer, line), "reply").contains("error"));
  CHECK(parse_json(detokenize_line(tokenizer, R"({"ids": [-1, 99999999999, 18446744073709551615, 2147483647]})"),
                   "reply")["text"] == "");

  std::istringstream in("{\"text\": \"a\"}\n\n{\"text\": \"b\\u2028\"}\nnonsense\n{\"text\": \"c\"}");
  std::ostringstream out;
  tokenize_lines(tokenizer, in, out);
  const std::string answers = out.str();
  CHECK(std::count(answers.begin(), answers.end(), '\n') == 4);
  CHECK(answers.find("error") != std::string::npos);
}
