// `engine pull`: a model from the Hugging Face Hub into the cache.
#include "cli/pull.h"

#include <chrono>
#include <cstdio>

#include "base/hub_cache.h"
#include "cli/commands.h"
#include "cli/plan.h"
#include "cli/progress.h"
#include "cli/terminal.h"
#include "hub/hub.h"
#include "hub/stream.h"

namespace engine::cli {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

std::string speed_text(double bytes_per_s) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f MB/s", bytes_per_s / 1e6);
  return text;
}

bool is_true(const std::string& value) { return value == "1" || value == "true" || value == "TRUE" || value == "True" || value == "ON" || value == "YES" || value == "yes"; }

}  // namespace

int pull_model(const Options& options, std::string* snapshot) {
  if (!is_hub_id(options.model)) throw Error(options.model + ": expected a Hub id such as Qwen/Qwen2.5-0.5B-Instruct");
  if (is_true(environment("HF_HUB_OFFLINE"))) throw Error("HF_HUB_OFFLINE: expected it unset for a download, got " + environment("HF_HUB_OFFLINE"));
  const InterruptGuard interrupt(true);
  Progress bar("fetching", options.quiet);
  const Clock::time_point begin = Clock::now();
  uint64_t first = 0;
  bool started = false;
  hub::PullOptions pull;
  pull.endpoint = hub::default_endpoint();
  pull.token = hub::default_token();
  if (options.connections > 0) pull.connections = options.connections;
  pull.stop = interrupt.flag();
  pull.progress = [&](uint64_t done, uint64_t total) {
    if (!started) first = done;  // an earlier run's
    started = true;
    const double rate = static_cast<double>(done - std::min(done, first)) / std::max(seconds_since(begin), 0.1);
    bar.update(done, total, bytes_text(done) + " of " + bytes_text(total) + ", " + speed_text(rate));
  };
  try {
    const hub::Pulled pulled = hub::pull(options.model, options.revision, pull);
    bar.clear();
    *snapshot = pulled.snapshot;
    if (options.quiet) return exit_done;
    std::string text = options.model + ": " + std::to_string(pulled.n_files) + " files, " + bytes_text(pulled.n_bytes);
    if (pulled.n_fetched == 0) text += ", all here already";
    else text += ", " + bytes_text(pulled.n_fetched_bytes) + " fetched at " + speed_text(static_cast<double>(pulled.n_fetched_bytes) / std::max(seconds_since(begin), 1e-3));
    write_stderr(text + "\n");
    return exit_done;
  } catch (const hub::Interrupted&) {
    bar.clear();
    if (!options.quiet) write_stderr("engine: stopped; the same command goes on from here\n");
    return exit_interrupted;
  }
}

int run_pull(const Options& options) {
  std::string snapshot;
  const int code = pull_model(options, &snapshot);
  if (code == exit_done) write_stdout(snapshot + "\n");
  return code;
}

}  // namespace engine::cli
