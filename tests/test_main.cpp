#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include "../tests/support.h"

namespace engine::test {
bool some_suite_skipped = false;
}

// Exit 77 (Meson shows SKIP) if goldens were missing and no test at all failed.
int main(int argc, char** argv) {
  doctest::Context context(argc, argv);
  const int result = context.run();
  if (result == 0 && engine::test::some_suite_skipped) return 77;
  return result;
}
