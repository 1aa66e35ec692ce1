#include "text/chat_template.h"

#include <algorithm>
#include <filesystem>

#include "base/builtin_files.h"
#include "base/error.h"
#include "text/builtin_templates.h"
#include "text/jinja_unicode.h"

namespace engine {

namespace {

namespace fs = std::filesystem;

constexpr size_t max_template_bytes = size_t{4} << 20;
constexpr size_t max_config_bytes = size_t{64} << 20;
constexpr std::string_view continue_tag = "CONTINUE_FINAL_MESSAGE_TAG ";
constexpr const char* special_token_names[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                               "pad_token", "cls_token", "mask_token"};

bool file_exists(const fs::path& path) {
  std::error_code ignored;
  return find_builtin_file(path.native()) != nullptr || fs::is_regular_file(path, ignored);
}

/// A file's JSON object, or an empty one if there is no such file.
Json read_optional_object(const fs::path& path) {
  if (!file_exists(path)) return Json::object();
  Json json = read_json_file(path.string(), max_config_bytes);
  if (!json.is_object()) throw Error(path.string() + ": expected an object");
  return json;
}

/// The named special tokens as a template gets them. Transformers takes special_tokens_map.json, over the same keys of
/// tokenizer_config.json, only for models so old that the latter has no added_tokens_decoder.
Json read_special_tokens(const fs::path& directory) {
  const Json config = read_optional_object(directory / "tokenizer_config.json");
  const Json map = config.contains("added_tokens_decoder")
                       ? Json::object()
                       : read_optional_object(directory / "special_tokens_map.json");
  Json tokens = Json::object();
  for (const char* name : special_token_names) {
    const Json& token = map.contains(name) ? map.at(name) : config.contains(name) ? config.at(name) : Json();
    const Json& text = token.is_object() && token.contains("content") ? token.at("content") : token;
    if (text.is_string()) tokens[name] = text;
  }
  return tokens;
}

// --- continue_final_message
// -------------------------------------------------------------------------------------------------

std::string_view strip(std::string_view text, bool left) {
  size_t begin = 0;
  size_t end = text.size();
  while (left && begin < end) {
    size_t next = begin;
    if (!jinja::is_space(jinja::utf8_next(text, &next))) break;
    begin = next;
  }
  while (end > begin) {
    const size_t previous = jinja::utf8_previous(text, end);
    size_t next = previous;
    if (!jinja::is_space(jinja::utf8_next(text, &next))) break;
    end = previous;
  }
  return text.substr(begin, end - begin);
}

[[noreturn]] void fail_continue(const std::string& why) { throw Error("continue_final_message: " + why); }

/// Adds the tag to the text of the last message and returns that text as it was.
std::string add_continue_tag(Json& messages) {
  if (!messages.is_array() || messages.empty() || !messages.back().is_object())
    fail_continue("there is no final message");
  Json& message = messages.back();
  if (!message.contains("content") || message["content"].is_null())
    fail_continue("the final message has no content to continue");
  Json* text = &message["content"];
  if (text->is_array()) {
    const auto part =
        std::find_if(text->rbegin(), text->rend(), [](const Json& p) { return p.is_object() && p.contains("text"); });
    if (part == text->rend()) fail_continue("the final message has no text to continue");
    text = &(*part)["text"];
  }
  if (!text->is_string()) fail_continue("the final message's content is not text");
  const auto before = text->get<std::string>();
  *text = before + std::string(continue_tag);
  return before;
}

/// Keeps the first `size` bytes.
void cut(std::vector<TextSpan>& spans, size_t size) {
  for (size_t i = 0; i < spans.size(); ++i) {
    if (spans[i].text.size() < size) {
      size -= spans[i].text.size();
      continue;
    }
    spans[i].text.resize(size);
    spans.resize(size == 0 ? i : i + 1);
    return;
  }
}

std::string join(const std::vector<TextSpan>& spans) {
  std::string text;
  for (const TextSpan& span : spans) text += span.text;
  return text;
}

}  // namespace

std::vector<TextSpan> render_chat(const JinjaTemplate& chat_template, std::string_view source,
                                  JinjaTemplate::Variables variables, const JinjaTemplate::Options& options,
                                  bool continue_final_message) {
  if (!continue_final_message) return chat_template.render(variables, options);
  Json messages;
  for (const auto& [name, value] : variables) {
    if (name == "messages") messages = *value;
  }
  const std::string message = add_continue_tag(messages);
  if (source.find("content") == std::string_view::npos) fail_continue("the chat template does not use \"content\"");
  variables.push_back({"messages", &messages});
  std::vector<TextSpan> spans = chat_template.render(variables, options);
  const std::string text = join(spans);
  const std::string_view bare_tag = continue_tag.substr(0, continue_tag.size() - 1);
  const size_t at = text.rfind(bare_tag);
  if (text.find(strip(message, true)) == std::string::npos || at == std::string::npos)
    fail_continue("the final message does not appear in the chat after the chat template was applied");
  const bool kept_blank = std::string_view(text).substr(at, continue_tag.size()) == continue_tag;
  // A template that trimmed the blank after the tag would have trimmed the message too.
  cut(spans, kept_blank ? at : strip(std::string_view(text).substr(0, at), false).size());
  return spans;
}

// --- ChatTemplate
// -----------------------------------------------------------------------------------------------------------

struct ChatTemplate::Impl {
  struct Variant {
    std::string name;
    std::string source;
    std::optional<JinjaTemplate> parsed;
    std::string error;  // if it could not be parsed
  };

  void add(std::string name, std::string source) {
    Variant& v = variants.emplace_back(Variant{std::move(name), std::move(source), std::nullopt, {}});
    try {
      v.parsed.emplace(v.source);
    } catch (const Error& e) {
      v.error = e.message;
    }
  }

  const Variant* find(std::string_view name) const {
    for (const Variant& v : variants) {
      if (v.name == name) return &v;
    }
    return nullptr;
  }

  const Variant& pick(bool with_tools) const {
    if (const Variant* v = with_tools ? find("tool_use") : nullptr) return *v;
    if (const Variant* v = find("default")) return *v;
    std::string names;
    for (const Variant& v : variants) names += (names.empty() ? "" : ", ") + v.name;
    throw Error(origin + ": there are several chat templates and none is the default: " + names);
  }

  std::vector<Variant> variants;
  Json special_tokens = Json::object();
  std::string origin;
};

ChatTemplate::ChatTemplate() : impl_(std::make_unique<Impl>()) {}
ChatTemplate::~ChatTemplate() = default;
ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate& ChatTemplate::operator=(ChatTemplate&&) noexcept = default;

std::optional<ChatTemplate> ChatTemplate::from_directory(const std::string& directory) {
  const fs::path root(directory);
  ChatTemplate t;
  Impl& impl = *t.impl_;
  if (file_exists(root / "chat_template.jinja"))
    impl.add("default", read_text_file((root / "chat_template.jinja").string(), max_template_bytes));
  const fs::path more = root / "additional_chat_templates";
  std::error_code error;
  if (fs::is_directory(more, error)) {
    std::vector<fs::path> files;
    for (fs::directory_iterator entry(more, error), end; !error && entry != end; entry.increment(error)) {
      if (entry->path().extension() == ".jinja") files.push_back(entry->path());
    }
    if (error) throw Error(more.string() + ": cannot read: " + error.message());
    std::sort(files.begin(), files.end());
    for (const fs::path& file : files)
      impl.add(file.stem().string(), read_text_file(file.string(), max_template_bytes));
  }
  impl.origin = "chat_template.jinja";
  for (const char* file : {"chat_template.json", "tokenizer_config.json"}) {
    if (!impl.variants.empty()) break;
    const Json config = read_optional_object(root / file);
    const auto found = config.find("chat_template");
    if (found == config.end()) continue;
    impl.origin = file;
    if (found->is_string() && !found->get_ref<const std::string&>().empty())
      impl.add("default", found->get<std::string>());
    if (!found->is_array()) continue;
    for (const Json& item : *found) {
      if (!item.is_object() || !item.contains("name") || !item.contains("template") || !item["name"].is_string() ||
          !item["template"].is_string())
        throw Error((root / file).string() + ": chat_template: expected a list of {name, template}");
      impl.add(item["name"].get<std::string>(), item["template"].get<std::string>());
    }
  }
  if (impl.variants.empty()) return std::nullopt;
  impl.special_tokens = read_special_tokens(root);
  return t;
}

ChatTemplate ChatTemplate::from_option(const std::string& name_or_path, const std::string& directory) {
  ChatTemplate t;
  const auto builtins = builtin_templates();
  const auto builtin =
      std::find_if(builtins.begin(), builtins.end(), [&](const BuiltinTemplate& b) { return b.name == name_or_path; });
  if (builtin != builtins.end()) {
    t.impl_->origin = "built-in " + name_or_path;
    t.impl_->add("default", std::string(builtin->source));
  } else {
    std::string names;
    for (const BuiltinTemplate& b : builtins) names += (names.empty() ? "" : ", ") + std::string(b.name);
    std::error_code ignored;
    if (!fs::is_regular_file(name_or_path, ignored))
      throw Error("--chat-template: expected a file or one of " + names + ", got '" + name_or_path + "'");
    t.impl_->origin = name_or_path;
    t.impl_->add("default", read_text_file(name_or_path, max_template_bytes));
  }
  if (!directory.empty()) t.impl_->special_tokens = read_special_tokens(directory);
  return t;
}

ChatTemplate ChatTemplate::from_source(std::string_view source, const Json& special_tokens) {
  ChatTemplate t;
  t.impl_->origin = "chat template";
  t.impl_->add("default", std::string(source));
  t.impl_->special_tokens = special_tokens;
  return t;
}

std::vector<std::string> ChatTemplate::builtin_names() {
  std::vector<std::string> names;
  for (const BuiltinTemplate& b : builtin_templates()) names.emplace_back(b.name);
  return names;
}

std::vector<TextSpan> ChatTemplate::render(const Json& messages, const ChatRenderOptions& options) const {
  const Impl::Variant& variant = impl_->pick(!options.tools.is_null());
  if (!variant.parsed) throw Error(variant.error, "in " + impl_->origin);
  if (!messages.is_array()) throw Error("messages: expected a list of {role, content}");
  const Json prompt = options.add_generation_prompt && !options.continue_final_message;
  JinjaTemplate::Variables variables = {{"messages", &messages},
                                        {"tools", &options.tools},
                                        {"documents", &options.documents},
                                        {"add_generation_prompt", &prompt}};
  for (const auto& [name, value] : impl_->special_tokens.items()) variables.push_back({name, &value});
  JinjaTemplate::Options jinja;
  for (const auto& [name, value] : options.extra.items()) {
    if (name == "messages" || name == "tools" || name == "documents" || name == "add_generation_prompt")
      throw Error(name + ": cannot be given as a further template variable");
    variables.push_back({name, &value});
    std::erase(jinja.trusted_variables, name);  // no longer the model's own
  }
  jinja.now = options.now;
  return render_chat(*variant.parsed, variant.source, std::move(variables), jinja, options.continue_final_message);
}

std::string ChatTemplate::render_text(const Json& messages, const ChatRenderOptions& options) const {
  return join(render(messages, options));
}

bool ChatTemplate::supports_system_role() const {
  static constexpr std::string_view probe = "Answer in the manner of a lighthouse keeper.";
  const Json messages = {{{"role", "system"}, {"content", probe}}, {{"role", "user"}, {"content", "Hello"}}};
  try {
    return render_text(messages, {}).find(probe) != std::string::npos;
  } catch (const Error&) {
    return false;
  }
}

const std::string& ChatTemplate::source(bool with_tools) const {
  if (const Impl::Variant* tool_use = with_tools ? impl_->find("tool_use") : nullptr) return tool_use->source;
  const Impl::Variant* v = impl_->find("default");
  return v != nullptr ? v->source : impl_->variants.front().source;
}

const std::string& ChatTemplate::origin() const { return impl_->origin; }

}  // namespace engine
