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
       .name_open = "<function=", .name_close = ">", .call_close = "</function>", .key_open = "<parameter=", .key_close = ">", .value_close = "</parameter>",
       .value_lines = true},
      {.name = "seed", .body = Body::parameters, .signs = {"<seed:tool_call>", "<function=", "<parameter="}, .open = "<seed:tool_call>",
       .close = "</seed:tool_call>", .name_open = "<function=", .name_close = ">", .call_close = "</function>", .key_open = "<parameter=", .key_close = ">",
       .value_close = "</parameter>"},
      {.name = "glm", .body = Body::parameters, .signs = {"<tool_call>", "<arg_key>", "<arg_value>"}, .open = "<tool_call>", .call_close = "</tool_call>",
       .key_open = "<arg_key>", .key_close = "</arg_key>", .value_open = "<arg_value>", .value_close = "</arg_value>"},
      {.name = "minimax", .body = Body::parameters, .signs = {"<minimax:tool_call>", "<invoke name="}, .open = "<minimax:tool_call>",
       .close = "</minimax:tool_call>", .name_open = "<invoke name=\"", .name_close = "\">", .call_close = "</invoke>", .key_open = "<parameter name=\"",
       .key_close = "\">", .value_close = "</parameter>", .repeats = true},
      {.name = "hermes", .body = Body::object, .signs = {"<tool_call>", "</tool_call>", "arguments"}, .open = "<tool_call>",
       .close = "</tool_call>"},
      {.name = "functionary", .body = Body::named, .signs = {"<function=", "</function>"}, .absent = "<parameter=", .open = "<function=",
       .close = "</function>", .name_close = ">"},
      {.name = "deepseek-v3", .body = Body::named, .signs = {"<｜tool▁calls▁begin｜>", "```json"}, .open = "<｜tool▁calls▁begin｜>", .close = "<｜tool▁calls▁end｜>",
       .name_open = "<｜tool▁call▁begin｜>function<｜tool▁sep｜>", .name_close = "```json", .call_close = "```<｜tool▁call▁end｜>", .repeats = true,
       .others = {"<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"}},
      {.name = "deepseek-v3.1", .body = Body::named, .signs = {"<｜tool▁calls▁begin｜>"}, .open = "<｜tool▁calls▁begin｜>", .close = "<｜tool▁calls▁end｜>",
       .name_open = "<｜tool▁call▁begin｜>", .name_close = "<｜tool▁sep｜>", .call_close = "<｜tool▁call▁end｜>", .repeats = true},
      {.name = "kimi-k2", .body = Body::named, .signs = {"<|tool_calls_section_begin|>"}, .open = "<|tool_calls_section_begin|>", .close = "<|tool_calls_section_end|>",
       .name_open = "<|tool_call_begin|>functions.", .name_close = "<|tool_call_argument_begin|>", .call_close = "<|tool_call_end|>", .numbered = true, .repeats = true,
       .others = {"<|tool_call_begin|>"}},
      {.name = "mistral-args", .body = Body::named, .signs = {"[TOOL_CALLS]", "[ARGS]"}, .open = "[TOOL_CALLS]", .name_close = "[ARGS]", .id_size = 9,
       .others = {"[CALL_ID]"}},
      {.name = "mistral", .body = Body::list, .signs = {"[TOOL_CALLS]"}, .open = "[TOOL_CALLS]", .id_size = 9},
      {.name = "phi4", .body = Body::list, .signs = {"<|tool_call|>", "<|/tool_call|>"}, .open = "<|tool_call|>", .close = "<|/tool_call|>"},
      {.name = "granite", .body = Body::list, .signs = {"<|tool_call|>"}, .open = "<|tool_call|>"},
      {.name = "command-r7b", .body = Body::list, .signs = {"<|START_ACTION|>", "tool_name"}, .open = "<|START_ACTION|>", .close = "<|END_ACTION|>",
       .name_key = "tool_name", .arguments_key = "parameters"},
      {.name = "lfm2", .body = Body::python, .signs = {"<|tool_list_start|>"}, .open = "<|tool_call_start|>", .close = "<|tool_call_end|>"},
      {.name = "lfm2.5", .body = Body::python, .signs = {"<|tool_call_start|>"}, .open = "<|tool_call_start|>", .close = "<|tool_call_end|>"},
      {.name = "functiongemma", .body = Body::literal, .signs = {"<start_function_call>"}, .open = "<start_function_call>", .close = "<end_function_call>",
       .name_open = "call:", .quote = "<escape>"},
      {.name = "gemma4", .body = Body::literal, .signs = {"<|tool_call>", "<tool_call|>"}, .open = "<|tool_call>", .close = "<tool_call|>", .name_open = "call:",
       .quote = "<|\"|>"},
      {.name = "nemotron", .body = Body::list, .signs = {"<TOOLCALL>"}, .open = "<TOOLCALL>", .close = "</TOOLCALL>"},
      {.name = "llama3", .body = Body::object, .signs = {"\"parameters\": ", "ipython"}, .open = "<|python_tag|>", .arguments_key = "parameters", .bare = true},
  };
  return all;
}

}  // namespace

std::vector<std::string_view> ToolCallFormat::markers() const {
  std::vector<std::string_view> out = others;
  for (const std::string_view marker : {open, close, name_open, name_close, call_close, key_open, key_close, value_open, value_close, quote}) {
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
