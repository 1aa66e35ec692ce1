#include "server/listener.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <string_view>
#include <system_error>
#include <thread>

#include "base/error.h"

namespace engine::server {
namespace {

/// Files that are not connections: the model's, standard streams, the listener's own.
constexpr int spare_files = 64;
/// Time for a client to read a refusal before the connection is cut.
constexpr int linger_ms = 500;
/// What the kernel may hold for a client that is slow to read; by itself it goes to megabytes.
constexpr int send_buffer_bytes = 256 << 10;

std::string refusal() {
  const std::string body = "{\"error\":{\"message\":\"too many connections\",\"type\":\"server_error\",\"param\":null,\"code\":\"overloaded\"}}\n";
  return "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\nConnection: close\r\nContent-Length: " +
         std::to_string(body.size()) + "\r\n\r\n" + body;
}

std::string errno_text() { return std::strerror(errno); }

/// Says what is to be said, then lets the client finish sending: closing with unread bytes would reset the connection and lose the answer.
void linger(int fd) {
  ::shutdown(fd, SHUT_WR);
  char sink[4096];
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(linger_ms);
  while (std::chrono::steady_clock::now() < end) {
    pollfd p = {fd, POLLIN, 0};
    if (::poll(&p, 1, linger_ms / 4) <= 0 || ::read(fd, sink, sizeof sink) <= 0) return;
  }
}

int open_file_limit() {
  rlimit limit = {};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur > 1'000'000) return 1'000'000;
  return static_cast<int>(limit.rlim_cur);
}

std::string peer_of(int fd) {
  sockaddr_storage address = {};
  socklen_t size = sizeof address;
  char host[NI_MAXHOST] = "";
  if (::getpeername(fd, reinterpret_cast<sockaddr*>(&address), &size) != 0 || address.ss_family == AF_UNIX) return "unix";
  if (address.ss_family == AF_INET) {
    ::inet_ntop(AF_INET, &reinterpret_cast<sockaddr_in*>(&address)->sin_addr, host, sizeof host);
  } else {
    ::inet_ntop(AF_INET6, &reinterpret_cast<sockaddr_in6*>(&address)->sin6_addr, host, sizeof host);
  }
  return host;
}

}  // namespace

Listener::Listener(const std::string& host, int port, int max_connections)
    : max_connections_(std::max(1, std::min(max_connections, open_file_limit() - spare_files))) {
  if (::pipe2(stop_pipe_, O_CLOEXEC | O_NONBLOCK) != 0) throw Error("pipe: " + errno_text());
  if (host.rfind("unix:", 0) == 0) bind_unix(host.substr(5));
  else bind_tcp(host, port);
  if (::listen(fd_, SOMAXCONN) != 0) throw Error(name_ + ": cannot listen: " + errno_text());
}

Listener::~Listener() {
  for (const int fd : {fd_, stop_pipe_[0], stop_pipe_[1]}) {
    if (fd >= 0) ::close(fd);
  }
  if (!path_.empty()) ::unlink(path_.c_str());
}

void Listener::bind_tcp(const std::string& host, int port) {
  // Numbers are turned into addresses without the resolver, which a static program can use only where the C library's modules are installed.
  sockaddr_storage address = {};
  socklen_t size = 0;
  auto* v4 = reinterpret_cast<sockaddr_in*>(&address);
  auto* v6 = reinterpret_cast<sockaddr_in6*>(&address);
  const std::string number = host == "localhost" ? "127.0.0.1" : host;
  if (::inet_pton(AF_INET, number.c_str(), &v4->sin_addr) == 1) {
    v4->sin_family = AF_INET;
    v4->sin_port = htons(static_cast<uint16_t>(port));
    size = sizeof *v4;
  } else if (::inet_pton(AF_INET6, number.c_str(), &v6->sin6_addr) == 1) {
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons(static_cast<uint16_t>(port));
    size = sizeof *v6;
  } else {
    throw Error("--host: expected an IP address, localhost or unix:PATH, got '" + host + "'");
  }
  const bool is_v6 = address.ss_family == AF_INET6;
  const std::string shown = is_v6 ? "[" + host + "]" : host;
  name_ = "http://" + shown + ":" + std::to_string(port);
  fd_ = ::socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd_ < 0) throw Error(name_ + ": cannot make a socket: " + errno_text());
  const int one = 1;
  ::setsockopt(fd_, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (::bind(fd_, reinterpret_cast<sockaddr*>(&address), size) != 0) {
    throw Error(name_ + ": cannot bind: " + errno_text(), errno == EADDRINUSE ? "another program has the port; --port N takes another" : "");
  }
  ::getsockname(fd_, reinterpret_cast<sockaddr*>(&address), &size);
  port_ = ntohs(is_v6 ? v6->sin6_port : v4->sin_port);
  name_ = "http://" + shown + ":" + std::to_string(port_);
}

void Listener::bind_unix(const std::string& path) {
  name_ = "unix:" + path;
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof address.sun_path) {
    throw Error(name_ + ": expected a path of 1 to " + std::to_string(sizeof address.sun_path - 1) + " bytes");
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  const auto* generic = reinterpret_cast<const sockaddr*>(&address);
  fd_ = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd_ < 0) throw Error(name_ + ": cannot make a socket: " + errno_text());
  struct stat info = {};
  if (::stat(path.c_str(), &info) == 0) {
    if (!S_ISSOCK(info.st_mode)) throw Error(name_ + ": something that is not a socket is there");
    if (::connect(fd_, generic, sizeof address) == 0 || errno == EAGAIN) throw Error(name_ + ": another program listens there");
    ::unlink(path.c_str());  // left over
  }
  if (::bind(fd_, generic, sizeof address) != 0) throw Error(name_ + ": cannot bind: " + errno_text());
  path_ = path;
}

void Listener::run(const Serve& serve) {
  while (!stopping_) {
    pollfd waiting[2] = {{fd_, POLLIN, 0}, {stop_pipe_[0], POLLIN, 0}};
    if (::poll(waiting, 2, -1) < 0 && errno != EINTR) return;
    if (stopping_ || waiting[1].revents != 0) return;
    const int fd = ::accept4(fd_, nullptr, nullptr, SOCK_CLOEXEC);
    if (fd < 0) {
      // A client that went away again (ECONNABORTED) is no reason to stop. Out of files or memory: wait for some to be given back.
      if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) ::usleep(10'000);
      continue;
    }
    serve_in_thread(serve, fd);
  }
}

void Listener::serve_in_thread(const Serve& serve, int fd) {
  if (n_connections_ >= max_connections_) {
    // Whole or not at all: the buffer of a new connection is empty, and nobody waits here for a reader.
    const std::string text = refusal();
    (void)!::send(fd, text.data(), text.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    ::shutdown(fd, SHUT_WR);
    ::close(fd);
    return;
  }
  ::setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &send_buffer_bytes, sizeof send_buffer_bytes);
  if (!is_unix()) {
    const int one = 1;
    ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    ::setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one);
  }
  {
    const std::lock_guard lock(mutex_);
    open_.insert(fd);
    ++n_connections_;
  }
  // With a copy of `serve`: run() may have returned before a thread gets to it.
  const auto body = [this, serve, fd] {
    serve(fd, peer_of(fd));
    linger(fd);
    const std::lock_guard lock(mutex_);
    open_.erase(fd);
    idle_.erase(fd);
    ::close(fd);
    if (--n_connections_ == 0) all_gone_.notify_all();
  };
  try {
    std::thread(body).detach();
  } catch (const std::system_error&) {
    body();  // no thread to be had: this one client is served here, and the others wait
  }
}

void Listener::set_idle(int fd, bool idle) {
  const std::lock_guard lock(mutex_);
  if (!idle) idle_.erase(fd);
  else if (stopping_) ::shutdown(fd, SHUT_RD);
  else idle_.insert(fd);
}

void Listener::stop() {
  const std::lock_guard lock(mutex_);
  stopping_ = true;
  (void)!::write(stop_pipe_[1], "x", 1);
  for (const int fd : idle_) ::shutdown(fd, SHUT_RD);
}

void Listener::finish(std::chrono::milliseconds patience) {
  std::unique_lock lock(mutex_);
  if (all_gone_.wait_for(lock, patience, [this] { return open_.empty(); })) return;
  for (const int fd : open_) ::shutdown(fd, SHUT_RDWR);
  all_gone_.wait(lock, [this] { return open_.empty(); });
}

}  // namespace engine::server
