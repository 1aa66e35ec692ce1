// The table of all routes: a dialect is a file with a table, named here.
#include <algorithm>
#include <iterator>
#include <vector>

#include "server/app.h"
#include "server/openai.h"
#include "server/utility_routes.h"
#include "server/web_page.h"

namespace engine::server {

std::span<const Route> all_routes() {
  static const std::vector<Route> routes = [] {
    std::vector<Route> all;
    for (const std::span<const Route> table : {openai_routes(), utility_routes(), web_routes()}) all.insert(all.end(), table.begin(), table.end());
    return all;
  }();
  return routes;
}

}  // namespace engine::server
