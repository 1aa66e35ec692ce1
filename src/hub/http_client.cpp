#include "hub/http_client.h"

#include <algorithm>
#include <cctype>
#include <charconv>

#include "base/hub_cache.h"

namespace engine::hub {
namespace {

constexpr size_t max_head_bytes = 64 << 10, max_headers = 100, max_redirections = 8, max_informational = 5;
constexpr size_t read_bytes = 64 << 10;
/// Of a body that nobody wants, so that the connection can serve the next request; with more to come it is closed.
constexpr uint64_t max_skipped_bytes = 64 << 10;

std::string lower(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return out;
}

std::string_view trim(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

std::string first_of(std::initializer_list<const char*> names, std::string* which) {
  for (const char* name : names) {
    if (std::string value = environment(name); !value.empty()) {
      *which = name;
      return value;
    }
  }
  return {};
}

std::optional<Url> proxy_from(std::initializer_list<const char*> names) {
  std::string which, value = first_of(names, &which);
  if (value.empty()) return std::nullopt;
  if (value.find("://") == std::string::npos) value.insert(0, "http://");
  if (lower(value.substr(0, 7)) != "http://") throw Error(which + ": expected a proxy such as http://host:3128, got '" + value.substr(0, value.find("://")) + "://...'");
  return parse_url(value, which, true);
}

uint64_t parse_number(std::string_view text, int base, const std::string& host) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (text.empty() || text.size() > 18 || error != std::errc{} || end != text.data() + text.size()) {
    throw NetworkError(host + ": expected an answer of HTTP, got a length that is none");
  }
  return value;
}

/// Reads heads and bodies from a connection. `buffer` and `at` outlive it: what was read too far belongs to the next answer.
class Reader {
 public:
  Reader(Stream& stream, std::string& buffer, size_t& at, std::string host) : stream_(stream), buffer_(buffer), at_(at), host_(std::move(host)) {}

  /// Whether a byte of the answer has come.
  bool began() const { return began_; }

  std::string line(size_t* n_left) {
    std::string out;
    for (;;) {
      const size_t end = buffer_.find('\n', at_);
      const size_t n = (end == std::string::npos ? buffer_.size() : end) - at_;
      if (n > *n_left) throw NetworkError(host_ + ": expected a head of at most 64 KB, got more");
      *n_left -= n;
      out.append(buffer_, at_, n);
      at_ += n;
      if (end != std::string::npos) {
        ++at_;
        if (!out.empty() && out.back() == '\r') out.pop_back();
        return out;
      }
      if (!fill()) throw broke_off();
    }
  }

  void length(uint64_t n, const HttpClient::Sink& sink) {
    while (n > 0) {
      if (at_ == buffer_.size() && !fill()) throw broke_off();
      const size_t part = static_cast<size_t>(std::min<uint64_t>(n, buffer_.size() - at_));
      const std::string_view bytes = std::string_view(buffer_).substr(at_, part);
      at_ += part;
      n -= part;
      sink(bytes);
    }
  }

  void chunks(const HttpClient::Sink& sink) {
    for (;;) {
      size_t room = 1024;
      const std::string size = line(&room);
      const uint64_t n = parse_number(trim(std::string_view(size).substr(0, size.find(';'))), 16, host_);
      if (n == 0) break;
      length(n, sink);
      if (!line(&room).empty()) throw NetworkError(host_ + ": expected an answer of HTTP, got a chunk of another length");
    }
    size_t room = max_head_bytes;
    while (!line(&room).empty()) {
    }
  }

  void to_end(const HttpClient::Sink& sink) {
    do {
      const std::string_view bytes = std::string_view(buffer_).substr(at_);
      at_ = buffer_.size();
      if (!bytes.empty()) sink(bytes);
    } while (fill());
  }

 private:
  NetworkError broke_off() const { return NetworkError(host_ + ": the connection broke off"); }

  bool fill() {
    if (at_ == buffer_.size()) {
      buffer_.clear();
      at_ = 0;
    }
    const size_t before = buffer_.size();
    buffer_.resize(before + read_bytes);
    size_t n = 0;
    try {
      n = stream_.read(buffer_.data() + before, read_bytes);
    } catch (...) {
      buffer_.resize(before);
      throw;
    }
    buffer_.resize(before + n);
    began_ |= n > 0;
    return n > 0;
  }

  Stream& stream_;
  std::string& buffer_;
  size_t& at_;
  std::string host_;
  bool began_ = false;
};

Head read_head(Reader& reader, const std::string& host) {
  for (size_t i = 0; i < max_informational; ++i) {
    size_t room = max_head_bytes;
    Head head;
    const std::string status = reader.line(&room);
    const bool http = status.starts_with("HTTP/1.") && status.size() >= 12 && status[8] == ' ' && (status.size() == 12 || status[12] == ' ');
    if (!http || status.find_first_not_of("0123456789", 9) < 12) throw NetworkError(host + ": expected an answer of HTTP, got something else");
    head.status = static_cast<int>(parse_number(std::string_view(status).substr(9, 3), 10, host));
    if (status[7] == '0') head.headers.emplace_back("connection", "close");  // HTTP/1.0
    for (;;) {
      const std::string line = reader.line(&room);
      if (line.empty()) break;
      const size_t colon = line.find(':');
      if (colon == std::string::npos || head.headers.size() >= max_headers) throw NetworkError(host + ": expected at most 100 headers of HTTP, got something else");
      head.headers.emplace_back(lower(trim(std::string_view(line).substr(0, colon))), trim(std::string_view(line).substr(colon + 1)));
    }
    if (head.status >= 200) return head;
  }
  throw NetworkError(host + ": expected an answer of HTTP, got announcements only");
}

void read_body(Reader& reader, const Head& head, const std::string& host, const HttpClient::Sink& sink, bool* keep) {
  const std::string* connection = head.find("connection");
  *keep = connection == nullptr || lower(*connection) != "close";
  if (head.status == 204 || head.status == 304) return;
  const std::string* encoding = head.find("content-encoding");
  if (encoding != nullptr && lower(*encoding) != "identity") throw Error(host + ": expected an answer without compression, got " + *encoding);
  const std::string *coding = head.find("transfer-encoding"), *length = head.find("content-length");
  if (coding != nullptr) {
    if (lower(*coding) != "chunked" || length != nullptr) throw NetworkError(host + ": expected chunks, got Transfer-Encoding " + *coding);
    reader.chunks(sink);
  } else if (length != nullptr) {
    reader.length(parse_number(*length, 10, host), sink);
  } else {
    *keep = false;
    reader.to_end(sink);
  }
}

bool is_redirection(int status) { return status == 301 || status == 302 || status == 303 || status == 307 || status == 308; }

std::string request_text(const std::string& target, const std::string& host, const Headers& headers) {
  std::string text = "GET " + target + " HTTP/1.1\r\nHost: " + host + "\r\nUser-Agent: engine/" ENGINE_VERSION "\r\nAccept: */*\r\nAccept-Encoding: identity\r\n";
  for (const auto& [name, value] : headers) text += name + ": " + value + "\r\n";
  return text + "\r\n";
}

/// What ends a body that is of no use.
struct Enough {};

}  // namespace

std::string base64(std::string_view bytes) {
  constexpr char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  for (size_t i = 0; i < bytes.size(); i += 3) {
    uint32_t group = 0;
    const size_t n = std::min<size_t>(3, bytes.size() - i);
    for (size_t j = 0; j < 3; ++j) group = group << 8 | (j < n ? static_cast<unsigned char>(bytes[i + j]) : 0U);
    for (size_t j = 0; j < 4; ++j) out += j <= n ? digits[group >> (18 - 6 * j) & 63] : '=';
  }
  return out;
}

Proxies Proxies::from_environment() {
  Proxies proxies;
  proxies.https = proxy_from({"https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"});
  proxies.http = proxy_from({"http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"});
  std::string which, list = lower(first_of({"no_proxy", "NO_PROXY"}, &which));
  for (size_t begin = 0; begin < list.size();) {
    const size_t end = std::min(list.find_first_of(", ", begin), list.size());
    if (end > begin) proxies.none.push_back(list.substr(begin, end - begin));
    begin = end + 1;
  }
  return proxies;
}

const Url* Proxies::for_url(const Url& url) const {
  const std::optional<Url>& proxy = url.tls ? https : http;
  if (!proxy) return nullptr;
  for (std::string_view entry : none) {
    if (entry == "*" || entry == url.host + ":" + std::to_string(url.port)) return nullptr;
    if (entry.starts_with("*")) entry.remove_prefix(1);
    if (entry.starts_with(".")) entry.remove_prefix(1);
    if (entry == url.host || (url.host.size() > entry.size() && url.host.ends_with(entry) && url.host[url.host.size() - entry.size() - 1] == '.')) return nullptr;
  }
  return &*proxy;
}

const std::string* Head::find(std::string_view name) const {
  for (const auto& [known, value] : headers) {
    if (known == name) return &value;
  }
  return nullptr;
}

HttpClient::Connection HttpClient::open(const Url& url) const {
  if (url.tls && tls_name().empty()) start_tls(nullptr, url.host);  // throws, before anything is tried
  const Url* proxy = proxies_.for_url(url);
  Connection connection;
  connection.stream = proxy == nullptr ? connect_tcp(url.host, url.port, patience_) : connect_tcp(proxy->host, proxy->port, patience_);
  if (proxy != nullptr && url.tls) {
    const std::string name = url.host_header();
    const std::string target = name.find_last_of(":") == std::string::npos || name.back() == ']' ? name + ":443" : name;
    std::string text = "CONNECT " + target + " HTTP/1.1\r\nHost: " + target + "\r\n";
    if (!proxy->user.empty()) text += "Proxy-Authorization: Basic " + base64(proxy->user) + "\r\n";
    connection.stream->write(text + "\r\n");
    Reader reader(*connection.stream, connection.buffer, connection.at, proxy->host);
    const Head head = read_head(reader, proxy->host);
    if (head.status != 200) {
      const std::string what = "proxy " + proxy->host + ": expected a way to " + target + ", got HTTP " + std::to_string(head.status);
      if (head.status >= 500) throw NetworkError(what);
      throw Error(what, head.status == 407 ? "HTTPS_PROXY=http://USER:PASSWORD@HOST:PORT signs in" : "");
    }
    if (connection.at != connection.buffer.size()) throw NetworkError("proxy " + proxy->host + ": expected the other side to wait for TLS, got bytes");
  }
  if (url.tls) connection.stream = start_tls(std::move(connection.stream), url.host);
  return connection;
}

std::optional<Url> HttpClient::exchange(const Url& url, const Headers& headers, const Begin& begin) {
  const std::string key = url.origin();
  const Url* proxy = url.tls ? nullptr : proxies_.for_url(url);
  Headers all = headers;
  if (proxy != nullptr && !proxy->user.empty()) all.emplace_back("Proxy-Authorization", "Basic " + base64(proxy->user));
  const std::string text = request_text(proxy == nullptr ? url.target : url.origin() + url.target, url.host_header(), all);
  for (;;) {
    Connection connection;
    if (const auto kept = kept_.find(key); kept != kept_.end()) {
      connection = std::move(kept->second);
      kept_.erase(kept);
    } else {
      connection = open(url);
    }
    Reader reader(*connection.stream, connection.buffer, connection.at, url.host);
    Head head;
    try {
      connection.stream->write(text);
      head = read_head(reader, url.host);
    } catch (const NetworkError&) {
      if (connection.used && !reader.began()) continue;  // the server had closed it meanwhile: no failure
      throw;
    }
    std::optional<Url> next;
    if (is_redirection(head.status)) {
      const std::string* location = head.find("location");
      if (location == nullptr) throw Error(url.origin() + ": expected an address to go to, got HTTP " + std::to_string(head.status) + " without one");
      next = resolve_url(url, *location, url.origin() + ": redirection");
      if (url.tls && !next->tls) throw Error(url.origin() + ": expected a redirection to https, got " + next->origin());
    }
    bool keep = false;
    uint64_t n_skipped = 0;
    const Sink sink = next ? Sink([&n_skipped](std::string_view bytes) {
      if ((n_skipped += bytes.size()) > max_skipped_bytes) throw Enough{};
    })
                           : begin(head);
    try {
      read_body(reader, head, url.host, sink, &keep);
    } catch (const Enough&) {
      keep = false;
    }
    if (keep) {
      connection.used = true;
      kept_[key] = std::move(connection);
    }
    return next;
  }
}

void HttpClient::get(const Url& url, const Headers& headers, const Headers& secrets, const std::string& secrets_origin, const Begin& begin) {
  Url at = url;
  for (size_t i = 0; i <= max_redirections; ++i) {
    Headers all = headers;
    if (at.origin() == secrets_origin) all.insert(all.end(), secrets.begin(), secrets.end());
    const std::optional<Url> next = exchange(at, all, begin);
    if (!next) return;
    at = *next;
  }
  throw Error(url.origin() + ": expected at most " + std::to_string(max_redirections) + " redirections, got more");
}

}  // namespace engine::hub
