#include "base/error.h"

#include <cstdio>
#include <cstdlib>

namespace engine {

void assert_failed(const char* condition, const char* file, int line) {
  std::fprintf(stderr, "engine: internal error: %s:%d: %s does not hold\n", file, line, condition);
  std::abort();
}

}  // namespace engine
