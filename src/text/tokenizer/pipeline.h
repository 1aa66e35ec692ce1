// Everything that a tokenizer's files say, ready for use. Immutable after load.
#pragma once

#include <optional>
#include <string>

#include "text/tokenizer/added_tokens.h"
#include "text/tokenizer/bpe.h"
#include "text/tokenizer/decoder.h"
#include "text/tokenizer/normalizer.h"
#include "text/tokenizer/post_processor.h"
#include "text/tokenizer/pre_tokenizer.h"

namespace engine::tok {

struct Pipeline {
  AddedTokens added;
  NormalizerChain normalizer;
  PreTokenizerChain pre_tokenizer;
  std::optional<Bpe> model;  // always set after load
  PostProcessor post_processor;
  DecoderSpec decoder;

  std::string bos_token, eos_token, pad_token, unk_token;
  int64_t model_max_length = 0;
};

/// Reads tokenizer.json, tokenizer_config.json and special_tokens_map.json of a model directory. Throws Error.
Pipeline load_pipeline(const std::string& directory);

}  // namespace engine::tok
