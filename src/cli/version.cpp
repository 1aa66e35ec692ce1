#include "base/json.h"
#include "base/threads.h"
#include "cli/commands.h"
#include "cli/load.h"
#include "cli/terminal.h"
#include "hub/stream.h"

namespace engine::cli {

int run_version(const Options& options) {
  select_isa(options);
  int n_levels = 0;
  const kernels::Level* levels = kernels::levels(&n_levels);
  Json compiled = Json::array(), usable = Json::array();
  std::string compiled_text, usable_text;
  for (int i = 0; i < n_levels; i++) {
    compiled.push_back(levels[i].name);
    compiled_text += std::string(" ") + levels[i].name;
    if (!levels[i].usable) continue;
    usable.push_back(levels[i].name);
    usable_text += std::string(" ") + levels[i].name;
  }
  const std::string compiler = "gcc " __VERSION__;
  const int threads = options.n_threads > 0 ? options.n_threads : default_thread_count();
  const std::string tls = hub::tls_name();
  const char* chosen = kernels::table().name;
  if (options.json) {
    const Json answer = {{"version", ENGINE_VERSION},
                         {"compiler", compiler},
                         {"isa", {{"compiled", compiled}, {"usable", usable}, {"chosen", chosen}}},
                         {"threads", threads},
                         {"tls", tls.empty() ? Json() : Json(tls)}};
    write_stdout(dump_json(answer) + "\n");
  } else {
    write_stdout("engine " ENGINE_VERSION "\ncompiler: " + compiler + "\nisa compiled in:" + compiled_text + "\nisa usable here:" + usable_text +
                 "\nisa chosen: " + chosen + "\nthreads: " + std::to_string(threads) + "\ntls: " + (tls.empty() ? "none" : tls) + "\n");
  }
  return exit_done;
}

}  // namespace engine::cli
