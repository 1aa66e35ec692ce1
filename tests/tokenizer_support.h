// Shared by the tokenizer's tests.
#pragma once

#include <doctest/doctest.h>

#include <unistd.h>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "base/json.h"
#include "text/tokenizer.h"
#include "text/tokenizer/unicode.h"

namespace engine::test {

inline std::vector<Json> read_json_lines(const std::string& path) {
  std::ifstream in(path);
  REQUIRE_MESSAGE(in.good(), path);
  std::vector<Json> out;
  for (std::string line; std::getline(in, line);)
    if (!line.empty()) out.push_back(parse_json(line, path));
  return out;
}

/// A model directory of its own that vanishes with the object.
class TokenizerDirectory {
 public:
  /// tokenizer.json's parts; the others are null.
  explicit TokenizerDirectory(const Json& parts) : TokenizerDirectory() {
    Json body = {{"version", "1.0"},          {"truncation", nullptr},
                 {"padding", nullptr},        {"added_tokens", Json::array()},
                 {"normalizer", nullptr},     {"pre_tokenizer", nullptr},
                 {"post_processor", nullptr}, {"decoder", nullptr},
                 {"model", nullptr}};
    for (const auto& [key, value] : parts.items()) body[key] = value;
    write("tokenizer.json", body.dump());
  }
  TokenizerDirectory() {
    static int count = 0;
    path_ = (std::filesystem::temp_directory_path() /
             ("engine-tokenizer-" + std::to_string(::getpid()) + "-" + std::to_string(count++)))
                .string();
    std::filesystem::create_directories(path_);
  }
  ~TokenizerDirectory() { std::filesystem::remove_all(path_); }
  TokenizerDirectory(const TokenizerDirectory&) = delete;

  void write(const std::string& name, std::string_view text) const {
    std::ofstream(path_ + "/" + name, std::ios::binary) << text;
  }
  Tokenizer load() const { return Tokenizer::from_directory(path_); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

inline std::string stream_joined(const Tokenizer& tokenizer, const std::vector<int32_t>& ids, bool skip) {
  Detokenizer stream(tokenizer, skip);
  std::string joined;
  bool whole_characters = true;
  for (const int32_t id : ids) {
    const std::string piece = stream.push(id);
    whole_characters &= tok::is_valid_utf8(piece);
    joined += piece;
  }
  CHECK_MESSAGE(whole_characters, "a piece ends inside a character");
  return joined + stream.flush();
}

/// Every case of cases.jsonl, and of stream.jsonl and decode.jsonl if they are there.
inline void run_golden_directory(const std::string& directory) {
  INFO(directory);
  using Ids = std::vector<int32_t>;
  const Tokenizer tokenizer = Tokenizer::from_directory(directory);
  for (const Json& c : read_json_lines(directory + "/cases.jsonl")) {
    const std::string text = c["text"];
    INFO("text: ", text);
    const Ids expected = c["ids"];
    CHECK(tokenizer.encode(text, c["add_special_tokens"]) == expected);
    CHECK(tokenizer.decode(expected, false) == c["decoded"].get<std::string>());
    CHECK(tokenizer.decode(expected, true) == c["decoded_skip_special"].get<std::string>());
    CHECK(stream_joined(tokenizer, expected, false) == c["decoded"].get<std::string>());
    CHECK(stream_joined(tokenizer, expected, true) == c["decoded_skip_special"].get<std::string>());
    if (c["add_special_tokens"]) continue;
    // Spans change nothing as long as all is trusted, wherever they are cut.
    const TextSpan whole{text, true};
    CHECK(tokenizer.encode(std::span(&whole, 1)) == expected);
    size_t middle = text.size() / 2;
    while (middle < text.size() && (static_cast<unsigned char>(text[middle]) & 0xC0) == 0x80) ++middle;
    const TextSpan halves[] = {{text.substr(0, middle), true}, {text.substr(middle), true}};
    CHECK(tokenizer.encode(halves) == expected);
  }
  if (std::filesystem::exists(directory + "/stream.jsonl"))
    for (const Json& c : read_json_lines(directory + "/stream.jsonl"))
      CHECK(stream_joined(tokenizer, c["ids"], false) == c["text"].get<std::string>());
  if (std::filesystem::exists(directory + "/decode.jsonl"))
    for (const Json& c : read_json_lines(directory + "/decode.jsonl")) {
      INFO("ids: ", c["ids"].dump());
      CHECK(tokenizer.decode(c["ids"].get<Ids>(), c["skip_special_tokens"]) == c["text"].get<std::string>());
    }
}

}  // namespace engine::test
