#include "hub/hash.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <span>

namespace engine::hub {
namespace {

constexpr uint32_t sha256_constants[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be,
    0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa,
    0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85,
    0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3,
    0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f,
    0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

uint32_t big_endian(const unsigned char* p) {
  return static_cast<uint32_t>(p[0]) << 24 | static_cast<uint32_t>(p[1]) << 16 | static_cast<uint32_t>(p[2]) << 8 | p[3];
}

/// Cuts the bytes into blocks of 64; the last ones wait in `rest`.
template <class Block>
void feed(std::string_view bytes, std::array<unsigned char, 64>& rest, uint64_t& n, const Block& block) {
  const auto* p = reinterpret_cast<const unsigned char*>(bytes.data());
  size_t left = bytes.size();
  const size_t filled = n % 64;
  n += left;
  if (filled > 0) {
    const size_t part = std::min(left, 64 - filled);
    std::memcpy(rest.data() + filled, p, part);
    p += part;
    left -= part;
    if (filled + part < 64) return;
    block(rest.data());
  }
  for (; left >= 64; p += 64, left -= 64) block(p);
  if (left > 0) std::memcpy(rest.data(), p, left);
}

/// What stands after the last byte: a one, zeros, and the length in bits.
std::string padding(uint64_t n) {
  std::string out(1, '\x80');
  out.append((119 - n % 64) % 64, '\0');
  for (int shift = 56; shift >= 0; shift -= 8) out += static_cast<char>(n * 8 >> shift & 255);
  return out;
}

std::string to_hex(std::span<const uint32_t> words) {
  constexpr char digits[] = "0123456789abcdef";
  std::string out;
  for (const uint32_t word : words) {
    for (int shift = 28; shift >= 0; shift -= 4) out += digits[word >> shift & 15];
  }
  return out;
}

}  // namespace

void Sha256::block(const unsigned char* bytes) {
  uint32_t w[64];
  for (size_t i = 0; i < 16; ++i) w[i] = big_endian(bytes + 4 * i);
  for (size_t i = 16; i < 64; ++i) {
    const uint32_t s0 = std::rotr(w[i - 15], 7) ^ std::rotr(w[i - 15], 18) ^ w[i - 15] >> 3;
    const uint32_t s1 = std::rotr(w[i - 2], 17) ^ std::rotr(w[i - 2], 19) ^ w[i - 2] >> 10;
    w[i] = w[i - 16] + s0 + w[i - 7] + s1;
  }
  auto [a, b, c, d, e, f, g, h] = state_;
  for (size_t i = 0; i < 64; ++i) {
    const uint32_t sum1 = std::rotr(e, 6) ^ std::rotr(e, 11) ^ std::rotr(e, 25);
    const uint32_t t1 = h + sum1 + ((e & f) ^ (~e & g)) + sha256_constants[i] + w[i];
    const uint32_t sum0 = std::rotr(a, 2) ^ std::rotr(a, 13) ^ std::rotr(a, 22);
    const uint32_t t2 = sum0 + ((a & b) ^ (a & c) ^ (b & c));
    h = g, g = f, f = e, e = d + t1, d = c, c = b, b = a, a = t1 + t2;
  }
  const uint32_t added[8] = {a, b, c, d, e, f, g, h};
  for (size_t i = 0; i < 8; ++i) state_[i] += added[i];
}

void Sha256::update(std::string_view bytes) {
  feed(bytes, rest_, n_, [this](const unsigned char* p) { block(p); });
}
std::string Sha256::hex() {
  update(padding(n_));
  return to_hex(state_);
}

void Sha1::block(const unsigned char* bytes) {
  uint32_t w[80];
  for (size_t i = 0; i < 16; ++i) w[i] = big_endian(bytes + 4 * i);
  for (size_t i = 16; i < 80; ++i) w[i] = std::rotl(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
  auto [a, b, c, d, e] = state_;
  for (size_t i = 0; i < 80; ++i) {
    const uint32_t f = i < 20 ? (b & c) | (~b & d) : i < 40 || i >= 60 ? b ^ c ^ d : (b & c) | (b & d) | (c & d);
    constexpr uint32_t constants[4] = {0x5a827999, 0x6ed9eba1, 0x8f1bbcdc, 0xca62c1d6};
    const uint32_t t = std::rotl(a, 5) + f + e + constants[i / 20] + w[i];
    e = d, d = c, c = std::rotl(b, 30), b = a, a = t;
  }
  const uint32_t added[5] = {a, b, c, d, e};
  for (size_t i = 0; i < 5; ++i) state_[i] += added[i];
}

void Sha1::update(std::string_view bytes) {
  feed(bytes, rest_, n_, [this](const unsigned char* p) { block(p); });
}
std::string Sha1::hex() {
  update(padding(n_));
  return to_hex(state_);
}

}  // namespace engine::hub
