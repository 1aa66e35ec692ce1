// Fetching a model from the Hub, for `engine pull` and for a chat that was asked for one that is not here.
#pragma once

#include "cli/options.h"

namespace engine::cli {

/// With a progress bar on a terminal; Ctrl-C stops it. The exit code: exit_done or exit_interrupted. Throws Error. `snapshot`: where it lies then.
int pull_model(const Options& options, std::string* snapshot);

}  // namespace engine::cli
