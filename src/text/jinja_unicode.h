// Unicode as Python's str methods see it, on UTF-8. ASCII takes the short way everywhere.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace engine::jinja {

/// Code points in valid UTF-8.
size_t utf8_length(std::string_view text);
/// Reads the code point at `*pos` and moves past it. `text` is valid UTF-8.
char32_t utf8_next(std::string_view text, size_t* pos);
void utf8_append(std::string* out, char32_t c);
/// Byte offset of the n-th code point, or text.size().
size_t utf8_offset(std::string_view text, size_t n);
/// Start of the code point before `pos` (pos > 0).
size_t utf8_previous(std::string_view text, size_t pos);
/// The text with every invalid sequence replaced by U+FFFD.
std::string utf8_sanitize(std::string_view text);
bool utf8_valid(std::string_view text);

bool is_space(char32_t c);       // str.isspace, str.strip()
bool is_line_break(char32_t c);  // str.splitlines()
bool is_printable(char32_t c);
bool is_alpha(char32_t c);
bool is_decimal(char32_t c);
bool is_digit(char32_t c);
bool is_numeric(char32_t c);
bool is_lower(char32_t c);
bool is_upper(char32_t c);
bool is_title(char32_t c);
bool is_cased(char32_t c);
bool is_word(char32_t c);  // \w
bool is_identifier_start(char32_t c);
bool is_identifier_part(char32_t c);

/// Full case mappings of one code point, up to three code points; returns how many. The final sigma is the caller's
/// business.
int map_upper(char32_t c, char32_t out[3]);
int map_lower(char32_t c, char32_t out[3]);
int map_title(char32_t c, char32_t out[3]);
int map_fold(char32_t c, char32_t out[3]);

}  // namespace engine::jinja
