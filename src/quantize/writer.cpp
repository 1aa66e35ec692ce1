#include "quantize/writer.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <set>

#include "base/error.h"
#include "base/json.h"

namespace engine {
namespace {

namespace fs = std::filesystem;
using kernels::Format;

constexpr size_t max_copied_file = size_t{1} << 30;

[[noreturn]] void fail(const std::string& path, const char* what) { throw Error(path + ": " + what + ": " + std::strerror(errno)); }

void write_all(int fd, const void* data, size_t n, uint64_t offset, const std::string& path) {
  const char* at = static_cast<const char*>(data);
  while (n > 0) {
    const ssize_t done = pwrite(fd, at, n, static_cast<off_t>(offset));
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) fail(path, "cannot write");
    at += done;
    offset += static_cast<uint64_t>(done);
    n -= static_cast<size_t>(done);
  }
}

void sync_directory(const std::string& path) {
  const int fd = open(path.empty() ? "." : path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) fail(path, "cannot open");
  const bool synced = fsync(fd) == 0 || errno == EINVAL;
  close(fd);
  if (!synced) fail(path, "cannot write");
}

uint64_t bytes_of(DType dtype, const Shape& shape) {
  uint64_t bits = static_cast<uint64_t>(dtype_bits(dtype));
  for (const int64_t n : shape) bits *= static_cast<uint64_t>(n);
  return bits / 8;
}

/// Weights in other files than those that are written, and what was said about them.
bool is_weights(const fs::path& file) {
  static const std::set<std::string> endings = {".safetensors", ".bin", ".pt", ".pth", ".gguf", ".onnx", ".h5", ".msgpack", ".ot"};
  const std::string name = file.filename().string();
  return endings.contains(file.extension().string()) || name.ends_with(".index.json");
}

/// One group of config.json's config_groups.
Json scheme(Format format, int group, const Json& targets, const char* layout) {
  return {{"targets", targets},
          {"weights",
           {{"num_bits", format == Format::i4 ? 4 : 8},
            {"type", "int"},
            {"symmetric", true},
            {"strategy", "group"},
            {"group_size", group},
            {"block_structure", nullptr},
            {"dynamic", false},
            {"actorder", nullptr},
            {"observer", "minmax"},
            {"observer_kwargs", Json::object()}}},
          {"input_activations", nullptr},
          {"output_activations", nullptr},
          {"format", layout}};
}

/// Eight 4-bit or four 8-bit integers a word, lowest bits first, each with half its range added.
void pack(Format format, const int8_t* q, int64_t n_cols, uint8_t* out, size_t n_bytes) {
  if (format == Format::i8) {
    for (int64_t c = 0; c < n_cols; ++c) out[c] = static_cast<uint8_t>(q[c]) ^ 0x80;
    std::fill(out + n_cols, out + n_bytes, uint8_t{0});
    return;
  }
  std::fill(out, out + n_bytes, uint8_t{0});
  for (int64_t c = 0; c < n_cols; ++c) out[c / 2] = static_cast<uint8_t>(out[c / 2] | static_cast<uint8_t>((q[c] + 8) << (c % 2 * 4)));
}

}  // namespace

DirectoryWriter::DirectoryWriter(const std::string& source, const std::string& out, const std::vector<QuantizedModule>& modules,
                                 const WriterOptions& options)
    : source_(source), out_(out), modules_(modules), options_(options), checkpoint_(source) {
  while (out_.size() > 1 && out_.back() == '/') out_.pop_back();
  struct stat info;
  if (lstat(out_.c_str(), &info) == 0) throw Error(out_ + ": expected a name that is free, got an existing " + (S_ISDIR(info.st_mode) ? "directory" : "file"));
  std::set<std::string> replaced;
  for (const QuantizedModule& m : modules_) {
    const bool eight = m.format == Format::i8;
    ASSERT(options_.packed || eight);
    if (options_.packed) {
      add(m.name + ".weight_shape", DType::i64, {2});
      add(m.name + ".weight_packed", DType::i32, {m.n_rows, eight ? (m.n_cols + 3) / 4 : (m.n_cols + 7) / 8});
    } else {
      add(m.name + ".weight", DType::i8, {m.n_rows, m.n_cols});
    }
    add(m.name + ".weight_scale", DType::f16, {m.n_rows, m.n_groups()});
    replaced.insert(m.name + ".weight");
  }
  for (const auto& [name, view] : checkpoint_.tensors()) {
    if (replaced.contains(name)) continue;
    add(name, view.dtype, view.shape);
    copied_.push_back(name);
  }
  temporary_ = out_ + ".tmp" + std::to_string(getpid());
  if (mkdir(temporary_.c_str(), 0777) != 0) throw Error(out_ + ": cannot write: " + std::strerror(errno));
  made_ = true;
  try {
    lay_out();
  } catch (...) {
    std::error_code ignored;
    fs::remove_all(temporary_, ignored);
    throw;
  }
}

DirectoryWriter::~DirectoryWriter() {
  for (const int fd : files_) {
    if (fd >= 0) close(fd);
  }
  std::error_code ignored;
  if (made_ && !done_) fs::remove_all(temporary_, ignored);
}

void DirectoryWriter::add(const std::string& name, DType dtype, const Shape& shape) {
  names_.push_back(name);
  places_[name] = {0, 0, dtype, shape, bytes_of(dtype, shape)};
  total_bytes_ += places_[name].n_bytes;
}

std::string DirectoryWriter::shard_name(size_t i) const {
  if (files_.size() == 1) return "model.safetensors";
  char name[64];
  std::snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", i + 1, files_.size());
  return name;
}

/// Which tensor lies where; writes the headers. Within a file wide elements come first, so that all are aligned.
void DirectoryWriter::lay_out() {
  std::vector<std::vector<std::string>> shards(1);
  uint64_t used = 0;
  for (const std::string& name : names_) {
    const uint64_t n = places_.at(name).n_bytes;
    if (used > 0 && used + n > options_.max_shard_bytes) shards.emplace_back(), used = 0;
    shards.back().push_back(name);
    used += n;
  }
  files_.assign(shards.size(), -1);
  for (size_t i = 0; i < shards.size(); ++i) {
    std::stable_sort(shards[i].begin(), shards[i].end(), [&](const std::string& a, const std::string& b) {
      return dtype_bits(places_.at(a).dtype) > dtype_bits(places_.at(b).dtype);
    });
    Json header = {{"__metadata__", {{"format", "pt"}}}};
    uint64_t offset = 0;
    for (const std::string& name : shards[i]) {
      Place& place = places_.at(name);
      place.file = static_cast<int>(i);
      place.offset = offset;
      header[name] = {{"dtype", std::string(dtype_name(place.dtype))}, {"shape", place.shape}, {"data_offsets", {offset, offset + place.n_bytes}}};
      offset += place.n_bytes;
    }
    std::string text = dump_json(header);
    text.append((8 - text.size() % 8) % 8, ' ');
    unsigned char size[8];
    for (int b = 0; b < 8; ++b) size[b] = static_cast<unsigned char>(static_cast<uint64_t>(text.size()) >> (8 * b));
    const std::string path = temporary_ + "/" + shard_name(i);
    files_[i] = open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (files_[i] < 0) throw Error(out_ + ": cannot write: " + std::strerror(errno));
    write_all(files_[i], size, sizeof size, 0, out_);
    write_all(files_[i], text.data(), text.size(), sizeof size, out_);
    const uint64_t begin = sizeof size + text.size();
    if (ftruncate(files_[i], static_cast<off_t>(begin + offset)) != 0) fail(out_, "cannot write");
    for (const std::string& name : shards[i]) places_.at(name).offset += begin;
  }
  for (const QuantizedModule& m : modules_) {
    const int64_t shape[2] = {m.n_rows, m.n_cols};
    if (options_.packed) write_at(m.name + ".weight_shape", 0, shape, sizeof shape);
  }
}

void DirectoryWriter::write_at(const std::string& tensor, uint64_t offset, const void* data, size_t n) {
  const Place& place = places_.at(tensor);
  ASSERT(offset + n <= place.n_bytes);
  write_all(files_[static_cast<size_t>(place.file)], data, n, place.offset + offset, out_);
}

void DirectoryWriter::put_rows(const QuantizedModule& m, int64_t first_row, int64_t n_rows, const int8_t* q, const uint16_t* scales) {
  const std::string weight = m.name + (options_.packed ? ".weight_packed" : ".weight");
  const uint64_t row_bytes = places_.at(weight).n_bytes / static_cast<uint64_t>(m.n_rows);
  if (options_.packed) {
    std::vector<uint8_t> bytes(static_cast<size_t>(n_rows) * row_bytes);
    for (int64_t r = 0; r < n_rows; ++r) pack(m.format, q + r * m.n_cols, m.n_cols, bytes.data() + static_cast<uint64_t>(r) * row_bytes, row_bytes);
    write_at(weight, static_cast<uint64_t>(first_row) * row_bytes, bytes.data(), bytes.size());
  } else {
    write_at(weight, static_cast<uint64_t>(first_row) * row_bytes, q, static_cast<size_t>(n_rows * m.n_cols));
  }
  const int64_t g = m.n_groups();
  write_at(m.name + ".weight_scale", static_cast<uint64_t>(first_row * g) * 2, scales, static_cast<size_t>(n_rows * g) * 2);
}

void DirectoryWriter::copy(const std::string& tensor) {
  constexpr size_t piece = size_t{16} << 20;
  const TensorView& t = *checkpoint_.find(tensor);
  for (size_t at = 0; at < t.n_bytes; at += piece) write_at(tensor, at, t.data + at, std::min(piece, t.n_bytes - at));
}

void DirectoryWriter::write_text(const std::string& name, const std::string& text) {
  const std::string path = temporary_ + "/" + name;
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (fd < 0) throw Error(out_ + ": cannot write: " + std::strerror(errno));
  files_.push_back(fd);  // closed and synced with the others
  write_all(fd, text.data(), text.size(), 0, out_);
}

std::string DirectoryWriter::config_text() const {
  Json config = read_json_file(source_ + "/config.json", size_t{16} << 20);
  const char* layout = options_.packed ? "pack-quantized" : "int-quantized";
  // The most frequent scheme is that of all linear modules; others name theirs.
  std::map<std::pair<Format, int>, std::vector<std::string>> by_scheme;
  for (const QuantizedModule& m : modules_) by_scheme[{m.format, m.group}].push_back(m.name);
  std::vector<std::pair<std::pair<Format, int>, std::vector<std::string>>> schemes(by_scheme.begin(), by_scheme.end());
  std::stable_sort(schemes.begin(), schemes.end(), [](const auto& a, const auto& b) { return a.second.size() > b.second.size(); });
  Json groups = Json::object();
  for (size_t i = 0; i < schemes.size(); ++i) {
    const auto& [how, names] = schemes[i];
    groups["group_" + std::to_string(i)] = scheme(how.first, how.second, i == 0 ? Json::array({"Linear"}) : Json(names), layout);
  }
  if (options_.untied) config["tie_word_embeddings"] = false;
  config["quantization_config"] = {{"config_groups", groups},
                                   {"format", layout},
                                   {"global_compression_ratio", nullptr},
                                   {"ignore", options_.ignored},
                                   {"kv_cache_scheme", nullptr},
                                   {"quant_method", "compressed-tensors"},
                                   {"quantization_status", "compressed"}};
  return dump_json(config, 2) + "\n";
}

void DirectoryWriter::copy_file(const std::string& name) { write_text(name, read_text_file(source_ + "/" + name, max_copied_file)); }

void DirectoryWriter::finish() {
  const size_t n_shards = files_.size();
  if (n_shards > 1) {
    Json map = Json::object();
    for (const auto& [name, place] : places_) {
      char file[64];
      std::snprintf(file, sizeof file, "model-%05d-of-%05zu.safetensors", place.file + 1, n_shards);
      map[name] = file;
    }
    write_text("model.safetensors.index.json", dump_json({{"metadata", {{"total_size", total_bytes_}}}, {"weight_map", map}}, 2) + "\n");
  }
  write_text("config.json", config_text());
  for (const auto& entry : fs::directory_iterator(source_)) {
    const std::string name = entry.path().filename().string();
    std::error_code ignored;
    if (entry.is_regular_file(ignored) && name != "config.json" && name[0] != '.' && !is_weights(entry.path())) copy_file(name);
  }
  for (int& fd : files_) {
    if (fsync(fd) != 0 && errno != EINVAL) fail(out_, "cannot write");
    const int closing = std::exchange(fd, -1);
    if (close(closing) != 0) fail(out_, "cannot write");
  }
  sync_directory(temporary_);
  // Not over something that appeared meanwhile, not even an empty directory.
  if (renameat2(AT_FDCWD, temporary_.c_str(), AT_FDCWD, out_.c_str(), RENAME_NOREPLACE) != 0) {
    struct stat info;
    const bool plain = (errno == EINVAL || errno == ENOSYS) && lstat(out_.c_str(), &info) != 0;  // a file system without that flag
    if (!plain) errno = errno == EINVAL || errno == ENOSYS ? EEXIST : errno;
    if (!plain || rename(temporary_.c_str(), out_.c_str()) != 0) fail(out_, "cannot rename");
  }
  done_ = true;
  sync_directory(fs::path(out_).parent_path().string());
}

}  // namespace engine
