// Micro-benchmarks of the kernels: bytes/s and FLOP/s an operation and level. Weights lie in a buffer far larger than the
// caches and every thread takes every other block of rows, as the decoder's threads do.
//   bench_kernels --benchmark_filter='matmul/avx2/bf16'
#include <benchmark/benchmark.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kernels/kernels.h"

using namespace engine::kernels;

namespace {

constexpr int64_t row_block = 64;

struct AlignedFree {
  void operator()(void* p) const { std::free(p); }
};
template <class T>
using Buffer = std::unique_ptr<T[], AlignedFree>;
template <class T>
Buffer<T> make_buffer(size_t n) {
  return Buffer<T>(static_cast<T*>(std::aligned_alloc(64, (n * sizeof(T) + 63) / 64 * 64)));
}

std::vector<float> random_floats(size_t n) {
  std::mt19937 rng(1);
  std::normal_distribution<float> normal;
  std::vector<float> x(n);
  for (float& value : x) value = normal(rng);
  return x;
}

/// Weights whose values do not matter, touched once so that their pages exist.
Matrix shared_weights(Format format, int64_t n_rows, int64_t n_cols) {
  constexpr size_t bytes = size_t{256} << 20;
  static const Buffer<uint16_t> memory = [] {
    Buffer<uint16_t> fresh = make_buffer<uint16_t>(bytes / 2);
    for (size_t i = 0; i < bytes / 2; ++i) fresh[i] = static_cast<uint16_t>(0x3c00 + i % 601);
    return fresh;
  }();
  const int64_t row_bytes = n_cols * (format == Format::f32 ? 4 : 2);
  const int64_t fitting = static_cast<int64_t>(bytes) / row_bytes / row_block * row_block;
  return {memory.get(), n_rows == 0 || n_rows > fitting ? fitting : n_rows, n_cols, format};
}

/// n_rows 0: as many as fill 256 MiB.
void matmul(benchmark::State& state, const Table* table, Format format, int64_t n_rows, int64_t n_cols, int64_t n_tokens) {
  const Matrix w = shared_weights(format, n_rows, n_cols);
  const std::vector<float> x = random_floats(static_cast<size_t>(n_tokens * n_cols));
  std::vector<float> y(static_cast<size_t>(n_tokens * w.n_rows));
  const Buffer<char> scratch = make_buffer<char>(table->scratch_bytes(n_cols));
  int64_t rows_done = 0;
  for (auto _ : state) {
    for (int64_t r = state.thread_index() * row_block; r < w.n_rows; r += row_block * state.threads()) {
      const int64_t end = std::min(r + row_block, w.n_rows);
      table->matmul[static_cast<int>(format)](w, r, end, x.data(), n_cols * sizeof(float), n_tokens, y.data(), w.n_rows, scratch.get());
      rows_done += end - r;
    }
    benchmark::ClobberMemory();
  }
  using benchmark::Counter;
  const double products = static_cast<double>(rows_done * n_cols);
  state.counters["B/s"] = Counter(products * (format == Format::f32 ? 4 : 2), Counter::kIsRate);
  state.counters["FLOP/s"] = Counter(2 * products * static_cast<double>(n_tokens), Counter::kIsRate);
}

/// The bound of decoding: what plain reading reaches.
void read_memory(benchmark::State& state) {
  const Matrix w = shared_weights(Format::f32, 0, 1024);
  const auto* words = static_cast<const uint64_t*>(w.data);
  const int64_t n = w.n_rows * w.n_cols / 2, share = n / state.threads();
  typedef uint64_t Lanes __attribute__((vector_size(32)));
  for (auto _ : state) {
    Lanes sums[4] = {};
    const uint64_t* p = words + share * state.thread_index();
    for (int64_t i = 0; i + 16 <= share; i += 16) {
      for (int j = 0; j < 4; ++j) {
        Lanes v;
        std::memcpy(&v, p + i + 4 * j, sizeof v);
        sums[j] ^= v;
      }
    }
    benchmark::DoNotOptimize(sums);
  }
  state.counters["B/s"] = benchmark::Counter(static_cast<double>(state.iterations() * share * 8), benchmark::Counter::kIsRate);
}

/// n_queries against one whole segment.
void attend(benchmark::State& state, const Table* table, KvFormat format, int n_queries, int d_head) {
  const size_t bytes = table->kv_bytes(format, d_head);
  constexpr int n_blocks = kv_segment_tokens / kv_block_tokens;
  const Buffer<std::byte> memory = make_buffer<std::byte>(bytes * n_blocks);
  const std::vector<float> q = random_floats(static_cast<size_t>(n_queries * d_head));
  for (int i = 0; i < kv_segment_tokens; ++i) {
    table->kv_store(format, q.data(), q.data(), d_head, i % kv_block_tokens, memory.get() + bytes * static_cast<size_t>(i / kv_block_tokens));
  }
  std::vector<const std::byte*> blocks;
  for (size_t i = 0; i < n_blocks; ++i) blocks.push_back(memory.get() + bytes * i);
  const std::vector<int32_t> first(static_cast<size_t>(n_queries), 0), last(static_cast<size_t>(n_queries), kv_segment_tokens - 1);
  std::vector<float> max(static_cast<size_t>(n_queries)), sum(max), value(static_cast<size_t>(n_queries * d_head));
  const Buffer<char> scratch = make_buffer<char>(table->attention_scratch_bytes(d_head));
  const AttentionTile tile = {q.data(), d_head, n_queries, first.data(), last.data(), blocks.data(), 0, d_head, format, 0, 0};
  for (auto _ : state) {
    table->attend[static_cast<int>(format)](tile, {max.data(), sum.data(), value.data()}, scratch.get());
    benchmark::ClobberMemory();
  }
  const double keys = static_cast<double>(state.iterations()) * kv_segment_tokens;
  state.counters["FLOP/s"] = benchmark::Counter(4 * keys * n_queries * d_head, benchmark::Counter::kIsRate);
  state.counters["keys/s"] = benchmark::Counter(keys * n_queries, benchmark::Counter::kIsRate);
}

/// The vector operations that touch all logits or all features.
void vectors(benchmark::State& state, const Table* table, const char* what, int64_t n) {
  const std::vector<float> x = random_floats(static_cast<size_t>(n));
  std::vector<float> y(static_cast<size_t>(n));
  const std::string name = what;
  for (auto _ : state) {
    if (name == "argmax") benchmark::DoNotOptimize(table->argmax(x.data(), n));
    if (name == "exp_sum") benchmark::DoNotOptimize(table->exp_sum(x.data(), 4.0f, y.data(), n));
    if (name == "rms_norm") table->rms_norm(x.data(), x.data(), 1e-6f, y.data(), n);
    if (name == "silu") table->gated_activation(Activation::silu, x.data(), x.data(), y.data(), n);
    if (name == "gelu_tanh") table->gated_activation(Activation::gelu_tanh, x.data(), x.data(), y.data(), n);
    benchmark::ClobberMemory();
  }
  state.counters["elements/s"] = benchmark::Counter(static_cast<double>(state.iterations() * n), benchmark::Counter::kIsRate);
}

}  // namespace

int main(int argc, char** argv) {
  int n_levels = 0;
  const Level* all = levels(&n_levels);
  const auto add = [](const std::string& name, auto&& function) {
    return benchmark::RegisterBenchmark(name.c_str(), function);
  };
  for (const int threads : {1, 2}) add("read_memory", read_memory)->Threads(threads);
  for (int i = 0; i < n_levels; ++i) {
    if (!all[i].usable) continue;
    const Table* table = all[i].table;
    const std::string level = table->name;
    const char* const formats[] = {"f32", "bf16", "f16"};
    for (int f = 0; f < n_float_formats; ++f) {
      const auto format = static_cast<Format>(f);
      for (const int threads : {1, 2}) {
        for (const int64_t n_cols : {896, 4864}) {
          for (const int64_t n_tokens : {1, 4, 8, 512}) {
            const int64_t n_rows = n_tokens > 8 ? (n_cols == 896 ? 4864 : 896) : 0;
            add("matmul/" + level + "/" + formats[f] + "/" + std::to_string(n_cols) + "/tokens:" + std::to_string(n_tokens),
                [=](benchmark::State& state) { matmul(state, table, format, n_rows, n_cols, n_tokens); })
                ->Threads(threads);
          }
        }
      }
    }
    for (const int n_queries : {1, 7, 112}) {
      for (const KvFormat format : {KvFormat::f32, KvFormat::bf16}) {
        add("attend/" + level + (format == KvFormat::f32 ? "/f32" : "/bf16") + "/queries:" + std::to_string(n_queries),
            [=](benchmark::State& state) { attend(state, table, format, n_queries, 64); });
      }
    }
    for (const char* what : {"argmax", "exp_sum"}) {
      add(std::string(what) + "/" + level, [=](benchmark::State& state) { vectors(state, table, what, 151936); });
    }
    for (const char* what : {"rms_norm", "silu", "gelu_tanh"}) {
      add(std::string(what) + "/" + level, [=](benchmark::State& state) { vectors(state, table, what, 4864); });
    }
  }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
}
