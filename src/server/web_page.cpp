#include "server/web_page.h"

#include <cstring>

#include "server/openai.h"
#include "server/web_data.h"

namespace engine::server {
namespace {

/// A page file by its name; the routes below name only those that exist.
template <size_t Index>
Reply handle_file(App&, const Request&) {
  const WebFile& file = web_files[Index];
  Reply reply;
  reply.content_type = file.content_type;
  reply.body = std::string(file.data, file.size);
  // Nothing from elsewhere, and nothing inline: text from a model that got past the page's own escaping still could not run.
  reply.headers = {{"Content-Security-Policy",
                    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; base-uri 'none'; "
                    "form-action 'none'; frame-ancestors 'none'"},
                   {"Referrer-Policy", "no-referrer"},
                   {"Cache-Control", "no-cache"}};
  return reply;
}

}  // namespace

std::span<const Route> web_routes() {
  static const Route routes[] = {
      {"GET", "/", handle_file<0>, openai_error, true},
      {"GET", "/style.css", handle_file<1>, openai_error, true},
      {"GET", "/markdown.js", handle_file<2>, openai_error, true},
      {"GET", "/app.js", handle_file<3>, openai_error, true},
  };
  return routes;
}

}  // namespace engine::server
