// Fetching a model repository from the Hugging Face Hub, or a server that speaks like it, into the cache that huggingface_hub uses.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace engine::hub {

struct PullOptions {
  std::string endpoint;                       // HF_ENDPOINT
  std::string token;                          // goes to the endpoint alone; empty: none
  int connections = 4;
  const std::atomic<bool>* stop = nullptr;    // once true, pull throws Interrupted; what has come so far stays for the next time
  std::function<void(uint64_t done, uint64_t total)> progress;  // bytes; called on the thread that called pull
};

struct Pulled {
  std::string snapshot;        // CACHE/models--ORG--NAME/snapshots/COMMIT
  std::string commit;
  size_t n_files = 0, n_fetched = 0;
  uint64_t n_bytes = 0, n_fetched_bytes = 0;  // of all files; over the wire now
};

/// HF_ENDPOINT without its last slashes, or the Hub.
std::string default_endpoint();
/// HF_TOKEN, HUGGING_FACE_HUB_TOKEN or the file of `hf auth login`; empty if there is none. Throws Error if it is no token.
std::string default_token();

/// Fetches the files of `id` ("ORG/NAME") at `revision` that engine reads: configuration, tokenizer, templates, safetensors. What is
/// complete is kept and what was begun is continued. A file gets its final name once its checksum (the Hub's SHA-256, git's SHA-1 of small
/// files) is right; refs/REVISION is written once all are there. Processes that fetch the same file wait for each other.
/// Throws Error, Interrupted.
Pulled pull(const std::string& id, const std::string& revision, const PullOptions& options);

/// A file of a repository as the tree listing gives it.
struct RemoteFile {
  std::string path;
  uint64_t size = 0;
  std::string hash;    // 64 hex digits: SHA-256 of the bytes; 40: git's SHA-1 of a blob
};

/// For tests: those of `files` that engine reads. Throws Error if there are no weights.
std::vector<RemoteFile> wanted_files(const std::string& id, const std::vector<RemoteFile>& files);
/// For tests: a page of the tree listing, appended to `files`. Throws Error.
void read_tree_page(const std::string& text, const std::string& where, std::vector<RemoteFile>* files);

}  // namespace engine::hub
