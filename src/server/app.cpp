#include "server/app.h"

#include <arpa/inet.h>

#include <algorithm>
#include <new>

#include "server/openai.h"

namespace engine::server {
namespace {

thread_local Json notes;

/// The name in a Host header, without the port; a number in brackets stays in them.
std::string host_name(const std::string& host) {
  if (!host.empty() && host[0] == '[') return host.substr(0, host.find(']') + 1);
  return host.substr(0, host.find(':'));
}

/// A page of another site can make a browser come here under that site's name (DNS rebinding), but never under a number.
bool is_address(const std::string& name) {
  in_addr v4;
  in6_addr v6;
  if (::inet_pton(AF_INET, name.c_str(), &v4) == 1) return true;
  return name.size() > 2 && name[0] == '[' && ::inet_pton(AF_INET6, name.substr(1, name.size() - 2).c_str(), &v6) == 1;
}

std::string lower(std::string text) {
  for (char& c : text) c = static_cast<char>(c >= 'A' && c <= 'Z' ? c + 32 : c);
  return text;
}

bool leads_to(const Route& route, const std::string& path) {
  const std::string_view wanted = route.path;
  if (!wanted.ends_with("/*")) return path == wanted;
  return path.size() > wanted.size() - 1 && path.starts_with(wanted.substr(0, wanted.size() - 1));
}

const Route* find_route(const std::string& method, const std::string& path) {
  const std::string wanted = method == "HEAD" ? "GET" : method;
  for (const Route& route : all_routes()) {
    if (leads_to(route, path) && wanted == route.method) return &route;
  }
  return nullptr;
}

std::string methods_of(const std::string& path) {
  std::string methods;
  for (const Route& route : all_routes()) {
    if (leads_to(route, path)) methods += std::string(methods.empty() ? "" : ", ") + route.method;
  }
  return methods;
}

bool is_json(const std::string& content_type) {
  const std::string type = lower(content_type.substr(0, content_type.find(';')));
  const size_t end = type.find_last_not_of(" \t");
  return end != std::string::npos && type.substr(0, end + 1) == "application/json";
}

}  // namespace

App::App(Engine& engine_, const ServerOptions& options_)
    : engine(engine_), options(options_), service(engine_, options_.service), keys(options_.api_key, options_.api_key_file),
      log_lines(options_.log) {}

void App::check_access(const Request& request, const Route& route) const {
  const std::string name = lower(host_name(request.host));
  const auto& allowed = options.allowed_hosts;
  const bool known = trusts_any_host || name == "localhost" || is_address(name) || name == lower(options.host) ||
                     std::find(allowed.begin(), allowed.end(), "*") != allowed.end() ||
                     std::any_of(allowed.begin(), allowed.end(), [&](const std::string& a) { return lower(a) == name; });
  if (!known) throw ApiError(421, "this server does not answer to that host name; --allow-host NAME lets it", "", "unknown_host");
  const bool same_origin = request.origin == "http://" + request.host || request.origin == "https://" + request.host;
  if (request.has_origin && !same_origin && options.cors_origin != "*" && request.origin != options.cors_origin) {
    throw ApiError(403, "pages of other sites are not let in; --cors ORIGIN lets them", "", "cross_origin");
  }
  if (!route.open && keys.required() && !keys.accepts(request.authorization)) {
    throw ApiError(401, request.authorization.empty() ? "an API key is needed: Authorization: Bearer KEY" : "the API key is not right", "",
                   "invalid_api_key");
  }
  if (std::string_view(route.method) == "POST" && !is_json(request.content_type)) {
    throw ApiError(415, "Content-Type: expected application/json", "", "unsupported_media_type");
  }
}

Reply App::preflight(const Request& request) const {
  Reply reply;
  reply.status = 204;
  reply.content_type = "text/plain";
  reply.headers = {{"Access-Control-Allow-Methods", methods_of(request.path)},
                   {"Access-Control-Allow-Headers", "authorization, content-type, x-request-id"},
                   {"Access-Control-Max-Age", "600"}};
  return reply;
}

void App::add_cors(const Request& request, Reply& reply) const {
  if (options.cors_origin.empty() || !request.has_origin) return;
  if (options.cors_origin != "*" && request.origin != options.cors_origin) return;
  reply.headers.emplace_back("Access-Control-Allow-Origin", options.cors_origin);
  reply.headers.emplace_back("Vary", "Origin");
}

Reply App::admit(const Request& request) {
  notes = Json::object();
  const Route* route = find_route(request.method, request.path);
  if (route == nullptr) {
    const std::string methods = methods_of(request.path);
    if (!methods.empty() && request.method == "OPTIONS" && !options.cors_origin.empty()) {
      Reply reply = preflight(request);
      add_cors(request, reply);
      return reply;
    }
    if (methods.empty()) return openai_error(ApiError(404, "there is nothing at this address", "", "not_found"));
    Reply reply = openai_error(ApiError(405, request.path + ": expected " + methods, "", "method_not_allowed"));
    reply.headers.emplace_back("Allow", methods);
    return reply;
  }
  try {
    check_access(request, *route);
  } catch (const ApiError& error) {
    Reply reply = route->error(error);
    if (error.status == 401) reply.headers.emplace_back("WWW-Authenticate", "Bearer");
    add_cors(request, reply);
    return reply;
  }
  return {};
}

Reply App::handle(const Request& request) {
  const Route* route = find_route(request.method, request.path);  // admit() saw to that it exists
  Reply reply;
  try {
    reply = route->handle(*this, request);
  } catch (const ApiError& error) {
    reply = route->error(error);
  } catch (const Busy& error) {
    reply = route->error(ApiError(503, error.message, "", "overloaded"));
    reply.headers.emplace_back("Retry-After", "1");
  } catch (const Error& error) {
    reply = route->error(ApiError(400, error.message + (error.hint.empty() ? "" : " (" + error.hint + ")")));
  } catch (const std::bad_alloc&) {
    reply = route->error(ApiError(503, "out of memory", "", "overloaded"));
    reply.headers.emplace_back("Retry-After", "5");
  } catch (const std::exception& error) {
    log_lines.write("error", {{"id", request.id}, {"what", error.what()}});
    reply = route->error(ApiError(500, "internal error", "", "internal_error"));
  }
  add_cors(request, reply);
  return reply;
}

Reply App::refuse(int status, const std::string& message) { return openai_error(ApiError(status, message)); }

void App::note(const char* key, Json value) { notes[key] = std::move(value); }

void App::log(const Request& request, const Reply& reply, std::chrono::steady_clock::duration took, bool complete) {
  const bool known = !methods_of(request.path).empty();
  {
    const std::lock_guard lock(mutex_);
    ++counts_[{known ? request.path : "other", reply.status}];
  }
  const double ms = std::chrono::duration<double, std::milli>(took).count();
  Json line = {{"id", request.id}, {"peer", request.peer}, {"method", request.method}, {"path", request.path.substr(0, 200)},
               {"status", reply.status}, {"ms", static_cast<int64_t>(ms * 10) / 10.0}};
  if (!complete) line["cut_off"] = true;
  if (notes.is_object()) line.update(notes);
  notes = Json::object();
  log_lines.write("request", line);
}

std::map<std::pair<std::string, int>, uint64_t> App::request_counts() const {
  const std::lock_guard lock(mutex_);
  return counts_;
}

}  // namespace engine::server
