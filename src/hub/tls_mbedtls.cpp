// TLS by mbedTLS.
#include <mbedtls/ctr_drbg.h>
#include <mbedtls/entropy.h>
#include <mbedtls/error.h>
#include <mbedtls/ssl.h>
#include <mbedtls/version.h>
#include <mbedtls/x509_crt.h>
#if defined(MBEDTLS_PSA_CRYPTO_C)
#include <psa/crypto.h>
#endif

#include <algorithm>
#include <exception>
#include <filesystem>
#include <mutex>

#include "base/hub_cache.h"
#include "base/json.h"
#include "hub/stream.h"

namespace engine::hub {
namespace {

namespace fs = std::filesystem;

constexpr size_t max_certificates_bytes = 16 << 20;
constexpr size_t max_certificate_files = 10000;

// Where distributions keep the certificates of authorities.
constexpr const char* usual_files[] = {"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt",
                                       "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", "/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem"};
constexpr const char* usual_folder = "/etc/ssl/certs";

std::string reason_text(int code) {
  char text[160] = "";
  mbedtls_strerror(code, text, sizeof text);
  return text;
}

/// The certificates that are trusted; read once, then only looked at.
class Authorities {
 public:
  Authorities() { mbedtls_x509_crt_init(&chain_); }
  ~Authorities() { mbedtls_x509_crt_free(&chain_); }
  Authorities(const Authorities&) = delete;
  Authorities& operator=(const Authorities&) = delete;

  mbedtls_x509_crt* chain() { return &chain_; }

  void read() {
    const std::string file = environment("SSL_CERT_FILE"), folder = environment("SSL_CERT_DIR");
    if (!file.empty() && !add_file(file)) throw Error("SSL_CERT_FILE: expected certificates in PEM, found none in " + file);
    if (!folder.empty()) add_folder(folder);
    if (n_ > 0) return;
    if (!folder.empty()) throw Error("SSL_CERT_DIR: expected certificates in PEM, found none in " + folder);
    for (const char* usual : usual_files) {
      if (add_file(usual)) return;
    }
    add_folder(usual_folder);
    if (n_ == 0) {
      throw Error(std::string("TLS: expected the certificates of authorities in ") + usual_files[0] + " or the like, found none",
                  "install the package ca-certificates, or name a file of them: SSL_CERT_FILE=FILE");
    }
  }

 private:
  bool add_file(const std::string& path) {
    std::error_code ignored;
    if (!fs::is_regular_file(path, ignored)) return false;
    const std::string text = read_text_file(path, max_certificates_bytes);
    // mbedTLS wants the NUL after PEM counted. Some of many may be of a kind it does not know.
    const bool some = mbedtls_x509_crt_parse(&chain_, reinterpret_cast<const unsigned char*>(text.c_str()), text.size() + 1) >= 0;
    // A positive result counts those that failed, and none at all is an error of its own; an empty chain has no first certificate.
    n_ += some && chain_.version != 0;
    return some && chain_.version != 0;
  }

  void add_folder(const std::string& path) {
    std::error_code ignored;
    size_t n_files = 0;
    for (const fs::directory_entry& entry : fs::directory_iterator(path, ignored)) {
      if (++n_files > max_certificate_files) return;
      if (entry.path().extension() == ".pem" || entry.path().extension() == ".crt" || entry.path().extension() == ".0") add_file(entry.path().string());
    }
  }

  mbedtls_x509_crt chain_;
  size_t n_ = 0;  // files
};

mbedtls_x509_crt* trusted_chain() {
  static std::mutex mutex;
  static Authorities authorities;
  static bool read = false;
  const std::lock_guard lock(mutex);
  if (!read) {
#if defined(MBEDTLS_PSA_CRYPTO_C)
    if (psa_crypto_init() != PSA_SUCCESS) throw Error("TLS: cannot start: no random numbers from the system");
#endif
    authorities.read();
    read = true;
  }
  return authorities.chain();
}

class TlsStream final : public Stream {
 public:
  TlsStream(std::unique_ptr<Stream> plain, const std::string& host) : plain_(std::move(plain)), host_(host) {
    mbedtls_ssl_init(&ssl_);
    mbedtls_ssl_config_init(&config_);
    mbedtls_entropy_init(&entropy_);
    mbedtls_ctr_drbg_init(&random_);
  }
  ~TlsStream() override {
    mbedtls_ssl_free(&ssl_);
    mbedtls_ssl_config_free(&config_);
    mbedtls_ctr_drbg_free(&random_);
    mbedtls_entropy_free(&entropy_);
  }

  void handshake() {
    check(mbedtls_ctr_drbg_seed(&random_, mbedtls_entropy_func, &entropy_, nullptr, 0), "no random numbers");
    check(mbedtls_ssl_config_defaults(&config_, MBEDTLS_SSL_IS_CLIENT, MBEDTLS_SSL_TRANSPORT_STREAM, MBEDTLS_SSL_PRESET_DEFAULT), "cannot start");
    mbedtls_ssl_conf_authmode(&config_, MBEDTLS_SSL_VERIFY_REQUIRED);
    mbedtls_ssl_conf_ca_chain(&config_, trusted_chain(), nullptr);
    mbedtls_ssl_conf_rng(&config_, mbedtls_ctr_drbg_random, &random_);
    mbedtls_ssl_conf_min_version(&config_, MBEDTLS_SSL_MAJOR_VERSION_3, MBEDTLS_SSL_MINOR_VERSION_3);  // TLS 1.2
    check(mbedtls_ssl_setup(&ssl_, &config_), "cannot start");
    check(mbedtls_ssl_set_hostname(&ssl_, host_.c_str()), "cannot start");
    mbedtls_ssl_set_bio(&ssl_, this, send, receive, nullptr);
    int code = 0;
    while ((code = mbedtls_ssl_handshake(&ssl_)) != 0) {
      if (is_transient(code)) continue;
      rethrow();
      if (const uint32_t flags = mbedtls_ssl_get_verify_result(&ssl_); code == MBEDTLS_ERR_X509_CERT_VERIFY_FAILED && flags != 0) refuse(flags);
      throw NetworkError("https://" + host_ + ": TLS: the handshake failed: " + reason_text(code));
    }
  }

  size_t read(char* out, size_t size) override {
    for (;;) {
      const int n = mbedtls_ssl_read(&ssl_, reinterpret_cast<unsigned char*>(out), size);
      if (n > 0) return static_cast<size_t>(n);
      if (is_transient(n)) continue;
      rethrow();
      if (n == MBEDTLS_ERR_SSL_PEER_CLOSE_NOTIFY) return 0;
      // Cut off without saying so, which an attacker could have done: not the end of anything.
      throw NetworkError(host_ + ": the connection broke off" + (n == 0 ? "" : ": " + reason_text(n)));
    }
  }

  void write(std::string_view bytes) override {
    while (!bytes.empty()) {
      const int n = mbedtls_ssl_write(&ssl_, reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size());
      if (n > 0) {
        bytes.remove_prefix(static_cast<size_t>(n));
        continue;
      }
      if (is_transient(n)) continue;
      rethrow();
      throw NetworkError(host_ + ": the connection broke off: " + reason_text(n));
    }
  }

 private:
  static bool is_transient(int code) {
#ifdef MBEDTLS_ERR_SSL_RECEIVED_NEW_SESSION_TICKET
    if (code == MBEDTLS_ERR_SSL_RECEIVED_NEW_SESSION_TICKET) return true;
#endif
    return code == MBEDTLS_ERR_SSL_WANT_READ || code == MBEDTLS_ERR_SSL_WANT_WRITE;
  }

  void check(int code, const char* what) const {
    if (code != 0) throw Error("https://" + host_ + ": TLS: " + what + ": " + reason_text(code));
  }

  /// An exception cannot pass through mbedTLS: it waits here.
  void rethrow() {
    if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
  }

  [[noreturn]] void refuse(uint32_t flags) const {
    char text[512] = "";
    mbedtls_x509_crt_verify_info(text, sizeof text, "", flags);
    std::string reason = text;
    reason = reason.substr(0, reason.find('\n'));
    throw Error("https://" + host_ + ": expected a certificate that this machine trusts: " + reason,
                "behind a proxy with its own authority: SSL_CERT_FILE=FILE names its certificate");
  }

  static int send(void* self, const unsigned char* bytes, size_t size) {
    auto& stream = *static_cast<TlsStream*>(self);
    try {
      stream.plain_->write({reinterpret_cast<const char*>(bytes), size});
      return static_cast<int>(size);
    } catch (...) {
      stream.failure_ = std::current_exception();
      return MBEDTLS_ERR_SSL_INTERNAL_ERROR;
    }
  }
  static int receive(void* self, unsigned char* bytes, size_t size) {
    auto& stream = *static_cast<TlsStream*>(self);
    try {
      return static_cast<int>(stream.plain_->read(reinterpret_cast<char*>(bytes), std::min(size, size_t{1} << 20)));
    } catch (...) {
      stream.failure_ = std::current_exception();
      return MBEDTLS_ERR_SSL_INTERNAL_ERROR;
    }
  }

  std::unique_ptr<Stream> plain_;
  std::string host_;
  std::exception_ptr failure_;
  mbedtls_ssl_context ssl_;
  mbedtls_ssl_config config_;
  mbedtls_entropy_context entropy_;
  mbedtls_ctr_drbg_context random_;
};

}  // namespace

std::string tls_name() { return "mbedTLS " MBEDTLS_VERSION_STRING; }

std::unique_ptr<Stream> start_tls(std::unique_ptr<Stream> plain, const std::string& host) {
  auto stream = std::make_unique<TlsStream>(std::move(plain), host);
  stream->handshake();
  return stream;
}

}  // namespace engine::hub
