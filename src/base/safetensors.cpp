#include "base/safetensors.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/builtin_files.h"
#include "base/error.h"
#include "base/json.h"
#include "base/output_file.h"

namespace engine {
namespace {

constexpr uint64_t max_header_bytes = 100'000'000;
constexpr size_t max_rank = 16;

/// n_bytes of a shape, checked for overflow; false if it does not fit or is not a whole number of bytes.
bool checked_bytes(const Shape& shape, DType dtype, uint64_t* n_bytes) {
  int64_t n = 1;  // signed, as TensorView::n_elements multiplies: no step may overflow, not even on the way to a zero
  for (int64_t d : shape) {
    if (__builtin_mul_overflow(n, d, &n)) return false;
  }
  if (n > INT64_MAX / 64) return false;
  const uint64_t bits = static_cast<uint64_t>(n) * static_cast<uint64_t>(dtype_bits(dtype));
  *n_bytes = bits / 8;
  return bits % 8 == 0;
}

uint64_t unsigned_of(const Json& value, const std::string& where) {
  if (!value.is_number_unsigned() && !(value.is_number_integer() && value.get<int64_t>() >= 0)) {
    throw Error(where + ": expected a whole number, got " + dump_json(value));
  }
  const uint64_t n = value.get<uint64_t>();
  if (n > static_cast<uint64_t>(INT64_MAX)) throw Error(where + ": expected a number below 2^63, got " + dump_json(value));
  return n;
}

struct Entry {
  uint64_t begin, end;
  std::string name;
};

Entry read_entry(const std::string& path, const std::string& name, const Json& info, uint64_t data_bytes, TensorView* view) {
  const std::string where = path + ": tensor '" + name + "'";
  if (!info.is_object() || !info.contains("dtype") || !info.contains("shape") ||
      !info.contains("data_offsets")) {
    throw Error(where + ": expected an object of dtype, shape and data_offsets");
  }
  if (!info["dtype"].is_string() || !dtype_from_name(info["dtype"].get<std::string>(), &view->dtype)) {
    throw Error(where + ": dtype: expected one of the format's types, got " + dump_json(info["dtype"]));
  }
  const Json& shape = info["shape"];
  if (!shape.is_array() || shape.size() > max_rank) throw Error(where + ": shape: expected a list of at most 16 numbers");
  for (const Json& d : shape) view->shape.push_back(static_cast<int64_t>(unsigned_of(d, where + ": shape")));
  const Json& offsets = info["data_offsets"];
  if (!offsets.is_array() || offsets.size() != 2) throw Error(where + ": data_offsets: expected two numbers");
  Entry entry{unsigned_of(offsets[0], where + ": data_offsets"), unsigned_of(offsets[1], where + ": data_offsets"), name};
  uint64_t n_bytes = 0;
  if (!checked_bytes(view->shape, view->dtype, &n_bytes)) throw Error(where + ": shape: its product does not fit");
  if (entry.begin > entry.end || entry.end - entry.begin != n_bytes) {
    throw Error(where + ": data_offsets: expected " + std::to_string(n_bytes) + " bytes for " + shape_string(view->shape) + " " +
                std::string(dtype_name(view->dtype)) + ", got [" + std::to_string(entry.begin) + ", " +
                std::to_string(entry.end) + "]");
  }
  if (entry.end > data_bytes) {
    throw Error(where + ": expected data up to byte " + std::to_string(entry.end) + ", got a file that ends at " +
                    std::to_string(data_bytes),
                "the file is cut short; fetch it again");
  }
  view->n_bytes = n_bytes;
  return entry;
}

/// What else is found under a name that ends in .safetensors.
std::string wrong_file_hint(std::span<const std::byte> bytes) {
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), std::min<size_t>(bytes.size(), 64));
  if (text.starts_with("version https://git-lfs")) return "a Git LFS pointer in the place of the file: `git lfs pull` fetches it, or `engine pull` the model";
  if (text.starts_with("GGUF")) return "a GGUF file: load the model's original safetensors";
  if (text.starts_with("PK")) return "a PyTorch file: load the model's safetensors, or save it with save_pretrained(DIR)";
  return "is this a safetensors file?";
}

}  // namespace

SafetensorsFile::SafetensorsFile(const std::string& path) : file_(path) {
  const auto bytes = file_.bytes();
  if (bytes.size() < 8) throw Error(path + ": expected a safetensors file, got " + std::to_string(bytes.size()) + " bytes");
  uint64_t header_bytes = 0;
  for (int i = 7; i >= 0; --i) header_bytes = header_bytes << 8 | std::to_integer<uint64_t>(bytes[i]);
  if (header_bytes > max_header_bytes) {
    throw Error(path + ": header: expected at most 100 MB, got " + std::to_string(header_bytes) + " bytes",
                wrong_file_hint(bytes));
  }
  if (header_bytes > bytes.size() - 8) {
    throw Error(path + ": header: expected " + std::to_string(header_bytes) + " bytes, got a file of " +
                    std::to_string(bytes.size()),
                "the file is cut short; fetch it again");
  }
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()) + 8, header_bytes);
  if (text.empty() || text[0] != '{') throw Error(path + ": header: expected a JSON object");
  const Json header = parse_json(text, path + ": header", true);
  if (!header.is_object()) throw Error(path + ": header: expected a JSON object");

  const std::byte* data = bytes.data() + 8 + header_bytes;
  const uint64_t data_bytes = bytes.size() - 8 - header_bytes;
  std::vector<Entry> entries;
  for (const auto& [name, info] : header.items()) {
    if (name == "__metadata__") {
      if (!info.is_object()) throw Error(path + ": __metadata__: expected an object of strings");
      for (const auto& [key, value] : info.items()) {
        if (!value.is_string()) throw Error(path + ": __metadata__: '" + key + "': expected a string, got " + dump_json(value));
        metadata_[key] = value.get<std::string>();
      }
      continue;
    }
    TensorView view;
    entries.push_back(read_entry(path, name, info, data_bytes, &view));
    view.data = data + entries.back().begin;
    tensors_.emplace(name, std::move(view));
  }
  std::sort(entries.begin(), entries.end(),
            [](const Entry& a, const Entry& b) { return a.begin != b.begin ? a.begin < b.begin : a.end < b.end; });
  uint64_t end = 0;
  for (const Entry& e : entries) {
    if (e.begin != end) {
      throw Error(path + ": tensor '" + e.name + "': data_offsets: expected to begin at " + std::to_string(end) + ", got " +
                  std::to_string(e.begin) + " (tensors may neither overlap nor leave holes)");
    }
    end = e.end;
  }
  if (end != data_bytes) {
    throw Error(path + ": expected " + std::to_string(end) + " bytes of data, got " + std::to_string(data_bytes));
  }
}

Checkpoint::Checkpoint(const std::string& directory) {
  const std::string single = directory + "/model.safetensors";
  const std::string index_path = directory + "/model.safetensors.index.json";
  struct stat info;
  if (find_builtin_file(single) != nullptr || stat(single.c_str(), &info) == 0) {
    files_.push_back(std::make_unique<SafetensorsFile>(single));
    all_ = files_[0]->tensors();
    return;
  }
  if (stat(index_path.c_str(), &info) != 0) {
    throw Error(directory + ": expected model.safetensors or model.safetensors.index.json, got neither",
                "only safetensors weights are read; convert other forms with Transformers' save_pretrained");
  }
  const Json index = read_json_file(index_path, max_header_bytes);
  if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object()) {
    throw Error(index_path + ": weight_map: expected an object of tensor names and file names");
  }
  std::map<std::string, SafetensorsFile*> shards;
  std::vector<std::string> missing;
  for (const auto& [name, file] : index["weight_map"].items()) {
    if (!file.is_string()) throw Error(index_path + ": '" + name + "': expected a file name, got " + dump_json(file));
    const std::string file_name = file.get<std::string>();
    if (file_name.empty() || file_name.find('/') != std::string::npos || file_name.find('\0') != std::string::npos ||
        file_name[0] == '.') {
      throw Error(index_path + ": '" + name + "': expected a file name inside the directory, got '" + file_name + "'");
    }
    SafetensorsFile*& shard = shards[file_name];
    if (shard == nullptr) {
      files_.push_back(std::make_unique<SafetensorsFile>(directory + "/" + file_name));
      shard = files_.back().get();
    }
    const auto found = shard->tensors().find(name);
    if (found == shard->tensors().end()) missing.push_back(name + " (in " + file_name + ")");
    else all_.emplace(name, found->second);
  }
  if (!missing.empty()) {
    std::string list;
    for (size_t i = 0; i < missing.size() && i < 10; ++i) list += (i > 0 ? ", " : "") + missing[i];
    if (missing.size() > 10) list += ", and " + std::to_string(missing.size() - 10) + " more";
    throw Error(index_path + ": tensors named by the index are not in their files: " + list);
  }
}

const TensorView* Checkpoint::find(const std::string& name) const {
  const auto found = all_.find(name);
  return found == all_.end() ? nullptr : &found->second;
}

void Checkpoint::drop_pages() const {
  for (const auto& file : files_) file->file().dont_need(0, file->file().bytes().size());
}

uint64_t Checkpoint::total_bytes() const {
  uint64_t n = 0;
  for (const auto& [name, view] : all_) n += view.n_bytes;
  return n;
}

void write_safetensors(const std::string& path, std::span<const NamedTensor> tensors,
                       const std::map<std::string, std::string>& metadata) {
  Json header = Json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  uint64_t offset = 0;
  for (const NamedTensor& t : tensors) {
    header[t.name] = {{"dtype", std::string(dtype_name(t.tensor.dtype))},
                      {"shape", t.tensor.shape},
                      {"data_offsets", {offset, offset + t.tensor.n_bytes}}};
    offset += t.tensor.n_bytes;
  }
  std::string text = dump_json(header);
  text.append((8 - text.size() % 8) % 8, ' ');
  unsigned char size[8];
  for (int i = 0; i < 8; ++i) size[i] = static_cast<unsigned char>(static_cast<uint64_t>(text.size()) >> (8 * i));

  OutputFile file(path);
  file.write(size, sizeof size);
  file.write(text.data(), text.size());
  for (const NamedTensor& t : tensors) file.write(t.tensor.data, t.tensor.n_bytes);
  file.commit();
}

}  // namespace engine
