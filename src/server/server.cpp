#include "server/server.h"

#include <malloc.h>
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <thread>

#include "server/app.h"

namespace engine::server {
namespace {

sigset_t server_signals() {
  sigset_t set;
  ::sigemptyset(&set);
  for (const int number : {SIGTERM, SIGINT, SIGHUP, SIGUSR1}) ::sigaddset(&set, number);
  return set;
}

std::chrono::steady_clock::duration seconds(double s) {
  return std::chrono::duration_cast<std::chrono::steady_clock::duration>(std::chrono::duration<double>(s));
}

/// Handed over from the program's start, when there is nothing to bring to an end, to the server.
std::atomic<App*> app_of_signals = nullptr;
std::atomic<Listener*> listener_of_signals = nullptr;

void reload_keys(App& app) {
  try {
    app.keys.reload();
    app.log_lines.write("keys", {{"n", app.keys.n_keys()}});
  } catch (const Error& error) {
    app.log_lines.write("keys", {{"error", error.message}, {"kept", app.keys.n_keys()}});
  }
}

/// Takes signals one by one, as an ordinary thread may lock and print.
void signal_thread() {
  const sigset_t set = server_signals();
  bool again = false;
  for (;;) {
    int number = 0;
    if (::sigwait(&set, &number) != 0) continue;
    App* app = app_of_signals;
    if (app == nullptr) {
      if (number == SIGTERM || number == SIGINT) ::_exit(number == SIGTERM ? 143 : 130);
      continue;
    }
    if (number == SIGUSR1) return;  // the server has ended
    if (number == SIGHUP) {
      reload_keys(*app);
      continue;
    }
    app->log_lines.write("stopping", {{"signal", number == SIGTERM ? "TERM" : "INT"}, {"drain_s", again ? 0 : app->options.drain_s}});
    listener_of_signals.load()->stop();
    app->service.drain(seconds(again ? 0 : app->options.drain_s));
    again = true;
  }
}

/// A program that ends before it has become a server leaves the thread waiting.
struct SignalThread {
  std::thread thread;
  ~SignalThread() {
    if (thread.joinable()) thread.detach();
  }
};

std::thread& signals() {
  static SignalThread it;
  return it.thread;
}

}  // namespace

void prepare_server_signals() {
  // A heap for each of many threads would keep as many peaks of memory.
  ::mallopt(M_ARENA_MAX, 2);
  const sigset_t set = server_signals();
  ::pthread_sigmask(SIG_BLOCK, &set, nullptr);
  signals() = std::thread(signal_thread);
}

int run_server(Engine& engine, const ServerOptions& options) {
  Listener listener(options.host, options.port, options.max_connections);
  App app(engine, options);
  app.trusts_any_host = listener.is_unix();
  HttpServer http(listener, app, options.http);
  listener_of_signals = &listener;
  app_of_signals = &app;
  app.log_lines.write("listening", {{"at", listener.name()},
                                    {"model", options.model_name},
                                    {"context", engine.scheduler().context()},
                                    {"parallel", options.service.parallel},
                                    {"queue", options.service.max_queue},
                                    {"keys", app.keys.n_keys()}});
  std::thread accepting([&] { listener.run([&](int fd, const std::string& peer) { http.serve(fd, peer); }); });
  const bool well = app.service.run();  // here, on the thread that loaded the model, whose team of threads is waiting
  listener.stop();
  accepting.join();
  listener.finish(std::chrono::seconds(5));
  ::pthread_kill(signals().native_handle(), SIGUSR1);
  signals().join();
  app_of_signals = nullptr;
  app.log_lines.write("stopped", {{"finished", app.service.metrics().finished.load()}});
  return well ? 0 : 1;
}

}  // namespace engine::server
