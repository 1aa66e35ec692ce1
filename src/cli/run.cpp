// From argv to a command's exit code; where all errors end up.
#include <cstdlib>
#include <new>

#include "cli/commands.h"
#include "cli/help.h"
#include "cli/terminal.h"
#include "demo/demo.h"
#include "runtime/generation_config.h"

// In place of libstdc++'s, which would print the type of an exception that nothing caught and needs 50 KB of name demangling for it.
// run() catches them all; what is left are those thrown while another is on its way.
namespace __gnu_cxx {  // NOLINT(bugprone-reserved-identifier)
void __verbose_terminate_handler() {
  engine::cli::write_stderr("engine: internal error: terminated\n");
  std::abort();
}
}  // namespace __gnu_cxx

namespace engine::cli {
namespace {

constexpr char demo_line[] = "engine: no MODEL given: a toy inside answers, on engine, capitals, elements, sums\n";

int fail(const Error& error, int code) {
  print_error(error);
  return code;
}

int dispatch(const std::vector<std::string>& arguments) {
  if (arguments.empty()) {
    write_stderr(general_help());
    return exit_usage;
  }
  const std::string& name = arguments[0];
  const std::vector<std::string> rest(arguments.begin() + 1, arguments.end());
  if (name == "--help" || name == "-h" || name == "help") {
    if (rest.empty() || find_command(rest[0]) == nullptr) throw EarlyAnswer{general_help()};
    throw EarlyAnswer{command_help(*find_command(rest[0]))};
  }
  const Command* command = find_command(name == "--version" ? "version" : name);
  if (command == nullptr) {
    std::vector<std::string> known;
    for (const Command* row : all_commands()) known.emplace_back(row->name);
    const std::string nearest = nearest_word(name, known);
    throw UsageError("unknown command '" + name + "'",
                     nearest.empty() ? "`engine --help` lists the commands" : "did you mean `engine " + nearest + "`?");
  }
  const Options options = parse_options(*command, rest);
  if (options.model == demo::directory && !options.quiet) write_stderr(demo_line);
  return command->run(options);
}

}  // namespace

void print_error(const Error& error) {
  const bool colour = terminal().colour_stderr;
  std::string text = styled("engine:", style::red, colour) + " " + printable(error.message, true) + "\n";
  if (!error.hint.empty()) text += styled("hint:", style::yellow, colour) + " " + printable(error.hint, true) + "\n";
  write_stderr(text);
}

int run(int argc, char** argv) {
  prepare_signals();
#ifdef ENGINE_DEMO
  set_builtin_files(demo::files());
#endif
  try {
    try {
      return dispatch(std::vector<std::string>(argv + (argc > 0), argv + argc));
    } catch (const EarlyAnswer& answer) {
      write_stdout(answer.text);
      return exit_done;
    }
  } catch (const UsageError& error) {
    return fail(error, exit_usage);
  } catch (const Error& error) {
    return fail(error, exit_failed);
  } catch (const std::bad_alloc&) {
    return fail(Error("out of memory", "--ctx N and --mem SIZE bound what is used; `engine inspect MODEL` shows the plan"), exit_failed);
  } catch (const std::exception& error) {
    return fail(Error(std::string("internal error: ") + error.what()), exit_failed);
  }
}

}  // namespace engine::cli
