#include "cli/answer.h"

#include <cstdio>
#include <exception>

#include "base/error.h"
#include "cli/progress.h"

namespace engine::cli {

GenerationResult generate_answer(Engine& engine, std::vector<int32_t> prompt, const GenerationConfig& config, uint64_t stream,
                                 const InterruptGuard& guard, bool quiet, const std::function<void(std::string_view)>& show,
                                 std::shared_ptr<TokenConstraint> constraint, std::vector<int32_t> shown_special) {
  Progress bar("reading the prompt", quiet);
  std::exception_ptr failure;
  GenerationRequest request;
  request.prompt = std::move(prompt);
  request.config = config;
  request.stream = stream;
  request.cancel = guard.flag();
  request.constraint = std::move(constraint);
  request.shown_special = std::move(shown_special);
  request.on_prefill = [&bar](int64_t done, int64_t total) {
    done < total ? bar.update(static_cast<uint64_t>(done), static_cast<uint64_t>(total)) : bar.clear();
  };
  request.on_text = [&](std::string_view text) {
    if (failure) return;
    try {
      bar.clear();
      show(text);
    } catch (...) {  // the scheduler must not be left half way through a step
      failure = std::current_exception();
    }
  };
  Scheduler& scheduler = engine.scheduler();
  const Scheduler::Id id = scheduler.submit(std::move(request));
  while (!scheduler.finished(id)) {
    if (failure) scheduler.cancel(id);
    scheduler.step();
  }
  GenerationResult result = scheduler.take(id);
  if (failure) std::rethrow_exception(failure);
  if (result.reason == FinishReason::error) throw Error(result.error);
  return result;
}

double prefill_speed(const GenerationStats& stats) {
  const auto n = static_cast<double>(stats.prompt_tokens - stats.cached_tokens);
  return stats.prefill_s > 0 ? n / stats.prefill_s : 0;
}

double decode_speed(const GenerationStats& stats) {
  const auto n = static_cast<double>(stats.completion_tokens - 1);
  return stats.decode_s > 0 && n > 0 ? n / stats.decode_s : 0;
}

std::string closing_line(const GenerationStats& stats) {
  char text[160];
  std::snprintf(text, sizeof text, "%lld tokens, %.1f tok/s, prompt %lld (%lld cached)", static_cast<long long>(stats.completion_tokens),
                decode_speed(stats), static_cast<long long>(stats.prompt_tokens), static_cast<long long>(stats.cached_tokens));
  std::string line = text;
  if (stats.draft_tokens > 0) line += ", " + std::to_string(stats.accepted_tokens) + " of " + std::to_string(stats.draft_tokens) + " drafted";
  return line;
}

}  // namespace engine::cli
