// Writes a model directory in the compressed-tensors layout, all or nothing: everything goes into a temporary directory beside OUT, is synced,
// and gets its name at the end.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/safetensors.h"
#include "kernels/kernels.h"

namespace engine {

/// A linear module that is written quantized.
struct QuantizedModule {
  std::string name;    // "model.layers.0.mlp.up_proj"
  std::string tensor;  // what it is made from: name + ".weight", or the embedding where the output matrix was tied to it
  int64_t n_rows = 0, n_cols = 0;
  kernels::Format format = kernels::Format::i4;
  int group = 32;

  int64_t n_groups() const { return (n_cols + group - 1) / group; }
  /// Bits of a weight, with its share of the scales.
  double bits() const {
    return (format == kernels::Format::i4 ? 4.0 : 8.0) + 16.0 * static_cast<double>(n_groups()) / static_cast<double>(n_cols);
  }
};

struct WriterOptions {
  uint64_t max_shard_bytes = uint64_t{5} << 30;
  bool packed = true;                // pack-quantized; otherwise int-quantized, which holds int8 only
  std::vector<std::string> ignored;  // linear modules that stay as they are
  bool untied = false;               // the output matrix is written as one of its own
};

class DirectoryWriter {
 public:
  /// Lays out all files and makes the temporary directory. Throws Error, also if `out` exists.
  DirectoryWriter(const std::string& source, const std::string& out, const std::vector<QuantizedModule>& modules, const WriterOptions& options);
  /// Removes what was written unless finish() has been called.
  ~DirectoryWriter();
  DirectoryWriter(const DirectoryWriter&) = delete;
  DirectoryWriter& operator=(const DirectoryWriter&) = delete;

  /// Writes n_rows rows from first_row on: q [n_rows, n_cols] and float16 scales [n_rows, n_groups].
  void put_rows(const QuantizedModule& module, int64_t first_row, int64_t n_rows, const int8_t* q, const uint16_t* scales);
  /// Names of the tensors that are copied as they are, and one of them.
  const std::vector<std::string>& copied() const { return copied_; }
  void copy(const std::string& tensor);
  /// Writes config.json, the index and the other files of the model, syncs everything and renames the directory.
  void finish();

  const Checkpoint& checkpoint() const { return checkpoint_; }
  /// Bytes of all tensors written.
  uint64_t n_bytes() const { return total_bytes_; }

 private:
  struct Place {
    int file = 0;
    uint64_t offset = 0;  // in the file
    DType dtype = DType::u8;
    Shape shape;
    uint64_t n_bytes = 0;
  };
  void add(const std::string& name, DType dtype, const Shape& shape);
  void lay_out();
  void write_at(const std::string& tensor, uint64_t offset, const void* data, size_t n);
  void write_text(const std::string& name, const std::string& text);
  void copy_file(const std::string& name);
  std::string config_text() const;
  std::string shard_name(size_t i) const;

  std::string source_, out_, temporary_;
  const std::vector<QuantizedModule>& modules_;
  WriterOptions options_;
  Checkpoint checkpoint_;
  std::vector<std::string> names_;  // in order of writing
  std::vector<std::string> copied_;
  std::map<std::string, Place> places_;
  std::vector<int> files_;
  uint64_t total_bytes_ = 0;
  bool made_ = false, done_ = false;
};

}  // namespace engine
