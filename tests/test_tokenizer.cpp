// Goldens of the genuine library: real tokenizers (fixtures) and small ones that exercise components
// (tests/data/tokenizers).
#include <doctest/doctest.h>

#include <vector>

#include "base/json.h"
#include "support.h"
#include "text/tokenizer.h"
#include "text/tokenizer_lines.h"
#include "tokenizer_support.h"

using namespace engine;
using Ids = std::vector<int32_t>;

TEST_CASE("real tokenizers") {
  for (const char* name : {"llama3", "qwen3", "mistral_v01", "gemma3", "gpt_oss", "deepseek_v3", "llama2",
                           "llama2_metaspace", "gpt_neox", "synth_flags"}) {
    FIXTURE_OR_RETURN(directory, std::string("tokenizers/") + name);
    SUBCASE(name) { test::run_golden_directory(directory); }
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
    for (const Json& c : test::read_json_lines(stories + "/greedy.jsonl")) {
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
  for (const Json& c : test::read_json_lines(baby + "/greedy.jsonl")) {
    const Ids ids = c["ids"], more = c["greedy_ids"];
    CHECK(tokenizer.encode(c["prompt"].get<std::string>(), true) == ids);
    CHECK(tokenizer.decode(more, true) == c["greedy_text_alone"].get<std::string>());
  }
}
