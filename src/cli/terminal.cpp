#include "cli/terminal.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>

#include "base/error.h"

namespace engine::cli {
namespace {

// Set by remember_input_mode() and read by signal handlers.
termios original_mode;
volatile sig_atomic_t original_known = 0;

std::atomic<bool> interrupt_flag{false};
std::atomic<bool> interrupt_kills{false};
struct sigaction previous_interrupt;

constexpr int end_signals[] = {SIGTERM, SIGHUP};
std::atomic<int> end_signal{0};
struct sigaction previous_ends[std::size(end_signals)];

void restore_terminal() {
  if (original_known == 0) return;
  tcsetattr(STDIN_FILENO, TCSANOW, &original_mode);
  constexpr char paste_off[] = "\x1b[?2004l";
  [[maybe_unused]] const ssize_t n = ::write(STDOUT_FILENO, paste_off, sizeof paste_off - 1);
}

void on_fatal_signal(int signal) {
  restore_terminal();
  ::signal(signal, SIG_DFL);
  raise(signal);
}

void on_interrupt(int) {
  if (interrupt_flag.exchange(true) && interrupt_kills) {
    restore_terminal();
    _exit(130);
  }
}

/// False with errno set if not all could be written.
bool write_all(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t n = ::write(fd, text.data(), text.size());
    if (n >= 0) {
      text.remove_prefix(static_cast<size_t>(n));
    } else if (errno == EAGAIN) {  // the other end of a shared pipe or terminal was made non-blocking
      pollfd wait{fd, POLLOUT, 0};
      if (poll(&wait, 1, -1) < 0 && errno != EINTR) return false;
    } else if (errno != EINTR) {
      return false;
    }
  }
  return true;
}

bool is_dumb() {
  const char* term = std::getenv("TERM");
  return term == nullptr || *term == 0 || std::strcmp(term, "dumb") == 0;
}
bool wants_colour() {
  const char* no_colour = std::getenv("NO_COLOR");  // https://no-color.org: present and not empty
  return no_colour == nullptr || *no_colour == 0;
}

}  // namespace

const Terminal& terminal() {
  static const Terminal known = [] {
    Terminal t;
    t.stdin_tty = isatty(STDIN_FILENO) == 1;
    t.stdout_tty = isatty(STDOUT_FILENO) == 1;
    t.stderr_tty = isatty(STDERR_FILENO) == 1;
    t.dumb = is_dumb();
    const bool colour = wants_colour() && !t.dumb;
    t.colour_stdout = t.stdout_tty && colour;
    t.colour_stderr = t.stderr_tty && colour;
    return t;
  }();
  return known;
}

Size terminal_size() {
  Size size;
  winsize w{};
  if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &w) == 0 || ioctl(STDERR_FILENO, TIOCGWINSZ, &w) == 0) {
    if (w.ws_col > 0) size.columns = w.ws_col;
    if (w.ws_row > 0) size.rows = w.ws_row;
  }
  return size;
}

void write_stdout(std::string_view text) {
  if (write_all(STDOUT_FILENO, text)) return;
  if (errno == EPIPE) throw Error("stdout: cannot write: the reading program has ended");
  throw Error(std::string("stdout: cannot write: ") + std::strerror(errno));
}

void write_stderr(std::string_view text) { write_all(STDERR_FILENO, text); }

std::string printable(std::string_view text, bool one_line) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size(); i++) {
    const auto c = static_cast<unsigned char>(text[i]);
    if ((c == '\n' || c == '\t') && !one_line) {
      out += text[i];
    } else if (c == '\n' || c == '\t') {
      out += ' ';
    } else if (c == '\r' && i + 1 < text.size() && text[i + 1] == '\n') {
      continue;
    } else if (c < 0x20 || c == 0x7f) {
      out += '^';
      out += static_cast<char>(c ^ 0x40);
    } else if (c == 0xc2 && i + 1 < text.size() && (static_cast<unsigned char>(text[i + 1]) & 0xe0) == 0x80) {
      out += "\xef\xbf\xbd";  // C1: U+0080..U+009F
      i++;
    } else {
      out += text[i];
    }
  }
  return out;
}

std::string styled(std::string_view text, std::string_view sgr, bool on) {
  if (!on) return std::string(text);
  return std::string(sgr) + std::string(text) + std::string(style::reset);
}

InterruptGuard::InterruptGuard(bool second_kills) {
  interrupt_flag = false;
  interrupt_kills = second_kills;
  struct sigaction action {};
  action.sa_handler = on_interrupt;  // no SA_RESTART: a blocking read returns
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, &previous_interrupt);
}
InterruptGuard::~InterruptGuard() { sigaction(SIGINT, &previous_interrupt, nullptr); }
const std::atomic<bool>* InterruptGuard::flag() const { return &interrupt_flag; }
bool InterruptGuard::interrupted() const { return interrupt_flag; }

EndGuard::EndGuard() {
  end_signal = 0;
  struct sigaction action {};
  action.sa_handler = [](int signal) { end_signal = signal; };
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  for (size_t i = 0; i < std::size(end_signals); ++i) {
    sigaction(end_signals[i], nullptr, &previous_ends[i]);
    if (previous_ends[i].sa_handler != SIG_IGN) sigaction(end_signals[i], &action, nullptr);  // nohup's choice stays
  }
}
EndGuard::~EndGuard() {
  for (size_t i = 0; i < std::size(end_signals); ++i) sigaction(end_signals[i], &previous_ends[i], nullptr);
  if (end_signal != 0) raise(end_signal);
}
bool EndGuard::asked() const { return end_signal != 0; }

void remember_input_mode() {
  if (original_known != 0 || tcgetattr(STDIN_FILENO, &original_mode) != 0) return;
  original_known = 1;
  std::atexit(restore_terminal);
  restore_signal_handlers();
}

void restore_signal_handlers() {
  struct sigaction action {};
  sigemptyset(&action.sa_mask);
  const auto install = [&action](int signal) {
    struct sigaction found {};
    sigaction(signal, nullptr, &found);
    if (found.sa_handler != SIG_IGN) sigaction(signal, &action, nullptr);  // nohup's choice stays
  };
  action.sa_handler = on_fatal_signal;
  for (const int signal : {SIGTERM, SIGHUP, SIGINT, SIGQUIT, SIGSEGV, SIGBUS, SIGABRT}) install(signal);
  action.sa_handler = SIG_DFL;
  for (const int signal : {SIGTSTP, SIGTTIN, SIGTTOU, SIGTRAP}) install(signal);
}

QuietInput::QuietInput() {
  if (!terminal().stdin_tty) return;
  remember_input_mode();
  termios quiet = original_mode;
  quiet.c_lflag &= ~static_cast<tcflag_t>(ECHO | ICANON);
  quiet.c_lflag |= ISIG;
  quiet.c_iflag &= ~static_cast<tcflag_t>(ICRNL);  // Enter typed ahead stays Enter to the line editor
  tcsetattr(STDIN_FILENO, TCSADRAIN, &quiet);      // not FLUSH: what was typed ahead stays
}
QuietInput::~QuietInput() {
  if (original_known != 0) tcsetattr(STDIN_FILENO, TCSADRAIN, &original_mode);
}

void prepare_signals() {
  ::signal(SIGPIPE, SIG_IGN);
  ::signal(SIGXFSZ, SIG_IGN);  // ulimit -f
}

}  // namespace engine::cli
