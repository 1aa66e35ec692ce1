// `engine bench`: prefill and decode speed, and how near they come to what the machine can do.
#include <chrono>
#include <cstdio>

#include "base/machine.h"
#include "cli/commands.h"
#include "cli/load.h"
#include "cli/plan.h"
#include "cli/terminal.h"
#include "runtime/bench.h"
#include "runtime/engine.h"

namespace engine::cli {
int run_bench(const Options& options) {
  select_isa(options);
  const std::string directory = resolve_model(options.model, options.revision);
  Options wanted = options;
  wanted.ctx = (options.bench_prompt > 0 ? options.bench_prompt : 512) + options.bench_tokens * std::max(options.parallel, 1);
  Team team(options.n_threads > 0 ? options.n_threads : default_thread_count());
  const auto start = std::chrono::steady_clock::now();
  const std::shared_ptr<const Model> model = load_model(directory, wanted, team);
  const double load_s = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  // By default what a small context leaves room for.
  const int64_t room = std::max<int64_t>(model->spec().max_positions - options.bench_tokens, 1);
  const int64_t n_prompt = options.bench_prompt > 0 ? options.bench_prompt : std::min<int64_t>(512, room);
  const int n_sequences = std::max(options.parallel, 1);
  const BenchResult r = engine::run_bench(model, team,
                                          {.n_prompt = n_prompt, .n_new = options.bench_tokens, .n_runs = options.bench_runs,
                                           .n_sequences = n_sequences, .kv_format = kv_format(options, *model)});
  const uint64_t rss = process_memory().resident;
  if (options.json) {
    const Json json = {{"prefill_tok_s", r.prefill_tok_s},
                       {"decode_tok_s", r.decode_tok_s},
                       {"parallel", n_sequences},
                       {"prefill_fraction", r.prefill_fraction},
                       {"decode_fraction", r.decode_fraction},
                       {"read_gb_s", r.limits.read_gb_s},
                       {"int8_gmac_s", r.limits.int8_gmac_s},
                       {"weights_bytes_active", model->active_bytes()},
                       {"rss_bytes", rss},
                       {"load_s", load_s}};
    write_stdout(dump_json(json, 2) + "\n");
    return exit_done;
  }
  std::string decode = "decode(" + std::to_string(options.bench_tokens) + ")" + (n_sequences > 1 ? " x " + std::to_string(n_sequences) : "");
  decode.resize(std::max<size_t>(decode.size(), 12), ' ');
  char text[1024];
  std::snprintf(text, sizeof text,
                "%s, %d threads, %s; %s of weights a token, %s resident, loaded in %.2f s\n"
                "prefill(%ld)  %8.1f tok/s  %7.1f G multiply-adds/s  %3.0f%% of the int8 dot-product peak (%.0f G/s)\n"
                "%s  %8.1f tok/s  %7.1f GB/s               %3.0f%% of the read bandwidth (%.1f GB/s)\n",
                directory.c_str(), team.size(), kernels::table().name, bytes_text(model->active_bytes()).c_str(), bytes_text(rss).c_str(), load_s,
                static_cast<long>(n_prompt), r.prefill_tok_s, r.prefill_gmac_s, 100 * r.prefill_fraction, r.limits.int8_gmac_s,
                decode.c_str(), r.decode_tok_s, r.decode_gb_s, 100 * r.decode_fraction, r.limits.read_gb_s);
  write_stdout(text);
  return exit_done;
}

}  // namespace engine::cli
