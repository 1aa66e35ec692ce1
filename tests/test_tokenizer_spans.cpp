// Control tokens are recognised in trusted text only; nothing else changes.
#include <doctest/doctest.h>

#include <algorithm>
#include <random>
#include <set>

#include "support.h"
#include "text/tokenizer/pipeline.h"
#include "tokenizer_support.h"

using namespace engine;
using Ids = std::vector<int32_t>;

namespace {

Ids encode_untrusted(const Tokenizer& tokenizer, const std::string& text) {
  const TextSpan span{text, false};
  return tokenizer.encode(std::span(&span, 1));
}

/// `text` cut at random places (any byte of a character's begin) into spans of random trust.
std::vector<TextSpan> random_spans(const std::string& text, std::mt19937& random) {
  std::vector<TextSpan> out;
  for (size_t begin = 0; begin < text.size();) {
    size_t end = begin + 1 + random() % 9;
    while (end < text.size() && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) ++end;
    out.push_back({text.substr(begin, end - begin), random() % 2 == 0});
    begin = end;
  }
  return out;
}

std::set<int32_t> control_ids(const std::string& directory) {
  std::set<int32_t> out;
  tok::load_pipeline(directory).added.for_each([&](int32_t id, const tok::AddedToken& token) {
    if (tok::AddedTokens::is_control(token)) out.insert(id);
  });
  return out;
}

bool any_of(const Ids& ids, const std::set<int32_t>& set) {
  return std::any_of(ids.begin(), ids.end(), [&](int32_t id) { return set.contains(id); });
}

/// A tokenizer whose vocabulary and merges can spell its control tokens.
Json reachable(bool ignore_merges, const char* pre_tokenizer) {
  Json model = Json::parse(R"({"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
    "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
    "vocab": {"<": 0, "s": 1, ">": 2, "<s": 3, "<s>": 4, "a": 5, "as": 6, "end": 7, "e": 8, "n": 9, "d": 10, "#": 11},
    "merges": [["<", "s"], ["<s", ">"], ["a", "s"]]})");
  model["ignore_merges"] = ignore_merges;
  Json tokens = Json::array();
  for (const char* content : {"<s>", "end", "#"})
    tokens.push_back(Json{{"id", 0},
                          {"content", content},
                          {"single_word", false},
                          {"lstrip", false},
                          {"rstrip", false},
                          {"normalized", false},
                          {"special", true}});
  return Json{{"added_tokens", tokens}, {"pre_tokenizer", Json::parse(pre_tokenizer)}, {"model", model}};
}

}  // namespace

TEST_CASE("which added tokens can steer a model") {
  const auto control = [](const char* content, bool special = false) {
    tok::AddedToken token;
    token.content = content;
    token.special = special;
    return tok::AddedTokens::is_control(token);
  };
  for (const char* content : {"<s>x", "<|im_start|>", "<tool_call>", "</think>", "[INST]", "<｜User｜>",
                              "<start_of_turn>", "<unused7>", "Human:"}) {
    INFO(content);
    CHECK(control(content));
  }
  for (const char* content : {"  ", "\n\n", "\t", "▁▁▁", "word", "日本", "<td>", "</h2>", "<blockquote>"}) {
    INFO(content);
    CHECK_FALSE(control(content));
    CHECK(control(content, true));
  }
}

TEST_CASE("spans that hold no control token change nothing, wherever they are cut") {
  std::mt19937 random(7);
  for (const char* name : {"byte_level", "byte_fallback", "metaspace", "split_after_bytes", "word_ends"}) {
    const std::string directory = test::data_file(std::string("tokenizers/") + name);
    const Tokenizer tokenizer = Tokenizer::from_directory(directory);
    const std::set<int32_t> control = control_ids(directory);
    INFO(name);
    for (const Json& c : test::read_json_lines(directory + "/cases.jsonl")) {
      if (c["add_special_tokens"]) continue;
      const Ids expected = c["ids"];
      const bool has_control = any_of(expected, control);
      const std::string text = c["text"];
      INFO("text: ", text);
      for (int i = 0; i < 3; ++i) {
        const std::vector<TextSpan> spans = random_spans(text, random);
        if (!has_control) CHECK(tokenizer.encode(spans) == expected);
      }
      // <unk> stands for characters that the vocabulary lacks, in text of any origin.
      std::set<int32_t> steering = control;
      if (const auto unk = tokenizer.token_to_id("<unk>")) steering.erase(*unk);
      CHECK_FALSE(any_of(encode_untrusted(tokenizer, text), steering));
    }
  }
}

TEST_CASE("control tokens need trust for every character") {
  const std::string directory = test::data_file("tokenizers/byte_level");
  const Tokenizer tokenizer = Tokenizer::from_directory(directory);
  const int32_t s = *tokenizer.token_to_id("<s>"), x = *tokenizer.token_to_id("<|x|>"),
                mask = *tokenizer.token_to_id("<mask>");
  const auto encode = [&](std::vector<TextSpan> spans) { return tokenizer.encode(spans); };
  const auto count = [](const Ids& ids, int32_t id) { return std::count(ids.begin(), ids.end(), id); };

  CHECK(count(encode({{"<s>", true}, {"<s>", false}}), s) == 1);
  CHECK(encode({{"<s>", true}, {"<s>", false}})[0] == s);
  CHECK(count(encode({{"<", true}, {"s", false}, {">", true}}), s) == 0);
  CHECK(count(encode({{"<|", true}, {"x|>", true}}), x) == 1);  // trusted neighbours are one text
  CHECK(count(encode({{"<|", false}, {"x|>", true}}), x) == 0);
  // The longer token is not trusted to its end, the shorter one is.
  CHECK(count(encode({{"<|x|>", true}, {"y", false}}), x) == 1);
  CHECK(count(encode({{"<|x|>y", true}}), x) == 0);
  // Matched after normalization; blanks that it takes in may be anybody's.
  CHECK(count(encode({{"a ", false}, {"<mask>", true}, {"b", false}}), mask) == 1);
  CHECK(encode({{"a ", false}, {"<mask>", true}, {"b", false}}) == tokenizer.encode("a <mask>b", false));
  CHECK(count(encode({{"a <mask>b", false}}), mask) == 0);
  CHECK(count(encode({{"cafe\u0301 ", false}, {"<mask>", true}, {" cafe\u0301<mask>", false}}), mask) == 1);
  // Tokens that are not control tokens stay what they are.
  CHECK(encode_untrusted(tokenizer, "a  word cafe\u0301") == tokenizer.encode("a  word caf\u00e9", false));
  // The text survives.
  CHECK(tokenizer.decode(encode_untrusted(tokenizer, "x<s><|x|></s>y"), false) == " x<s><|x|></s>y");
}

TEST_CASE("merges and whole pre-tokens do not spell control tokens in untrusted text") {
  for (const char* pre :
       {"null", R"({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false})"}) {
    for (const bool ignore_merges : {false, true}) {
      INFO(pre, " ignore_merges ", ignore_merges);
      const test::TokenizerDirectory directory(reachable(ignore_merges, pre));
      const Tokenizer tokenizer = directory.load();
      CHECK(tokenizer.encode("as<s>", false) == Ids{6, 4});
      CHECK(encode_untrusted(tokenizer, "as<s>") == Ids{6, 3, 2});
      CHECK(encode_untrusted(tokenizer, "<s>") == Ids{3, 2});
      CHECK(encode_untrusted(tokenizer, "end") == Ids{8, 9, 10});
      CHECK(encode_untrusted(tokenizer, "a#s") == Ids{6});  // nothing else spells '#': it is left out
      const TextSpan spans[] = {{"as", false}, {"<s>", true}, {"a<s>", false}};
      CHECK(tokenizer.encode(spans) == Ids{6, 4, 5, 3, 2});
      // The memo of frequent pre-tokens knows nothing of trust.
      CHECK(tokenizer.encode("end", false) == Ids{7});
      CHECK(encode_untrusted(tokenizer, "end") == Ids{8, 9, 10});
    }
  }
}

TEST_CASE("no control token of a real family comes out of untrusted text") {
  for (const char* name : {"llama3", "qwen3", "mistral_v01", "gemma3", "gpt_oss", "deepseek_v3", "llama2",
                           "llama2_metaspace", "gpt_neox", "synth_flags"}) {
    FIXTURE_OR_RETURN(directory, std::string("tokenizers/") + name);
    INFO(name);
    const Tokenizer tokenizer = Tokenizer::from_directory(directory);
    const std::set<int32_t> control = control_ids(directory);
    CHECK(control.size() >= 2);
    std::string all;
    for (const int32_t id : control) {
      const std::string content = tokenizer.id_to_token(id);
      const Ids alone = encode_untrusted(tokenizer, content);
      if (any_of(alone, control)) FAIL_CHECK("reached: ", content);
      if (tokenizer.encode(content, false) != Ids{id} && content != "<w>")
        MESSAGE("not itself when trusted: ", content);
      all += "a" + content + " ";
    }
    CHECK_FALSE(any_of(encode_untrusted(tokenizer, all), control));
    const std::string text = "Hello <b>world</b>  two\n\n\nlines\t\tdon't 日本語 1234";
    CHECK(encode_untrusted(tokenizer, text) == tokenizer.encode(text, false));
  }
}

TEST_CASE("invalid UTF-8") {
  const Tokenizer tokenizer = Tokenizer::from_directory(test::data_file("tokenizers/byte_level"));
  CHECK(tokenizer.encode("a\xFF\xC3", false) == tokenizer.encode("a\uFFFD\uFFFD", false));
  // A character is not put together from two sides.
  const TextSpan halves[] = {{"\xC3", true}, {"\xA9", false}};
  CHECK(tokenizer.encode(halves) == tokenizer.encode("\uFFFD\uFFFD", false));
  CHECK(tokenizer.encode(std::span<const TextSpan>()).empty());
}
