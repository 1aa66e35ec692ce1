#include "text/tool_format.h"

#include <algorithm>

namespace engine {
namespace {

using Body = ToolCallFormat::Body;

/// The first row whose signs are there counts.
const std::vector<ToolCallFormat>& rows() {
  static const std::vector<ToolCallFormat> all = {
      {.name = "harmony", .body = Body::harmony, .signs = {"<|channel|>", "<|message|>", "functions."}, .open = "to=functions.", .name_close = "<|message|>",
       .others = {"<|channel|>", "<|constrain|>", "<|start|>", "<|end|>", "<|call|>", "<|return|>"}},
      {.name = "qwen3-coder", .body = Body::parameters, .signs = {"<tool_call>", "<function=", "<parameter="}, .open = "<tool_call>", .close = "</tool_call>",
       .name_open = "<function=", .name_close = ">"},
      {.name = "seed", .body = Body::parameters, .signs = {"<seed:tool_call>", "<function=", "<parameter="}, .open = "<seed:tool_call>",
       .close = "</seed:tool_call>", .name_open = "<function=", .name_close = ">"},
      {.name = "hermes", .body = Body::object, .signs = {"<tool_call>", "</tool_call>", "arguments"}, .absent = "<arg_key>", .open = "<tool_call>",
       .close = "</tool_call>"},
      {.name = "functionary", .body = Body::named, .signs = {"<function=", "</function>"}, .absent = "<parameter=", .open = "<function=",
       .close = "</function>", .name_close = ">"},
      {.name = "mistral-args", .body = Body::named, .signs = {"[TOOL_CALLS]", "[ARGS]"}, .open = "[TOOL_CALLS]", .name_close = "[ARGS]", .id_size = 9,
       .others = {"[CALL_ID]"}},
      {.name = "mistral", .body = Body::list, .signs = {"[TOOL_CALLS]"}, .open = "[TOOL_CALLS]", .id_size = 9},
      {.name = "granite", .body = Body::list, .signs = {"<|tool_call|>"}, .open = "<|tool_call|>"},
      {.name = "command-r7b", .body = Body::list, .signs = {"<|START_ACTION|>", "tool_name"}, .open = "<|START_ACTION|>", .close = "<|END_ACTION|>",
       .name_key = "tool_name", .arguments_key = "parameters"},
      {.name = "nemotron", .body = Body::list, .signs = {"<TOOLCALL>"}, .open = "<TOOLCALL>", .close = "</TOOLCALL>"},
      {.name = "llama3", .body = Body::object, .signs = {"\"parameters\": ", "ipython"}, .open = "<|python_tag|>", .arguments_key = "parameters", .bare = true},
  };
  return all;
}

}  // namespace

std::vector<std::string_view> ToolCallFormat::markers() const {
  std::vector<std::string_view> out = others;
  for (const std::string_view marker : {open, close, name_open, name_close}) {
    if (!marker.empty()) out.push_back(marker);
  }
  return out;
}

std::span<const ToolCallFormat> tool_call_formats() { return rows(); }

const ToolCallFormat* find_tool_call_format(std::string_view source) {
  const auto has = [&](std::string_view part) { return source.find(part) != std::string_view::npos; };
  for (const ToolCallFormat& row : rows()) {
    if (std::all_of(row.signs.begin(), row.signs.end(), has) && (row.absent.empty() || !has(row.absent))) return &row;
  }
  return nullptr;
}

}  // namespace engine
