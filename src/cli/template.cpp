// `engine template render`: chat templates by themselves.
#include "base/json.h"
#include "cli/commands.h"
#include "cli/line_reader.h"
#include "cli/messages.h"
#include "cli/terminal.h"
#include "runtime/engine.h"
#include "text/template_lines.h"

namespace engine::cli {
namespace {

Json take(Json& object, const char* key) {
  const auto found = object.find(key);
  if (found == object.end()) return {};
  Json value = std::move(*found);
  object.erase(key);
  return value;
}

ChatTemplate find_template(const Options& options) {
  if (!options.template_file.empty()) return ChatTemplate::from_source(read_text_file(options.template_file), Json::object());
  const std::string directory = resolve_model(options.model, options.revision);
  if (!options.chat_template.empty()) return ChatTemplate::from_option(options.chat_template, directory);
  std::optional<ChatTemplate> found = ChatTemplate::from_directory(directory);
  if (!found) throw Error(options.model + ": has no chat template");
  return std::move(*found);
}

// The context's own variables win over what the model directory says (bos_token and so on).
std::string render_file(const Options& options) {
  const std::string where = options.context_file == "-" ? "stdin" : options.context_file;
  Json context = read_json_argument(options.context_file);
  if (!context.is_object()) throw Error(where + ": expected an object with the template's variables, got " + context.type_name());
  ChatRenderOptions render;
  const Json now = take(context, "now"), go_on = take(context, "continue_final_message"), prompt = take(context, "add_generation_prompt");
  if (now.is_string()) render.now = now.get<std::string>();
  render.continue_final_message = go_on.is_boolean() && go_on.get<bool>();
  render.add_generation_prompt = prompt.is_boolean() && prompt.get<bool>();
  render.tools = take(context, "tools");
  render.documents = take(context, "documents");
  const Json messages = take(context, "messages");
  render.extra = std::move(context);
  try {
    return find_template(options).render_text(messages, render);
  } catch (const Error& error) {
    if (options.template_file.empty()) throw;
    throw Error(options.template_file + ": " + error.message, error.hint);
  }
}

}  // namespace

int run_template(const Options& options) {
  const int n_sources = static_cast<int>(options.jsonl) + !options.template_file.empty() + !options.model.empty();
  if (n_sources != 1) throw UsageError("template render: expected one of --jsonl, --template FILE and MODEL");
  if (options.jsonl && !options.context_file.empty()) throw UsageError("--context: with --jsonl each line has its own");
  if (options.jsonl || !options.template_file.empty()) {
    if (!options.chat_template.empty()) throw UsageError("--chat-template: goes with MODEL");
  }
  if (options.jsonl) {
    answer_lines([](std::string_view line) { return render_template_line(line); });
    return exit_done;
  }
  if (options.context_file.empty()) throw UsageError("--context FILE is missing");
  const std::string text = render_file(options);
  write_stdout(terminal().stdout_tty ? printable(text) + "\n" : text);
  return exit_done;
}

}  // namespace engine::cli
