// The demo model: a model directory inside the program (option `demo`). tools/demo/ makes it; README.md beside this file says from what.
#pragma once

#include <span>

#include "base/builtin_files.h"

namespace engine::demo {

/// What stands for the model wherever a directory may; no Hub id can look like it.
inline constexpr char directory[] = "demo:";
inline constexpr char name[] = "demo";

std::span<const BuiltinFile> files();

}  // namespace engine::demo
