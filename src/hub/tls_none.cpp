// Without the Meson option `tls`.
#include "hub/stream.h"

namespace engine::hub {

std::string tls_name() { return {}; }

std::unique_ptr<Stream> start_tls(std::unique_ptr<Stream>, const std::string& host) {
  throw Error("https://" + host + ": expected http://, since this engine was built without TLS",
              "build with -Dtls=enabled, or fetch the model with `hf download`");
}

}  // namespace engine::hub
