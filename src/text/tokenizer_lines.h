// The line protocols of `tokenize --jsonl` and `detokenize --jsonl`.
#pragma once

#include <iosfwd>
#include <string>
#include <string_view>

#include "text/tokenizer.h"

namespace engine {

/// {"text": "...", "add_special_tokens": true} -> {"ids": [...]}. add_special_tokens may be left out (true, as in
/// Transformers). An "id" is handed through. A line that is not understood gives {"error": "..."}; nothing is thrown
/// for it.
std::string tokenize_line(const Tokenizer& tokenizer, std::string_view line);

/// {"ids": [...], "skip_special_tokens": false} -> {"text": "...", "pieces": ["...", ...]}: a piece for each id, and
/// one more for what the end of the stream lets out, if there is any. skip_special_tokens may be left out (false).
std::string detokenize_line(const Tokenizer& tokenizer, std::string_view line);

/// Answers each line of `in` with a line on `out`; empty lines are passed over. Flushes whenever no further input
/// waits.
void tokenize_lines(const Tokenizer& tokenizer, std::istream& in, std::ostream& out);
void detokenize_lines(const Tokenizer& tokenizer, std::istream& in, std::ostream& out);

}  // namespace engine
