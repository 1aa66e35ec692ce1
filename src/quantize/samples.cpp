#include "quantize/samples.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "runtime/random.h"

namespace engine {
namespace {

constexpr int64_t max_side_by_side = 64;
constexpr uint64_t max_logit_bytes = uint64_t{64} << 20;

int32_t draw(std::span<const float> logits, Philox& random) {
  const float top = *std::max_element(logits.begin(), logits.end());
  double total = 0;
  for (const float v : logits) total += std::exp(static_cast<double>(v) - top);
  double left = random.uniform() * total;
  for (size_t i = 0; i < logits.size(); ++i) {
    left -= std::exp(static_cast<double>(logits[i]) - top);
    if (left < 0) return static_cast<int32_t>(i);
  }
  return static_cast<int32_t>(logits.size() - 1);
}

}  // namespace

Sequences cut_text(std::span<const int32_t> ids, std::optional<int32_t> bos, int64_t length, int64_t n_tokens) {
  Sequences out;
  const size_t step = static_cast<size_t>(length) - (bos ? 1 : 0);
  for (size_t at = 0; at < ids.size() && static_cast<int64_t>(out.size()) * length < n_tokens; at += step) {
    std::vector<int32_t> sequence;
    if (bos) sequence.push_back(*bos);
    sequence.insert(sequence.end(), ids.begin() + static_cast<ptrdiff_t>(at), ids.begin() + static_cast<ptrdiff_t>(std::min(ids.size(), at + step)));
    out.push_back(std::move(sequence));
  }
  return out;
}

Sequences own_samples(const std::shared_ptr<const Model>& model, Team& team, std::optional<int32_t> bos, int64_t length, int64_t n_tokens,
                      const std::function<bool(uint64_t, uint64_t)>& progress) {
  const int64_t vocab = model->spec().vocab_size;
  const int64_t n_sequences = std::max<int64_t>(1, n_tokens / length);
  const int64_t fit = std::clamp<int64_t>(static_cast<int64_t>(max_logit_bytes / (4 * static_cast<uint64_t>(vocab))), 1, max_side_by_side);
  const int64_t blocks = (length + kernels::kv_block_tokens - 1) / kernels::kv_block_tokens;
  Decoder decoder(model, team, static_cast<int>(fit), static_cast<int>(fit));
  Sequences out;
  for (int64_t first = 0; first < n_sequences; first += fit) {
    const int64_t n = std::min(fit, n_sequences - first);
    KvPool pool(KvLayout::of(model->spec(), kernels::KvFormat::f32), n * blocks);
    std::vector<KvSequence> kv;
    std::vector<Philox> random;
    for (int64_t i = 0; i < n; ++i) {
      kv.emplace_back(pool);
      ASSERT(kv.back().reserve(length));
      random.emplace_back(0x9d2c5680, static_cast<uint64_t>(first + i));
      out.push_back({bos ? *bos : static_cast<int32_t>((first + i) * vocab / n_sequences)});
    }
    for (int64_t at = 1; at < length; ++at) {
      std::vector<BatchItem> batch;
      for (int64_t i = 0; i < n; ++i) {
        const std::vector<int32_t>& sequence = out[static_cast<size_t>(first + i)];
        batch.push_back({&kv[static_cast<size_t>(i)], std::span(sequence).last(1), LogitsWanted::last, length});
      }
      decoder.forward(batch);
      std::vector<int32_t> next(static_cast<size_t>(n));
      team.run([&](Worker& w) {
        w.for_chunks(n, 1, [&](int64_t i, int64_t) { next[static_cast<size_t>(i)] = draw(decoder.logits(static_cast<int>(i)), random[static_cast<size_t>(i)]); });
      });
      for (int64_t i = 0; i < n; ++i) out[static_cast<size_t>(first + i)].push_back(next[static_cast<size_t>(i)]);
      if (!progress(static_cast<uint64_t>(first * length + n * at), static_cast<uint64_t>(n_sequences * length))) return {};
    }
  }
  return out;
}

}  // namespace engine
