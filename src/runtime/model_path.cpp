// MODEL on the command line: a directory, or a Hub id in the local Hugging Face cache.
#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <filesystem>

#include "base/builtin_files.h"
#include "base/error.h"
#include "runtime/engine.h"

namespace engine {
namespace {

namespace fs = std::filesystem;

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

/// "~/x" -> "$HOME/x", as huggingface_hub does with its variables.
std::string expand_home(const std::string& path) {
  return path == "~" || path.substr(0, 2) == "~/" ? environment("HOME") + path.substr(1) : path;
}

/// huggingface_hub's rules (constants.py): HF_HUB_CACHE, the older HUGGINGFACE_HUB_CACHE, HF_HOME/hub, XDG_CACHE_HOME/huggingface/hub,
/// ~/.cache/huggingface/hub.
std::string cache_directory() {
  for (const char* name : {"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"}) {
    if (const std::string value = environment(name); !value.empty()) return expand_home(value);
  }
  if (const std::string home = environment("HF_HOME"); !home.empty()) return expand_home(home) + "/hub";
  const std::string cache = environment("XDG_CACHE_HOME");
  return (cache.empty() ? environment("HOME") + "/.cache" : expand_home(cache)) + "/huggingface/hub";
}

/// NAME or ORG/NAME of the characters that the Hub allows.
bool is_hub_id(const std::string& id) {
  const auto is_part = [](std::string_view part) {
    return !part.empty() && part.size() <= 96 && part.front() != '.' && part.front() != '-' && part.find("..") == part.npos &&
           std::all_of(part.begin(), part.end(), [](unsigned char c) { return std::isalnum(c) || c == '-' || c == '_' || c == '.'; });
  };
  const size_t slash = id.find('/');
  if (slash == std::string::npos) return is_part(id);
  return is_part(std::string_view(id).substr(0, slash)) && is_part(std::string_view(id).substr(slash + 1));
}

bool folder_exists(const fs::path& path) {
  std::error_code ignored;
  return fs::is_directory(path, ignored);
}

/// A revision is a path below refs/ ("main", "pr/3") or a commit; nothing that leaves the cache.
void check_revision(const std::string& revision) {
  const bool leaves = revision.empty() || revision.front() == '/' || revision.find("..") != std::string::npos;
  if (leaves) throw Error("--revision: expected a branch, a tag or a commit, got '" + revision + "'");
}

}  // namespace

std::string resolve_model(const std::string& model, const std::string& revision) {
  if (is_builtin_directory(model) || folder_exists(model)) return model;
  std::error_code ignored;
  if (fs::exists(model, ignored)) throw Error(model + ": expected a model directory, got a file", "name the directory that holds config.json");
  if (!is_hub_id(model)) throw Error(model + ": expected a model directory, found nothing");

  check_revision(revision);
  std::string folder = "models--" + model;
  if (const size_t slash = folder.find('/'); slash != std::string::npos) folder.replace(slash, 1, "--");
  const fs::path cached = fs::path(cache_directory()) / folder;
  const std::string fetch = "fetch it with: hf download " + model + (revision == "main" ? "" : " --revision " + revision);
  if (!folder_exists(cached)) {
    throw Error(model + ": expected a model directory or a Hub id in the cache, found neither ./" + model + " nor " + cached.string(), fetch);
  }
  std::string commit = revision;
  if (const fs::path ref = cached / "refs" / revision; fs::is_regular_file(ref, ignored)) {
    commit = read_text_file(ref.string(), 4096);
    commit.erase(std::find_if(commit.begin(), commit.end(), [](unsigned char c) { return std::isspace(c); }), commit.end());
    if (commit.empty() || commit.find('/') != std::string::npos || commit.find("..") != std::string::npos) {
      throw Error(ref.string() + ": expected a commit, got '" + commit.substr(0, 60) + "'");
    }
  }
  const fs::path snapshot = cached / "snapshots" / commit;
  if (!folder_exists(snapshot)) {
    throw Error(model + ": expected revision " + revision + " in the cache, found no " + snapshot.string(), fetch);
  }
  return snapshot.string();
}

}  // namespace engine
