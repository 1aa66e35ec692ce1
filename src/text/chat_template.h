// A model's chat template: finding it in a model directory and rendering conversations as Transformers'
// apply_chat_template does.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "text/jinja.h"

namespace engine {

/// Options of one rendering.
struct ChatRenderOptions {
  bool add_generation_prompt = true;
  bool continue_final_message =
      false;                    // leave the last message open, as Transformers 5 does; excludes the generation prompt
  Json tools;                   // null: none
  Json documents;               // null: none
  Json extra = Json::object();  // further variables (enable_thinking, reasoning_effort, ...)
  std::string now;              // see JinjaTemplate::Options
};

/// Renders a template with all its variables, as Transformers' render_jinja_template does. With continue_final_message
/// the last message is left open: what the template writes after that message's text is cut off. `source`: the
/// template's text. Throws Error.
std::vector<TextSpan> render_chat(const JinjaTemplate& chat_template, std::string_view source,
                                  JinjaTemplate::Variables variables, const JinjaTemplate::Options& options,
                                  bool continue_final_message);

class ChatTemplate {
 public:
  /// The template of a model directory, in Transformers' order of preference: chat_template.jinja (with
  /// additional_chat_templates/*.jinja), chat_template.json, then tokenizer_config.json's chat_template (a string, or a
  /// list of {name, template}). Special tokens for the context come from tokenizer_config.json and
  /// special_tokens_map.json. Empty if the model has none. A template that cannot be parsed is an error only when it is
  /// to be rendered, so that such a model can still be used without it.
  static std::optional<ChatTemplate> from_directory(const std::string& directory);

  /// `name_or_path`: a file, or one of builtin_names(). Special tokens from `directory` if not empty.
  static ChatTemplate from_option(const std::string& name_or_path, const std::string& directory);
  static ChatTemplate from_source(std::string_view source, const Json& special_tokens);
  /// Names of the built-in templates: chatml, llama3, mistral, gemma, zephyr, raw.
  static std::vector<std::string> builtin_names();

  /// Renders a list of {role, content, ...}. `variant` picks from a named list ("default", "tool_use", "rag"); as in
  /// Transformers, "tool_use" is taken by default if tools are given and it exists. Throws Error.
  std::vector<TextSpan> render(const Json& messages, const ChatRenderOptions& options) const;
  std::string render_text(const Json& messages, const ChatRenderOptions& options) const;

  /// True if a conversation with a leading system message renders, and its text appears in the result.
  bool supports_system_role() const;

  const std::string& source(bool with_tools = false) const;  // of the template that is taken by default
  const std::string& origin() const;  // where it came from, for people: "chat_template.jinja", "built-in chatml"

  ~ChatTemplate();
  ChatTemplate(ChatTemplate&&) noexcept;
  ChatTemplate& operator=(ChatTemplate&&) noexcept;

 private:
  ChatTemplate();
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace engine
