// The one JSON type of the project: nlohmann's with key order kept, since chat templates print dictionaries in order.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace engine {

using Json = nlohmann::ordered_json;

/// Parses `text` as one strict JSON value (no comments). `where` names the source in errors ("DIR/config.json").
/// Nesting deeper than 256 is refused before the parser recurses; with `unique_keys` a key that stands twice in an object is refused
/// too (otherwise the last one counts, as in Python). Throws Error.
Json parse_json(std::string_view text, std::string_view where, bool unique_keys = false);

/// Reads and parses a file of at most `max_bytes`. Throws Error.
Json read_json_file(const std::string& path, size_t max_bytes = size_t{256} << 20);

/// The whole file as bytes. Throws Error if it cannot be read or is larger than `max_bytes`.
std::string read_text_file(const std::string& path, size_t max_bytes = size_t{1} << 30);

/// Serialises on one line; invalid UTF-8 becomes U+FFFD instead of an exception.
std::string dump_json(const Json& value, int indent = -1);

}  // namespace engine
