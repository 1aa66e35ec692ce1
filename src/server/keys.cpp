#include "server/keys.h"

#include <sstream>

#include "base/error.h"
#include "base/json.h"

namespace engine::server {
namespace {

constexpr size_t max_file_bytes = size_t{1} << 20;
constexpr size_t max_key_bytes = 512;

/// RFC 6750's b64token: what can stand after "Bearer " without being changed on its way.
void check_key(const std::string& key, const std::string& where) {
  const std::string_view allowed = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~+/=";
  if (!key.empty() && key.size() <= max_key_bytes && key.find_first_not_of(allowed) == std::string::npos) return;
  throw Error(where + ": expected keys of 1 to " + std::to_string(max_key_bytes) + " characters out of A-Z a-z 0-9 - . _ ~ + / =");
}

/// Compares all of `given`, whatever it is compared with.
bool equal(std::string_view given, const std::string& key) {
  unsigned difference = given.size() == key.size() ? 0 : 1;
  for (size_t i = 0; i < given.size(); ++i) difference |= static_cast<unsigned char>(given[i]) ^ static_cast<unsigned char>(key[i % key.size()]);
  return difference == 0;
}

}  // namespace

Keys::Keys(const std::string& key, const std::string& file) : key_(key), file_(file) {
  if (!key_.empty()) check_key(key_, "--api-key");
  reload();
}

void Keys::reload() {
  std::vector<std::string> keys;
  if (!key_.empty()) keys.push_back(key_);
  if (!file_.empty()) {
    std::istringstream lines(read_text_file(file_, max_file_bytes));
    for (std::string line; std::getline(lines, line);) {
      while (!line.empty() && (line.back() == '\r' || line.back() == ' ' || line.back() == '\t')) line.pop_back();
      if (line.empty() || line[0] == '#') continue;
      check_key(line, file_);
      keys.push_back(line);
    }
    if (keys.empty()) throw Error(file_ + ": expected a key a line, found none");
  }
  const std::lock_guard lock(mutex_);
  keys_ = std::move(keys);
}

bool Keys::accepts(std::string_view authorization) const {
  constexpr std::string_view scheme = "Bearer ";
  const bool is_bearer = authorization.substr(0, scheme.size()) == scheme;
  const std::string_view given = is_bearer ? authorization.substr(scheme.size()) : std::string_view();
  bool found = false;
  const std::lock_guard lock(mutex_);
  for (const std::string& key : keys_) found |= equal(given, key);  // no early end
  return found;
}

size_t Keys::n_keys() const {
  const std::lock_guard lock(mutex_);
  return keys_.size();
}

}  // namespace engine::server
