// Sockets: binding, accepting, a thread for each connection, and an orderly end.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>
#include <unordered_set>

namespace engine::server {

class Listener {
 public:
  /// Serves one connection; closes nothing.
  using Serve = std::function<void(int fd, const std::string& peer)>;

  /// `host`: a name or address, or "unix:PATH". `port` 0: any. A socket file that nobody listens on any more is replaced. Throws Error.
  Listener(const std::string& host, int port, int max_connections);
  ~Listener();
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;

  int fd() const { return fd_; }
  int port() const { return port_; }          // that was bound; 0 for a unix socket
  bool is_unix() const { return !path_.empty(); }
  const std::string& name() const { return name_; }  // "http://127.0.0.1:8000", "unix:/run/engine.sock"

  /// Accepts until stop(). Beyond max_connections a client gets a short 503.
  void run(const Serve& serve);
  /// Accepts nothing more, and wakes connections that wait for their next request. Async-signal unsafe.
  void stop();
  bool stopping() const { return stopping_; }
  /// Waits until all connections have ended; after `patience` they are cut. Call after run() returned.
  void finish(std::chrono::milliseconds patience);

  /// While a connection waits for its next request stop() may end it.
  void set_idle(int fd, bool idle);
  int n_connections() const { return n_connections_; }

 private:
  void bind_tcp(const std::string& host, int port);
  void bind_unix(const std::string& path);
  void serve_in_thread(const Serve& serve, int fd);

  int fd_ = -1;
  int stop_pipe_[2] = {-1, -1};
  int port_ = 0;
  int max_connections_;
  std::string path_, name_;
  std::atomic<bool> stopping_ = false;
  std::atomic<int> n_connections_ = 0;
  std::mutex mutex_;
  std::condition_variable all_gone_;
  std::unordered_set<int> open_, idle_;  // under mutex_
};

}  // namespace engine::server
