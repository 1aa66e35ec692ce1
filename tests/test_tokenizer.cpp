// Goldens of the genuine library: real tokenizers (fixtures) and small ones that exercise components
// (tests/data/tokenizers).
#include <doctest/doctest.h>

#include <fstream>
#include <vector>

#include "base/json.h"
#include "support.h"
#include "text/tokenizer.h"
#include "text/tokenizer/unicode.h"
#include "text/tokenizer_lines.h"

using namespace engine;
using Ids = std::vector<int32_t>;

namespace {

std::vector<Json> read_lines(const std::string& path) {
  std::ifstream in(path);
  REQUIRE_MESSAGE(in.good(), path);
  std::vector<Json> out;
  for (std::string line; std::getline(in, line);)
    if (!line.empty()) out.push_back(parse_json(line, path));
  return out;
}

std::string stream_joined(const Tokenizer& tokenizer, const Ids& ids, bool skip) {
  Detokenizer stream(tokenizer, skip);
  std::string joined;
  for (const int32_t id : ids) {
    const std::string piece = stream.push(id);
    CHECK_MESSAGE(tok::is_valid_utf8(piece), "a piece ends inside a character");
    joined += piece;
  }
  return joined + stream.flush();
}

/// Every case of the three files in `directory`; cases.jsonl must be there.
void run_golden_directory(const std::string& directory) {
  INFO(directory);
  const Tokenizer tokenizer = Tokenizer::from_directory(directory);
  for (const Json& c : read_lines(directory + "/cases.jsonl")) {
    const std::string text = c["text"];
    INFO("text: ", text);
    const Ids expected = c["ids"];
    const Ids ids = tokenizer.encode(text, c["add_special_tokens"]);
    CHECK(ids == expected);
    CHECK(tokenizer.decode(expected, false) == c["decoded"].get<std::string>());
    CHECK(tokenizer.decode(expected, true) == c["decoded_skip_special"].get<std::string>());
    CHECK(stream_joined(tokenizer, expected, false) == c["decoded"].get<std::string>());
    // A trusted span is the same as plain encoding without the template.
    const TextSpan whole{text, true};
    if (!c["add_special_tokens"]) CHECK(tokenizer.encode(std::span(&whole, 1)) == expected);
  }
  if (std::filesystem::exists(directory + "/stream.jsonl"))
    for (const Json& c : read_lines(directory + "/stream.jsonl"))
      CHECK(stream_joined(tokenizer, c["ids"], false) == c["text"].get<std::string>());
  if (std::filesystem::exists(directory + "/decode.jsonl")) {
    for (const Json& c : read_lines(directory + "/decode.jsonl")) {
      const Ids ids = c["ids"];
      INFO("ids: ", c["ids"].dump(), " skip ", c["skip_special_tokens"].get<bool>());
      CHECK(tokenizer.decode(ids, c["skip_special_tokens"]) == c["text"].get<std::string>());
    }
  }
}

}  // namespace

TEST_CASE("real tokenizers") {
  for (const char* name : {"llama3", "qwen3", "mistral_v01", "gemma3", "gpt_oss", "deepseek_v3", "llama2",
                           "llama2_metaspace", "gpt_neox", "synth_flags"}) {
    FIXTURE_OR_RETURN(directory, std::string("tokenizers/") + name);
    SUBCASE(name) { run_golden_directory(directory); }
  }
}

TEST_CASE("stories260K and babyllama-105") {
  FIXTURE_OR_RETURN(stories, "stories260K");
  {
    const Tokenizer tokenizer = Tokenizer::from_directory(stories);
    const Json cases = read_json_file(stories + "/tokenizer_cases.json");
    CHECK(cases.size() == 85);
    for (const Json& c : cases) {
      const Ids expected = c["ids"];
      CHECK(tokenizer.encode(c["text"].get<std::string>(), true) == expected);
      CHECK(tokenizer.decode(expected, true) == c["decoded"].get<std::string>());
    }
    for (const Json& c : read_lines(stories + "/greedy.jsonl")) {
      const Ids ids = c["ids"], more = c["greedy_ids"];
      CHECK(tokenizer.encode(c["prompt"].get<std::string>(), true) == ids);
      CHECK(tokenizer.decode(more, true) == c["greedy_text_alone"].get<std::string>());
      Detokenizer stream(tokenizer, true);
      stream.prime(ids);
      std::string text;
      for (const int32_t id : more) text += stream.push(id);
      CHECK(text + stream.flush() == c["greedy_text"].get<std::string>());
    }
  }
  FIXTURE_OR_RETURN(baby, "babyllama-105");
  const Tokenizer tokenizer = Tokenizer::from_directory(baby);
  for (const Json& c : read_lines(baby + "/greedy.jsonl")) {
    const Ids ids = c["ids"], more = c["greedy_ids"];
    CHECK(tokenizer.encode(c["prompt"].get<std::string>(), true) == ids);
    CHECK(tokenizer.decode(more, true) == c["greedy_text_alone"].get<std::string>());
  }
}
