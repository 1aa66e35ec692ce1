#include "cli/help.h"

#include <algorithm>
#include <string_view>

namespace engine::cli {
namespace {

constexpr size_t width = 80;

// `names` at column 2, `help` from `column` on, wrapped at words; on a line of its own if the names are long.
std::string two_columns(std::string_view names, std::string_view help, size_t column) {
  std::string out = "  " + std::string(names);
  size_t at = out.size();
  if (at + 2 > column) {
    out += "\n";
    at = 0;
  }
  out.append(column - at, ' ');
  at = column;
  bool first = true;
  while (!help.empty()) {
    const size_t end = std::min(help.find(' '), help.size());
    if (!first && at + 1 + end > width) {
      out += "\n" + std::string(column, ' ');
      at = column;
      first = true;
    }
    if (!first) out += ' ', at++;
    out += help.substr(0, end);
    at += end;
    first = false;
    help.remove_prefix(std::min(end + 1, help.size()));
  }
  return out + "\n";
}

std::string section(const std::vector<HelpLine>& lines, size_t widest) {
  size_t column = 0;
  for (const HelpLine& line : lines) column = std::max(column, std::min(line.names.size(), widest) + 4);
  std::string out;
  for (const HelpLine& line : lines) out += two_columns(line.names, line.help, column);
  return out;
}

/// "-t, --threads N", room for a letter left where there is none.
std::vector<HelpLine> option_lines(const Command& command) {
  std::vector<HelpLine> lines;
  for (const OptionText& option : option_texts(command)) {
    std::string names = option.letter == nullptr ? "    " : std::string(option.letter) + ", ";
    names += option.name;
    if (option.value != nullptr) names += std::string(" ") + option.value;
    lines.push_back({names, option.help});
  }
  return lines;
}

}  // namespace

std::vector<HelpLine> positional_texts(const Command& command) {
  std::vector<HelpLine> lines;
  std::string_view table = command.positional;
  while (!table.empty()) {
    const size_t tab = table.find('\t'), end = table.find('\n');
    lines.push_back({std::string(table.substr(0, tab)), std::string(table.substr(tab + 1, end - tab - 1))});
    table.remove_prefix(end + 1);
  }
  return lines;
}

std::string command_help(const Command& command) {
  std::string out = std::string("engine ") + command.name + ": " + command.summary + "\n\nusage: engine " + command.usage + "\n\n";
  const std::string positional = section(positional_texts(command), 24);
  if (!positional.empty()) out += positional + "\n";
  return out + "options:\n" + section(option_lines(command), 27);
}

std::string general_help() {
  std::vector<HelpLine> commands;
  for (const Command* command : all_commands()) commands.push_back({command->name, command->summary});
  return "engine: chat models on the CPU\n\n"
         "usage: engine COMMAND [MODEL] [options] [key=value ...]\n\n"
         "commands:\n" + section(commands, 24) +
         "\nMODEL is a Hugging Face model directory, or a Hub id such as\n"
         "Qwen/Qwen2.5-0.5B-Instruct that `engine pull` has put into the cache.\n"
#ifdef ENGINE_DEMO
         "Left out, chat, generate, serve, inspect and bench use the demo model inside.\n"
#endif

         "`engine COMMAND --help` shows a command's options.\n\n"
         "  engine chat ./model do_sample=False\n"
         "  engine generate ./model -p \"Why is the sky blue?\" max_new_tokens=100\n";
}

}  // namespace engine::cli
