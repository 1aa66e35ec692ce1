// One answer from the model, shown as it comes.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "cli/terminal.h"
#include "runtime/engine.h"

namespace engine::cli {

/// Generates with the engine's scheduler until the answer ends or `guard` sees an interrupt (reason cancelled). `show` gets the text piece by
/// piece and may throw: the answer is then given up and the exception goes on to the caller. A progress bar stands on stderr
/// while a long prompt is read, unless `quiet`. `stream`, `constraint`, `shown_special`: see GenerationRequest.
GenerationResult generate_answer(Engine& engine, std::vector<int32_t> prompt, const GenerationConfig& config, uint64_t stream,
                                 const InterruptGuard& guard, bool quiet, const std::function<void(std::string_view)>& show,
                                 std::shared_ptr<TokenConstraint> constraint = nullptr, std::vector<int32_t> shown_special = {});

/// "12 tokens, 34.5 tok/s, prompt 56 (7 cached)"; with a draft model also ", 6 of 10 drafted": of the guesses, those in the answer
std::string closing_line(const GenerationStats& stats);

/// Tokens a second, 0 where there is nothing to divide by.
double prefill_speed(const GenerationStats& stats);  // of the prompt's tokens that were not cached
double decode_speed(const GenerationStats& stats);   // of the tokens after the first

}  // namespace engine::cli
