#include "hub/hub.h"

#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <condition_variable>
#include <exception>
#include <filesystem>
#include <mutex>
#include <optional>
#include <set>
#include <system_error>
#include <thread>

#include "base/hub_cache.h"
#include "base/json.h"
#include "base/output_file.h"
#include "hub/blob.h"
#include "hub/http_client.h"

namespace engine::hub {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;

constexpr size_t max_api_bytes = 32 << 20;       // of one answer in JSON
constexpr size_t max_pages = 200, max_entries = 100'000, max_wanted_files = 4096;
constexpr uint64_t max_file_bytes = uint64_t{1} << 44;
constexpr size_t max_small_bytes = 256 << 20;    // of files that are read as a whole
constexpr size_t max_error_bytes = 64 << 10;
constexpr int max_failures = 6;                  // in a row, without what counts as progress
constexpr uint64_t progress_bytes = 16 << 10;
constexpr std::chrono::milliseconds first_pause = 250ms, longest_pause = 8s;
constexpr std::chrono::seconds longest_retry_after = 60s;

bool is_hex(std::string_view text, size_t n) {
  return text.size() == n && std::all_of(text.begin(), text.end(), [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

// --- which files ---------------------------------------------------------------------------------------------------------------------

/// Nothing that leads out of a directory or cannot be shown.
bool is_inside(const std::string& path) {
  if (path.empty() || path.size() > 1024) return false;
  for (const unsigned char c : path) {
    if (c < 0x20 || c == 0x7f || c == '\\') return false;
  }
  for (size_t begin = 0; begin <= path.size();) {
    const size_t end = std::min(path.find('/', begin), path.size());
    const std::string part = path.substr(begin, end - begin);
    if (part.empty() || part == "." || part == ".." || part.size() > 255) return false;
    begin = end + 1;
  }
  return true;
}

bool is_small_file_wanted(const std::string& path) {
  static constexpr const char* names[] = {"config.json", "generation_config.json", "special_tokens_map.json", "adapter_config.json",
                                          "model.safetensors.index.json"};
  if (std::find(std::begin(names), std::end(names), path) != std::end(names)) return true;
  const bool top = path.find('/') == std::string::npos;
  if (top && (path.starts_with("tokenizer") || path.starts_with("chat_template"))) return true;
  constexpr std::string_view folder = "additional_chat_templates/";
  return path.starts_with(folder) && path.ends_with(".jinja") && path.find('/', folder.size()) == std::string::npos;
}

bool is_weight_file(const std::string& path) { return path.ends_with(".safetensors") && path.find('/') == std::string::npos; }

const RemoteFile* find_file(const std::vector<RemoteFile>& files, std::string_view path) {
  const auto found = std::find_if(files.begin(), files.end(), [path](const RemoteFile& f) { return f.path == path; });
  return found == files.end() ? nullptr : &*found;
}

/// The file names of model.safetensors.index.json.
std::set<std::string> read_index(const std::string& path, const std::string& where) {
  const Json index = parse_json(read_text_file(path, max_small_bytes), where);
  if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object()) {
    throw Error(where + ": weight_map: expected an object of tensor names and file names");
  }
  std::set<std::string> names;
  for (const auto& [tensor, name] : index["weight_map"].items()) {
    if (!name.is_string() || !is_weight_file(name.get<std::string>())) {
      throw Error(where + ": '" + tensor + "': expected the name of a safetensors file, got " + dump_json(name).substr(0, 200));
    }
    names.insert(name.get<std::string>());
  }
  return names;
}

// --- the server ----------------------------------------------------------------------------------------------------------------------

struct Server {
  std::string id, origin;
  Url base;  // its target without the last slash
  const PullOptions& options;

  Server(const std::string& id_, const PullOptions& options_) : id(id_), base(parse_url(options_.endpoint, "HF_ENDPOINT")), options(options_) {
    while (base.target.ends_with('/')) base.target.pop_back();
    origin = base.origin();
  }
  Url at(const std::string& path) const {
    Url url = base;
    url.target += path;
    return url;
  }
  Headers secrets() const { return options.token.empty() ? Headers{} : Headers{{"Authorization", "Bearer " + options.token}}; }
};

std::string one_line(std::string_view text) {
  std::string out;
  for (const char c : text.substr(0, 200)) out += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
  return out;
}

/// Throws what an answer other than 2xx means.
[[noreturn]] void refuse(const Server& server, const Head& head, const std::string& what) {
  std::string got = "HTTP " + std::to_string(head.status);
  if (const std::string* reason = head.find("x-error-message")) got += ": " + one_line(*reason);
  const std::string prefix = server.origin + ": " + what + ": ";
  if (head.status == 408 || head.status == 429 || head.status >= 500) {
    NetworkError error(prefix + "expected an answer, got " + got);
    if (const std::string* after = head.find("retry-after")) {
      int64_t seconds = 0;
      std::from_chars(after->data(), after->data() + after->size(), seconds);
      error.retry_after = std::clamp(std::chrono::seconds(seconds), 0s, longest_retry_after);
    }
    throw error;
  }
  if (head.status == 401 || head.status == 403) {
    const bool token = !server.options.token.empty();
    throw Error(prefix + "expected a model that " + (token ? "the token opens" : "is open to all") + ", got " + got,
                token ? "the name may be wrong, or its licence is still to be accepted at " + server.options.endpoint + "/" + server.id
                      : "the name may be wrong; for private models and those with a licence to accept: HF_TOKEN=TOKEN");
  }
  if (head.status == 404) throw Error(prefix + "expected a model and revision that exist, got " + got);
  throw Error(prefix + "expected HTTP 200, got " + got);
}

HttpClient::Sink drop(size_t limit) {
  return [limit, n = size_t{0}](std::string_view bytes) mutable {
    if ((n += bytes.size()) > limit) throw NetworkError("the server sends more than was asked for");
  };
}

void pause(std::chrono::milliseconds time, const std::atomic<bool>* stop) {
  const auto end = std::chrono::steady_clock::now() + time;
  while (std::chrono::steady_clock::now() < end) {
    if (stop != nullptr && *stop) throw Interrupted{};
    std::this_thread::sleep_for(50ms);
  }
}

/// Tries again after failures of the network, with longer pauses each time. `attempt` returns; `progress` counts what it got.
template <class Attempt>
void with_retries(const std::atomic<bool>* stop, const std::function<uint64_t()>& progress, const Attempt& attempt) {
  for (int n_failures = 0;;) {
    const uint64_t before = progress();
    try {
      attempt();
      return;
    } catch (NetworkError& error) {
      if (progress() >= before + progress_bytes) n_failures = 0;
      if (++n_failures >= max_failures) {
        if (error.hint.empty()) error.hint = "tried " + std::to_string(n_failures) + " times; the same command goes on where this one ended";
        throw;
      }
      pause(std::max<std::chrono::milliseconds>(std::min(first_pause * (1 << (n_failures - 1)), longest_pause), error.retry_after), stop);
    }
  }
}

struct ApiAnswer {
  std::string text;
  std::optional<std::string> link;
};

ApiAnswer get_api(HttpClient& client, const Server& server, const Url& url, const std::string& what) {
  ApiAnswer answer;
  with_retries(server.options.stop, [] { return uint64_t{0}; }, [&] {
    answer = {};
    std::optional<Head> bad;
    client.get(url, {}, server.secrets(), server.origin, [&](const Head& head) -> HttpClient::Sink {
      if (head.status != 200) {
        bad = head;
        return drop(max_error_bytes);
      }
      if (const std::string* link = head.find("link")) answer.link = *link;
      return [&](std::string_view bytes) {
        if (answer.text.size() + bytes.size() > max_api_bytes) throw Error(server.origin + ": " + what + ": expected at most 32 MB of JSON, got more");
        answer.text += bytes;
      };
    });
    if (bad) refuse(server, *bad, what);
  });
  return answer;
}

/// `<ADDRESS>; rel="next"` among the links of RFC 8288.
std::optional<std::string> next_page(const std::string& link) {
  for (size_t begin = link.find('<'); begin != std::string::npos; begin = link.find('<', begin + 1)) {
    const size_t end = link.find('>', begin);
    if (end == std::string::npos) return std::nullopt;
    const std::string parameters = link.substr(end + 1, std::min(link.find('<', end), link.size()) - end - 1);
    if (parameters.find("rel=\"next\"") != std::string::npos || parameters.find("rel=next") != std::string::npos) return link.substr(begin + 1, end - begin - 1);
  }
  return std::nullopt;
}

std::string find_commit(HttpClient& client, const Server& server, const std::string& revision) {
  const std::string what = server.id + " at " + revision;
  const ApiAnswer answer = get_api(client, server, server.at("/api/models/" + server.id + "/revision/" + percent_encode(revision, false)), what);
  const Json json = parse_json(answer.text, server.origin + ": " + what);
  const std::string commit = json.is_object() && json.contains("sha") && json["sha"].is_string() ? json["sha"].get<std::string>() : "";
  if (!is_hex(commit, 40)) throw Error(server.origin + ": " + what + ": sha: expected 40 hex digits, got '" + one_line(commit) + "'");
  return commit;
}

std::vector<RemoteFile> list_files(HttpClient& client, const Server& server, const std::string& commit) {
  const std::string what = "files of " + server.id;
  std::vector<RemoteFile> files;
  Url url = server.at("/api/models/" + server.id + "/tree/" + commit + "?recursive=true");
  for (size_t page = 0; page < max_pages; ++page) {
    const ApiAnswer answer = get_api(client, server, url, what);
    read_tree_page(answer.text, server.origin + ": " + what, &files);
    const std::optional<std::string> next = answer.link ? next_page(*answer.link) : std::nullopt;
    if (!next) return files;
    url = resolve_url(url, *next, server.origin + ": " + what + ": next page");
  }
  throw Error(server.origin + ": " + what + ": expected at most " + std::to_string(max_pages) + " pages, got more");
}

// --- files ---------------------------------------------------------------------------------------------------------------------------

/// All bytes of `blob`, from where it is. `n_done` counts what stands in the file.
void fetch(HttpClient& client, const Server& server, const Url& url, const RemoteFile& file, Blob& blob, std::atomic<int64_t>& n_done) {
  const auto start_over = [&] {
    n_done -= static_cast<int64_t>(blob.n_bytes());
    blob.start_over();
  };
  with_retries(server.options.stop, [&] { return blob.n_bytes(); }, [&] {
    if (blob.n_bytes() == file.size) return;
    std::optional<Head> bad;
    Headers headers;
    if (blob.n_bytes() > 0) headers.emplace_back("Range", "bytes=" + std::to_string(blob.n_bytes()) + "-");
    client.get(url, headers, server.secrets(), server.origin, [&](const Head& head) -> HttpClient::Sink {
      if (head.status == 206 && !headers.empty()) {
        const std::string* range = head.find("content-range");
        const std::string expected = "bytes " + std::to_string(blob.n_bytes()) + "-" + std::to_string(file.size - 1) + "/" + std::to_string(file.size);
        if (range == nullptr || *range != expected) {
          throw Error(server.origin + ": " + file.path + ": expected '" + expected + "', got '" + (range == nullptr ? "" : one_line(*range)) + "'");
        }
      } else if (head.status == 200) {
        start_over();  // no ranges there
      } else {
        bad = head;
        return drop(max_error_bytes);
      }
      return [&](std::string_view bytes) {
        blob.append(bytes);
        n_done += static_cast<int64_t>(bytes.size());
      };
    });
    if (bad) refuse(server, *bad, file.path);
    if (blob.n_bytes() < file.size) throw NetworkError(server.origin + ": " + file.path + ": the answer ended early");
  });
}

/// Fetches what is not there yet, on several connections, the largest files first.
class Fetcher {
 public:
  Fetcher(const Server& server, const Proxies& proxies, const std::string& blobs, const std::string& commit)
      : server_(server), proxies_(proxies), blobs_(blobs), commit_(commit) {}

  void run(std::vector<RemoteFile> files, Pulled* result) {
    std::sort(files.begin(), files.end(), [](const RemoteFile& a, const RemoteFile& b) { return a.size > b.size; });
    files_ = std::move(files);
    uint64_t total = 0;
    for (const RemoteFile& file : files_) total += file.size;
    next_ = 0;
    n_done_ = 0;
    const size_t n_threads = std::min(files_.size(), static_cast<size_t>(server_.options.connections));
    running_ = n_threads;
    std::vector<std::thread> threads;
    try {
      while (threads.size() < n_threads) threads.emplace_back([this] { work(); });
    } catch (const std::system_error& error) {  // a limit of threads or memory: fewer connections will do
      if (threads.empty()) throw Error(std::string("cannot start a thread: ") + error.what());
      const std::lock_guard lock(mutex_);
      running_ -= n_threads - threads.size();
    }
    {
      std::unique_lock lock(mutex_);
      while (running_ > 0) {
        if (server_.options.stop != nullptr && *server_.options.stop) stop_ = true;
        changed_.wait_for(lock, 100ms);
        if (server_.options.progress) server_.options.progress(static_cast<uint64_t>(std::max<int64_t>(n_done_, 0)), total);
      }
    }
    for (std::thread& thread : threads) thread.join();
    if (server_.options.stop != nullptr && *server_.options.stop) throw Interrupted{};
    if (failure_) std::rethrow_exception(failure_);
    result->n_fetched += n_fetched_;
    result->n_fetched_bytes += n_fetched_bytes_;
    n_fetched_ = n_fetched_bytes_ = 0;
  }

 private:
  void work() {
    try {
      Patience patience;
      patience.stop = &stop_;
      HttpClient client(proxies_, patience);
      while (const RemoteFile* file = next_file()) fetch_one(client, *file);
    } catch (const Interrupted&) {
    } catch (...) {
      const std::lock_guard lock(mutex_);
      if (!failure_) failure_ = std::current_exception();
      stop_ = true;  // the others need not go on
    }
    const std::lock_guard lock(mutex_);
    --running_;
    changed_.notify_all();
  }

  const RemoteFile* next_file() {
    const std::lock_guard lock(mutex_);
    return stop_ || next_ == files_.size() ? nullptr : &files_[next_++];
  }

  void fetch_one(HttpClient& client, const RemoteFile& file) {
    PullOptions options = server_.options;
    options.stop = &stop_;
    const Server server(server_.id, options);
    const Url url = server.at("/" + server.id + "/resolve/" + commit_ + "/" + percent_encode(file.path, true));
    for (bool again = true;;) {
      Blob blob(blobs_, file, &stop_);
      if (blob.done()) {
        n_done_ += static_cast<int64_t>(file.size);
        return;
      }
      const uint64_t before = blob.n_bytes();
      n_done_ += static_cast<int64_t>(before);
      fetch(client, server, url, file, blob, n_done_);
      const bool resumed = blob.resumed();
      if (blob.commit()) {
        const std::lock_guard lock(mutex_);
        n_fetched_ += 1;
        n_fetched_bytes_ += file.size - (resumed ? before : 0);
        return;
      }
      n_done_ -= static_cast<int64_t>(file.size);
      // What an earlier run left may be another program's, which writes in another order: once more from the start.
      if (!resumed || !again) {
        throw Error(server.origin + ": " + file.path + ": expected bytes with the checksum " + file.hash + ", got others",
                    "nothing of it was kept; the server or something on the way changes files");
      }
      again = false;
    }
  }

  const Server& server_;
  const Proxies& proxies_;
  std::string blobs_, commit_;
  std::vector<RemoteFile> files_;
  std::mutex mutex_;
  std::condition_variable changed_;
  size_t next_ = 0, running_ = 0, n_fetched_ = 0;
  uint64_t n_fetched_bytes_ = 0;
  std::exception_ptr failure_;
  std::atomic<bool> stop_ = false;
  std::atomic<int64_t> n_done_ = 0;
};

void check_room(const std::string& folder, const std::vector<RemoteFile>& files) {
  uint64_t needed = 0;
  std::error_code ignored;
  for (const RemoteFile& file : files) {
    if (fs::exists(folder + "/" + file.hash, ignored)) continue;
    const auto begun = fs::file_size(folder + "/" + file.hash + ".incomplete", ignored);
    needed += file.size - (ignored ? 0 : std::min<uint64_t>(begun, file.size));
  }
  struct statvfs info = {};
  if (::statvfs(folder.c_str(), &info) != 0) return;
  const uint64_t free = static_cast<uint64_t>(info.f_bavail) * info.f_frsize;
  if (needed > free) {
    throw Error(folder + ": expected " + std::to_string(needed >> 20) + " MiB of free space, got " + std::to_string(free >> 20) + " MiB",
                "HF_HUB_CACHE=DIRECTORY puts the cache elsewhere");
  }
}

void make_folders(const fs::path& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error) throw Error(path.string() + ": cannot make the directory: " + error.message(), "HF_HUB_CACHE=DIRECTORY puts the cache elsewhere");
}

/// snapshots/COMMIT/PATH -> ../../blobs/HASH, with as many steps up as PATH has folders.
void link_file(const fs::path& snapshot, const RemoteFile& file) {
  const fs::path link = snapshot / file.path;
  make_folders(link.parent_path());
  std::string target = "../../blobs/" + file.hash;
  for (const char c : file.path) {
    if (c == '/') target.insert(0, "../");
  }
  std::error_code error;
  if (fs::is_symlink(link, error) && fs::read_symlink(link, error) == target) return;
  const fs::path temporary = link.string() + ".tmp" + std::to_string(::getpid());
  fs::create_symlink(target, temporary, error);
  if (!error) fs::rename(temporary, link, error);
  if (error) throw Error(link.string() + ": cannot make the link: " + error.message());
}

void write_ref(const fs::path& folder, const std::string& revision, const std::string& commit) {
  if (revision == commit) return;
  const fs::path ref = folder / "refs" / revision;
  make_folders(ref.parent_path());
  OutputFile out(ref.string());
  out.write(commit.data(), commit.size());
  out.commit();
}

}  // namespace

void read_tree_page(const std::string& text, const std::string& where, std::vector<RemoteFile>* files) {
  const Json page = parse_json(text, where);
  if (!page.is_array()) throw Error(where + ": expected a list of files");
  for (const Json& entry : page) {
    const auto text_of = [](const Json& object, const char* key) {
      return object.is_object() && object.contains(key) && object[key].is_string() ? object[key].get<std::string>() : std::string();
    };
    if (text_of(entry, "type") != "file") continue;
    RemoteFile file;
    file.path = text_of(entry, "path");
    if (!is_inside(file.path)) throw Error(where + ": expected a path inside the model, got '" + one_line(file.path) + "'");
    const bool large = entry.contains("lfs") && entry["lfs"].is_object();
    const Json& holder = large ? entry["lfs"] : entry;
    file.hash = text_of(holder, "oid");
    if (!is_hex(file.hash, large ? 64 : 40)) {
      throw Error(where + ": " + file.path + ": oid: expected " + (large ? "64" : "40") + " hex digits, got '" + one_line(file.hash) + "'");
    }
    const Json size = holder.contains("size") ? holder["size"] : Json();
    if (!size.is_number_unsigned() || size.get<uint64_t>() > max_file_bytes) {
      throw Error(where + ": " + file.path + ": size: expected bytes, at most 2^44, got " + one_line(dump_json(size)));
    }
    file.size = size.get<uint64_t>();
    if (files->size() >= max_entries) throw Error(where + ": expected at most " + std::to_string(max_entries) + " files, got more");
    files->push_back(std::move(file));
  }
}

std::vector<RemoteFile> wanted_files(const std::string& id, const std::vector<RemoteFile>& files) {
  std::vector<RemoteFile> wanted;
  const RemoteFile *single = find_file(files, "model.safetensors"), *index = find_file(files, "model.safetensors.index.json"),
                   *adapter = find_file(files, "adapter_model.safetensors");
  if (single == nullptr && index == nullptr && adapter == nullptr) {
    throw Error(id + ": expected model.safetensors or model.safetensors.index.json, got neither",
                "only safetensors weights are read; convert other forms with Transformers' save_pretrained");
  }
  std::set<std::string> seen;
  for (const RemoteFile& file : files) {
    const bool is_index = file.path == "model.safetensors.index.json";
    const bool weights = &file == single || &file == adapter || (single == nullptr && index != nullptr && is_weight_file(file.path));
    const bool small = is_small_file_wanted(file.path) && !(is_index && single != nullptr);
    if (!weights && !small) continue;
    if (!weights && file.size > max_small_bytes) throw Error(id + ": " + file.path + ": expected at most 256 MiB, got " + std::to_string(file.size) + " bytes");
    if (seen.insert(file.path).second) wanted.push_back(file);
  }
  if (wanted.size() > max_wanted_files) throw Error(id + ": expected at most " + std::to_string(max_wanted_files) + " files of use, got more");
  return wanted;
}

std::string default_endpoint() {
  std::string endpoint = environment("HF_ENDPOINT");
  if (endpoint.empty()) endpoint = "https://huggingface.co";
  while (endpoint.ends_with('/')) endpoint.pop_back();
  return endpoint;
}

std::string default_token() {
  std::string token, where;
  for (const char* name : {"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"}) {
    if (token.empty()) token = environment(where.assign(name).c_str());
  }
  std::error_code ignored;
  if (const std::string path = hub_token_path(); token.empty() && fs::is_regular_file(path, ignored)) token = read_text_file(where = path, 64 << 10);
  const auto is_blank = [](unsigned char c) { return std::isspace(c) != 0; };
  token.erase(std::find_if_not(token.rbegin(), token.rend(), is_blank).base(), token.end());
  token.erase(token.begin(), std::find_if_not(token.begin(), token.end(), is_blank));
  const bool clean = std::all_of(token.begin(), token.end(), [](unsigned char c) { return c > 0x20 && c < 0x7f; });
  if (!clean || token.size() > 1024) throw Error(where + ": expected a token of letters and digits");
  return token;
}

Pulled pull(const std::string& id, const std::string& revision, const PullOptions& options) {
  if (!is_hub_id(id)) throw Error(id + ": expected a Hub id, ORG/NAME");
  check_revision(revision);
  const Server server(id, options);
  const Proxies proxies = Proxies::from_environment();
  Patience patience;
  patience.stop = options.stop;
  HttpClient client(proxies, patience);

  Pulled result;
  result.commit = find_commit(client, server, revision);
  std::vector<RemoteFile> files = wanted_files(id, list_files(client, server, result.commit));
  const fs::path folder = hub_model_folder(id), snapshot = folder / "snapshots" / result.commit;
  const std::string blobs = (folder / "blobs").string();
  make_folders(blobs);
  make_folders(snapshot);

  Fetcher fetcher(server, proxies, blobs, result.commit);
  // The index comes first: it says which of the weight files belong to the model.
  if (const RemoteFile* index = find_file(files, "model.safetensors.index.json"); index != nullptr) {
    fetcher.run({*index}, &result);
    const std::set<std::string> shards = read_index(blobs + "/" + index->hash, id + ": " + index->path);
    for (const std::string& name : shards) {
      if (find_file(files, name) == nullptr) throw Error(id + ": " + name + ": expected the file that model.safetensors.index.json names, found none");
    }
    std::erase_if(files, [&](const RemoteFile& f) { return is_weight_file(f.path) && f.path != "adapter_model.safetensors" && !shards.contains(f.path); });
  }
  check_room(blobs, files);
  fetcher.run(files, &result);
  for (const RemoteFile& file : files) {
    link_file(snapshot, file);
    result.n_bytes += file.size;
  }
  write_ref(folder, revision, result.commit);
  result.n_files = files.size();
  result.snapshot = snapshot.string();
  return result;
}

}  // namespace engine::hub
