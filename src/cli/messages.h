// Lists of {role, content} from outside.
#pragma once

#include <string>

#include "base/json.h"

namespace engine::cli {

/// Checks that `messages` is a list, not empty, of objects with a string "role". `where` names the source in errors. Throws Error.
void check_messages(const Json& messages, const std::string& where);

/// All of stdin, at most 64 MiB. Throws Error.
std::string read_stdin();

/// A file's JSON, or stdin's for "-".
Json read_json_argument(const std::string& path);

/// The text of a message: its content, or the text parts of a list of parts.
std::string message_text(const Json& message);

}  // namespace engine::cli
