// Grammars of answers that are calls of tools.
#pragma once

#include <memory>
#include <set>
#include <string>
#include <string_view>

#include "runtime/text_grammar.h"
#include "text/answer_parser.h"

namespace engine {

struct ToolGrammarOptions {
  bool several = true;            // more than one call, if the format has that
  bool text = false;              // the answer may be any text: only its calls have a form
  std::set<std::string> strict;   // functions whose schema must be kept to
  IsToken is_token;
};

/// An answer that calls functions of `syntax`, in its format, with arguments that satisfy their schemas. A schema that cannot be kept to, of a function
/// that is not strict, stands for any object. Throws Error for one that is: "NAME: " and what json_schema_grammar says; and for formats that
/// cannot be asked for.
std::shared_ptr<const Grammar> tool_call_grammar(const AnswerSyntax& syntax, const ToolGrammarOptions& options);

}  // namespace engine
