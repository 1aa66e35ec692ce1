#include "runtime/bench.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <vector>

#include "base/buffer.h"
#include "base/error.h"
#include "base/machine.h"
#include "model/decoder.h"

namespace engine {
namespace {

double now_s() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

/// Measures what the machine can do, over and over: a shared machine's memory is faster one second than the next.
class LimitsProbe {
 public:
  LimitsProbe(Team& team, size_t n_bytes)
      : team_(team), n_bytes_(std::max<size_t>(n_bytes / chunk, 4) * chunk), memory_(n_bytes_, true) {
    team_.run([&](Worker& w) {
      w.for_chunks(static_cast<int64_t>(n_bytes_), chunk,
                   [&](int64_t begin, int64_t end) { std::memset(memory_.data() + begin, 1, static_cast<size_t>(end - begin)); });
    });
  }

  /// The best of a few sweeps over memory that no cache holds, 10^9 bytes per second.
  double read_gb_s() {
    std::atomic<uint64_t> sink = 0;
    double best = 0;
    for (int sweep = 0; sweep < 3; ++sweep) {
      const double start = now_s();
      team_.run([&](Worker& w) {
        w.for_chunks(static_cast<int64_t>(n_bytes_), chunk, [&](int64_t begin, int64_t end) {
          sink.fetch_xor(kernels::table().read_all(memory_.data() + begin, static_cast<size_t>(end - begin)), std::memory_order_relaxed);
        });
      });
      best = std::max(best, static_cast<double>(n_bytes_) / (now_s() - start) / 1e9);
    }
    return best;
  }

  /// The best of a few tries, 10^9 multiply-adds per second.
  double int8_gmac_s(kernels::Format format) {
    const kernels::Table& kernel = kernels::table();
    constexpr int64_t rounds = 1'000'000;
    double best = 0;
    for (int i = 0; i < 3; ++i) {
      int64_t macs = 0;
      const double start = now_s();
      team_.run([&](Worker& w) {
        const int64_t mine = kernel.int8_peak(format, rounds);
        if (w.index() == 0) macs = mine;
        w.barrier();
      });
      best = std::max(best, static_cast<double>(macs) * team_.size() / (now_s() - start) / 1e9);
    }
    return best;
  }

 private:
  static constexpr size_t chunk = size_t{4} << 20;
  Team& team_;
  size_t n_bytes_;
  Buffer memory_;
};

}  // namespace

double measure_read_gb_s(Team& team, uint64_t n_bytes) { return LimitsProbe(team, n_bytes).read_gb_s(); }

BenchResult run_bench(std::shared_ptr<const Model> model, Team& team, const BenchOptions& options) {
  const ModelSpec& spec = model->spec();
  const int64_t n_prompt = options.n_prompt, n_new = options.n_new;
  const auto n_sequences = static_cast<size_t>(options.n_sequences);
  if (n_prompt + n_new > spec.max_positions) {
    throw Error("bench: expected at most the model's " + std::to_string(spec.max_positions) + " positions, got " +
                std::to_string(n_prompt) + " + " + std::to_string(n_new));
  }
  BenchResult result;
  constexpr int batch = 512;
  Decoder decoder(model, team, batch, options.n_sequences);
  const KvLayout layout = KvLayout::of(spec, options.kv_format);
  KvPool pool(layout, ((n_prompt + n_new) / kernels::kv_block_tokens + 2) * options.n_sequences);
  // More than caches hold; on a small machine a part of what the model leaves.
  LimitsProbe probe(team, std::min<uint64_t>(uint64_t{384} << 20, available_memory().bytes / 4));
  std::vector<int32_t> prompt(static_cast<size_t>(n_prompt));
  for (size_t i = 0; i < prompt.size(); ++i) prompt[i] = static_cast<int32_t>((i * 7919 + 13) % static_cast<size_t>(spec.vocab_size));
  // The output matrix is multiplied with the last position only.
  const auto output = static_cast<uint64_t>(spec.vocab_size) * static_cast<uint64_t>(spec.d_model);
  const double prefill_gmac = static_cast<double>(model->n_active_parameters() - output) / 1e9;
  const kernels::Format weights = model->weights().layers.front().wo.w.format;
  const double decode_gb = static_cast<double>(model->active_bytes()) / 1e9;
  std::vector<double> prefill, decode, read, peak, decode_share, prefill_share;
  for (int64_t run = -1; run < options.n_runs; ++run) {
    std::vector<KvSequence> sequences;
    sequences.reserve(n_sequences);
    sequences.emplace_back(pool);
    KvSequence& kv = sequences[0];
    ASSERT(kv.reserve(n_prompt + n_new));
    const double peak_now = probe.int8_gmac_s(weights);
    const double start = now_s();
    for (int64_t i = 0; i < n_prompt; i += batch) {
      const int64_t n = std::min<int64_t>(batch, n_prompt - i);
      const BatchItem item{&kv, std::span(prompt).subspan(static_cast<size_t>(i), static_cast<size_t>(n)),
                           i + n == n_prompt ? LogitsWanted::last : LogitsWanted::none, n_prompt};
      decoder.forward({&item, 1});
    }
    const double prefill_now = static_cast<double>(n_prompt) / (now_s() - start);
    const double read_before = probe.read_gb_s();
    std::vector<int32_t> tokens(n_sequences);
    std::vector<BatchItem> items(n_sequences);
    for (size_t i = 1; i < n_sequences; ++i) {
      sequences.push_back(sequences[0].share(n_prompt));
      ASSERT(sequences[i].reserve(n_prompt + n_new));
    }
    const double middle = now_s();
    for (int64_t step = 0; step < n_new; ++step) {
      for (size_t i = 0; i < n_sequences; ++i) {
        const int row = step == 0 ? 0 : static_cast<int>(i);
        // Each goes its own way: other tokens, other experts.
        const auto best = kernels::table().argmax(decoder.logits(row).data(), spec.vocab_size);
        tokens[i] = static_cast<int32_t>((static_cast<int64_t>(best) + static_cast<int64_t>(i) * 101) % spec.vocab_size);
        items[i] = {&sequences[i], {&tokens[i], 1}, LogitsWanted::last, 0};
      }
      decoder.forward(items);
    }
    const double decode_now = static_cast<double>(n_new) / (now_s() - middle);
    const double read_now = (read_before + probe.read_gb_s()) / 2;
    if (run < 0) continue;
    prefill.push_back(prefill_now);
    decode.push_back(decode_now * options.n_sequences);
    read.push_back(read_now);
    peak.push_back(peak_now);
    decode_share.push_back(decode_now * decode_gb / read_now);
    prefill_share.push_back(prefill_now * prefill_gmac / peak_now);
  }
  result.limits = {median(read), median(peak)};
  result.prefill_tok_s = median(prefill);
  result.decode_tok_s = median(decode);
  result.decode_gb_s = result.decode_tok_s / options.n_sequences * decode_gb;
  result.decode_fraction = median(decode_share);
  result.prefill_gmac_s = result.prefill_tok_s * prefill_gmac;
  result.prefill_fraction = median(prefill_share);
  return result;
}

}  // namespace engine
