#include "base/machine.h"

#include <sys/resource.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <sstream>
#include <string_view>
#include <vector>

namespace engine {
namespace {

constexpr int max_depth = 64;  // of nested control groups

/// A file that holds one number; nullopt if it is not there, or holds a word ("max").
std::optional<uint64_t> read_number(const std::string& path) {
  std::ifstream file(path);
  uint64_t value = 0;
  if (file >> value) return value;
  return std::nullopt;
}

/// Sum of the numbers after the words `a` and `b` in a file of lines "word number".
uint64_t read_sum(const std::string& path, std::string_view a, std::string_view b) {
  std::ifstream file(path);
  uint64_t sum = 0, value = 0;
  for (std::string word; file >> word >> value;) sum += word == a || word == b ? value : 0;
  return sum;
}

bool in_list(const std::string& list, std::string_view wanted) {
  std::istringstream words(list);
  for (std::string word; std::getline(words, word, ',');) {
    if (word == wanted) return true;
  }
  return false;
}

/// The directories of this process's control group and of all groups around it, innermost first. `controller` as v1 names it; empty: v2.
/// cgroups(7): a line of /proc/self/cgroup is number:controllers:path, with 0:: for v2. Of a line of mountinfo the fourth and fifth word are
/// the part of the tree that is mounted and where; after " - " follow the file system, its source and its options.
std::vector<std::string> group_directories(const std::string& root, const std::string& controller) {
  std::string group, mounted, place;
  std::ifstream groups(root + "/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    if (controller.empty() ? controllers.empty() : in_list(controllers, controller)) group = line.substr(second + 1);
  }
  std::ifstream mounts(root + "/proc/self/mountinfo");
  for (std::string line; place.empty() && std::getline(mounts, line);) {
    const size_t dash = line.find(" - ");
    if (dash == std::string::npos) continue;
    std::istringstream words(line), rest(line.substr(dash + 3));
    std::string skipped, type, options, where;
    words >> skipped >> skipped >> skipped >> mounted >> where;
    rest >> type >> skipped >> options;
    if (controller.empty() ? type == "cgroup2" : type == "cgroup" && in_list(options, controller)) place = where;
  }
  // No /proc: the usual places, as they are in a container.
  if (place.empty()) return {root + "/sys/fs/cgroup" + (controller.empty() ? "" : "/" + controller)};
  if (mounted != "/" && group.compare(0, mounted.size(), mounted) == 0) group.erase(0, mounted.size());
  else if (mounted != "/") group.clear();
  if (group.find("/..") != std::string::npos) group.clear();  // outside of what this namespace shows
  std::vector<std::string> directories;
  for (int depth = 0; depth < max_depth && group.size() > 1; ++depth) {
    directories.push_back(root + place + group);
    group.erase(std::min(group.rfind('/'), group.size()));
  }
  directories.push_back(root + place);
  return directories;
}

template <class T>
void lower(std::optional<T>& limit, T value) {
  limit = limit ? std::min(*limit, value) : value;
}

}  // namespace

std::optional<uint64_t> group_memory(const std::string& root) {
  std::optional<uint64_t> left;
  const auto look = [&left](const std::string& limit_file, const std::string& used_file, uint64_t cache) {
    const std::optional<uint64_t> limit = read_number(limit_file);
    if (!limit || *limit >= uint64_t{1} << 62) return;  // how v1 says "no limit"
    const uint64_t used = read_number(used_file).value_or(0);
    const uint64_t taken = used - std::min(used, cache);
    lower(left, *limit - std::min(*limit, taken));
  };
  for (const std::string& directory : group_directories(root, "")) {
    const uint64_t cache = read_sum(directory + "/memory.stat", "inactive_file", "active_file");
    look(directory + "/memory.max", directory + "/memory.current", cache);
    look(directory + "/memory.high", directory + "/memory.current", cache);  // above it the process is slowed down to a crawl
  }
  for (const std::string& directory : group_directories(root, "memory")) {
    look(directory + "/memory.limit_in_bytes", directory + "/memory.usage_in_bytes",
         read_sum(directory + "/memory.stat", "total_inactive_file", "total_active_file"));
  }
  return left;
}

std::optional<double> group_cpus(const std::string& root) {
  std::optional<double> cpus;
  for (const std::string& directory : group_directories(root, "")) {
    std::ifstream file(directory + "/cpu.max");
    double quota = 0, period = 0;
    if (file >> quota >> period && quota > 0 && period > 0) lower(cpus, quota / period);  // not "max 100000"
  }
  for (const std::string& directory : group_directories(root, "cpu")) {
    std::ifstream quotas(directory + "/cpu.cfs_quota_us"), periods(directory + "/cpu.cfs_period_us");
    double quota = 0, period = 0;
    if (quotas >> quota && periods >> period && quota > 0 && period > 0) lower(cpus, quota / period);  // -1: no limit
  }
  return cpus;
}

ProcessMemory process_memory() {
  std::ifstream file("/proc/self/statm");
  uint64_t size = 0, resident = 0, shared = 0, text = 0, unused = 0, data = 0;
  if (!(file >> size >> resident >> shared >> text >> unused >> data)) return {};
  const auto page = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
  return {size * page, resident * page, data * page};
}

MemoryLimit available_memory() {
  MemoryLimit limit;
  const auto lower_to = [&limit](uint64_t bytes, const char* set_by) {
    if (bytes < limit.bytes) limit = {bytes, set_by};
  };
  std::ifstream file("/proc/meminfo");
  for (std::string word; file >> word;) {
    uint64_t kib = 0;
    if (word == "MemAvailable:" && file >> kib) lower_to(kib * 1024, "this machine");
  }
  struct sysinfo info {};
  if (limit.bytes == UINT64_MAX && ::sysinfo(&info) == 0) lower_to((info.freeram + info.bufferram) * uint64_t{info.mem_unit}, "this machine");  // no /proc
  if (const std::optional<uint64_t> left = group_memory()) lower_to(*left, "the control group");
  const ProcessMemory now = process_memory();
  for (const auto& [resource, used] : {std::pair{RLIMIT_AS, now.address_space}, std::pair{RLIMIT_DATA, now.data}}) {
    struct rlimit r {};
    if (::getrlimit(resource, &r) == 0 && r.rlim_cur != RLIM_INFINITY) lower_to(r.rlim_cur - std::min<uint64_t>(r.rlim_cur, used), "ulimit");
  }
  return limit;
}

}  // namespace engine
