// How models write calls of tools: a row a format, found by the chat template's text.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace engine {

/// Where rows differ. Bodies are {"name": ..., "arguments": {...}}, a list of those, or a name and then the arguments; readers take the first two
/// wherever one of them stands.
struct ToolCallFormat {
  enum class Body : uint8_t {
    object,      // open {call} close
    list,        // open [{call}, ...] close
    named,       // open name_open NAME name_close {arguments} call_close close
    parameters,  // open name_open NAME name_close (key_open KEY key_close value_open VALUE value_close)... call_close close
    python,      // open [NAME(KEY=VALUE, ...), ...] close, with Python's literals
    literal,     // open name_open NAME{KEY:VALUE,...} close, with strings between two `quote`
    harmony,     // GPT-OSS's channels (answer_parser_harmony.cpp)
  };

  const char* name;
  Body body;
  std::vector<std::string_view> signs = {};      // what the template's text must hold, all of them
  std::string_view absent = {};                  // and what it must not; empty: nothing
  std::string_view open, close = {};             // around a call, or around a list of them; close may be empty
  // Of bodies named and parameters; blanks may stand anywhere between them. What is empty is not there.
  std::string_view name_open = {}, name_close = {}, call_close = {};
  std::string_view key_open = {}, key_close = {}, value_open = {}, value_close = {};
  std::string_view quote = {};              // body literal
  bool value_lines = false;                 // a parameter's value stands on lines of its own
  bool numbered = false;                    // NAME is followed by ":0", ":1", ...
  bool repeats = false;                     // several calls from name_open to call_close may stand between open and close
  std::string_view name_key = "name", arguments_key = "arguments";  // as the model writes them
  size_t id_size = 24;                      // of an id for a call: some templates insist
  bool bare = false;                        // an answer that begins with '{' is a call too: `open` may be left out
  std::vector<std::string_view> others = {};     // further markers of the format, or parts of those above that may be tokens by themselves

  /// All of its strings that may be control tokens of a vocabulary.
  std::vector<std::string_view> markers() const;
};

std::span<const ToolCallFormat> tool_call_formats();
/// The format that a template teaches; null: none that is known here.
const ToolCallFormat* find_tool_call_format(std::string_view template_source);

}  // namespace engine
