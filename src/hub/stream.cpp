#include "hub/stream.h"

#include <netdb.h>
#include <netinet/tcp.h>
#include <nss.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <mutex>

namespace engine::hub {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds slice{100};  // how often `stop` is looked at

class TcpStream final : public Stream {
 public:
  TcpStream(int fd, std::string host, const Patience& patience) : fd_(fd), host_(std::move(host)), patience_(patience) {}
  ~TcpStream() override { ::close(fd_); }

  size_t read(char* out, size_t size) override {
    for (;;) {
      const ssize_t n = ::recv(fd_, out, size, MSG_DONTWAIT);
      if (n >= 0) return static_cast<size_t>(n);
      handle(POLLIN, "no answer");
    }
  }

  void write(std::string_view bytes) override {
    while (!bytes.empty()) {
      const ssize_t n = ::send(fd_, bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
      if (n >= 0) bytes.remove_prefix(static_cast<size_t>(n));
      else handle(POLLOUT, "nothing could be sent");
    }
  }

  /// Waits for `events`; false once `end` has come.
  bool wait(short events, Clock::time_point end) const {
    for (;;) {
      if (patience_.stop != nullptr && *patience_.stop) throw Interrupted{};
      const auto left = std::chrono::ceil<std::chrono::milliseconds>(end - Clock::now());
      if (left.count() <= 0) return false;
      pollfd p = {fd_, events, 0};
      if (::poll(&p, 1, static_cast<int>(std::min(left, slice).count())) > 0) return true;
    }
  }

 private:
  /// After a call that failed: waits, or throws.
  void handle(short events, const char* what) const {
    if (errno == EINTR) return;
    if (errno != EAGAIN && errno != EWOULDBLOCK) throw NetworkError(host_ + ": the connection broke off: " + std::strerror(errno));
    if (!wait(events, Clock::now() + patience_.idle)) {
      throw NetworkError(host_ + ": " + what + " for " + std::to_string(std::chrono::duration_cast<std::chrono::seconds>(patience_.idle).count()) + " s");
    }
  }

  int fd_;
  std::string host_;
  Patience patience_;
};

using Addresses = std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)>;

Addresses look_up(const std::string& host, int port) {
#ifdef __GLIBC__
  static std::once_flag once;
  std::call_once(once, [] { __nss_configure_lookup("hosts", "files dns"); });
#endif
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICSERV;  // without AI_PASSIVE no host is the machine itself, /etc/hosts or not
  addrinfo* found = nullptr;
  const int code = ::getaddrinfo(host == "localhost" ? nullptr : host.c_str(), std::to_string(port).c_str(), &hints, &found);
  if (code == 0) return Addresses(found, &::freeaddrinfo);
  throw NetworkError(host + ": cannot find the host: " + (code == EAI_SYSTEM ? std::strerror(errno) : ::gai_strerror(code)),
                     "is there a network? behind a proxy: HTTPS_PROXY=http://HOST:PORT");
}

}  // namespace

std::unique_ptr<Stream> connect_tcp(const std::string& host, int port, const Patience& patience) {
  const Addresses addresses = look_up(host, port);
  int reason = 0;
  for (const addrinfo* a = addresses.get(); a != nullptr; a = a->ai_next) {
    const int fd = ::socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
      reason = errno;
      continue;
    }
    auto stream = std::make_unique<TcpStream>(fd, host, patience);
    if (::connect(fd, a->ai_addr, a->ai_addrlen) != 0) {
      reason = errno;
      if (reason != EINPROGRESS) continue;
      if (!stream->wait(POLLOUT, Clock::now() + patience.connect)) {
        reason = ETIMEDOUT;
        continue;
      }
      socklen_t size = sizeof reason;
      ::getsockopt(fd, SOL_SOCKET, SO_ERROR, &reason, &size);
      if (reason != 0) continue;
    }
    const int one = 1;
    ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return stream;
  }
  throw NetworkError(host + ":" + std::to_string(port) + ": cannot connect: " + std::strerror(reason));
}

}  // namespace engine::hub
