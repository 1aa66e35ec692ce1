// The files of web/, written into the program by web/embed.py in the order of src/server/meson.build.
#pragma once

#include <cstddef>

namespace engine::server {

struct WebFile {
  const char* data;
  size_t size;
  const char* content_type;
};
extern const WebFile web_files[4];

}  // namespace engine::server
