// The commands, one file each. Each returns the exit code and throws Error when it fails.
#pragma once

#include "cli/options.h"

namespace engine::cli {

int run_chat(const Options& options);
int run_generate(const Options& options);
int run_inspect(const Options& options);
int run_check(const Options& options);
int run_serve(const Options& options);  // with the Meson option `http`
int run_perplexity(const Options& options);
int run_tokenize(const Options& options);
int run_detokenize(const Options& options);
int run_template(const Options& options);
int run_bench(const Options& options);
int run_quantize(const Options& options);
int run_pull(const Options& options);
int run_logits(const Options& options);
int run_completions(const Options& options);
int run_man(const Options& options);
int run_version(const Options& options);

/// One line on stderr, and one more with the hint where there is one.
void print_error(const Error& error);

inline constexpr int exit_done = 0, exit_failed = 1, exit_usage = 2, exit_interrupted = 130;

}  // namespace engine::cli
