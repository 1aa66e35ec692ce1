// Random damage to inputs, of bytes and of JSON structure.
#pragma once

#include <cstdint>
#include <random>
#include <span>
#include <string>

#include "base/json.h"

namespace engine::fuzz {

class Mutator {
 public:
  explicit Mutator(uint64_t seed) : random_(seed) {}

  /// A number below n (n > 0).
  size_t below(size_t n) { return static_cast<size_t>(random_() % n); }
  bool one_in(size_t n) { return below(n) == 0; }
  template <class T>
  const T& pick(std::span<const T> items) {
    return items[below(items.size())];
  }

  /// Flips, inserts, removes, repeats or overwrites a few bytes; `words` are pieces that mean something in the format.
  std::string bytes(std::string text, std::span<const std::string> words);

  /// Replaces, removes, repeats, moves or renames a few values of a JSON document.
  Json json(Json document);

 private:
  Json* any_node(Json& root);
  Json odd_value();

  std::mt19937_64 random_;
};

}  // namespace engine::fuzz
