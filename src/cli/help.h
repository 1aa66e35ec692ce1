// Texts of --help, 80 columns wide.
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

/// From the tables in options.cpp.
std::vector<HelpLine> option_help(const Command& command);
std::vector<const Command*> all_commands();

}  // namespace engine::cli
