// Grammars of JSON texts: any object, or what a JSON Schema describes.
#pragma once

#include <memory>

#include "base/json.h"
#include "runtime/grammar.h"

namespace engine {

/// Any JSON object. Its strings are valid UTF-8, and blanks and digits are bounded, so that no part of it goes on for ever but a string or a list.
std::shared_ptr<const Grammar> json_object_grammar();

/// Texts that satisfy `schema`: type, properties, required, additionalProperties, items, prefixItems, minItems, maxItems, minLength, maxLength,
/// enum, const, anyOf, oneOf (read as anyOf), allOf with one element, and $ref to places of the same schema. Properties come in the schema's order;
/// where `properties` or `prefixItems` are given, others come only if additionalProperties or items ask for them. Throws Error for what is
/// not supported, with its path, and beyond limits.
std::shared_ptr<const Grammar> json_schema_grammar(const Json& schema);

}  // namespace engine
