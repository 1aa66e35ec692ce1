// What every route shares: the model, the door to the scheduler, who may come in, and how errors are told.
#pragma once

#include <atomic>
#include <map>
#include <mutex>
#include <span>
#include <string>
#include <utility>

#include "server/http.h"
#include "server/keys.h"
#include "server/log.h"
#include "server/server.h"
#include "server/service.h"

namespace engine::server {

/// An error that a client is told. `param`: the field it is about; `code`: a name for programs; both may be empty.
struct ApiError : Error {
  ApiError(int status_, std::string message_, std::string param_ = {}, std::string code_ = {})
      : Error(std::move(message_)), status(status_), param(std::move(param_)), code(std::move(code_)) {}
  int status;
  std::string param, code;
};

class App;

struct Route {
  const char* method;
  const char* path;  // '/*' at its end: any name there
  Reply (*handle)(App& app, const Request& request);
  Reply (*error)(const ApiError& error);  // the dialect's form of an error
  bool open = false;                      // needs no key
};

/// All routes: the dialects' tables joined (routes.cpp).
std::span<const Route> all_routes();

class App final : public Handler {
 public:
  App(Engine& engine, const ServerOptions& options);

  Engine& engine;
  const ServerOptions& options;
  Service service;
  Keys keys;
  Log log_lines;
  bool trusts_any_host = false;  // a unix socket: no browser gets there

  Reply admit(const Request& request) override;
  Reply handle(const Request& request) override;
  Reply refuse(int status, const std::string& message) override;
  void log(const Request& request, const Reply& reply, std::chrono::steady_clock::duration took, bool complete) override;

  /// Fields that are added to the log line of the request that this thread serves (token counts, never texts).
  void note(const char* key, Json value);
  /// Requests by path and status, for /metrics.
  std::map<std::pair<std::string, int>, uint64_t> request_counts() const;

 private:
  void check_access(const Request& request, const Route& route) const;
  void add_cors(const Request& request, Reply& reply) const;
  Reply preflight(const Request& request) const;

  mutable std::mutex mutex_;
  std::map<std::pair<std::string, int>, uint64_t> counts_;  // under mutex_
};

}  // namespace engine::server
