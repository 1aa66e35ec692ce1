// API keys.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

namespace engine::server {

class Keys {
 public:
  /// A key given on the command line, and a file with a key a line ('#' begins a comment); either may be empty. Throws Error.
  Keys(const std::string& key, const std::string& file);

  /// Reads the file again. If that fails the keys stay as they are. Throws Error.
  void reload();
  bool required() const { return !key_.empty() || !file_.empty(); }
  /// True if `authorization` is "Bearer KEY" with a known key. Takes the same time whatever the key.
  bool accepts(std::string_view authorization) const;
  size_t n_keys() const;

 private:
  std::string key_, file_;
  mutable std::mutex mutex_;
  std::vector<std::string> keys_;  // under mutex_
};

}  // namespace engine::server
