// Running a test on every instruction set of this machine.
#pragma once

#include <doctest/doctest.h>

#include <string>

#include "kernels/kernels.h"

namespace engine::test {

/// Runs `f` on every ISA level that this machine can run, and leaves the best one selected.
template <class F>
void on_every_level(F&& f) {
  int n_levels = 0;
  const kernels::Level* levels = kernels::levels(&n_levels);
  const char* best = kernels::table().name;
  for (int i = 0; i < n_levels; ++i) {
    if (!levels[i].usable) continue;
    REQUIRE(kernels::select(levels[i].name));
    const std::string level = levels[i].name;
    CAPTURE(level);
    f();
  }
  REQUIRE(kernels::select(best));
}

}  // namespace engine::test
