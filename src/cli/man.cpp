// `engine man`: the manual page, made of the same tables as --help.
#include "cli/commands.h"
#include "cli/help.h"
#include "cli/terminal.h"
#include "runtime/generation_config.h"

namespace engine::cli {
namespace {

/// Text as roff reads it: nothing in it is a request, and minus signs can be copied.
std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '\\') out += "\\e";
    else if (c == '-') out += "\\-";
    else if (c == '\'') out += "\\(aq";
    else if (c == '`') out += "\\(ga";
    else if (c == '^') out += "\\(ha";
    else if (c == '~') out += "\\(ti";
    else out += c;
  }
  if (!out.empty() && out[0] == '.') out.insert(0, "\\&");
  return out;
}

std::string bold(std::string_view text) { return "\\fB" + escaped(text) + "\\fR"; }
std::string italic(std::string_view text) { return "\\fI" + escaped(text) + "\\fR"; }
std::string item(const std::string& tag, std::string_view text) { return ".TP\n" + tag + "\n" + escaped(text) + "\n"; }

struct Pair {
  const char *name, *text;
};

constexpr Pair environment_table[] = {
    {"HF_HUB_CACHE", "the Hugging Face cache; else HF_HOME/hub, XDG_CACHE_HOME/huggingface/hub, ~/.cache/huggingface/hub"},
    {"HF_ENDPOINT", "where pull fetches models (default: https://huggingface.co)"},
    {"HF_TOKEN", "sent to HF_ENDPOINT, for models that are not open to all; else what is in HF_TOKEN_PATH or HF_HOME/token"},
    {"HF_HUB_OFFLINE", "1: pull refuses to work"},
    {"HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY", "proxies for pull, and hosts that need none"},
    {"SSL_CERT_FILE, SSL_CERT_DIR", "the certificates that pull trusts (default: the system's)"},
    {"ENGINE_ISA", "the instruction set, as --isa"},
    {"NO_COLOR", "not empty: no colours"},
};

constexpr Pair exit_table[] = {{"0", "done"}, {"1", "it failed; one line on stderr says why"}, {"2", "the command line is wrong"}, {"130", "interrupted"}};

constexpr Pair examples[] = {
    {"engine pull Qwen/Qwen2.5-0.5B-Instruct", "fetches a model into the cache"},
    {"engine chat Qwen/Qwen2.5-0.5B-Instruct", "talks with it"},
    {"engine generate ./model -p \"Why is the sky blue?\" max_new_tokens=100", "answers once"},
    {"engine serve ./model --port 8000", "answers over HTTP"},
    {"engine quantize ./model ./model-int4 --dtype int4 --calibrate", "writes a smaller model"},
};

std::string command_section(const Command& command) {
  std::string out = ".SS " + escaped(std::string("engine ") + command.name) + "\n" + escaped(command.summary) + ".\n.PP\n.nf\n";
  std::string usage = std::string("engine ") + command.usage;
  for (size_t begin = 0; begin < usage.size();) {  // of several lines, each with its own blanks in front
    const size_t end = std::min(usage.find('\n', begin), usage.size());
    out += bold(usage.substr(begin, end - begin).substr(usage.find_first_not_of(' ', begin) - begin)) + "\n";
    begin = end + 1;
  }
  out += ".fi\n";
  for (const HelpLine& line : positional_texts(command)) out += item(italic(line.names), line.help);
  for (const OptionText& option : option_texts(command)) {
    std::string tag = (option.letter == nullptr ? "" : bold(option.letter) + ", ") + bold(option.name);
    if (option.value != nullptr) tag += " " + italic(option.value);
    out += item(tag, option.help);
  }
  return out;
}

}  // namespace

std::string man_page() {
  std::string out = ".\\\" Written by `engine man`.\n.TH ENGINE 1 \"\" \"engine " ENGINE_VERSION "\" \"User Commands\"\n.nh\n.ad l\n";
  out += ".SH NAME\nengine \\- chat models on the CPU\n.SH SYNOPSIS\n" + bold("engine") + " " + italic("COMMAND") + " [" + italic("MODEL") + "] [" + italic("options") + "] [" +
         italic("key=value") + " ...]\n";
  out += ".SH DESCRIPTION\n" + escaped("Runs chat models from Hugging Face model directories as they are: safetensors, tokenizer.json, chat template. MODEL is such a "
         "directory, or a Hub id (ORG/NAME) in the local cache.") + "\n";
#ifdef ENGINE_DEMO
  out += escaped("Left out, chat, generate, serve, inspect and bench use a small demo model inside the program.") + "\n";
#endif
  out += ".PP\n" + escaped("The answer goes to stdout; progress, timings and warnings go to stderr.") + "\n.SH COMMANDS\n";
  for (const Command* command : all_commands()) out += command_section(*command);
  out += ".SH \"GENERATION SETTINGS\"\n" + escaped("Settings are key=value with the names and meaning of Transformers' GenerationConfig: ");
  const std::vector<std::string> keys = GenerationConfig::keys();
  for (size_t i = 0; i < keys.size(); ++i) out += bold(keys[i]) + (i + 1 == keys.size() ? ".\n" : ",\n");
  out += ".SH ENVIRONMENT\n";
  for (const Pair& row : environment_table) out += item(bold(row.name), row.text);
  out += ".SH \"EXIT STATUS\"\n";
  for (const Pair& row : exit_table) out += item(bold(row.name), row.text);
  out += ".SH EXAMPLES\n";
  for (const Pair& row : examples) out += item(bold(row.name), row.text);
  return out;
}

int run_man(const Options&) {
  write_stdout(man_page());
  return exit_done;
}

}  // namespace engine::cli
