// `engine tokenize` and `engine detokenize`.
#include <charconv>

#include "base/json.h"
#include "cli/commands.h"
#include "cli/line_reader.h"
#include "cli/messages.h"
#include "cli/terminal.h"
#include "runtime/engine.h"
#include "text/tokenizer_lines.h"

namespace engine::cli {
namespace {

Tokenizer load_tokenizer(const Options& options) { return Tokenizer::from_directory(resolve_model(options.model, options.revision)); }

int32_t parse_id(const std::string& word) {
  int32_t id = 0;
  const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), id);
  if (error != std::errc{} || end != word.data() + word.size() || id < 0) throw UsageError("IDS: expected token ids, got '" + word + "'");
  return id;
}

// Words between blanks and commas.
std::vector<std::string> split_words(std::string_view text) {
  constexpr std::string_view blanks = " \t\r\n,[]";
  std::vector<std::string> words;
  for (size_t begin = text.find_first_not_of(blanks); begin != std::string_view::npos;) {
    const size_t end = std::min(text.find_first_of(blanks, begin), text.size());
    words.emplace_back(text.substr(begin, end - begin));
    begin = text.find_first_not_of(blanks, end);
  }
  return words;
}

void refuse_arguments(const Options& options) {
  if (!options.arguments.empty()) throw UsageError("--jsonl: reads stdin, so '" + options.arguments[0] + "' has no place");
}

}  // namespace

int run_tokenize(const Options& options) {
  if (options.jsonl) refuse_arguments(options);
  const Tokenizer tokenizer = load_tokenizer(options);
  if (options.jsonl) {
    answer_lines([&tokenizer](std::string_view line) { return tokenize_line(tokenizer, line); });
    return exit_done;
  }
  std::string out;
  for (const int32_t id : tokenizer.encode(options.arguments.empty() ? read_stdin() : options.arguments[0], true)) {
    out += (out.empty() ? "" : " ") + std::to_string(id);
  }
  write_stdout(out + "\n");
  return exit_done;
}

int run_detokenize(const Options& options) {
  if (options.jsonl) refuse_arguments(options);
  std::vector<int32_t> ids;
  for (const std::string& argument : options.arguments) {
    for (const std::string& word : split_words(argument)) ids.push_back(parse_id(word));
  }
  const Tokenizer tokenizer = load_tokenizer(options);
  if (options.jsonl) {
    answer_lines([&tokenizer](std::string_view line) { return detokenize_line(tokenizer, line); });
    return exit_done;
  }
  if (options.arguments.empty()) {
    for (const std::string& word : split_words(read_stdin())) ids.push_back(parse_id(word));
  }
  const std::string text = tokenizer.decode(ids, false);
  write_stdout((terminal().stdout_tty ? printable(text) : text) + "\n");
  return exit_done;
}

}  // namespace engine::cli
