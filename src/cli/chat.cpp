// `engine chat`: the conversation, on a terminal or line by line.
#include <functional>
#include <memory>
#include <optional>
#include <utility>

#include "cli/answer.h"
#include "cli/chat_commands.h"
#include "cli/chat_session.h"
#include "cli/commands.h"
#include "cli/line_editor.h"
#include "cli/line_reader.h"
#include "cli/load.h"
#include "cli/markdown.h"
#include "cli/pull.h"
#include "runtime/answer_form.h"

namespace engine::cli {
namespace {

class Chat {
 public:
  Chat(ChatSession& session, const Options& options)
      : session_(session),
        options_(options),
        interactive_(terminal().interactive()),
        history_(interactive_ ? default_history_path() : std::string()) {
    if (interactive_) editor_.emplace(history_, chat_command_names());
  }

  int run() { return interactive_ ? run_on_terminal() : run_on_lines(); }

 private:
  enum class Turn { done, interrupted, offer_more };

  int run_on_terminal();
  int run_on_lines();
  /// False: leave the chat.
  bool handle(const std::string& line);
  /// `before`: the conversation to go back to if nothing is said.
  void answer_and_offer(const Json& before);
  Turn answer(bool go_on);
  void finish_answer(const GenerationResult& result);
  std::string answer_text() const;
  void welcome();
  void warn_of_history();
  void notice(std::string_view text) { interactive_ ? write_stdout(printable(text)) : write_stderr(printable(text)); }
  void remark(std::string_view text, std::string_view sgr) {
    if (options_.quiet) return;
    write_stderr(styled(printable(text), sgr, terminal().colour_stderr) + "\n");
  }
  ChatSession& session_;
  const Options& options_;
  bool interactive_, multiline_ = false;
  bool interrupted_ = false;             // the last thing that happened was Ctrl-C
  std::optional<std::string> next_line_; // typed in place of an answer to a question
  std::vector<int32_t> prompt_, answer_; // ids of the last answer, for going on with it
  AnswerForm form_;                      // of that answer
  History history_;
  bool history_warned_ = false;
  bool failed_ = false;                  // a message had no answer
  std::optional<LineEditor> editor_;     // on a terminal
};

void Chat::welcome() {
  if (options_.quiet) return;
  const ModelSpec& spec = session_.engine().model().spec();
  notice(session_.model_name() + ": " + spec.architecture + ", context " + std::to_string(session_.context()) +
         "\n!help lists the commands, Ctrl-D leaves.\n");
}

void Chat::warn_of_history() {
  if (history_.problem().empty() || history_warned_) return;
  history_warned_ = true;
  remark("the history is not kept: " + history_.problem(), style::yellow);
}

int Chat::run_on_terminal() {
  welcome();
  for (;;) {
    warn_of_history();
    std::string line;
    if (next_line_) {
      line = std::move(*next_line_);
      next_line_.reset();
    } else {
      const LineEditor::Result typed = editor_->read_message(multiline_);
      if (typed.status == LineEditor::Status::end) return exit_done;
      if (typed.status == LineEditor::Status::interrupted) {
        if (interrupted_) return exit_interrupted;
        interrupted_ = true;
        notice("Ctrl-C again, or Ctrl-D, leaves.\n");
        continue;
      }
      line = typed.text;
    }
    interrupted_ = false;
    if (!handle(line)) return exit_done;
  }
}

int Chat::run_on_lines() {
  LineReader reader;
  std::string line;
  const bool ask = terminal().stdin_tty && terminal().stderr_tty && !options_.quiet;
  for (;;) {
    if (ask) write_stderr("> ");
    if (!reader.next(&line) || !handle(line)) return failed_ ? exit_failed : exit_done;
    if (interrupted_) return exit_interrupted;
  }
}

bool Chat::handle(const std::string& line) {
  if (line.find_first_not_of(" \t\n") == std::string::npos) return true;
  const Json before = session_.messages();
  try {
    if (!is_chat_command(line)) {
      const bool escaped = line.size() > 1 && line[0] == ' ' && is_chat_command(std::string_view(line).substr(1));
      session_.add_user(escaped ? std::string_view(line).substr(1) : std::string_view(line));
      answer_and_offer(before);
      return true;
    }
    const CommandOutcome outcome = run_chat_command(session_, line);
    if (outcome.clear_screen && interactive_) write_stdout("\x1b[H\x1b[2J");
    notice(outcome.show);
    if (outcome.toggle_multiline && !editor_) {
      notice("!multiline: goes with a terminal; here each line is a message.\n");
    } else if (outcome.toggle_multiline) {
      multiline_ = !multiline_;
      notice(multiline_ ? "Multi-line input is on: an empty line sends.\n" : "Multi-line input is off.\n");
    }
    if (outcome.kind == CommandOutcome::answer) answer_and_offer(before);
    return outcome.kind != CommandOutcome::leave;
  } catch (const Error& error) {
    if (error.message.starts_with("stdout:")) throw;  // nobody reads on
    session_.restore(before);
    print_error(error);
    failed_ |= !is_chat_command(line);
    return true;
  }
}

void Chat::answer_and_offer(const Json& before) {
  Turn turn = answer(false);
  if (turn == Turn::interrupted && !session_.ends_with_assistant()) {
    session_.restore(before);
    remark("stopped before the first word; the message is taken back", style::yellow);
  }
  while (turn == Turn::offer_more) {
    // The editor cannot redraw a question that takes more than a line.
    constexpr std::string_view why = "cut at max_new_tokens", question = "go on? [y/N] ";
    const bool narrow = terminal_size().columns < static_cast<int>(why.size() + question.size()) + 12;
    if (narrow) notice(std::string(why) + "\n");
    const LineEditor::Result reply = editor_->read_reply((narrow ? "" : std::string(why) + "; ") + std::string(question));
    if (reply.status != LineEditor::Status::line) {
      interrupted_ = reply.status == LineEditor::Status::interrupted;
      return;
    }
    if (reply.text == "y" || reply.text == "Y" || reply.text == "yes") {
      turn = answer(true);
      continue;
    }
    if (!reply.text.empty() && reply.text != "n" && reply.text != "N" && reply.text != "no") next_line_ = reply.text;
    return;
  }
}

// One answer, or more of the last one.
Chat::Turn Chat::answer(bool go_on) {
  MarkdownStream markdown(terminal().colour_stdout);
  const bool to_terminal = terminal().stdout_tty;
  bool ends_with_newline = false, said = false;
  const auto show = [&](std::string_view text) {
    if (text.empty()) return;
    said = true;
    ends_with_newline = text.back() == '\n';
    write_stdout(to_terminal ? markdown.push(text) : std::string(text));
  };
  if (!go_on) {
    prompt_ = session_.encode(true);
    answer_.clear();
    form_ = answer_form(*session_.engine().chat_template(), session_.engine().tokenizer(), prompt_, false);
  }
  // Thoughts are for people to watch: dim, and left out where nobody does.
  std::unique_ptr<AnswerParser> parser = form_.syntax != nullptr ? make_answer_parser(*form_.syntax) : nullptr;
  bool thinking = false;
  const auto show_parts = [&](std::string_view text) {
    parser->push(text);
    for (const AnswerPart& part : parser->take()) {
      const bool thought = part.kind == AnswerPart::Kind::reasoning;
      if (thinking && !thought) write_stdout("\n\n");
      thinking = thought && to_terminal;
      if (!thought) show(part.text);
      else if (to_terminal) said = true, write_stdout(styled(printable(part.text), style::dim, terminal().colour_stdout));
    }
  };
  if (parser != nullptr) parser->push(answer_text()), parser->take();
  std::vector<int32_t> prompt = prompt_;
  prompt.insert(prompt.end(), answer_.begin(), answer_.end());
  if (static_cast<int64_t>(prompt.size()) >= session_.context()) {
    throw Error("the conversation has " + std::to_string(prompt.size()) + " tokens with this message: expected fewer than " +
                    std::to_string(session_.context()) + " (the context)",
                "the message is not part of the chat; !undo or !clear makes room, --ctx N asks for more");
  }
  GenerationResult result;
  try {
    const InterruptGuard guard(false);
    const QuietInput quiet_input;
    result = generate_answer(session_.engine(), std::move(prompt), session_.config(), session_.next_stream(), guard, options_.quiet,
                             parser != nullptr ? std::function<void(std::string_view)>(show_parts) : show, nullptr, form_.shown_special);
    if (parser != nullptr) parser->finish(), show_parts("");
  } catch (...) {
    if (said) write_stdout(markdown.flush() + "\n");
    throw;
  }
  if (to_terminal) write_stdout(markdown.flush());
  if (!ends_with_newline || !interactive_) write_stdout("\n");
  finish_answer(result);
  interrupted_ = result.reason == FinishReason::cancelled;
  if (interrupted_) return Turn::interrupted;
  if (result.reason != FinishReason::length) return Turn::done;
  const auto used = static_cast<int64_t>(prompt_.size() + answer_.size());
  if (used >= session_.context()) {
    remark("the context of " + std::to_string(session_.context()) + " tokens is full: !undo or !clear makes room", style::yellow);
    return Turn::done;
  }
  if (interactive_) return Turn::offer_more;
  remark("cut at max_new_tokens", style::yellow);
  return Turn::done;
}

void Chat::finish_answer(const GenerationResult& result) {
  const bool go_on = !answer_.empty();
  answer_.insert(answer_.end(), result.tokens.begin(), result.tokens.end());
  std::string text = go_on ? answer_text() : result.text, reasoning;
  const bool said = !text.empty();
  if (form_.syntax != nullptr) {
    const std::unique_ptr<AnswerParser> parser = make_answer_parser(*form_.syntax);
    parser->push(std::exchange(text, {}));
    parser->finish();
    for (const AnswerPart& part : parser->take()) (part.kind == AnswerPart::Kind::reasoning ? reasoning : text) += part.text;
  }
  if (go_on) session_.replace_assistant(text, reasoning);
  else if (result.reason != FinishReason::cancelled || said) session_.add_assistant(text, reasoning);
  remark(closing_line(result.stats), style::dim);
}

/// Of the answer so far, decoded anew as one: a cut may have gone through a character.
std::string Chat::answer_text() const {
  Detokenizer whole(session_.engine().tokenizer(), true, form_.shown_special);
  whole.prime(prompt_);
  std::string text;
  for (const int32_t id : answer_) text += whole.push(id);
  return text + whole.flush();
}

}  // namespace

namespace {

/// exit_done: the model is here now. The answer "no" leaves the error as it was.
int offer_to_fetch(const Options& options, const NotInCache& missing) {
  if (!terminal().interactive()) throw missing;
  History no_history{std::string()};
  const std::string question = terminal_size().columns > 50 + static_cast<int>(options.model.size()) ? options.model + " is not in the cache. " : "";
  const LineEditor::Result reply = LineEditor(no_history, {}).read_reply(question + "Fetch it now? [Y/n] ");
  if (reply.status == LineEditor::Status::interrupted) return exit_interrupted;
  const bool yes = reply.text.empty() || reply.text == "y" || reply.text == "Y" || reply.text == "yes";
  if (reply.status != LineEditor::Status::line || !yes) throw missing;
  std::string snapshot;
  return pull_model(options, &snapshot);
}

}  // namespace

int run_chat(const Options& options) {
  std::string directory;
  try {
    directory = resolve_model(options.model, options.revision);
  } catch (const NotInCache& missing) {
    if (const int code = offer_to_fetch(options, missing); code != exit_done) return code;
    directory = resolve_model(options.model, options.revision);
  }
  const std::unique_ptr<Engine> engine = load_engine(options);
  engine->tokenizer();  // says so if there is none
  if (engine->chat_template() == nullptr) {
    throw Error(options.model + ": has no chat template; it may be a base model, trained to continue text and not to chat",
                "--chat-template FILE|NAME gives it one (chatml, llama3, mistral, gemma, zephyr, raw); `engine generate --raw` continues text");
  }
  ChatSession session(*engine, model_name(options.model, directory), make_config(*engine, options), options.allow_special);
  if (!options.load.empty()) {
    session.load(options.load);
    for (const Setting& setting : options.settings) session.set_value(setting.key, setting.value);
  }
  if (options.system_prompt) session.set_system_prompt(*options.system_prompt);
  return Chat(session, options).run();
}

}  // namespace engine::cli
