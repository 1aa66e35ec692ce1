// safetensors files and sharded checkpoints.
//
// Rules follow the reference implementation (https://github.com/huggingface/safetensors): an 8-byte little-endian header
// size of at most 100 MB, a JSON header, then data that the tensors tile without hole or overlap.
#pragma once

#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/mapped_file.h"
#include "base/tensor.h"

namespace engine {

/// One mapped safetensors file. Views point into the mapping and live as long as this object.
class SafetensorsFile {
 public:
  /// Maps and validates. Throws Error on any breach of the format's rules.
  explicit SafetensorsFile(const std::string& path);

  const std::map<std::string, TensorView>& tensors() const { return tensors_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const MappedFile& file() const { return file_; }

 private:
  MappedFile file_;
  std::map<std::string, TensorView> tensors_;
  std::map<std::string, std::string> metadata_;
};

/// All tensors of a model directory: model.safetensors, or the shards named by model.safetensors.index.json (never a glob: other
/// safetensors files may lie beside the weights). Index entries must be plain file names inside the directory.
class Checkpoint {
 public:
  explicit Checkpoint(const std::string& directory);

  /// Null if there is no such tensor.
  const TensorView* find(const std::string& name) const;
  const std::map<std::string, TensorView>& tensors() const { return all_; }
  const std::vector<std::unique_ptr<SafetensorsFile>>& files() const { return files_; }
  uint64_t total_bytes() const;
  /// The files' pages leave this process's resident set; what is read again comes back.
  void drop_pages() const;

 private:
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::map<std::string, TensorView> all_;
};

/// A tensor to be written: name and view.
struct NamedTensor {
  std::string name;
  TensorView tensor;
};

/// Writes `path` atomically (temporary file in the same directory, fsync, rename). Tensors are laid out in the given order with
/// the header padded to 8 bytes. Throws Error; on error nothing stays under the final name.
void write_safetensors(const std::string& path, std::span<const NamedTensor> tensors,
                       const std::map<std::string, std::string>& metadata = {});

}  // namespace engine
