// Oniguruma patterns, as tokenizer.json files hold them, on PCRE2.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace engine::tok {

/// Rewrites a pattern of Oniguruma's Ruby syntax into PCRE2's: classes become ranges of our own tables. Throws Error.
std::string translate_pattern(std::string_view pattern);

/// Escapes a text so that it matches itself.
std::string quote_pattern(std::string_view text);

/// A compiled pattern; immutable.
class Regex {
 public:
  /// Throws Error naming the pattern.
  explicit Regex(std::string_view pattern);
  ~Regex();
  Regex(Regex&&) noexcept;

  /// One use of the pattern on one text (valid UTF-8).
  class Matcher {
   public:
    Matcher(const Regex& regex, std::string_view text);
    ~Matcher();
    Matcher(const Matcher&) = delete;
    /// The first match at or after `from`. Throws Error if the pattern needs too much time or memory on this text.
    bool find(size_t from, size_t* begin, size_t* end);

   private:
    void check_time();
    const Regex& regex_;
    std::string_view text_;
    void* data_;
    uint64_t n_finds_ = 0;
    int64_t started_us_ = 0;
  };

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace engine::tok
