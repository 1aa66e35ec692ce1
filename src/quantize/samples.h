// Texts to calibrate with.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "model/decoder.h"

namespace engine {

using Sequences = std::vector<std::vector<int32_t>>;  // all of one length, but for the last

/// Cuts ids into sequences of `length`, each starting with bos if there is one; at most n_tokens.
Sequences cut_text(std::span<const int32_t> ids, std::optional<int32_t> bos, int64_t length, int64_t n_tokens);

/// Sequences that the model itself makes, drawn at temperature 1 (LLM-QAT, arXiv:2305.17888); without a bos they start with tokens spread
/// over the vocabulary. The same for the same model, whatever the machine's number of threads. `progress` returns false to stop.
Sequences own_samples(const std::shared_ptr<const Model>& model, Team& team, std::optional<int32_t> bos, int64_t length, int64_t n_tokens,
                      const std::function<bool(uint64_t done, uint64_t total)>& progress);

}  // namespace engine
