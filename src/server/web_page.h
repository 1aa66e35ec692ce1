// The chat page, built into the program from web/.
#pragma once

#include <span>

#include "server/app.h"

namespace engine::server {

std::span<const Route> web_routes();

}  // namespace engine::server
