#include "base/machine.h"

#include <doctest/doctest.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "temp_dir.h"

using namespace engine;
using engine::test::TempDir;

namespace {

/// Files below a directory that takes the place of "/".
struct FakeRoot {
  TempDir directory;
  void write(const std::string& path, const std::string& text) {
    const std::filesystem::path file = directory.path() + path;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << text;
  }
  std::string root() const { return directory.path(); }
};

constexpr const char* v2_mount = "30 22 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";

}  // namespace

TEST_CASE("Control groups, version 2: the tightest of all groups around the process") {
  FakeRoot fake;
  fake.write("/proc/self/cgroup", "0::/user.slice/job.scope\n");
  fake.write("/proc/self/mountinfo", std::string("22 1 8:1 / / rw - ext4 /dev/root rw\n") + v2_mount);
  CHECK(group_memory(fake.root()) == std::nullopt);
  CHECK(group_cpus(fake.root()) == std::nullopt);
  fake.write("/sys/fs/cgroup/user.slice/job.scope/memory.max", "max\n");
  fake.write("/sys/fs/cgroup/user.slice/job.scope/cpu.max", "max 100000\n");
  CHECK(group_memory(fake.root()) == std::nullopt);
  CHECK(group_cpus(fake.root()) == std::nullopt);

  fake.write("/sys/fs/cgroup/user.slice/memory.max", "1000000\n");
  fake.write("/sys/fs/cgroup/user.slice/memory.current", "700000\n");
  CHECK(group_memory(fake.root()) == 300000);
  SUBCASE("file cache counts as free") {
    fake.write("/sys/fs/cgroup/user.slice/memory.stat", "anon 100000\nfile 500000\nactive_file 150000\ninactive_file 350000\n");
    CHECK(group_memory(fake.root()) == 800000);
  }
  SUBCASE("nothing is left") {
    fake.write("/sys/fs/cgroup/user.slice/memory.current", "1000001\n");
    CHECK(group_memory(fake.root()) == 0);
  }
  SUBCASE("the inner group's limit") {
    fake.write("/sys/fs/cgroup/user.slice/job.scope/memory.max", "200000\n");
    fake.write("/sys/fs/cgroup/user.slice/job.scope/memory.current", "50000\n");
    CHECK(group_memory(fake.root()) == 150000);
    fake.write("/sys/fs/cgroup/user.slice/job.scope/memory.high", "120000\n");
    CHECK(group_memory(fake.root()) == 70000);
  }
  fake.write("/sys/fs/cgroup/user.slice/cpu.max", "150000 100000\n");
  CHECK(group_cpus(fake.root()) == 1.5);
  fake.write("/sys/fs/cgroup/user.slice/job.scope/cpu.max", "50000 100000\n");
  CHECK(group_cpus(fake.root()) == 0.5);
}

TEST_CASE("Control groups, version 1: a tree a controller") {
  FakeRoot fake;
  fake.write("/proc/self/cgroup", "7:memory:/docker/0123\n4:cpu,cpuacct:/docker/0123\n1:name=systemd:/elsewhere\n");
  SUBCASE("the whole tree is mounted") {
    fake.write("/proc/self/mountinfo",
               "34 30 0:31 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory\n31 30 0:28 / /cpu rw - cgroup cgroup rw,cpu,cpuacct\n");
    fake.write("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
    fake.write("/sys/fs/cgroup/memory/docker/0123/memory.limit_in_bytes", "536870912\n");
    fake.write("/sys/fs/cgroup/memory/docker/0123/memory.usage_in_bytes", "36870912\n");
    fake.write("/sys/fs/cgroup/memory/docker/0123/memory.stat", "cache 1\nactive_file 1\ntotal_inactive_file 1000\ntotal_active_file 234\n");
    CHECK(group_memory(fake.root()) == 500001234);
    fake.write("/cpu/docker/0123/cpu.cfs_period_us", "100000\n");
    fake.write("/cpu/docker/0123/cpu.cfs_quota_us", "-1\n");
    CHECK(group_cpus(fake.root()) == std::nullopt);
    fake.write("/cpu/docker/0123/cpu.cfs_quota_us", "200000\n");
    CHECK(group_cpus(fake.root()) == 2.0);
  }
  SUBCASE("a container sees its own part as the root") {
    fake.write("/proc/self/mountinfo", "34 30 0:31 /docker/0123 /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n");
    fake.write("/sys/fs/cgroup/memory/memory.limit_in_bytes", "1000\n");
    fake.write("/sys/fs/cgroup/memory/memory.usage_in_bytes", "400\n");
    CHECK(group_memory(fake.root()) == 600);
  }
}

TEST_CASE("Control groups where /proc says nothing of them, or something odd") {
  FakeRoot fake;
  CHECK(group_memory(fake.root()) == std::nullopt);
  SUBCASE("v2 at its usual place") {
    fake.write("/sys/fs/cgroup/memory.max", "5000\n");
    fake.write("/sys/fs/cgroup/memory.current", "1000\n");
    fake.write("/sys/fs/cgroup/cpu.max", "300000 100000\n");
    CHECK(group_memory(fake.root()) == 4000);
    CHECK(group_cpus(fake.root()) == 3.0);
  }
  SUBCASE("v1 at its usual place") {
    fake.write("/sys/fs/cgroup/memory/memory.limit_in_bytes", "5000\n");
    CHECK(group_memory(fake.root()) == 5000);
  }
  SUBCASE("a group outside of the namespace") {
    fake.write("/proc/self/cgroup", "0::/../../other\n");
    fake.write("/proc/self/mountinfo", v2_mount);
    fake.write("/sys/fs/cgroup/memory.max", "5000\n");
    CHECK(group_memory(fake.root()) == 5000);
  }
  SUBCASE("damaged files") {
    fake.write("/proc/self/cgroup", "0\n::\n0:\n\n0::no slash\n");
    fake.write("/proc/self/mountinfo", std::string("short line\n - \n") + v2_mount);
    fake.write("/sys/fs/cgroup/memory.max", "much\n");
    fake.write("/sys/fs/cgroup/cpu.max", "100000 0\n");
    CHECK(group_memory(fake.root()) == std::nullopt);
    CHECK(group_cpus(fake.root()) == std::nullopt);
  }
}

TEST_CASE("This process: there is memory, and what it uses is told") {
  const MemoryLimit limit = available_memory();
  CHECK(limit.bytes > uint64_t{1} << 20);
  CHECK(limit.bytes < uint64_t{1} << 50);
  CHECK(std::string(limit.set_by) != "");
  const ProcessMemory now = process_memory();
  CHECK(now.resident > 0);
  CHECK(now.address_space >= now.resident);
}
