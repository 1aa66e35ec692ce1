#include <doctest/doctest.h>

#include <random>

#include "base/error.h"
#include "runtime/generation_config.h"

using engine::dump_json;
using engine::Error;
using engine::GenerationConfig;
using engine::Json;
using engine::parse_json;

namespace {

std::string message_of(auto&& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.message + (error.hint.empty() ? "" : " | " + error.hint);
  }
  return "";
}

Json after_set(std::string_view key, std::string_view value) {
  GenerationConfig config;
  config.set(key, value);
  return config.to_json()[std::string(key)];
}

}  // namespace

TEST_CASE("the defaults are those of Transformers 5") {
  const GenerationConfig config;
  const Json json = config.to_json();
  const Json expected = parse_json(R"({"max_new_tokens":null,"max_length":null,"min_new_tokens":null,"min_length":0,"max_time":null,
    "stop_strings":null,"do_sample":false,"temperature":1.0,"top_k":50,"top_p":1.0,"min_p":null,"typical_p":1.0,"epsilon_cutoff":0.0,
    "eta_cutoff":0.0,"repetition_penalty":1.0,"no_repeat_ngram_size":0,"bad_words_ids":null,"suppress_tokens":null,
    "begin_suppress_tokens":null,"bos_token_id":null,"pad_token_id":null,"eos_token_id":null,"seed":null})", "test");
  CHECK(dump_json(json) == dump_json(expected));
  CHECK(GenerationConfig::keys().size() == json.size());
}

TEST_CASE("key=value is typed as the field is") {
  struct Row {
    const char *key, *value, *json;
  };
  for (const Row& row : std::initializer_list<Row>{
           {"temperature", "1e-5", "1e-05"},
           {"temperature", "1", "1.0"},
           {"temperature", "+0.5", "0.5"},
           {"temperature", "0", "0.0"},
           {"temperature", "None", "1.0"},
           {"max_new_tokens", "12", "12"},
           {"max_new_tokens", "None", "null"},
           {"top_k", "None", "0"},
           {"top_p", "null", "1.0"},
           {"do_sample", "True", "true"},
           {"do_sample", "true", "true"},
           {"do_sample", "TRUE", "true"},
           {"do_sample", "False", "false"},
           {"do_sample", "None", "false"},
           {"eos_token_id", "2", "2"},
           {"eos_token_id", "[1,2]", "[1,2]"},
           {"eos_token_id", "[ 1, 2 ]", "[1,2]"},
           {"eos_token_id", "[]", "null"},
           {"eos_token_id", "None", "null"},
           {"bad_words_ids", "[[1,2],[3]]", "[[1,2],[3]]"},
           {"suppress_tokens", "(7, 8)", "[7,8]"},
           {"stop_strings", "END", R"(["END"])"},
           {"stop_strings", "5", R"(["5"])"},
           {"stop_strings", "two words", R"(["two words"])"},
           {"stop_strings", R"("a b")", R"(["a b"])"},
           {"stop_strings", R"('it\'s\n')", R"(["it's\n"])"},
           {"stop_strings", R"(["a, b", 'c]'])", R"(["a, b","c]"])"},
           {"stop_strings", "None", "null"},
           {"seed", "18446744073709551615", "18446744073709551615"},
           {"max_time", "2.5", "2.5"},
       }) {
    CAPTURE(row.key);
    CAPTURE(row.value);
    CHECK(dump_json(after_set(row.key, row.value)) == row.json);
  }
}

TEST_CASE("max_length=None means no limit but the context") {
  GenerationConfig config;
  config.set("max_length", "None");
  CHECK(config.new_token_limit(10, 512) == 502);
}

TEST_CASE("bad values and unknown names are one clear line") {
  struct Row {
    const char *key, *value, *message;
  };
  for (const Row& row : std::initializer_list<Row>{
           {"temperature", "nan", "temperature: expected a number of at least 0, got \"nan\""},
           {"temperature", "inf", "temperature: expected a number of at least 0, got \"inf\""},
           {"temperature", "1e999", "temperature: expected a number of at least 0, got \"1e999\""},
           {"temperature", "-1", "temperature: expected a number of at least 0, got -1"},
           {"temperature", "warm", "temperature: expected a number of at least 0, got \"warm\""},
           {"temperature", "", "temperature: expected a number, true, false, None, a string or a list, got \"\""},
           {"temperature", "True", "temperature: expected a number of at least 0, got true"},
           {"top_p", "1.5", "top_p: expected a number from 0 to 1, got 1.5"},
           {"min_p", "-0.1", "min_p: expected a number from 0 to 1, got -0.1"},
           {"typical_p", "0", "typical_p: expected a number above 0 and at most 1, got 0"},
           {"epsilon_cutoff", "1", "epsilon_cutoff: expected a number from 0 to below 1, got 1"},
           {"repetition_penalty", "0", "repetition_penalty: expected a number above 0, got 0"},
           {"top_k", "-1", "top_k: expected an integer of at least 0, got -1 | top_k=0 switches it off"},
           {"top_k", "5.5", "top_k: expected an integer of at least 0, got 5.5"},
           {"max_new_tokens", "0", "max_new_tokens: expected an integer of at least 1, got 0"},
           {"max_new_tokens", "99999999999999999999", "max_new_tokens: expected an integer of at least 1, got 1e+20"},
           {"max_new_tokens", "9999999999999999999", "max_new_tokens: expected an integer of at most 281474976710656, got 9999999999999999999"},
           {"do_sample", "1", "do_sample: expected true or false, got 1"},
           {"do_sample", "yes", "do_sample: expected true or false, got \"yes\""},
           {"eos_token_id", "-1", "eos_token_id: expected a token id, got -1"},
           {"eos_token_id", "[1,", "eos_token_id: expected a number, true, false, None, a string or a list, got \"[1,\""},
           {"eos_token_id", "[1,2]x", "eos_token_id: expected a number, true, false, None, a string or a list, got \"[1,2]x\""},
           {"eos_token_id", "[[[[[[1]]]]]]", "eos_token_id: expected a number, true, false, None, a string or a list, got \"[[[[[[1]]]]]]\""},
           {"bad_words_ids", "[1]", "bad_words_ids: expected a list of lists of token ids, none of them empty, got [1]"},
           {"stop_strings", "\"\"", "stop_strings: expected a string or a list of strings, none empty, got \"\""},
           {"stop_strings", "[1]", "stop_strings: expected a string or a list of strings, none empty, got [1]"},
           {"seed", "-5", "seed: expected an integer from 0 to 2^64 - 1, got -5"},
           {"temprature", "1", "temprature: expected a generation setting, got an unknown name | did you mean temperature?"},
           {"max_tokens", "1", "max_tokens: expected a generation setting, got an unknown name | did you mean max_new_tokens?"},
           {"zzzzzzzz", "1", "zzzzzzzz: expected a generation setting, got an unknown name | the settings are those of Transformers' GenerationConfig"},
           {"num_beams", "4", "num_beams: expected 1 (others are not supported here), got 4"},
           {"use_cache", "False", "use_cache: expected true (others are not supported here), got false"},
           {"guidance_scale", "1.5", "guidance_scale: expected 1 (others are not supported here), got 1.5"},
           {"watermarking_config", "5", "watermarking_config: expected null (it is not supported here), got 5"},
       }) {
    CAPTURE(row.key);
    CAPTURE(row.value);
    GenerationConfig config;
    CHECK(message_of([&] { config.set(row.key, row.value); }) == row.message);
    CHECK(dump_json(config.to_json()) == dump_json(GenerationConfig().to_json()));
  }
}

TEST_CASE("a model's generation_config.json: null and foreign fields are passed over, what would change the text is refused") {
  GenerationConfig config;
  config.temperature = 0.5;
  config.apply(parse_json(R"({"_from_model_config": true, "transformers_version": "4.46.0", "temperature": null, "top_k": 20,
    "num_beams": 1, "use_cache": false, "length_penalty": 2.0, "some_future_field": {"a": 1}, "output_scores": true,
    "eos_token_id": [5, -1, 6], "pad_token_id": -1, "bos_token_id": 1, "assistant_lookbehind": 3})", "m"), "m", true);
  CHECK(config.temperature == 0.5);
  CHECK(config.top_k == 20);
  CHECK(config.eos_token_id == std::vector<int32_t>{5, 6});
  CHECK_FALSE(config.pad_token_id);
  CHECK(config.bos_token_id == 1);

  const auto apply = [](const char* text, bool lenient) {
    return message_of([&] { GenerationConfig().apply(parse_json(text, "t"), "m/generation_config.json", lenient); });
  };
  CHECK(apply(R"({"num_beams": 4})", true) == "m/generation_config.json: num_beams: expected 1 (others are not supported here), got 4");
  CHECK(apply(R"({"temperature": "hot"})", true) == "m/generation_config.json: temperature: expected a number of at least 0, got \"hot\"");
  CHECK(apply(R"({"top_p": 7})", true) == "m/generation_config.json: top_p: expected a number from 0 to 1, got 7");
  CHECK(apply("[]", true) == "m/generation_config.json: expected a JSON object of generation settings, got array");
  CHECK(apply(R"({"some_future_field": 1})", false).find("unknown name") != std::string::npos);
  CHECK(apply(R"({"length_penalty": 2.0})", false).find("not supported") != std::string::npos);
  CHECK(apply(R"({"num_beams": null, "_commit_hash": "x"})", false) == "");
}

TEST_CASE("nothing is changed when one field of several is wrong") {
  GenerationConfig config;
  CHECK_THROWS_AS(config.apply(parse_json(R"({"temperature": 0.3, "top_p": 3})", "t"), "t", false), Error);
  CHECK(config.temperature == 1.0);
}

TEST_CASE("to_json gives the same settings back") {
  GenerationConfig config;
  for (const auto& [key, value] : std::initializer_list<std::pair<const char*, const char*>>{
           {"max_new_tokens", "7"}, {"min_new_tokens", "2"}, {"max_time", "1.5"}, {"stop_strings", "[\"a\",\"b\"]"}, {"do_sample", "true"},
           {"temperature", "0.7"}, {"min_p", "0.1"}, {"bad_words_ids", "[[1,2]]"}, {"eos_token_id", "[1,2]"}, {"pad_token_id", "0"},
           {"seed", "9"}, {"max_length", "None"}, {"begin_suppress_tokens", "[4]"}}) {
    config.set(key, value);
  }
  GenerationConfig copy;
  copy.apply(config.to_json(), "copy", false);
  CHECK(dump_json(copy.to_json()) == dump_json(config.to_json()));
}

TEST_CASE("how many new tokens: max_new_tokens, else max_length, else 20; never past the context") {
  GenerationConfig config;
  CHECK(config.new_token_limit(10, 512) == 20);
  CHECK(config.new_token_limit(500, 512) == 12);
  config.max_length = 100;
  CHECK(config.new_token_limit(10, 512) == 90);
  CHECK(config.new_token_limit(100, 512) == 0);
  config.max_new_tokens = 7;
  CHECK(config.new_token_limit(10, 512) == 7);
  CHECK(config.new_token_limit(510, 512) == 2);
}

TEST_CASE("whatever stands after the equals sign, it is a setting or an error") {
  std::mt19937 random(1);
  const std::string_view alphabet = "[](),\"'\\ 0123456789.-+eEnaTFulsrNtoi";
  int n_accepted = 0;
  for (int round = 0; round < 20000; ++round) {
    std::string value(random() % 12, ' ');
    for (char& c : value) c = alphabet[random() % alphabet.size()];
    const std::vector<std::string> keys = GenerationConfig::keys();
    GenerationConfig config;
    try {
      config.set(keys[random() % keys.size()], value);
      ++n_accepted;
      GenerationConfig().apply(config.to_json(), "test", false);  // and what was accepted is in range
    } catch (const Error& error) {
      REQUIRE(error.message.find('\n') == std::string::npos);
    }
  }
  CHECK(n_accepted > 100);
}

TEST_CASE("the nearest word") {
  const std::vector<std::string> known = {"help", "status", "clear", "save", "load"};
  CHECK(engine::nearest_word("stauts", known) == "status");
  CHECK(engine::nearest_word("lod", known) == "load");
  CHECK(engine::nearest_word("xyzzyx", known) == "");
  CHECK(engine::nearest_word(std::string(1 << 20, 'a'), known) == "");
}
