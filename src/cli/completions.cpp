// `engine completions`: scripts for shells, made of the same tables as --help.
#include <map>

#include "cli/commands.h"
#include "cli/help.h"
#include "cli/terminal.h"
#include "runtime/generation_config.h"

namespace engine::cli {
namespace {

constexpr const char* shells = "bash zsh fish";

/// What can stand where an option's value or a positional is expected.
enum class Kind : uint8_t { anything, words, files, folders, models };

Kind kind_of(const OptionText& option) {
  const std::string value = option.value;
  if (value.find("FILE") != std::string::npos) return Kind::files;
  if (value == "DIR") return Kind::folders;
  if (value.starts_with("MODEL")) return Kind::models;
  return option.choices.empty() ? Kind::anything : Kind::words;
}

/// Of positionals after MODEL.
Kind rest_of(const Command& command) { return command.takes_settings || command.max_arguments == 0 ? Kind::anything : Kind::files; }

std::string replaced(std::string text, std::string_view what, std::string_view by) {
  for (size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + by.size())) text.replace(at, what.size(), by);
  return text;
}

/// In single quotes, for bash and zsh.
std::string shell_quoted(const std::string& text) { return "'" + replaced(text, "'", "'\\''") + "'"; }

std::string joined(const std::vector<std::string>& words, std::string_view before, std::string_view after) {
  std::string out;
  for (const std::string& word : words) out += std::string(before) + word + std::string(after);
  return out;
}

std::string command_names() {
  std::string names;
  for (const Command* command : all_commands()) names += std::string(command->name) + " ";
  return names + "help";
}

/// Settings with the words they may be: "do_sample" -> "True False".
std::vector<std::string> true_or_false_settings() {
  std::vector<std::string> names;
  const Json defaults = GenerationConfig().to_json();
  for (const auto& [name, value] : defaults.items()) {
    if (value.is_boolean()) names.push_back(name);
  }
  return names;
}

// --- bash --------------------------------------------------------------------------------------------------------------------

constexpr char bash_head[] = R"(# Completion of `engine` for bash. To use it: engine completions bash > ~/.local/share/bash-completion/completions/engine
# or, in this shell only: source <(engine completions bash)

_engine_words() { mapfile -t COMPREPLY < <(compgen -W "$1" -- "$2"); }

_engine_files() {
  compopt -o filenames 2>/dev/null
  mapfile -t COMPREPLY < <(compgen "$1" -- "$2")
}

# Directories, and what is in the Hugging Face cache.
_engine_models() {
  local cache=${HF_HUB_CACHE:-${HF_HOME:-${XDG_CACHE_HOME:-$HOME/.cache}/huggingface}/hub} folder name names=
  for folder in "$cache"/models--*; do
    [ -d "$folder" ] || continue
    name=${folder##*/models--}
    names+=" ${name/--//}"
  done
  local found
  mapfile -t found < <(compgen -W "$names" -- "$1")
  [ "$2" = cached ] || _engine_files -d "$1"
  COMPREPLY+=("${found[@]}")
}

_engine() {
  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} command=${COMP_WORDS[1]} key= i n=0
  COMPREPLY=()
  if [ "$COMP_CWORD" -le 1 ]; then
    _engine_words "$commands --help --version" "$cur"
    return
  fi
  # NAME=VALUE comes as three words.
  if [ "$cur" = "=" ]; then
    key=$prev cur=
  elif [ "$prev" = "=" ]; then
    key=${COMP_WORDS[COMP_CWORD-2]}
  elif [[ $prev == -* ]]; then
    key=$prev
  fi
)";

constexpr char bash_tail[] = R"(  # Which positional it is: what stands before, without options, their values and NAME=VALUE.
  for ((i = 2; i < COMP_CWORD; i++)); do
    case ${COMP_WORDS[i]} in
      =) [[ ${COMP_WORDS[i-1]} == -* ]] || ((n--)) ; ((i++)) ;;
      -*) [[ " $valued " == *" ${COMP_WORDS[i]} "* && ${COMP_WORDS[i+1]} != "=" ]] && ((i++)) ;;
      *) ((n++)) ;;
    esac
  done
  if [[ $cur == -* ]]; then
    _engine_words "$flags" "$cur"
  elif ((n < models)) && [ "$n" = 0 ] && [[ -z $settings || -z $cur || " $settings" != *" $cur"* ]]; then
    _engine_models "$cur" "$only"
  elif [ -n "$settings" ]; then
    compopt -o nospace 2>/dev/null
    _engine_words "$settings" "$cur"
  elif [ -n "$words" ] && [ "$n" = 0 ]; then
    _engine_words "$words" "$cur"
  elif [ -n "$rest" ]; then
    _engine_files -f "$cur"
  fi
}

complete -F _engine engine
)";

std::string bash_call(Kind kind, const std::string& choices) {
  switch (kind) {
    case Kind::words: return "_engine_words \"" + choices + "\" \"$cur\"";
    case Kind::files:
      return choices.empty() ? "_engine_files -f \"$cur\"" : "_engine_files -f \"$cur\"; COMPREPLY+=($(compgen -W \"" + choices + "\" -- \"$cur\"))";
    case Kind::folders: return "_engine_files -d \"$cur\"";
    case Kind::models: return "_engine_models \"$cur\"";
    case Kind::anything: break;
  }
  return ":";
}

std::string bash_script() {
  std::map<std::string, std::string> patterns;  // a call -> "chat:--dtype|generate:--dtype"
  std::string table = "  local flags= valued= settings= rest= words= only= models=0\n  case $command in\n";
  for (const Command* command : all_commands()) {
    std::string flags, valued;
    for (const OptionText& option : option_texts(*command)) {
      const std::string names = (option.letter == nullptr ? std::string() : option.letter + std::string(" ")) + option.name;
      flags += (flags.empty() ? "" : " ") + names;
      if (option.value == nullptr) continue;
      valued += (valued.empty() ? "" : " ") + names;
      std::string& pattern = patterns[bash_call(kind_of(option), option.choices)];
      for (const char* name : {option.letter, option.name}) {
        if (name != nullptr) pattern += (pattern.empty() ? "" : "|") + std::string(command->name) + ":" + name;
      }
    }
    table += "    " + std::string(command->name) + ") flags=" + shell_quoted(flags) + " valued=" + shell_quoted(valued);
    if (command->takes_model) table += " models=1";
    if (command->takes_settings) table += " settings=$all_settings";
    if (rest_of(*command) == Kind::files && command->takes_model) table += " rest=files";
    if (command->name == std::string("pull")) table += " only=cached";
    if (command->name == std::string("template")) table += " models=0 words=render";
    if (command->name == std::string("completions")) table += std::string(" words=") + shell_quoted(shells);
    table += " ;;\n";
  }
  table += "    help) words=$commands ;;\n  esac\n  case $command:$key in\n";
  for (const auto& [call, pattern] : patterns) table += "    " + pattern + ") " + call + "; return ;;\n";
  for (const std::string& name : true_or_false_settings()) table += "    *:" + name + ") _engine_words \"True False\" \"$cur\"; return ;;\n";
  table += "    *:-*) ;;\n    *:?*) return ;;\n  esac\n";
  const std::string lists = "  local commands=" + shell_quoted(command_names()) + "\n  local all_settings=" + shell_quoted(joined(GenerationConfig::keys(), "", "= ")) + "\n";
  return replaced(bash_head, "  COMPREPLY=()\n", lists + "  COMPREPLY=()\n") + table + bash_tail;
}

// --- zsh ---------------------------------------------------------------------------------------------------------------------

constexpr char zsh_head[] = R"(#compdef engine
# Completion of `engine` for zsh. To use it: engine completions zsh > _engine, in a folder that $fpath names

_engine_models() {
  local cache=${HF_HUB_CACHE:-${HF_HOME:-${XDG_CACHE_HOME:-$HOME/.cache}/huggingface}/hub}
  local -a names=("$cache"/models--*(N/:t))
  names=(${${names#models--}/--//})
  _wanted models expl 'model in the cache' compadd -a names
  [[ $1 == cached ]] || _wanted folders expl 'directory' _path_files -/
}

_engine_settings() {
  case $PREFIX in
)";

std::string zsh_action(Kind kind, const std::string& choices) {
  switch (kind) {
    case Kind::words: return "(" + choices + ")";
    case Kind::files: return choices.empty() ? "_files" : "{_files; compadd " + choices + "}";
    case Kind::folders: return "_path_files -/";
    case Kind::models: return "_engine_models";
    case Kind::anything: break;
  }
  return "";
}

std::string zsh_text(const std::string& text) { return replaced(replaced(replaced(replaced(text, "\\", "\\\\"), "[", "\\["), "]", "\\]"), ":", "\\:"); }

std::string zsh_script() {
  std::string out = zsh_head;
  for (const std::string& name : true_or_false_settings()) out += "    " + name + "=*) compset -P '*='; compadd True False ;;\n";
  out += "    *=*) ;;\n    *) compadd -S '' " + joined(GenerationConfig::keys(), "", "= ") + ";;\n  esac\n}\n\n";
  out += "_engine() {\n  local context state state_descr line\n  typeset -A opt_args\n  _arguments -C '1:command:->command' '*::argument:->argument'\n  case $state in\n"
         "    command)\n      local -a commands=(\n";
  for (const Command* command : all_commands()) out += "        " + shell_quoted(std::string(command->name) + ":" + zsh_text(command->summary)) + "\n";
  out += "      )\n      _describe command commands ;;\n    argument)\n      case $words[1] in\n";
  for (const Command* command : all_commands()) {
    out += "        " + std::string(command->name) + ") _arguments";
    for (const OptionText& option : option_texts(*command)) {
      std::string rest = "[" + zsh_text(option.help) + "]";
      if (option.value != nullptr) {
        const bool optional = option.value[0] == '[';
        rest += std::string(optional ? "::" : ":") + zsh_text(option.value) + ":" + zsh_action(kind_of(option), option.choices);
      }
      const std::string equals = option.value == nullptr ? "" : "=";  // --name=VALUE as well
      out += " \\\n          ";
      if (option.letter == nullptr) out += shell_quoted(option.name + equals + rest);
      else out += "'(" + std::string(option.letter) + " " + option.name + ")'{" + option.letter + "," + option.name + equals + "}" + shell_quoted(rest);
    }
    const std::string name = command->name;
    if (name == "template") out += " \\\n          '1:render:(render)' '2::model:_engine_models'";
    else if (name == "completions") out += " \\\n          '1:shell:(" + std::string(shells) + ")'";
    else if (command->takes_model) out += std::string(" \\\n          '1:model:") + (name == "pull" ? "_engine_models cached" : command->takes_settings ? "{_engine_models; _engine_settings}" : "_engine_models") + "'";
    if (command->takes_settings) out += " '*:setting:_engine_settings'";
    else if (rest_of(*command) == Kind::files && command->takes_model && name != "template") out += " '*:file:_files'";
    out += " ;;\n";
  }
  return out + "      esac ;;\n  esac\n}\n\n# Sourced, or loaded by the completion system?\nif [ \"$funcstack[1]\" = _engine ]; then _engine \"$@\"; else compdef _engine engine; fi\n";
}

// --- fish --------------------------------------------------------------------------------------------------------------------

constexpr char fish_head[] = R"(# Completion of `engine` for fish. To use it: engine completions fish > ~/.config/fish/completions/engine.fish

function __engine_models
    set -l cache $HF_HUB_CACHE
    test -n "$cache"; or set cache $HF_HOME/hub
    test "$cache" != /hub; or set cache $XDG_CACHE_HOME/huggingface/hub
    test "$cache" != /huggingface/hub; or set cache $HOME/.cache/huggingface/hub
    for folder in $cache/models--*
        string replace -r '.*/models--' '' $folder | string replace -- -- /
    end
end

complete -c engine -f
)";

std::string fish_quoted(const std::string& text) { return "'" + replaced(replaced(text, "\\", "\\\\"), "'", "\\'") + "'"; }

std::string fish_value(Kind kind, const std::string& choices) {
  switch (kind) {
    case Kind::words: return " -x -a " + fish_quoted(choices);
    case Kind::files: return choices.empty() ? " -r -F" : " -r -F -a " + fish_quoted(choices);
    case Kind::folders: return " -x -a '(__fish_complete_directories)'";
    case Kind::models: return " -x -a '(__engine_models) (__fish_complete_directories)'";
    case Kind::anything: break;
  }
  return " -x";
}

std::string fish_script() {
  std::string out = fish_head;
  for (const Command* command : all_commands()) out += "complete -c engine -n __fish_use_subcommand -a " + std::string(command->name) + " -d " + fish_quoted(command->summary) + "\n";
  for (const Command* command : all_commands()) {
    const std::string name = command->name;
    const std::string start = "complete -c engine -n '__fish_seen_subcommand_from " + name + "'";
    for (const OptionText& option : option_texts(*command)) {
      out += start + " -l " + (option.name + 2);
      if (option.letter != nullptr) out += std::string(" -s ") + (option.letter + 1);
      if (option.value != nullptr) out += fish_value(kind_of(option), option.choices);
      out += " -d " + fish_quoted(option.help) + "\n";
    }
    if (name == "template") out += start + " -a render\n";
    if (name == "completions") out += start + " -a " + fish_quoted(shells) + "\n";
    if (command->takes_model) out += start + " -a '(__engine_models)" + (name == "pull" ? "" : " (__fish_complete_directories)") + "'\n";
    if (rest_of(*command) == Kind::files && command->takes_model) out += start + " -F\n";
    if (!command->takes_settings) continue;
    out += start + " -a " + fish_quoted(joined(GenerationConfig::keys(), "", "= ")) + "\n";
    for (const std::string& setting : true_or_false_settings()) out += start + " -a '" + setting + "=True " + setting + "=False'\n";
  }
  return out;
}

}  // namespace

std::string completion_script(const std::string& shell) {
  if (shell == "bash") return bash_script();
  if (shell == "zsh") return zsh_script();
  if (shell == "fish") return fish_script();
  throw UsageError("completions: expected bash, zsh or fish" + (shell.empty() ? std::string() : ", got '" + shell + "'"));
}

int run_completions(const Options& options) {
  write_stdout(completion_script(options.arguments.empty() ? "" : options.arguments[0]));
  return exit_done;
}

}  // namespace engine::cli
