// The only file that includes httplib.h: it parses and writes HTTP; sockets, time limits and what a request may look like are ours.
#include "server/http.h"

// poll() in place of select(), which cannot take file numbers above 1023.
#define CPPHTTPLIB_USE_POLL
#include <httplib.h>
#include <poll.h>
#include <sys/random.h>

#include <atomic>
#include <cstring>
#include <optional>

#include "base/error.h"

namespace engine::server {
namespace {

using Clock = std::chrono::steady_clock;

/// Bodies of all requests that are being read or served: many clients with the largest body each must not add up.
constexpr size_t all_bodies_bytes = size_t{64} << 20;

bool wait_for(int fd, short events, Clock::duration timeout) {
  const auto ms = std::chrono::ceil<std::chrono::milliseconds>(timeout).count();
  if (ms <= 0) return false;
  pollfd p = {fd, events, 0};
  return ::poll(&p, 1, static_cast<int>(std::min<int64_t>(ms, INT32_MAX))) > 0;
}

bool has_gone(int fd) {
  pollfd p = {fd, POLLRDHUP, 0};
  return ::poll(&p, 1, 0) > 0 && (p.revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0;
}

std::string new_request_id() {
  uint64_t bits[2] = {};
  (void)!::getrandom(bits, sizeof bits, 0);
  char text[40];
  std::snprintf(text, sizeof text, "req-%016llx%08llx", static_cast<unsigned long long>(bits[0]),
                static_cast<unsigned long long>(bits[1] >> 32));
  return text;
}

/// An id from outside goes into headers and logs, so only plain ones are taken.
bool is_sane_id(const std::string& id) {
  const auto plain = [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' || c == '_' || c == '.'; };
  return !id.empty() && id.size() <= 64 && std::all_of(id.begin(), id.end(), plain);
}

/// A connection's bytes, with the time and size limits of one request. httplib reads heads byte by byte, hence the buffer.
class SocketStream final : public httplib::Stream {
 public:
  SocketStream(int fd, const HttpLimits& limits) : fd_(fd), limits_(limits) {}

  void begin_request() {
    read_deadline_ = Clock::now() + limits_.read_timeout;
    n_head_ = 0;
    in_head_ = true;
    last_ = 0;
  }
  void end_head() { in_head_ = false; }
  bool has_buffered() const { return begin_ < end_; }

  bool is_readable() const override { return has_buffered() || wait_for(fd_, POLLIN, read_deadline_ - Clock::now()); }
  bool is_writable() const override { return wait_for(fd_, POLLOUT, limits_.write_timeout) && !has_gone(fd_); }

  ssize_t read(char* out, size_t size) override {
    if (!has_buffered()) {
      if (!wait_for(fd_, POLLIN, read_deadline_ - Clock::now())) return -1;
      const ssize_t n = ::recv(fd_, buffer_, sizeof buffer_, 0);
      if (n <= 0) return n;
      begin_ = 0;
      end_ = static_cast<size_t>(n);
    }
    const size_t n = std::min(size, end_ - begin_);
    std::memcpy(out, buffer_ + begin_, n);
    begin_ += n;
    if (in_head_ && !check_head(out, n)) return -1;
    return static_cast<ssize_t>(n);
  }

  ssize_t write(const char* data, size_t size) override {
    if (!wait_for(fd_, POLLOUT, limits_.write_timeout)) return -1;
    return ::send(fd_, data, size, MSG_NOSIGNAL | MSG_DONTWAIT);
  }

  void get_remote_ip_and_port(std::string&, int&) const override {}
  void get_local_ip_and_port(std::string&, int&) const override {}
  socket_t socket() const override { return fd_; }

 private:
  /// A line that ends in a bare line feed means different things to different programs in a chain, and so does a NUL: not taken.
  bool check_head(const char* data, size_t n) {
    n_head_ += n;
    if (n_head_ > limits_.max_header_bytes) return false;
    for (size_t i = 0; i < n; ++i) {
      if (data[i] == '\0' || (data[i] == '\n' && last_ != '\r')) return false;
      last_ = data[i];
    }
    return true;
  }

  int fd_;
  const HttpLimits& limits_;
  Clock::time_point read_deadline_;
  size_t n_head_ = 0, begin_ = 0, end_ = 0;
  bool in_head_ = true;
  char last_ = 0;
  char buffer_[4096];
};

/// What is known of the connection and request that this thread is serving.
struct Current {
  SocketStream* stream = nullptr;
  int fd = -1;
  std::string peer;
  std::optional<Request> request;
  Reply reply;
  Clock::time_point began;
  size_t n_body = 0;  // its share of all_bodies_bytes
  bool routed = false, close = false, streamed = true;
};
thread_local Current* current = nullptr;

class StreamSink final : public Sink {
 public:
  StreamSink(httplib::DataSink& sink, int fd) : sink_(sink), fd_(fd) {}
  bool write(std::string_view bytes) override {
    // An empty write would end the body.
    if (ok && !bytes.empty()) ok = sink_.write(bytes.data(), bytes.size());
    return ok;
  }
  bool disconnected() const override { return !ok || has_gone(fd_); }
  bool ok = true;

 private:
  httplib::DataSink& sink_;
  int fd_;
};

}  // namespace

struct HttpServer::Impl final : httplib::Server {
  Impl(Listener& listener_, engine::server::Handler& handler_, const HttpLimits& limits_) : listener(listener_), handler(handler_), limits(limits_) {
    svr_sock_ = listener.fd();  // httplib takes "no socket" for "shutting down"
    set_payload_max_length(limits.max_body_bytes);
    set_pre_routing_handler([this](const httplib::Request& in, httplib::Response& out) { return route(in, out); });
    const auto answer = [this](const httplib::Request& in, httplib::Response& out) { handle(in, out); };
    Get(".*", answer).Post(".*", Handler(answer)).Put(".*", Handler(answer)).Patch(".*", Handler(answer));
    Delete(".*", Handler(answer)).Options(".*", answer);
    set_expect_100_continue_handler([this](const httplib::Request& in, httplib::Response&) {
      return framing_error(in) == 0 ? 100 : 417;
    });
    set_error_handler([this](const httplib::Request& in, httplib::Response& out) { return explain(in, out); });
    set_post_routing_handler([](const httplib::Request&, httplib::Response& out) {
      out.headers.erase("Keep-Alive");
      out.headers.erase("Accept-Ranges");
      if (!current->close) return;
      out.headers.erase("Connection");
      out.set_header("Connection", "close");
    });
    set_exception_handler([this](const httplib::Request&, httplib::Response& out, std::exception_ptr) {
      fill(out, handler.refuse(500, "internal error"));
    });
  }

  Listener& listener;
  engine::server::Handler& handler;
  const HttpLimits limits;
  std::atomic<size_t> n_bodies = 0;  // bytes

  /// Why the length of a request's body is not certain or too large, as a status; 0 if it is fine. Two programs that disagree about a length
  /// let one client's bytes pass for another's request.
  int framing_error(const httplib::Request& in) const {
    const size_t n_length = in.get_header_value_count("Content-Length"), n_coding = in.get_header_value_count("Transfer-Encoding");
    if (n_length + n_coding > 1 || in.get_header_value_count("Host") > 1) return 400;
    if (in.version == "HTTP/1.1" && !in.has_header("Host")) return 400;
    if (n_coding == 1) return in.version == "HTTP/1.1" && in.get_header_value("Transfer-Encoding") == "chunked" && takes_body(in) ? 0 : 400;
    if (n_length == 0) return takes_body(in) ? 411 : 0;
    const std::string length = in.get_header_value("Content-Length");
    if (length.empty() || length.size() > 18 || length.find_first_not_of("0123456789") != std::string::npos) return 400;
    const uint64_t n = std::stoull(length);
    if (n > 0 && !takes_body(in)) return 400;
    return n > limits.max_body_bytes ? 413 : 0;
  }

  static bool takes_body(const httplib::Request& in) { return in.method == "POST" || in.method == "PUT" || in.method == "PATCH"; }

  static const char* framing_message(int status) {
    switch (status) {
      case 411: return "expected a Content-Length";
      case 413: return "the body is larger than this server takes";
      default: return "the request's headers are not sound (Host, Content-Length, Transfer-Encoding)";
    }
  }

  /// Sets aside room for the body that follows; false if there is none now. Its end is the end of the request.
  bool reserve_body(const httplib::Request& in) {
    const size_t n = in.has_header("Transfer-Encoding") ? limits.max_body_bytes : std::stoull(in.get_header_value("Content-Length", "0"));
    if (n == 0) return true;
    if (n_bodies.fetch_add(n) + n > std::max(all_bodies_bytes, limits.max_body_bytes)) {
      n_bodies -= n;
      return false;
    }
    current->n_body = n;
    return true;
  }

  Request translate(const httplib::Request& in) const {
    Request request;
    const std::string id = in.get_header_value("X-Request-Id");
    request.id = is_sane_id(id) ? id : new_request_id();
    request.method = in.method;
    request.path = in.path;
    const size_t question = in.target.find('?');
    if (question != std::string::npos) request.query = in.target.substr(question + 1);
    request.peer = current->peer;
    request.host = in.get_header_value("Host");
    request.has_origin = in.has_header("Origin");
    request.origin = in.get_header_value("Origin");
    request.authorization = in.get_header_value("Authorization");
    request.content_type = in.get_header_value("Content-Type");
    request.disconnected = [fd = current->fd] { return has_gone(fd); };
    return request;
  }

  HandlerResponse route(const httplib::Request& in, httplib::Response& out) {
    current->routed = true;
    current->stream->end_head();
    const_cast<httplib::Request&>(in).ranges.clear();  // answers have no parts
    current->request = translate(in);
    const int bad = framing_error(in);
    Reply reply = bad != 0 ? handler.refuse(bad, framing_message(bad)) : handler.admit(*current->request);
    if (reply.status == 200 && !reserve_body(in)) {
      reply = handler.refuse(503, "too many large requests at once");
      reply.headers.emplace_back("Retry-After", "1");
    }
    if (reply.status == 200) return HandlerResponse::Unhandled;
    const bool body_follows = in.has_header("Transfer-Encoding") || in.get_header_value("Content-Length", "0") != "0";
    current->close |= bad != 0 || body_follows;  // its body stays unread
    fill(out, std::move(reply));
    return HandlerResponse::Handled;
  }

  void handle(const httplib::Request& in, httplib::Response& out) {
    current->request->body = std::move(const_cast<httplib::Request&>(in).body);
    fill(out, handler.handle(*current->request));
    if (current->reply.stream && in.version == "HTTP/1.0") current->close = true;
  }

  /// An error that httplib found by itself has no body yet.
  HandlerResponse explain(const httplib::Request& in, httplib::Response& out) {
    if (!out.body.empty() || out.content_provider_ != nullptr) return HandlerResponse::Unhandled;
    current->close = true;
    const int status = out.status;
    fill(out, handler.refuse(status, status == 413 ? framing_message(413) : status == 414 ? "the address is too long" : "expected HTTP/1.1, got something else"));
    (void)in;
    return HandlerResponse::Handled;
  }

  void fill(httplib::Response& out, Reply reply) {
    out.status = reply.status;
    out.body.clear();
    for (const auto& [name, value] : reply.headers) out.set_header(name, value);
    if (current->request) out.set_header("X-Request-Id", current->request->id);
    out.set_header("X-Content-Type-Options", "nosniff");
    if (!reply.stream) {
      out.set_content(reply.body, reply.content_type);
    } else {
      current->streamed = false;
      out.set_header("Cache-Control", "no-store");
      out.set_header("X-Accel-Buffering", "no");  // nginx passes events on as they come
      const auto provide = [stream = reply.stream, connection = current](size_t, httplib::DataSink& data) {
        StreamSink sink(data, connection->fd);
        stream(sink);
        connection->streamed = sink.ok;
        if (sink.ok) data.done();
        return sink.ok;
      };
      // A client of HTTP/1.0 knows no chunks: there the end of the connection is the end of the body.
      if (current->close) out.set_content_provider(reply.content_type, provide);
      else out.set_chunked_content_provider(reply.content_type, provide);
    }
    reply.body.clear();
    reply.stream = nullptr;
    current->reply = std::move(reply);
  }

  void serve(int fd, const std::string& peer) {
    SocketStream stream(fd, limits);
    while (!listener.stopping()) {
      if (!stream.has_buffered()) {
        listener.set_idle(fd, true);
        const bool something = wait_for(fd, POLLIN, limits.keep_alive_timeout);
        listener.set_idle(fd, false);
        if (!something) return;
      }
      if (!serve_one(stream, fd, peer)) return;
    }
  }

  /// False: the connection is to be closed.
  bool serve_one(SocketStream& stream, int fd, const std::string& peer) {
    Current state;
    state.stream = &stream;
    state.fd = fd;
    state.peer = peer;
    state.began = Clock::now();
    state.close = listener.stopping();
    current = &state;
    stream.begin_request();
    bool closed = false;
    const bool ok = process_request(stream, peer, 0, "", 0, false, closed, nullptr);
    current = nullptr;
    n_bodies -= state.n_body;
    if (!state.request) {
      if (state.reply.status == 200) return false;  // nothing was asked
      state.request.emplace();
      state.request->peer = peer;
    }
    handler.log(*state.request, state.reply, Clock::now() - state.began, ok && state.streamed);
    return ok && state.routed && !closed && !state.close;
  }
};

HttpServer::HttpServer(Listener& listener, Handler& handler, const HttpLimits& limits)
    : impl_(std::make_unique<Impl>(listener, handler, limits)) {}
HttpServer::~HttpServer() = default;

void HttpServer::serve(int fd, const std::string& peer) {
  try {
    impl_->serve(fd, peer);
  } catch (const std::exception&) {  // out of memory: this connection ends, the others go on
  }
  current = nullptr;
}

}  // namespace engine::server
