// Shared by all test programs: where goldens are, and the visible skip.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <string>

#include "base/error.h"

namespace engine::test {

extern bool some_suite_skipped;

/// The large goldens' folder joined with `sub`; empty (and the program ends as skipped, exit 77, unless a test fails) if it is not there.
inline std::string fixture(const std::string& sub) {
  const char* root = std::getenv("ENGINE_FIXTURES");
  if (root != nullptr) {
    const std::string path = std::string(root) + "/" + sub;
    if (std::filesystem::exists(path)) return path;
  }
  some_suite_skipped = true;
  return {};
}

/// A file of tests/data.
inline std::string data_file(const std::string& sub) {
  const char* root = std::getenv("ENGINE_TEST_DATA");
  return std::string(root != nullptr ? root : "tests/data") + "/" + sub;
}

/// How many times slower than a usual machine this one counts (ENGINE_TEST_SLOWNESS, which `tools/check` sets where it emulates a processor): limits of
/// time are that much longer, or the work that much less. At least 1.
inline int slowness() {
  const char* value = std::getenv("ENGINE_TEST_SLOWNESS");
  return value != nullptr ? std::max(1, std::atoi(value)) : 1;
}

/// What the Error says that `action` throws; empty if it throws none.
inline std::string message_of(auto&& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.message;
  }
  return "";
}

}  // namespace engine::test

/// In a test case: `FIXTURE_OR_RETURN(dir, "models/qwen2")` defines dir or says SKIPPED and returns.
#define FIXTURE_OR_RETURN(variable, sub)                                              \
  const std::string variable = ::engine::test::fixture(sub);                          \
  if (variable.empty()) {                                                             \
    MESSAGE("SKIPPED: goldens are not here: ", sub);                                  \
    return;                                                                           \
  }
