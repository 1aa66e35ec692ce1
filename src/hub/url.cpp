#include "hub/url.h"

#include <algorithm>
#include <cctype>
#include <charconv>

#include "base/error.h"

namespace engine::hub {
namespace {

constexpr size_t max_url_bytes = 16 << 10;

/// What an address may hold as it stands: nothing that would end the request line or a header.
bool is_clean(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](unsigned char c) { return c > 0x20 && c < 0x7f; });
}

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

std::string percent_decode(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '%' && i + 2 < text.size() && hex_digit(text[i + 1]) >= 0 && hex_digit(text[i + 2]) >= 0) {
      out += static_cast<char>(hex_digit(text[i + 1]) * 16 + hex_digit(text[i + 2]));
      i += 2;
    } else {
      out += text[i];
    }
  }
  return out;
}

bool starts_with_scheme(std::string_view text) {
  const size_t colon = text.find("://");
  return colon != text.npos && colon > 0 && std::all_of(text.begin(), text.begin() + static_cast<ptrdiff_t>(colon), [](unsigned char c) {
           return std::isalnum(c) != 0 || c == '+' || c == '-' || c == '.';
         });
}

std::string lower(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return out;
}

bool is_host(std::string_view host, bool numeric_v6) {
  return !host.empty() && host.size() <= 253 && std::all_of(host.begin(), host.end(), [numeric_v6](unsigned char c) {
    return numeric_v6 ? std::isxdigit(c) != 0 || c == ':' || c == '.' : std::isalnum(c) != 0 || c == '-' || c == '.' || c == '_';
  });
}

}  // namespace

std::string Url::host_header() const {
  const std::string name = host.find(':') == std::string::npos ? host : "[" + host + "]";
  return port == (tls ? 443 : 80) ? name : name + ":" + std::to_string(port);
}

std::string Url::origin() const { return (tls ? "https://" : "http://") + host_header(); }

Url parse_url(const std::string& text, const std::string& where, bool with_user) {
  const auto fail = [&](const char* expected) { return Error(where + ": expected " + expected + ", got '" + text.substr(0, 200) + "'"); };
  if (text.size() > max_url_bytes) throw Error(where + ": expected an address of at most 16 KB, got " + std::to_string(text.size()) + " bytes");
  if (!is_clean(text) || !starts_with_scheme(text)) throw fail("an address such as https://example.org");
  std::string_view rest = text;
  Url url;
  const std::string scheme = lower(rest.substr(0, rest.find("://")));
  if (scheme != "http" && scheme != "https") throw fail("http:// or https://");
  url.tls = scheme == "https";
  url.port = url.tls ? 443 : 80;
  rest.remove_prefix(scheme.size() + 3);
  rest = rest.substr(0, rest.find('#'));
  std::string_view authority = rest.substr(0, rest.find_first_of("/?"));
  url.target = rest.substr(authority.size());
  if (url.target.empty() || url.target[0] == '?') url.target.insert(0, "/");

  if (const size_t at = authority.rfind('@'); at != authority.npos) {
    if (!with_user) throw Error(where + ": expected an address without user and password");
    url.user = percent_decode(authority.substr(0, at));
    authority.remove_prefix(at + 1);
  }
  const bool v6 = !authority.empty() && authority[0] == '[';
  const size_t end = v6 ? authority.find(']') : std::min(authority.find(':'), authority.size());
  if (end == authority.npos) throw fail("a host");
  url.host = lower(authority.substr(v6, end - v6));
  if (!is_host(url.host, v6)) throw fail("a host");
  const std::string_view port = authority.substr(end + v6);
  if (port.empty() || port == ":") return url;
  const auto [stop, error] = std::from_chars(port.data() + 1, port.data() + port.size(), url.port);
  if (port[0] != ':' || error != std::errc{} || stop != port.data() + port.size() || url.port < 1 || url.port > 65535) throw fail("a port from 1 to 65535");
  return url;
}

Url resolve_url(const Url& base, const std::string& reference, const std::string& where) {
  if (starts_with_scheme(reference)) return parse_url(reference, where);
  if (reference.starts_with("//")) return parse_url((base.tls ? "https:" : "http:") + reference, where);
  std::string path = base.target.substr(0, base.target.find('?'));
  if (reference.starts_with("/")) path = reference;
  else if (reference.starts_with("?")) path += reference;
  else path = path.substr(0, path.rfind('/') + 1) + reference;
  return parse_url(base.origin() + path, where);
}

std::string percent_encode(std::string_view text, bool keep_slashes) {
  constexpr char digits[] = "0123456789ABCDEF";
  std::string out;
  for (const char character : text) {
    const auto c = static_cast<unsigned char>(character);
    const bool plain = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '-' || c == '.' || c == '_' || c == '~';
    if (plain || (keep_slashes && c == '/')) {
      out += character;
    } else {
      out += '%';
      out += digits[c >> 4];
      out += digits[c & 15];
    }
  }
  return out;
}

}  // namespace engine::hub
