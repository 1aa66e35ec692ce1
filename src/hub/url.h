// Addresses of HTTP: taking apart, putting together, following.
#pragma once

#include <string>
#include <string_view>

namespace engine::hub {

struct Url {
  bool tls = false;     // https
  std::string host;     // lower case; a number of IPv6 without its brackets
  int port = 80;
  std::string user;     // "NAME:PASSWORD" before the host, decoded; of proxies only
  std::string target;   // path and query as they go over the wire, from '/' on

  /// "https://host:port", the port left out where it is the usual one: what decides whether two addresses are one server.
  std::string origin() const;
  /// What the Host header says.
  std::string host_header() const;
};

/// An absolute http:// or https:// address of at most 16 KB, without user unless `with_user`. `where` names its source in errors. A fragment
/// is dropped. Throws Error.
Url parse_url(const std::string& text, const std::string& where, bool with_user = false);
/// `reference` (absolute, "//host/x", "/x", "?x" or "x") as seen from `base`. Throws Error.
Url resolve_url(const Url& base, const std::string& reference, const std::string& where);

/// Everything but letters, digits, "-._~" and, with `keep_slashes`, "/" becomes %XX.
std::string percent_encode(std::string_view text, bool keep_slashes);

}  // namespace engine::hub
