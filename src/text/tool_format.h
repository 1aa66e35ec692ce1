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
    named,       // open name_open NAME name_close {arguments} close
    parameters,  // open name_open NAME name_close <parameter=KEY>VALUE</parameter>... </function> close
    harmony,     // GPT-OSS's channels (answer_parser_harmony.cpp)
  };

  const char* name;
  Body body;
  std::vector<std::string_view> signs = {};      // what the template's text must hold, all of them
  std::string_view absent = {};                  // and what it must not; empty: nothing
  std::string_view open, close = {};             // around a call, or around a list of them; close may be empty
  std::string_view name_open = {}, name_close = {};   // bodies named and parameters
  std::string_view name_key = "name", arguments_key = "arguments";  // as the model writes them
  size_t id_size = 24;                      // of an id for a call: some templates insist
  bool bare = false;                        // an answer that begins with '{' is a call too: `open` may be left out
  std::vector<std::string_view> others = {};     // further markers of the format

  /// All of its strings that may be control tokens of a vocabulary.
  std::vector<std::string_view> markers() const;
};

std::span<const ToolCallFormat> tool_call_formats();
/// The format that a template teaches; null: none that is known here.
const ToolCallFormat* find_tool_call_format(std::string_view template_source);

}  // namespace engine
