// What stdin, stdout and stderr are, writing to them with every failure seen, colours, signals.
#pragma once

#include <atomic>
#include <string>
#include <string_view>

namespace engine::cli {

/// Which of the three standard streams are terminals, and whether to colour what goes there.
struct Terminal {
  bool stdin_tty = false, stdout_tty = false, stderr_tty = false;
  bool colour_stdout = false, colour_stderr = false;  // a terminal, not TERM=dumb, and NO_COLOR is unset or empty
  bool dumb = false;  // TERM is dumb or missing: the cursor cannot be placed
  /// A person at both ends, and a terminal that lines can be edited on.
  bool interactive() const { return stdin_tty && stdout_tty && !dumb; }
};
const Terminal& terminal();

/// Columns and rows of the controlling terminal; 80 x 24 if unknown.
struct Size {
  int columns = 80, rows = 24;
};
Size terminal_size();

/// Writes all of `text` to stdout, at once. Throws Error (disk full, reader gone, terminal closed).
void write_stdout(std::string_view text);
/// Writes to stderr; failures are ignored, there being nobody left to tell.
void write_stderr(std::string_view text);

/// Text safe to show on a terminal: control characters (C0 except \n and \t, DEL, C1) become visible, so that nothing a model or a
/// file says can drive the terminal. With `one_line`, \n and \t too. Bytes of a UTF-8 sequence cut at the end pass as they are.
std::string printable(std::string_view text, bool one_line = false);

/// SGR sequences, empty where colour is off.
namespace style {
inline constexpr std::string_view reset = "\x1b[0m", bold = "\x1b[1m", dim = "\x1b[2m", red = "\x1b[31m", green = "\x1b[32m",
                                  yellow = "\x1b[33m", blue = "\x1b[34m", cyan = "\x1b[36m";
}
std::string styled(std::string_view text, std::string_view sgr, bool on);

/// While one exists, SIGINT sets flag() instead of ending the program. A second SIGINT ends it at once with 130 if `second_kills`.
/// One at a time.
class InterruptGuard {
 public:
  explicit InterruptGuard(bool second_kills);
  ~InterruptGuard();
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;
  const std::atomic<bool>* flag() const;
  bool interrupted() const;
};

/// While one exists, SIGTERM and SIGHUP (where they are not ignored) only set asked(), so that what is half done can be put away. Then its
/// destructor lets the signal do what it would have done. One at a time.
class EndGuard {
 public:
  EndGuard();
  ~EndGuard();
  EndGuard(const EndGuard&) = delete;
  EndGuard& operator=(const EndGuard&) = delete;
  bool asked() const;
};

/// Notes the terminal's mode, to be put back however the program ends. Before anything changes it; again: no effect.
void remember_input_mode();
/// Signals that end the program put the terminal's mode back first; those that stop it do what they usually do.
void restore_signal_handlers();

/// While one exists and stdin is a terminal, what is typed is not echoed and waits unread for the next prompt; Ctrl-C works.
class QuietInput {
 public:
  QuietInput();
  ~QuietInput();
  QuietInput(const QuietInput&) = delete;
  QuietInput& operator=(const QuietInput&) = delete;
};

/// Sets up what every command needs: a failed write is an Error and no signal.
void prepare_signals();

}  // namespace engine::cli
