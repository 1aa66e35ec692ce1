// A file on its way into the cache: BLOBS/HASH.incomplete until its checksum is right, then BLOBS/HASH.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <string_view>
#include <variant>

#include "hub/hash.h"
#include "hub/hub.h"

namespace engine::hub {

class Blob {
 public:
  /// Goes on with what an earlier run left. Waits while another process fetches the same. Throws Error, Interrupted.
  Blob(const std::string& folder, const RemoteFile& file, const std::atomic<bool>* stop);
  ~Blob();
  Blob(const Blob&) = delete;
  Blob& operator=(const Blob&) = delete;

  /// It is there already, whole.
  bool done() const { return fd_ < 0; }
  uint64_t n_bytes() const { return n_bytes_; }
  /// Some of the bytes are an earlier run's.
  bool resumed() const { return resumed_; }

  /// At the end; more than the file's size is an Error.
  void append(std::string_view bytes);
  void start_over();
  /// Once n_bytes() is the file's size: false, and nothing is left of it, if the checksum is wrong; else the file has its final name.
  bool commit();

 private:
  void open_locked(const std::atomic<bool>* stop);
  void begin_hash();
  [[noreturn]] void fail(const char* what);

  const RemoteFile& file_;
  std::string path_, temporary_;
  int fd_ = -1;
  uint64_t n_bytes_ = 0;
  bool resumed_ = false;
  std::variant<Sha256, Sha1> hash_;
};

}  // namespace engine::hub
