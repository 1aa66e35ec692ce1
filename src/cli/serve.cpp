// `engine serve`: the HTTP mode.
#include "server/server.h"

#include <algorithm>

#include "cli/commands.h"
#include "cli/load.h"
#include "demo/demo.h"

namespace engine::cli {
namespace {

constexpr int default_parallel = 4;

/// The last part of a directory's path; a Hub id as it is.
std::string name_of(const std::string& model) {
  if (model == demo::directory) return demo::name;
  std::string path = model;
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  const size_t slash = path.rfind('/');
  const bool hub_id = slash != std::string::npos && path.find('/') == slash && path[0] != '.' && path[0] != '/';
  return hub_id || slash == std::string::npos ? path : path.substr(slash + 1);
}

}  // namespace

int run_serve(const Options& given) {
  server::prepare_server_signals();
  Options options = given;
  if (options.parallel == 0) options.parallel = default_parallel;
  const std::unique_ptr<Engine> engine = load_engine(options);

  server::ServerOptions server = options.server;
  server.defaults = make_config(*engine, options);
  const bool bounded = engine->default_config().max_new_tokens || engine->default_config().max_length || !options.generation_config.empty();
  const bool set = std::any_of(options.settings.begin(), options.settings.end(),
                               [](const Setting& s) { return s.key == "max_new_tokens" || s.key == "max_length"; });
  if (!bounded && !set) server.defaults.max_new_tokens.reset();  // the context is the bound
  server.model_aliases = {options.model, name_of(options.model)};
  if (server.model_name.empty()) server.model_name = name_of(options.model);
  server.service.parallel = options.parallel;
  if (options.quiet) server.log = server::LogFormat::none;
  return server::run_server(*engine, server);
}

}  // namespace engine::cli
