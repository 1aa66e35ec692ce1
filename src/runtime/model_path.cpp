// MODEL on the command line: a directory, or a Hub id in the local Hugging Face cache.
#include <algorithm>
#include <cctype>
#include <filesystem>

#include "base/builtin_files.h"
#include "base/error.h"
#include "base/hub_cache.h"
#include "runtime/engine.h"

namespace engine {
namespace {

namespace fs = std::filesystem;

bool folder_exists(const fs::path& path) {
  std::error_code ignored;
  return fs::is_directory(path, ignored);
}

}  // namespace

std::string resolve_model(const std::string& model, const std::string& revision) {
  if (is_builtin_directory(model) || folder_exists(model)) return model;
  std::error_code ignored;
  if (fs::exists(model, ignored)) {
    const bool gguf = model.ends_with(".gguf");
    throw Error(model + ": expected a model directory, got a file",
                gguf ? "GGUF is not read: name the directory of the model's original safetensors" : "name the directory that holds config.json");
  }
  if (!is_hub_id(model)) throw Error(model + ": expected a model directory, found nothing");

  check_revision(revision);
  const fs::path cached = hub_model_folder(model);
  const std::string fetch = "fetch it with: engine pull " + model + (revision == "main" ? "" : " --revision " + revision);
  if (!folder_exists(cached)) {
    throw NotInCache(model + ": expected a model directory or a Hub id in the cache, found neither ./" + model + " nor " + cached.string(), fetch);
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
    throw NotInCache(model + ": expected revision " + revision + " in the cache, found no " + snapshot.string(), fetch);
  }
  return snapshot.string();
}

}  // namespace engine
