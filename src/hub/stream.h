// Bytes to and from another machine: a TCP connection, and TLS over one.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

#include "base/error.h"

namespace engine::hub {

/// Something on the way failed that another try may mend: no connection, one that broke off, a server that is busy.
struct NetworkError : Error {
  using Error::Error;
  std::chrono::seconds retry_after{0};  // what the server asked for
};

/// The user wants it to end.
struct Interrupted {};

struct Patience {
  std::chrono::milliseconds connect{10'000};  // for each address of a host
  std::chrono::milliseconds idle{30'000};     // without a byte
  const std::atomic<bool>* stop = nullptr;    // once it is true, whatever waits throws Interrupted
};

class Stream {
 public:
  virtual ~Stream() = default;
  /// 1 to `size` bytes; 0 at the end. Throws NetworkError, Interrupted.
  virtual size_t read(char* out, size_t size) = 0;
  /// All of it.
  virtual void write(std::string_view bytes) = 0;
};

/// `host`: a name or a number. Names are looked up in /etc/hosts and by DNS, whatever nsswitch.conf says: the modules that it may name are
/// shared libraries, which a static program cannot rely on.
std::unique_ptr<Stream> connect_tcp(const std::string& host, int port, const Patience& patience);

/// What start_tls is made of, "mbedTLS 2.28.3"; empty where it is not built in (Meson option `tls`).
std::string tls_name();
/// TLS 1.2 or newer over `plain`, with the host's certificate checked against the machine's authorities (SSL_CERT_FILE, SSL_CERT_DIR or the
/// usual places). Throws Error (certificate, no authorities, not built in), NetworkError.
std::unique_ptr<Stream> start_tls(std::unique_ptr<Stream> plain, const std::string& host);

}  // namespace engine::hub
