// `engine serve`: a model behind HTTP.
#pragma once

#include <string>
#include <vector>

#include "runtime/engine.h"
#include "server/http.h"
#include "server/log.h"
#include "server/service.h"

namespace engine::server {

struct ServerOptions {
  std::string host = "127.0.0.1";  // or "unix:PATH"
  int port = 8000;                 // 0: any
  std::string model_name;          // what clients see
  std::vector<std::string> model_aliases;  // further names they may use
  std::string api_key, api_key_file;
  std::vector<std::string> allowed_hosts;  // names in the Host header besides addresses and localhost; "*": any
  std::string cors_origin;         // "" : browsers' pages from elsewhere are kept out; "*": all are let in
  ServiceLimits service;
  HttpLimits http;
  int max_connections = 256;
  double request_timeout_s = 600;  // from a request's arrival to the end of its answer
  double drain_s = 30;
  LogFormat log = LogFormat::text;
  GenerationConfig defaults;       // settings of requests that say nothing else
};

/// Blocks SIGTERM, SIGINT and SIGHUP so that run_server's own thread gets them: to be called before any other thread is started. Until run_server
/// runs, SIGTERM and SIGINT end the program.
void prepare_server_signals();

/// Serves until SIGTERM or SIGINT and returns the exit code. Throws Error if it cannot start.
int run_server(Engine& engine, const ServerOptions& options);

}  // namespace engine::server
