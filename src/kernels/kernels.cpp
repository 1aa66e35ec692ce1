#include "kernels/kernels.h"

#include <array>
#include <atomic>
#include <bit>
#include <cstdint>
#include <cstring>

#include "kernels/cpu.h"

namespace engine::kernels {

// One a level, each exported by its own compilation of isa.cpp. Entries that are null are those of the level below.
extern const Table generic_table;
#if defined(__x86_64__)
extern const Table avx2_table;
extern const Table avxvnni_table;
extern const Table avx512_table;
extern const Table avx512vnni_table;
extern const Table avx512bf16_table;
#elif defined(__aarch64__)
extern const Table neon_table;
extern const Table dotprod_table;
extern const Table i8mm_table;
#endif

const WeightsAhead weights_ahead = [] {
  const CpuFeatures cpu = detect_cpu();
  if (cpu.is_zen5) return WeightsAhead{2048, 0};
  if (cpu.is_intel && cpu.avx512) return WeightsAhead{1024, 8192};
  return WeightsAhead{};
}();

namespace {

std::atomic<const Table*> selected = nullptr;

const Table* best_table() {
  int n_levels = 0;
  const Level* all = levels(&n_levels);
  for (int i = n_levels - 1; i > 0; --i) {
    if (all[i].usable) return all[i].table;
  }
  return all[0].table;
}

/// `level` with `below`'s entries where it has none (no entry of a whole table is zero).
[[maybe_unused]] Table completed(const Table& level, const Table& below) {
  using Entries = std::array<uintptr_t, sizeof(Table) / sizeof(uintptr_t)>;
  static_assert(sizeof(Entries) == sizeof(Table));
  auto entries = std::bit_cast<Entries>(level);
  const auto others = std::bit_cast<Entries>(below);
  for (size_t i = 0; i < entries.size(); ++i) {
    if (entries[i] == 0) entries[i] = others[i];
  }
  return std::bit_cast<Table>(entries);
}

}  // namespace

const Level* levels(int* n_levels) {
  [[maybe_unused]] static const CpuFeatures cpu = detect_cpu();
#if defined(__x86_64__)
  static const Table avxvnni = completed(avxvnni_table, avx2_table), avx512vnni = completed(avx512vnni_table, avx512_table),
                     avx512bf16 = completed(avx512bf16_table, avx512vnni);
#elif defined(__aarch64__)
  static const Table dotprod = completed(dotprod_table, neon_table), i8mm = completed(i8mm_table, dotprod);
#endif
  static const Level all[] = {
      {"generic", &generic_table, true},
#if defined(__x86_64__)
      {"avx2", &avx2_table, cpu.avx2},
      {"avxvnni", &avxvnni, cpu.avx_vnni},
      {"avx512", &avx512_table, cpu.avx512},
      {"avx512vnni", &avx512vnni, cpu.avx512_vnni},
      {"avx512bf16", &avx512bf16, cpu.avx512_bf16},
#elif defined(__aarch64__)
      {"neon", &neon_table, true},  // part of every ARMv8-A that runs Linux
      {"dotprod", &dotprod, cpu.dotprod},
      {"i8mm", &i8mm, cpu.i8mm},
#endif
  };
  *n_levels = static_cast<int>(sizeof all / sizeof all[0]);
  return all;
}

const Table& table() {
  const Table* current = selected.load(std::memory_order_acquire);
  if (current == nullptr) {
    current = best_table();
    selected.store(current, std::memory_order_release);
  }
  return *current;
}

bool select(const char* name) {
  int n_levels = 0;
  const Level* all = levels(&n_levels);
  for (int i = 0; i < n_levels; ++i) {
    if (all[i].usable && std::strcmp(all[i].name, name) == 0) {
      selected.store(all[i].table, std::memory_order_release);
      return true;
    }
  }
  return false;
}

}  // namespace engine::kernels
