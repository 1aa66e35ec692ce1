// A model directory for tests from a clone alone: a tiny random model of tests/data with a tokenizer and a template written here.
#pragma once

#include <filesystem>
#include <string>

#include "base/json.h"
#include "support.h"
#include "temp_dir.h"

namespace engine::test {

/// ids: 0 <unk>, 1 <s>, 2 </s>, 3 <|end|> (special), then single characters: blank is "Ġ", newline "Ċ".
inline Json tiny_tokenizer() {
  Json vocab = {{"<unk>", 0}, {"<s>", 1}, {"</s>", 2}, {"<|end|>", 3}, {"\u0120", 4}, {"\u010a", 5}};
  for (char c = '!'; c <= '~'; ++c) vocab[std::string(1, c)] = vocab.size();
  Json tokenizer = parse_json(R"({"version": "1.0", "truncation": null, "padding": null, "normalizer": null,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
    "post_processor": null, "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
    "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
              "fuse_unk": false, "byte_fallback": false, "merges": []}})", "tiny tokenizer");
  tokenizer["added_tokens"] = Json::array();
  for (const char* name : {"<unk>", "<s>", "</s>", "<|end|>"}) {
    tokenizer["added_tokens"].push_back({{"id", vocab[name]}, {"content", name}, {"single_word", false}, {"lstrip", false},
                                         {"rstrip", false}, {"normalized", false}, {"special", true}});
  }
  tokenizer["model"]["vocab"] = vocab;
  return tokenizer;
}

/// Writes a directory with tests/data/models/llama-untied's weights (vocabulary 103, context 256), the tokenizer and `chat_template`.
inline void write_tiny_model(const TempDir& dir, const std::string& chat_template, const std::string& generation_config = "{}") {
  for (const char* name : {"config.json", "model.safetensors"}) {
    std::filesystem::copy_file(data_file(std::string("models/llama-untied/") + name), dir.file(name));
  }
  dir.write("tokenizer.json", dump_json(tiny_tokenizer()));
  Json config = {{"bos_token", "<s>"}, {"eos_token", "</s>"}, {"tokenizer_class", "PreTrainedTokenizerFast"}};
  if (!chat_template.empty()) config["chat_template"] = chat_template;
  dir.write("tokenizer_config.json", dump_json(config));
  dir.write("generation_config.json", generation_config);
}

}  // namespace engine::test
