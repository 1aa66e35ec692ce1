// Hand-written equivalents of the pre-tokenizer patterns that nearly all models use, some twenty times as fast as a
// regex engine.
#pragma once

#include <cstddef>
#include <string_view>

namespace engine::tok {

/// The pattern that the ByteLevel pre-tokenizer has built in (GPT-2's).
extern const std::string_view kGpt2Pattern;

/// Finds the first match at or after `from` (from < text.size()); text is valid UTF-8.
using FindMatch = bool (*)(std::string_view text, size_t from, size_t* begin, size_t* end);

/// The matcher that does what the pattern does; null if the pattern is not one of the known ones, character by
/// character.
FindMatch known_splitter(std::string_view pattern);

/// \w+|[^\w\s]+ with the word characters of Rust's regex crate: what the Whitespace pre-tokenizer keeps.
bool find_word_or_signs(std::string_view text, size_t from, size_t* begin, size_t* end);

}  // namespace engine::tok
