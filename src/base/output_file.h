// Writing a file: all of it or nothing.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <string>

namespace engine {

/// Writes beside `path` and takes its place in commit(), so that no reader ever sees half a file; without commit() nothing is left.
/// A device or a pipe keeps its place and is written to. A link is followed.
class OutputFile {
 public:
  /// Throws Error.
  explicit OutputFile(const std::string& path, mode_t mode = 0666);
  ~OutputFile();
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  /// All bytes; throws Error.
  void write(const void* data, size_t n_bytes);
  /// Once, at the end: everything is on the disk. Throws Error.
  void commit();

 private:
  [[noreturn]] void fail(int reason);

  std::string path_;       // as given, for errors
  std::string target_;     // what it leads to
  std::string temporary_;  // empty: written in place
  int fd_ = -1;
};

}  // namespace engine
