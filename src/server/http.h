// HTTP on one connection: from bytes to a Request, from a Reply to bytes. What a request means is not known here.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "server/listener.h"

namespace engine::server {

struct HttpLimits {
  size_t max_body_bytes = size_t{4} << 20;
  std::chrono::milliseconds read_timeout{30'000};        // for a whole request: line, headers, body
  std::chrono::milliseconds write_timeout{30'000};       // for a client to take some bytes
  std::chrono::milliseconds keep_alive_timeout{60'000};  // between requests
  size_t max_header_bytes = size_t{64} << 10;            // request line and headers together
};

struct Request {
  std::string id;      // unique; the client's own X-Request-Id if it is a sane one
  std::string method, path, query, peer;
  std::string body;
  std::string host, origin, authorization, content_type;  // headers, "" if not there
  bool has_origin = false;
  std::function<bool()> disconnected;  // the client has gone
};

/// Takes the parts of a streamed reply.
class Sink {
 public:
  virtual ~Sink() = default;
  /// False once the client has gone or is too slow.
  virtual bool write(std::string_view bytes) = 0;
  virtual bool disconnected() const = 0;
};

using Headers = std::vector<std::pair<std::string, std::string>>;

struct Reply {
  int status = 200;
  std::string body;
  std::string content_type = "application/json";
  Headers headers;
  /// If not empty, the body is what it writes. Runs after the headers were sent; must not throw.
  std::function<void(Sink&)> stream;
};

/// What stands behind HTTP. Called from many threads.
class Handler {
 public:
  virtual ~Handler() = default;
  /// Looks at a request before its body is read. A status of 200 lets it pass; any other is the answer, and the connection is closed.
  virtual Reply admit(const Request& request) = 0;
  virtual Reply handle(const Request& request) = 0;
  /// The answer to what is not HTTP as it should be: `status` and what is wrong.
  virtual Reply refuse(int status, const std::string& message) = 0;
  /// After an answer was sent, `complete` or cut off. `request` has only a peer and an id if it could not be read.
  virtual void log(const Request& request, const Reply& reply, std::chrono::steady_clock::duration took, bool complete) = 0;
};

class HttpServer {
 public:
  /// `listener` and `handler` outlive it.
  HttpServer(Listener& listener, Handler& handler, const HttpLimits& limits);
  ~HttpServer();
  /// Serves the requests of one connection until it ends. Closes nothing. Any number of threads.
  void serve(int fd, const std::string& peer);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace engine::server
