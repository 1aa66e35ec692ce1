// Generation settings with the names, types, defaults and meaning of Transformers' GenerationConfig.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"

namespace engine {

/// Only fields that have an effect here exist; others of Transformers' are known by name, so that a generation_config.json that holds one
/// at its neutral value is fine and one that asks for something not supported (num_beams = 4) is refused.
///
/// None: in a file or a request null means "not given", and the layer below decides (Transformers fills None from the model's
/// generation_config.json and then from its own defaults). On the command line `key=None` means what `generate(key=None)` does: the
/// feature is off, whatever the model's file says.
struct GenerationConfig {
  // length
  std::optional<int64_t> max_new_tokens;
  std::optional<int64_t> max_length;      // prompt + new tokens; max_new_tokens wins
  std::optional<int64_t> min_new_tokens;
  int64_t min_length = 0;
  std::optional<double> max_time;         // seconds, from submission
  std::vector<std::string> stop_strings;
  // choice
  bool do_sample = false;
  double temperature = 1.0;               // 0: greedy
  int64_t top_k = 50;                     // 0: off
  double top_p = 1.0;
  std::optional<double> min_p;
  double typical_p = 1.0;
  double epsilon_cutoff = 0, eta_cutoff = 0;
  double repetition_penalty = 1.0;
  int64_t no_repeat_ngram_size = 0;
  std::vector<std::vector<int32_t>> bad_words_ids;
  std::vector<int32_t> suppress_tokens, begin_suppress_tokens;
  // special tokens
  std::optional<int32_t> bos_token_id, pad_token_id;
  std::vector<int32_t> eos_token_id;      // one or several
  // ours
  std::optional<uint64_t> seed;           // none: from the system's randomness

  /// Applies the fields of a JSON object (generation_config.json or a request). `where` names the source in errors. With `lenient`, fields
  /// that Transformers itself ignores or that are unknown are skipped (a model's own file); otherwise an unknown key is an Error
  /// that names the nearest known one. Wrong types, NaN, and values out of range (temperature < 0, top_p > 1) are Errors always.
  /// Nothing is changed if it throws.
  void apply(const Json& object, std::string_view where, bool lenient);

  /// Applies one "key=value" from the command line or !set: typed as the field is (True/true, None/null, 1e-5, [1,2], "a b", bare words
  /// where a string is expected).
  void set(std::string_view key, std::string_view value);

  /// Every field as JSON, in the order of declaration; what is not set is null. apply() on a default object gives the same settings back.
  Json to_json() const;
  static std::vector<std::string> keys();

  /// max_new_tokens after Transformers' rules for a prompt of n tokens: max_new_tokens, else max_length - n, else 20; bounded by the
  /// context. 0 or less: the prompt leaves no room.
  int64_t new_token_limit(int64_t n_prompt, int64_t context) const;

  bool is_eos(int32_t token) const;
};

/// Nearest of `known` to `word` by edit distance; empty if none is near. For "did you mean".
std::string nearest_word(std::string_view word, const std::vector<std::string>& known);

}  // namespace engine
