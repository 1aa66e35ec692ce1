// The hashes by which the Hub knows files. FIPS 180-4.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace engine::hub {

/// Takes bytes in pieces of any size.
class Sha256 {
 public:
  void update(std::string_view bytes);
  /// 64 hex digits; once, at the end.
  std::string hex();

 private:
  void block(const unsigned char* bytes);
  std::array<uint32_t, 8> state_ = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<unsigned char, 64> rest_;
  uint64_t n_ = 0;  // bytes taken
};

/// For the names git gives to small files, which is no defence against a forger; nothing else should use it.
class Sha1 {
 public:
  void update(std::string_view bytes);
  /// 40 hex digits; once, at the end.
  std::string hex();

 private:
  void block(const unsigned char* bytes);
  std::array<uint32_t, 5> state_ = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0};
  std::array<unsigned char, 64> rest_;
  uint64_t n_ = 0;
};

}  // namespace engine::hub
