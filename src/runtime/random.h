// The random numbers of sampling: counter-based, so that draw i of a stream is a pure function of (seed, stream, i) and the same on every
// machine, whatever else was drawn before.
#pragma once

#include <cstdint>

namespace engine {

/// Philox4x32-10 (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", 2011). Key: the seed; counter: draw and stream.
class Philox {
 public:
  Philox(uint64_t seed, uint64_t stream) : seed_(seed), stream_(stream) {}

  /// Uniform in [0, 1) with 53 bits; advances by one draw.
  double uniform() { return static_cast<double>(bits(n_draws_++) >> 11) * 0x1p-53; }

  /// The 64 bits of a draw.
  uint64_t bits(uint64_t draw) const {
    uint32_t c[4] = {static_cast<uint32_t>(draw), static_cast<uint32_t>(draw >> 32), static_cast<uint32_t>(stream_),
                     static_cast<uint32_t>(stream_ >> 32)};
    uint32_t key[2] = {static_cast<uint32_t>(seed_), static_cast<uint32_t>(seed_ >> 32)};
    for (int round = 0; round < 10; ++round) {
      const uint64_t a = uint64_t{0xD2511F53} * c[0];
      const uint64_t b = uint64_t{0xCD9E8D57} * c[2];
      const uint32_t next[4] = {static_cast<uint32_t>(b >> 32) ^ c[1] ^ key[0], static_cast<uint32_t>(b),
                                static_cast<uint32_t>(a >> 32) ^ c[3] ^ key[1], static_cast<uint32_t>(a)};
      for (int i = 0; i < 4; ++i) c[i] = next[i];
      key[0] += 0x9E3779B9;
      key[1] += 0xBB67AE85;
    }
    return (uint64_t{c[1]} << 32) | c[0];
  }

 private:
  uint64_t seed_, stream_;
  uint64_t n_draws_ = 0;
};

}  // namespace engine
