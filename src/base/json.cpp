#include "base/json.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/builtin_files.h"
#include "base/error.h"

namespace engine {
namespace {

constexpr int max_json_depth = 256;
constexpr int max_wait_ms = 2000;  // for the first bytes from a named pipe, if no program has it open for writing

/// Finds nesting beyond the limit before the recursive parser does; strings are skipped.
bool too_deep(std::string_view text) {
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      else if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      if (++depth > max_json_depth) return true;
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  return false;
}

/// "parse error at line 3, column 7" without the library's own prefix and without quoting the input.
std::string place_of(std::string_view text, size_t byte) {
  size_t line = 1, column = 1;
  for (size_t i = 0; i + 1 < byte && i < text.size(); ++i) {
    if (text[i] == '\n') ++line, column = 1;
    else ++column;
  }
  return "line " + std::to_string(line) + ", column " + std::to_string(column);
}

/// Builds a value from the parser's events in linear time. The library's own builder looks every key up among all the earlier ones of
/// an ordered object, which takes seconds for a large model's index and for ever for a hostile file.
class Builder : public Json::json_sax_t {
 public:
  explicit Builder(bool unique_keys) : unique_keys_(unique_keys) {}

  bool null() override { return add(nullptr); }
  bool boolean(bool value) override { return add(value); }
  bool number_integer(number_integer_t value) override { return add(value); }
  bool number_unsigned(number_unsigned_t value) override { return add(value); }
  bool number_float(number_float_t value, const string_t&) override { return add(value); }
  bool string(string_t& value) override { return add(std::move(value)); }
  bool binary(binary_t&) override { return false; }

  bool start_object(size_t) override { return open(Json::value_t::object); }
  bool end_object() override { return close(); }
  bool start_array(size_t) override { return open(Json::value_t::array); }
  bool end_array() override { return close(); }

  bool key(string_t& name) override {
    Open& top = open_.back();
    Json::object_t::Container& members = *top.value->get_ptr<Json::object_t*>();
    size_t at = members.size();
    if (members.size() < few_members) {
      for (size_t i = 0; i < members.size() && at == members.size(); ++i) {
        if (members[i].first == name) at = i;
      }
    } else {
      if (top.places.empty()) {
        for (size_t i = 0; i < members.size(); ++i) top.places.emplace(members[i].first, i);
      }
      at = top.places.emplace(name, members.size()).first->second;
    }
    if (at == members.size()) {
      members.emplace_back(std::move(name), Json());
    } else if (unique_keys_) {
      error = "key '" + name + "' stands twice";
      return false;
    }
    top.slot = &members[at].second;
    return true;
  }

  bool parse_error(size_t byte, const std::string&, const Json::exception& e) override {
    is_syntax_error = dynamic_cast<const Json::parse_error*>(&e) != nullptr;
    error_byte = byte;
    error = e.what();
    return false;
  }

  Json result;
  std::string error;
  bool is_syntax_error = false;
  size_t error_byte = 0;

 private:
  static constexpr size_t few_members = 16;  // below, looking through them is faster than a table
  static constexpr size_t max_values = 16'000'000;  // far above any tokenizer.json; some 16 to 70 bytes each

  struct Open {
    Json* value;
    Json* slot;                                      // of an object: where the value of the last key goes
    std::unordered_map<std::string, size_t> places;  // of an object with many members: where each key stands
  };

  template <class T>
  bool add(T&& value) {
    return place(Json(std::forward<T>(value))) != nullptr;
  }

  /// Where the value now stands; null if there are too many.
  Json* place(Json&& value) {
    if (++n_values_ > max_values) {
      error = "expected at most " + std::to_string(max_values) + " values, got more";
      return nullptr;
    }
    if (open_.empty()) return &(result = std::move(value));
    Open& top = open_.back();
    if (top.value->is_array()) {
      auto& items = *top.value->get_ptr<Json::array_t*>();
      items.push_back(std::move(value));
      return &items.back();
    }
    return &(*top.slot = std::move(value));
  }

  bool open(Json::value_t type) {
    Json* value = place(Json(type));
    if (value != nullptr) open_.push_back({value, nullptr, {}});
    return value != nullptr;
  }

  bool close() {
    open_.pop_back();
    return true;
  }

  bool unique_keys_;
  std::vector<Open> open_;
  size_t n_values_ = 0;
};

}  // namespace

Json parse_json(std::string_view text, std::string_view where, bool unique_keys) {
  if (too_deep(text)) {
    throw Error(std::string(where) + ": JSON: expected nesting of at most " + std::to_string(max_json_depth) + ", got more");
  }
  Builder builder(unique_keys);
  if (Json::sax_parse(text, &builder)) return std::move(builder.result);
  if (builder.is_syntax_error) {
    throw Error(std::string(where) + ": expected JSON, got something else at " + place_of(text, builder.error_byte));
  }
  throw Error(std::string(where) + ": JSON: " + builder.error);
}

std::string read_text_file(const std::string& path, size_t max_bytes) {
  if (const BuiltinFile* builtin = find_builtin_file(path)) {
    if (builtin->bytes.size() > max_bytes) throw Error(path + ": expected at most " + std::to_string(max_bytes) + " bytes, got more");
    return {reinterpret_cast<const char*>(builtin->bytes.data()), builtin->bytes.size()};
  }
  // O_NONBLOCK for opening only: a named pipe must not wait for a writer that never comes.
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) throw Error(path + ": cannot read: " + std::strerror(errno));
  struct Closer {
    const int fd;
    ~Closer() { close(fd); }
  } closer{fd};
  struct stat info;
  const bool pipe = fstat(fd, &info) == 0 && S_ISFIFO(info.st_mode);
  if (pipe) {
    pollfd writer{fd, POLLIN, 0};
    poll(&writer, 1, max_wait_ms);
  }
  fcntl(fd, F_SETFL, 0);
  std::string out;
  char buffer[1 << 16];
  ssize_t n;
  while ((n = read(fd, buffer, sizeof buffer)) != 0) {
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw Error(path + ": cannot read: " + std::strerror(errno));
    out.append(buffer, static_cast<size_t>(n));
    if (out.size() > max_bytes) {
      throw Error(path + ": expected at most " + std::to_string(max_bytes) + " bytes, got more");
    }
  }
  if (pipe && out.empty()) throw Error(path + ": expected a file, got a pipe that nothing was written to");
  return out;
}

Json read_json_file(const std::string& path, size_t max_bytes) {
  return parse_json(read_text_file(path, max_bytes), path);
}

std::string dump_json(const Json& value, int indent) {
  return value.dump(indent, ' ', false, Json::error_handler_t::replace);
}

}  // namespace engine
