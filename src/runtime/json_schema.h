// Grammars of JSON texts: any object, or what a JSON Schema describes.
#pragma once

#include <memory>

#include "base/json.h"
#include "runtime/grammar.h"

namespace engine {

/// A grammar in the making of which JSON is a part.
class JsonGrammar {
 public:
  JsonGrammar();
  ~JsonGrammar();
  Grammar::Builder& builder();
  Grammar::RuleId space() const;   // what may stand between the parts of a JSON text: nothing, a blank, or a line's end and up to 32 blanks
  Grammar::RuleId object() const;  // any JSON object
  Grammar::RuleId wide() const;    // a character of several bytes
  /// Texts that satisfy `schema` (see json_schema_grammar), whose references lead into `root`; both must outlive this. Throws Error: the path, which
  /// begins with "schema".
  Grammar::RuleId schema(const Json& schema, const Json& root);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Any JSON object. Its strings are valid UTF-8, and blanks and digits are bounded, so that no part of it goes on for ever but a string or a list.
std::shared_ptr<const Grammar> json_object_grammar();

/// Texts that satisfy `schema`: type, properties, required, additionalProperties, items, prefixItems, minItems, maxItems, minLength, maxLength,
/// enum, const, anyOf, oneOf (of schemas that plainly exclude each other), allOf with one element, and $ref to places of the same schema. Properties come in the schema's order;
/// where `properties` or `prefixItems` are given, others come only if additionalProperties or items ask for them. Throws Error for what is
/// not supported, with its path, and beyond limits.
std::shared_ptr<const Grammar> json_schema_grammar(const Json& schema);

}  // namespace engine
