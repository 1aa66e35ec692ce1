#include "server/answer.h"

#include <utility>

namespace engine::server {
namespace {

/// What may wait for a reader: text, and records of tokens by their size in memory.
constexpr size_t max_pending_bytes = size_t{16} << 20;

}  // namespace

Answer::Answer(Work work_) : work(std::move(work_)) {}

Answer::News Answer::wait(std::chrono::milliseconds timeout) {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, timeout, [this] { return any_news_; });
  any_news_ = false;
  n_pending_bytes_ = 0;
  std::vector<Piece> pieces;
  pieces.swap(news_.pieces);
  News news = news_;
  news.pieces = std::move(pieces);
  return news;
}

std::optional<std::string> Answer::wait_accepted(std::chrono::milliseconds timeout) {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, timeout, [this] { return verdict_.has_value(); });
  return verdict_;
}

Answer::Piece& Answer::piece(int choice) {
  any_news_ = true;
  changed_.notify_one();
  for (Piece& p : news_.pieces) {
    if (p.choice == choice) return p;
  }
  news_.pieces.push_back({choice, {}, {}, {}});
  return news_.pieces.back();
}

void Answer::accept() {
  const std::lock_guard lock(mutex_);
  verdict_ = "";
  changed_.notify_one();
}

void Answer::refuse(std::string reason) {
  const std::lock_guard lock(mutex_);
  verdict_ = std::move(reason);
  changed_.notify_one();
}

void Answer::fail(std::string reason) {
  const std::lock_guard lock(mutex_);
  if (!verdict_) verdict_ = reason;
  news_.failed = std::move(reason);
  any_news_ = true;
  changed_.notify_one();
}

void Answer::set_queue_position(int64_t position) {
  const std::lock_guard lock(mutex_);
  if (news_.queue_position == position) return;
  news_.queue_position = position;
  any_news_ = true;
  changed_.notify_one();
}

void Answer::set_prefill(int64_t done, int64_t total) {
  const std::lock_guard lock(mutex_);
  news_.prefill_done = done;
  news_.prefill_total = total;
  any_news_ = true;
  changed_.notify_one();
}

void Answer::add_text(int choice, std::string_view text) {
  const std::lock_guard lock(mutex_);
  piece(choice).text += text;
  n_pending_bytes_ += text.size();
  if (n_pending_bytes_ > max_pending_bytes) cancel();
}

void Answer::add_token(int choice, TokenRecord token) {
  const std::lock_guard lock(mutex_);
  n_pending_bytes_ += sizeof(TokenRecord) + token.top.size() * sizeof(TokenScore);
  piece(choice).tokens.push_back(std::move(token));
  if (n_pending_bytes_ > max_pending_bytes) cancel();
}

void Answer::finish(int choice, GenerationResult result) {
  const std::lock_guard lock(mutex_);
  piece(choice).result = std::move(result);
}

}  // namespace engine::server
