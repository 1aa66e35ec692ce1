// The commands typed in a chat, !help and so on: one table.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "cli/chat_session.h"

namespace engine::cli {

/// What the chat does after a command.
struct CommandOutcome {
  enum Kind { stay, answer, leave } kind = stay;
  std::string show;            // to be printed; may be empty
  bool clear_screen = false;
  bool toggle_multiline = false;
};

/// True if `line` is a command: it starts with '!', or is '/' and a word of letters. A blank in front makes it a message.
bool is_chat_command(std::string_view line);

/// Runs one. Throws Error (unknown command, bad arguments); the session is then as it was.
CommandOutcome run_chat_command(ChatSession& session, std::string_view line);

/// "!help", "!status", ... for completion.
std::vector<std::string> chat_command_names();

}  // namespace engine::cli
