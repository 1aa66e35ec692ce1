// What filters and methods do to strings. Every function keeps the trust of each character and, like markupsafe, the
// Markup flag.
#pragma once

#include <string_view>
#include <vector>

#include "text/jinja_eval.h"

namespace engine::jinja {

enum class CaseMap : uint8_t { upper, lower, title, capitalize, swapcase, fold };
Value map_case(Evaluator& ev, const Value& s, CaseMap map);
/// The title filter: upper after white space and -({[<, lower otherwise.
Value title_words(Evaluator& ev, const Value& s);

/// `chars`: a set of characters; missing or None: white space.
Value strip(Evaluator& ev, const Value& s, const Value& chars, bool left, bool right);
/// count < 0: all.
Value replace(Evaluator& ev, const Value& s, const Value& old_text, const Value& new_text, int64_t count);
/// `separator` missing or None: at white space. limit < 0: none.
std::vector<Value> split(Evaluator& ev, const Value& s, const Value& separator, int64_t limit, bool from_right);
std::vector<Value> split_lines(Evaluator& ev, const Value& s, bool keep_ends);
Value pad(Evaluator& ev, const Value& s, int64_t width, const Value& fill, bool left, bool right);
Value indent(Evaluator& ev, const Value& s, const Value& width, bool first, bool blank);
/// `s` with each str argument escaped if `self` is Markup and it is not.
Value escaped_for(Evaluator& ev, const Value& self, const Value& argument);
Value as_markup(Evaluator& ev, const Value& s, bool markup);

/// Byte position of `what` in [begin, end), or npos. Linear time.
size_t find_text(std::string_view text, std::string_view what, size_t begin = 0);
size_t rfind_text(std::string_view text, std::string_view what);

/// Python's int(text, base) and float(text). False if it is not a number; OverflowError beyond 64 bits.
bool parse_int(std::string_view text, int base, int64_t* out);
bool parse_float(std::string_view text, double* out);

}  // namespace engine::jinja
