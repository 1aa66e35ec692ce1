#include "base/hub_cache.h"

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <string_view>

#include "base/error.h"

namespace engine {
namespace {

/// "~/x" -> "$HOME/x", as huggingface_hub does with its variables.
std::string expand_home(const std::string& path) {
  return path == "~" || path.substr(0, 2) == "~/" ? environment("HOME") + path.substr(1) : path;
}

std::string hub_home() {
  if (const std::string home = environment("HF_HOME"); !home.empty()) return expand_home(home);
  const std::string cache = environment("XDG_CACHE_HOME");
  return (cache.empty() ? environment("HOME") + "/.cache" : expand_home(cache)) + "/huggingface";
}

constexpr size_t max_revision_bytes = 255;

}  // namespace

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

std::string hub_cache_directory() {
  for (const char* name : {"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"}) {
    if (const std::string value = environment(name); !value.empty()) return expand_home(value);
  }
  return hub_home() + "/hub";
}

std::string hub_token_path() {
  const std::string path = environment("HF_TOKEN_PATH");
  return path.empty() ? hub_home() + "/token" : expand_home(path);
}

bool is_hub_id(const std::string& id) {
  const auto is_part = [](std::string_view part) {
    return !part.empty() && part.size() <= 96 && part.front() != '.' && part.front() != '-' && part.find("..") == part.npos &&
           std::all_of(part.begin(), part.end(), [](unsigned char c) { return std::isalnum(c) || c == '-' || c == '_' || c == '.'; });
  };
  const size_t slash = id.find('/');
  if (slash == std::string::npos) return is_part(id);
  return is_part(std::string_view(id).substr(0, slash)) && is_part(std::string_view(id).substr(slash + 1));
}

std::string hub_model_folder(const std::string& id) {
  std::string folder = "models--" + id;
  if (const size_t slash = folder.find('/'); slash != std::string::npos) folder.replace(slash, 1, "--");
  return hub_cache_directory() + "/" + folder;
}

void check_revision(const std::string& revision) {
  const bool leaves = revision.empty() || revision.size() > max_revision_bytes || revision.front() == '/' || revision.back() == '/' ||
                      revision.find("..") != std::string::npos || revision.find("//") != std::string::npos;
  const bool strange = std::any_of(revision.begin(), revision.end(), [](unsigned char c) { return c < 0x21 || c == 0x7f; });
  if (leaves || strange) throw Error("--revision: expected a branch, a tag or a commit, got '" + revision + "'");
}

}  // namespace engine
