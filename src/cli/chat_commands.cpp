#include "cli/chat_commands.h"

#include <algorithm>

#include "cli/messages.h"
#include "cli/plan.h"
#include "kernels/kernels.h"

namespace engine::cli {
namespace {

using Handler = CommandOutcome (*)(ChatSession&, const std::string& argument);

struct Row {
  const char* name;
  const char* argument;  // as help shows it; "" if none is taken
  const char* help;
  Handler run;
};

struct Example {
  const char* name;
  const char* text;
};

// The names `transformers chat` offers.
constexpr Example examples[] = {
    {"llama", "A llama is standing on my lawn. How do I make it leave?"},
    {"code", "Write a Python function that numerically integrates a given function f(x) from x_start to x_end."},
    {"helicopter", "How many helicopters could one person eat in a single meal?"},
    {"numbers", "Count up to 10, leaving out each number whose name ends in the letter e."},
    {"birds", "Why is it said that birds are not real?"},
    {"socks", "Why should one eat socks after meditation?"},
    {"numbers2", "Is 9.9 or 9.11 the larger number?"},
};

CommandOutcome say(std::string text) { return {CommandOutcome::stay, std::move(text), false, false}; }

std::string plural(int64_t n, const char* word) { return std::to_string(n) + " " + word + (n == 1 ? "" : "s"); }

// A value as it could be typed: True, None, 0.7, "text", [1, 2].
std::string typed_value(const Json& value) {
  if (value.is_null()) return "None";
  if (value.is_boolean()) return value.get<bool>() ? "True" : "False";
  return dump_json(value);
}

std::string settings_text(const GenerationConfig& config) {
  const Json neutral = GenerationConfig().to_json();
  const Json values = config.to_json();
  std::string out;
  for (const auto& [key, value] : values.items()) {
    const bool always = key == "do_sample" || key == "max_new_tokens";
    if (always || neutral[key] != value) out += (out.empty() ? "" : " ") + key + "=" + typed_value(value);
  }
  return out;
}

std::string context_text(ChatSession& session) {
  const auto used = static_cast<int64_t>(session.encode(false).size());
  const int64_t all = session.context();
  return std::to_string(used) + " of " + plural(all, "token") + " used, " + std::to_string(std::max<int64_t>(0, all - used)) + " free";
}

CommandOutcome help(ChatSession&, const std::string&);

CommandOutcome status(ChatSession& session, const std::string&) {
  Engine& engine = session.engine();
  const Model& model = engine.model();
  std::string context;
  try {
    context = context_text(session);
  } catch (const Error& error) {
    context = error.message;
  }
  std::string out = "model     " + session.model_name() + " (" + model.spec().architecture + ", " + bytes_text(model.weight_bytes()) + ")\n";
  if (const Model* draft = engine.scheduler().draft_model()) {
    out += "draft     " + draft->directory() + " (" + bytes_text(draft->weight_bytes()) + ")\n";
  }
  out += "template  " + engine.chat_template()->origin() + "\n";
  out += "context   " + context + "\n";
  out += "machine   " + plural(engine.team().size(), "thread") + ", " + kernels::table().name + "\n";
  out += "memory    KV cache " + bytes_text(engine.scheduler().kv_bytes_used()) + "\n";
  out += "chat      " + plural(static_cast<int64_t>(session.messages().size()), "message") + "\n";
  const std::string system = session.system_prompt();
  out += "system    " + (system.empty() ? std::string("none") : system) + "\n";
  return say(out + "settings  " + settings_text(session.config()) + "\n");
}

CommandOutcome clear(ChatSession& session, const std::string&) {
  session.clear();
  return {CommandOutcome::stay, "A new conversation.\n", true, false};
}

CommandOutcome set(ChatSession& session, const std::string& argument) {
  session.set(argument);
  std::string out = "settings: " + settings_text(session.config()) + "\n";
  if (argument.find("system_prompt") != std::string::npos) out += "system prompt: " + session.system_prompt() + "\n";
  return say(out);
}

CommandOutcome system_prompt(ChatSession& session, const std::string& argument) {
  if (!argument.empty()) session.set_system_prompt(argument);
  const std::string now = session.system_prompt();
  return say(now.empty() ? "There is no system prompt; !system TEXT sets one.\n" : "system prompt: " + now + "\n");
}

CommandOutcome save(ChatSession& session, const std::string& argument) { return say("Saved to " + session.save(argument) + "\n"); }

CommandOutcome load(ChatSession& session, const std::string& argument) {
  if (argument.empty()) throw Error("!load: expected a file name");
  session.load(argument);
  return say("Loaded " + plural(static_cast<int64_t>(session.messages().size()), "message") + " from " + argument + "\n");
}

CommandOutcome example(ChatSession& session, const std::string& argument) {
  std::vector<std::string> names;
  for (const Example& row : examples) {
    if (argument == row.name) {
      session.clear();
      session.add_user(row.text);
      return {CommandOutcome::answer, std::string("> ") + row.text + "\n", true, false};
    }
    names.emplace_back(row.name);
  }
  std::string list;
  for (const std::string& name : names) list += (list.empty() ? "" : ", ") + name;
  throw Error(argument.empty() ? "!example: expected a name" : "!example: there is no example '" + argument + "'", "there are: " + list);
}

CommandOutcome undo(ChatSession& session, const std::string&) {
  const std::string text = session.undo();
  size_t end = std::min<size_t>(text.size(), 200);
  while (end < text.size() && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) end--;  // not inside a character
  return say("Took back: " + text.substr(0, end) + (end < text.size() ? "..." : "") + "\n");
}

CommandOutcome regenerate(ChatSession& session, const std::string&) {
  session.prepare_again();
  return {CommandOutcome::answer, "", false, false};
}

CommandOutcome tokens(ChatSession& session, const std::string&) { return say("context: " + context_text(session) + "\n"); }
CommandOutcome multiline(ChatSession&, const std::string&) { return {CommandOutcome::stay, "", false, true}; }
CommandOutcome leave(ChatSession&, const std::string&) { return {CommandOutcome::leave, "", false, false}; }

constexpr Row rows[] = {
    {"help", "", "this list", help},
    {"status", "", "the model, its settings and the context used", status},
    {"set", "KEY=VALUE ...", "change generation settings, or system_prompt=\"...\"", set},
    {"system", "TEXT", "set the system prompt; alone: show it", system_prompt},
    {"tokens", "", "how much of the context is used", tokens},
    {"clear", "", "start a new conversation", clear},
    {"undo", "", "take back the last exchange", undo},
    {"regen", "", "answer the last message again", regenerate},
    {"save", "[NAME]", "write ./chat_history/MODEL/chat_DATE.json, or NAME", save},
    {"load", "FILE", "go on with a saved chat", load},
    {"example", "NAME", "llama, code, helicopter, numbers, birds, socks, numbers2", example},
    {"multiline", "", "Enter starts a new line and an empty line sends; again: off", multiline},
    {"exit", "", "leave (also Ctrl-D)", leave},
};

CommandOutcome help(ChatSession&, const std::string&) {
  std::string out;
  for (const Row& row : rows) {
    std::string left = std::string("!") + row.name + (*row.argument != 0 ? " " : "") + row.argument;
    left.resize(std::max<size_t>(left.size() + 1, 20), ' ');
    out += left + row.help + "\n";
  }
  out += "\n/COMMAND works too. A line that ends in \\ goes on in the next; so does one ended\n"
         "with Alt-Enter. Ctrl-C stops an answer. A blank before ! sends it as a message.\n";
  return say(out);
}

bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

}  // namespace

bool is_chat_command(std::string_view line) {
  if (line.starts_with('!')) return true;
  if (!line.starts_with('/') || line.size() < 2) return false;
  const std::string_view word = line.substr(1, line.find_first_of(" \t\n") - 1);  // npos - 1 is past the end too
  return !word.empty() && std::all_of(word.begin(), word.end(), is_letter);
}

CommandOutcome run_chat_command(ChatSession& session, std::string_view line) {
  const size_t end = std::min(line.find_first_of(" \t\n"), line.size());
  const std::string name(line.substr(1, end - 1));
  std::string_view rest = line.substr(end);
  const size_t first = std::min(rest.find_first_not_of(" \t\n"), rest.size());
  rest = rest.substr(first, rest.find_last_not_of(" \t\n") + 1 - first);
  const std::string wanted = name == "quit" || name == "bye" ? "exit" : name;
  std::vector<std::string> known;
  for (const Row& row : rows) {
    if (wanted == row.name) {
      if (*row.argument == 0 && !rest.empty()) {
        throw Error(std::string(1, line[0]) + name + ": takes nothing after it, got '" + std::string(rest) + "'");
      }
      return row.run(session, std::string(rest));
    }
    known.emplace_back(row.name);
  }
  const std::string nearest = nearest_word(name, known);
  throw Error("unknown command " + std::string(line.substr(0, end)),
              (nearest.empty() ? std::string("!help lists the commands") : "did you mean !" + nearest + "?") +
                  "; to send it as a message, put a blank before it");
}

std::vector<std::string> chat_command_names() {
  std::vector<std::string> names;
  for (const Row& row : rows) names.push_back(std::string("!") + row.name);
  return names;
}

}  // namespace engine::cli
