// The line protocol of `template render --jsonl`.
#pragma once

#include <iosfwd>
#include <string>
#include <string_view>

namespace engine {

/// {"id", "template": "source" | "template_file": "path", "context": {...}} -> {"id", "output": "..."} or {"id",
/// "error": "..."}. Two keys of the context are no variables: `now`, the clock of strftime_now, and
/// `continue_final_message`. Nothing is thrown for a line.
std::string render_template_line(std::string_view line);

/// Answers each line of `in` with a line on `out`, in order; empty lines are passed over. Flushes whenever no further
/// input waits. Returns 0.
int run_template_jsonl(std::istream& in, std::ostream& out);

}  // namespace engine
