#include "runtime/bench.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <vector>

#include "base/buffer.h"
#include "base/error.h"
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
  explicit LimitsProbe(Team& team) : team_(team), memory_(n_bytes, true) {
    team_.run([&](Worker& w) {
      w.for_chunks(n_bytes, chunk,
                   [&](int64_t begin, int64_t end) { std::memset(memory_.data() + begin, 1, static_cast<size_t>(end - begin)); });
    });
  }

  /// The best of a few sweeps over memory that no cache holds, 10^9 bytes per second.
  double read_gb_s() {
    const kernels::Table& kernel = kernels::table();
    std::atomic<uint64_t> sink = 0;
    double best = 0;
    for (int sweep = 0; sweep < 3; ++sweep) {
      const double start = now_s();
      team_.run([&](Worker& w) {
        w.for_chunks(n_bytes, chunk, [&](int64_t begin, int64_t end) {
          sink.fetch_xor(kernel.read_peak(memory_.data() + begin, static_cast<size_t>(end - begin)), std::memory_order_relaxed);
        });
      });
      best = std::max(best, static_cast<double>(n_bytes) / (now_s() - start) / 1e9);
    }
    return best;
  }

  double int8_gmac_s() {
    const kernels::Table& kernel = kernels::table();
    constexpr int64_t rounds = 1'000'000;
    int64_t macs = 0;
    const double start = now_s();
    team_.run([&](Worker& w) {
      const int64_t mine = kernel.int8_peak(rounds);
      if (w.index() == 0) macs = mine;
      w.barrier();
    });
    return static_cast<double>(macs) * team_.size() / (now_s() - start) / 1e9;
  }

 private:
  static constexpr size_t n_bytes = size_t{384} << 20, chunk = size_t{4} << 20;
  Team& team_;
  Buffer memory_;
};

}  // namespace

MachineLimits measure_limits(Team& team) {
  LimitsProbe probe(team);
  MachineLimits limits;
  limits.read_gb_s = probe.read_gb_s();
  for (int i = 0; i < 3; ++i) limits.int8_gmac_s = std::max(limits.int8_gmac_s, probe.int8_gmac_s());
  return limits;
}

BenchResult run_bench(std::shared_ptr<const Model> model, Team& team, int64_t n_prompt, int64_t n_new, int64_t n_runs,
                      kernels::KvFormat kv_format) {
  const ModelSpec& spec = model->spec();
  if (n_prompt + n_new > spec.max_positions) {
    throw Error("bench: expected at most the model's " + std::to_string(spec.max_positions) + " positions, got " +
                std::to_string(n_prompt) + " + " + std::to_string(n_new));
  }
  BenchResult result;
  LimitsProbe probe(team);
  constexpr int batch = 512;
  Decoder decoder(model, team, batch, 1);
  const KvLayout layout = KvLayout::of(spec, kv_format);
  KvPool pool(layout, (n_prompt + n_new) / kernels::kv_block_tokens + 1);
  std::vector<int32_t> prompt(static_cast<size_t>(n_prompt));
  for (size_t i = 0; i < prompt.size(); ++i) prompt[i] = static_cast<int32_t>((i * 7919 + 13) % static_cast<size_t>(spec.vocab_size));
  // The output matrix is multiplied with the last position only.
  const auto output = static_cast<uint64_t>(spec.vocab_size) * static_cast<uint64_t>(spec.d_model);
  const double prefill_gmac = static_cast<double>(model->n_active_parameters() - output) / 1e9;
  const double decode_gb = static_cast<double>(model->active_bytes()) / 1e9;
  std::vector<double> prefill, decode, read, peak, decode_share, prefill_share;
  for (int64_t run = -1; run < n_runs; ++run) {
    KvSequence kv(pool);
    ASSERT(kv.reserve(n_prompt + n_new));
    const double peak_now = probe.int8_gmac_s();
    const double start = now_s();
    for (int64_t i = 0; i < n_prompt; i += batch) {
      const int64_t n = std::min<int64_t>(batch, n_prompt - i);
      const BatchItem item{&kv, std::span(prompt).subspan(static_cast<size_t>(i), static_cast<size_t>(n)),
                           i + n == n_prompt ? LogitsWanted::last : LogitsWanted::none, n_prompt};
      decoder.forward({&item, 1});
    }
    const double prefill_now = static_cast<double>(n_prompt) / (now_s() - start);
    const double read_before = probe.read_gb_s();
    const double middle = now_s();
    for (int64_t i = 0; i < n_new; ++i) {
      const auto token = static_cast<int32_t>(kernels::table().argmax(decoder.logits(0).data(), spec.vocab_size));
      const BatchItem item{&kv, {&token, 1}, LogitsWanted::last, 0};
      decoder.forward({&item, 1});
    }
    const double decode_now = static_cast<double>(n_new) / (now_s() - middle);
    const double read_now = (read_before + probe.read_gb_s()) / 2;
    if (run < 0) continue;
    prefill.push_back(prefill_now);
    decode.push_back(decode_now);
    read.push_back(read_now);
    peak.push_back(peak_now);
    decode_share.push_back(decode_now * decode_gb / read_now);
    prefill_share.push_back(prefill_now * prefill_gmac / peak_now);
  }
  result.limits = {median(read), median(peak)};
  result.prefill_tok_s = median(prefill);
  result.decode_tok_s = median(decode);
  result.decode_gb_s = result.decode_tok_s * decode_gb;
  result.decode_fraction = median(decode_share);
  result.prefill_gmac_s = result.prefill_tok_s * prefill_gmac;
  result.prefill_fraction = median(prefill_share);
  return result;
}

}  // namespace engine
