#include "cli/line_editor.h"

#include <errno.h>
#include <isocline.h>

#include <clocale>
#include <cstdlib>
#include <optional>
#include <utility>

#include "cli/terminal.h"

namespace engine::cli {
namespace {

void complete(ic_completion_env_t* environment, const char* prefix) {
  const auto* words = static_cast<const std::vector<std::string>*>(ic_completion_arg(environment));
  const std::string_view start = prefix;
  if (start.empty() || (start[0] != '!' && start[0] != '/')) return;
  for (std::string word : *words) {
    word[0] = start[0];
    if (word.starts_with(start)) ic_add_completion_ex(environment, (word.substr(start.size()) + " ").c_str(), word.c_str(), nullptr);
  }
}

// Prompts are isocline's "bbcode": a bracket would start a tag.
std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '[' || c == '\\') out += '\\';
    out += c;
  }
  return out;
}

// isocline's first call asks for the user's locale, to learn whether text is UTF-8 (here it always is), and leaves it set: numbers of
// the whole program would then be read and written with a decimal comma where that is the custom.
class NeutralLocale {
 public:
  NeutralLocale() {
    if (const char* value = std::getenv("LC_ALL")) value_ = value;
    setenv("LC_ALL", "C", 1);
  }
  ~NeutralLocale() {
    value_ ? setenv("LC_ALL", value_->c_str(), 1) : unsetenv("LC_ALL");
    std::setlocale(LC_ALL, "C");
  }
  NeutralLocale(const NeutralLocale&) = delete;
  NeutralLocale& operator=(const NeutralLocale&) = delete;

 private:
  std::optional<std::string> value_;
};

}  // namespace

LineEditor::LineEditor(History& history, std::vector<std::string> completions)
    : history_(history), completions_(std::move(completions)) {
  remember_input_mode();
  const NeutralLocale neutral_locale;
  static bool has_room = false;  // a second call would lose the first one's
  if (!std::exchange(has_room, true)) ic_set_history(nullptr, static_cast<long>(History::max_entries));
  else ic_history_clear();
  // isocline's handlers, which its first call installs, do not end the program: SIGTERM would be lost and SIGSEGV a loop.
  restore_signal_handlers();
  ic_enable_history_duplicates(false);
  ic_enable_auto_tab(false);
  ic_enable_hint(false);
  ic_enable_inline_help(false);
  ic_enable_highlight(false);
  ic_enable_brace_matching(false);
  ic_enable_brace_insertion(false);
  ic_enable_multiline_indent(false);
  ic_enable_color(terminal().colour_stdout);
  ic_set_default_completer(complete, &completions_);
  for (const std::string& entry : history.entries()) ic_history_add(entry.c_str());
}

LineEditor::Result LineEditor::read_line(const std::string& prompt, const char* marker) {
  ic_set_prompt_marker(marker, "  ");
  errno = 0;
  char* line = ic_readline(prompt.c_str());
  if (line == nullptr) return {errno == EINTR ? Status::interrupted : Status::end, {}};
  Result result{Status::line, line};
  ic_free(line);
  return result;
}

LineEditor::Result LineEditor::read_message(bool block_input) {
  Result result = read_line("", "> ");
  if (result.status != Status::line) return result;
  const bool command = result.text.starts_with('!') || result.text.starts_with('/');
  if (block_input && !command && !result.text.empty()) {
    for (;;) {
      ic_history_remove_last();
      const Result more = read_line("", "  ");
      if (more.status != Status::line) return more;
      if (more.text.empty()) break;
      result.text += "\n" + more.text;
    }
    ic_history_add(result.text.c_str());
  }
  history_.add(result.text);
  return result;
}

LineEditor::Result LineEditor::read_reply(const std::string& question) {
  Result result = read_line(escaped(question), "");
  if (result.status == Status::line && result.text.size() > 1) ic_history_remove_last();  // isocline itself keeps nothing shorter
  return result;
}

}  // namespace engine::cli
