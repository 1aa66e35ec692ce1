// GET over HTTP/1.1: what fetching a model needs and no more. Addresses go over the wire byte for byte, since some are signed.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "hub/stream.h"
#include "hub/url.h"

namespace engine::hub {

using Headers = std::vector<std::pair<std::string, std::string>>;

/// Where the environment wants requests to go: HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY (names, .suffixes, "*"), small letters first.
struct Proxies {
  std::optional<Url> http, https;
  std::vector<std::string> none;  // NO_PROXY, small letters

  /// Throws Error where a variable holds no address of a proxy that speaks HTTP.
  static Proxies from_environment();
  /// Null: straight to the host.
  const Url* for_url(const Url& url) const;
};

/// An answer without its body. Names of headers in small letters; at most 64 KB and 100 of them.
struct Head {
  int status = 0;
  Headers headers;
  /// Null if there is none of this name.
  const std::string* find(std::string_view name) const;
};

class HttpClient {
 public:
  /// Takes the body in pieces; may throw.
  using Sink = std::function<void(std::string_view)>;
  /// Sees the head (never that of a redirection) and says where the body goes; may throw.
  using Begin = std::function<Sink(const Head&)>;

  HttpClient(Proxies proxies, Patience patience) : proxies_(std::move(proxies)), patience_(patience) {}

  /// GETs `url`, follows at most 8 redirections (not from https to http). `secrets` are headers for the server of `secrets_origin` alone.
  /// Connections are kept for the next request. Throws NetworkError, Error, Interrupted, and what the sink throws.
  void get(const Url& url, const Headers& headers, const Headers& secrets, const std::string& secrets_origin, const Begin& begin);

 private:
  struct Connection {
    std::unique_ptr<Stream> stream;
    std::string buffer;  // read and not yet used, from `at` on
    size_t at = 0;
    bool used = false;   // has answered before
  };
  Connection open(const Url& url) const;
  /// One request; the address to go to next, if the answer is a redirection.
  std::optional<Url> exchange(const Url& url, const Headers& headers, const Begin& begin);

  Proxies proxies_;
  Patience patience_;
  std::map<std::string, Connection> kept_;  // by origin
};

/// Base64 of RFC 4648.
std::string base64(std::string_view bytes);

}  // namespace engine::hub
