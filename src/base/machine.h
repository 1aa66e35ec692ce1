// What this process may take of the machine: memory and processor time, as far as control groups (cgroups v1 and v2, all those around it) and
// resource limits bound them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace engine {

struct MemoryLimit {
  uint64_t bytes = UINT64_MAX;
  const char* set_by = "this machine";  // or "the control group", "ulimit"; for messages
};

/// Bytes that this process may still take without swapping: the least of what the machine has available, what its control groups leave and
/// what RLIMIT_AS and RLIMIT_DATA leave. Works without /proc and /sys, as far as the system says anything without them.
MemoryLimit available_memory();

/// Bytes that control groups leave, file cache counted as free (the kernel drops it when memory runs out); nullopt: no limit. `root` is put
/// before /proc and /sys, for tests.
std::optional<uint64_t> group_memory(const std::string& root = "");
/// CPUs that control groups grant, as a fraction; nullopt: no limit.
std::optional<double> group_cpus(const std::string& root = "");

/// Memory of this process now, in bytes; 0 where it cannot be read. `resident`: physical pages, those of mapped files included.
struct ProcessMemory {
  uint64_t address_space = 0, resident = 0, data = 0;
};
ProcessMemory process_memory();

}  // namespace engine
