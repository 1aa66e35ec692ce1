#include "runtime/constraint.h"

#include <algorithm>
#include <limits>

#include "base/error.h"

namespace engine {

TokenTable::TokenTable(const Tokenizer& tokenizer) {
  if (!tokenizer.has_token_bytes()) throw Error("tokenizer: expected tokens that stand for bytes, got a decoder that looks at their neighbours");
  std::string by_id;
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    const bool added = tokenizer.is_added(id) || tokenizer.is_special(id);
    const std::string bytes = added ? control_byte + tokenizer.id_to_token(id) + control_byte : tokenizer.token_bytes(id);
    if (bytes.empty() || (!added && bytes.find(control_byte) != std::string::npos) || bytes.size() > max_token_bytes) continue;
    entries_.push_back({id, static_cast<uint32_t>(by_id.size()), static_cast<uint16_t>(bytes.size()), 0});
    by_id += bytes;
  }
  std::sort(entries_.begin(), entries_.end(), [&](const Entry& a, const Entry& b) {
    const int order = std::string_view(by_id).substr(a.offset, a.size).compare(std::string_view(by_id).substr(b.offset, b.size));
    return order != 0 ? order < 0 : a.id < b.id;
  });
  blob_.reserve(by_id.size());
  for (Entry& entry : entries_) {
    const uint32_t offset = entry.offset;
    entry.offset = static_cast<uint32_t>(blob_.size());
    blob_.append(by_id, offset, entry.size);
  }
  place_.assign(static_cast<size_t>(tokenizer.vocab_size()), -1);
  for (size_t i = 0; i < entries_.size(); ++i) {
    place_[static_cast<size_t>(entries_[i].id)] = static_cast<int32_t>(i);
    if (i == 0) continue;
    const std::string_view before = bytes(entries_[i - 1]), now = bytes(entries_[i]);
    const auto [end, _] = std::mismatch(now.begin(), now.end(), before.begin(), before.end());
    entries_[i].shared = static_cast<uint16_t>(end - now.begin());
  }
}

std::string_view TokenTable::bytes(int32_t id) const {
  if (id < 0 || static_cast<size_t>(id) >= place_.size() || place_[static_cast<size_t>(id)] < 0) return {};
  return bytes(entries_[static_cast<size_t>(place_[static_cast<size_t>(id)])]);
}

bool GrammarConstraint::is_eos(int32_t token) const { return std::find(eos_.begin(), eos_.end(), token) != eos_.end(); }

bool GrammarConstraint::allows(int32_t token) {
  if (is_eos(token)) return matcher_.complete();
  const std::string_view bytes = tokens_->bytes(token);
  return !bytes.empty() && matcher_.accepts(bytes);
}

size_t GrammarConstraint::mask(std::span<float> logits) {
  kept_.assign(logits.size(), -std::numeric_limits<float>::infinity());
  size_t n_allowed = 0;
  const auto keep = [&](int32_t id) {
    if (id < 0 || static_cast<size_t>(id) >= logits.size()) return;
    kept_[static_cast<size_t>(id)] = logits[static_cast<size_t>(id)];
    ++n_allowed;
  };
  // In the order of their bytes, tokens share their beginnings with the one before; what cannot follow ends all that begin with it.
  matcher_.begin_trial();
  for (const TokenTable::Entry& entry : tokens_->entries()) {
    if (entry.shared > matcher_.trial_size()) continue;
    matcher_.cut_trial(entry.shared);
    const std::string_view bytes = tokens_->bytes(entry);
    while (matcher_.trial_size() < bytes.size() && matcher_.extend_trial(static_cast<uint8_t>(bytes[matcher_.trial_size()]))) {
    }
    if (matcher_.trial_size() == bytes.size() && !is_eos(entry.id)) keep(entry.id);
  }
  matcher_.begin_trial();
  if (matcher_.complete()) {
    for (const int32_t id : eos_) keep(id);
  }
  std::copy(kept_.begin(), kept_.end(), logits.begin());
  return n_allowed;
}

void GrammarConstraint::accept(int32_t token) {
  if (is_eos(token)) return;
  ASSERT(matcher_.advance(tokens_->bytes(token)));
}

}  // namespace engine
