#pragma once

#include "server/app.h"

namespace engine::server {

/// POST /v1/responses.
Reply handle_responses(App& app, const Request& request);

}  // namespace engine::server
