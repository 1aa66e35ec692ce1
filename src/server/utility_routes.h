// Routes outside any vendor's interface: health, metrics, tokens, templates.
#pragma once

#include <span>

#include "server/app.h"

namespace engine::server {

std::span<const Route> utility_routes();

}  // namespace engine::server
