// Texts made of the tables in options.cpp: --help (80 columns wide), the man page, completions for shells.
#pragma once

#include <string>
#include <vector>

#include "cli/options.h"

namespace engine::cli {

struct HelpLine {
  std::string names, help;
};

std::string command_help(const Command& command);
std::string general_help();

/// An option as the table has it.
struct OptionText {
  const char* name;      // "--threads"
  const char* letter;    // "-t", or null
  const char* value;     // "N"; "[FILE]": may be left out; null: a flag
  std::string choices;   // words it may be, with blanks between; empty: anything
  const char* help;
};
std::vector<OptionText> option_texts(const Command& command);
/// "MODEL" and what it is, for each line of a command's positionals.
std::vector<HelpLine> positional_texts(const Command& command);

/// The page engine.1 in man's macros.
std::string man_page();
/// A script that the shell sources. Throws UsageError if it knows no such shell.
std::string completion_script(const std::string& shell);
std::vector<const Command*> all_commands();

}  // namespace engine::cli
