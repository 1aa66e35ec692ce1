#include "runtime/answer_text.h"

#include <algorithm>

namespace engine {
namespace {

/// Tokens of the prompt's end that give a detokenizer its context; more would only cost time.
constexpr size_t context_tokens = 64;

std::span<const int32_t> end_of(std::span<const int32_t> prompt, size_t n) { return prompt.last(std::min(n, prompt.size())); }

}  // namespace

StopMatcher::StopMatcher(std::vector<std::string> stop_strings, std::string_view before) : stop_strings_(std::move(stop_strings)) {
  for (const std::string& s : stop_strings_) longest_ = std::max(longest_, s.size());
  if (longest_ > 0) tail_ = before.substr(before.size() - std::min(before.size(), longest_ - 1));
}

bool StopMatcher::push(std::string_view piece) {
  if (stop_strings_.empty() || piece.empty()) return false;
  const size_t n_before = tail_.size();
  tail_ += piece;
  for (const std::string& s : stop_strings_) {
    // A match must end in the piece, so it begins at most s.size() - 1 before it.
    const size_t from = n_before >= s.size() ? n_before - s.size() + 1 : 0;
    if (tail_.find(s, from) != std::string::npos) return true;
  }
  if (tail_.size() > longest_ - 1) tail_.erase(0, tail_.size() - (longest_ - 1));
  return false;
}

size_t StopMatcher::held_back(std::string_view text) const {
  size_t held = 0;
  for (const std::string& s : stop_strings_) {
    for (size_t n = std::min(s.size() - 1, text.size()); n > held; --n) {
      if (text.substr(text.size() - n) == std::string_view(s).substr(0, n)) held = n;
    }
  }
  return held;
}

size_t StopMatcher::find(std::string_view text) const {
  size_t first = std::string::npos;
  for (const std::string& s : stop_strings_) first = std::min(first, text.find(s));
  return first;
}

AnswerText::AnswerText(const Tokenizer& tokenizer, std::span<const int32_t> prompt, std::vector<std::string> stop_strings,
                       bool skip_special, bool keep_stop, std::span<const int32_t> shown_special)
    : shown_(tokenizer, skip_special, shown_special), keep_stop_(keep_stop) {
  shown_.prime(end_of(prompt, context_tokens));
  if (stop_strings.empty()) return;
  size_t longest = context_tokens;
  for (const std::string& s : stop_strings) longest = std::max(longest, s.size());
  // A token has at least a byte. Where the stop string is cut off, only the answer's own text counts.
  const std::string before = keep_stop ? tokenizer.decode(end_of(prompt, longest), false) : std::string();
  matcher_ = StopMatcher(std::move(stop_strings), before);
  searched_.emplace(tokenizer, false);
  searched_->prime(end_of(prompt, context_tokens));
}

bool AnswerText::push(int32_t token) {
  pending_ += shown_.push(token);
  if (!searched_ || !matcher_.push(searched_->push(token))) return false;
  if (!keep_stop_) {
    const size_t at = matcher_.find(pending_);  // not there if special tokens are part of it and not shown
    if (at != std::string::npos) pending_.resize(at);
    cut_ = true;
  }
  open_ = false;
  return true;
}

void AnswerText::finish() {
  if (!cut_) pending_ += shown_.flush();
  open_ = false;
}

std::string AnswerText::take() {
  const size_t held = open_ && !keep_stop_ ? matcher_.held_back(pending_) : 0;
  std::string certain = pending_.substr(0, pending_.size() - held);
  pending_.erase(0, certain.size());
  return certain;
}

}  // namespace engine
