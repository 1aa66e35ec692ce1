// Arguments that stand as text in tags: what their schemas say that they are.
#pragma once

#include <set>
#include <string>

#include "base/json.h"

namespace engine {

/// What a parameter may be, as far as it decides how its text is to be read.
struct ParameterForm {
  Json values = Json::array();   // named by enum and const
  std::set<std::string> types;   // JSON Schema's, and "any"
  bool has(const char* type) const { return types.contains(type); }
};
/// `root`: the function's parameters, in which references are looked up.
ParameterForm parameter_form(const Json& root, const Json& schema);
/// The schema of a parameter; true (anything) where nothing is said.
Json parameter_schema(const Json& root, const std::string& name);
/// A place of `root`; null: none, or not in there.
const Json* referred_schema(const Json& root, const Json& ref);

/// A parameter's text as JSON. What names no value and is of no type of the form is given as it is, JSON or a text.
std::string parameter_value(std::string text, const ParameterForm& form);

}  // namespace engine
