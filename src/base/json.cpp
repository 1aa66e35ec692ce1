#include "base/json.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <set>
#include <vector>

#include "base/error.h"

namespace engine {
namespace {

constexpr int max_json_depth = 256;

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

}  // namespace

Json parse_json(std::string_view text, std::string_view where, bool unique_keys) {
  if (too_deep(text)) {
    throw Error(std::string(where) + ": JSON: expected nesting of at most " + std::to_string(max_json_depth) + ", got more");
  }
  std::vector<std::set<std::string>> open_objects;
  std::string duplicate;
  const auto watch = [&](int, Json::parse_event_t event, Json& parsed) {
    if (event == Json::parse_event_t::object_start) open_objects.emplace_back();
    if (event == Json::parse_event_t::object_end) open_objects.pop_back();
    if (event == Json::parse_event_t::key && !open_objects.back().insert(parsed.get<std::string>()).second) {
      duplicate = parsed.get<std::string>();
    }
    return true;
  };
  try {
    Json value = unique_keys ? Json::parse(text, watch) : Json::parse(text);
    if (!duplicate.empty()) throw Error(std::string(where) + ": JSON: key '" + duplicate + "' stands twice");
    return value;
  } catch (const Json::parse_error& e) {
    throw Error(std::string(where) + ": expected JSON, got something else at " + place_of(text, e.byte));
  } catch (const Json::exception& e) {
    throw Error(std::string(where) + ": JSON: " + e.what());
  }
}

std::string read_text_file(const std::string& path, size_t max_bytes) {
  struct Closer {
    void operator()(std::FILE* f) const { std::fclose(f); }
  };
  std::unique_ptr<std::FILE, Closer> file(std::fopen(path.c_str(), "rb"));
  if (!file) throw Error(path + ": cannot read: " + std::strerror(errno));
  std::string out;
  char buffer[1 << 16];
  size_t n;
  while ((n = std::fread(buffer, 1, sizeof buffer, file.get())) > 0) {
    out.append(buffer, n);
    if (out.size() > max_bytes) {
      throw Error(path + ": expected at most " + std::to_string(max_bytes) + " bytes, got more");
    }
  }
  if (std::ferror(file.get())) throw Error(path + ": cannot read: " + std::strerror(errno));
  return out;
}

Json read_json_file(const std::string& path, size_t max_bytes) {
  return parse_json(read_text_file(path, max_bytes), path);
}

std::string dump_json(const Json& value, int indent) {
  return value.dump(indent, ' ', false, Json::error_handler_t::replace);
}

}  // namespace engine
