#include "text/call_parameters.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace engine {
namespace {

constexpr int max_depth = 16, max_places = 10'000;

const char* type_of(const Json& value) {
  if (value.is_null()) return "null";
  if (value.is_boolean()) return "boolean";
  if (value.is_number()) return std::trunc(value.get<double>()) == value.get<double>() ? "integer" : "number";
  return value.is_object() ? "object" : value.is_array() ? "array" : "string";
}

/// `n_places`: schemas that were looked at; choices of choices can be more than their text says.
void collect(const Json& root, const Json& schema, int depth, int& n_places, ParameterForm& form) {
  if (depth > max_depth || ++n_places > max_places || !schema.is_object()) {
    form.types.insert("any");
    return;
  }
  if (schema.contains("$ref")) {
    const Json* place = referred_schema(root, schema["$ref"]);
    return collect(root, place == nullptr ? Json() : *place, depth + 1, n_places, form);
  }
  for (const char* keyword : {"anyOf", "oneOf", "allOf"}) {
    if (!schema.contains(keyword) || !schema[keyword].is_array()) continue;
    for (const Json& choice : schema[keyword]) {
      if (n_places <= max_places) collect(root, choice, depth + 1, n_places, form);
    }
    return;
  }
  const Json types = !schema.contains("type") ? Json::array() : schema["type"].is_array() ? schema["type"] : Json::array({schema["type"]});
  if (schema.contains("enum") || schema.contains("const")) {
    const Json values = schema.contains("const") ? Json::array({schema["const"]}) : schema["enum"].is_array() ? schema["enum"] : Json::array();
    for (const Json& value : values) {
      const std::string type = type_of(value);
      const auto is = [&](const Json& t) { return t == type || (t == "number" && type == "integer"); };
      if (types.empty() || std::any_of(types.begin(), types.end(), is)) form.values.push_back(value);
    }
    return;
  }
  if (!schema.contains("type")) {
    const bool object = schema.contains("properties") || schema.contains("required") || schema.contains("additionalProperties");
    const bool array = schema.contains("items") || schema.contains("prefixItems") || schema.contains("minItems") || schema.contains("maxItems");
    const bool text = schema.contains("minLength") || schema.contains("maxLength");
    if (object) form.types.insert("object");
    if (array) form.types.insert("array");
    if (text) form.types.insert("string");
    if (!object && !array && !text) form.types.insert("any");
    return;
  }
  for (const Json& type : types) {
    if (type.is_string()) form.types.insert(type.get<std::string>());
  }
}

}  // namespace

const Json* referred_schema(const Json& root, const Json& ref) {
  if (!ref.is_string()) return nullptr;
  const auto& text = ref.get_ref<const std::string&>();
  if (text == "#") return &root;
  if (!text.starts_with("#/")) return nullptr;
  try {
    const Json::json_pointer pointer(text.substr(1));
    return root.contains(pointer) ? &root[pointer] : nullptr;
  } catch (const Json::exception&) {
    return nullptr;
  }
}

ParameterForm parameter_form(const Json& root, const Json& schema) {
  ParameterForm form;
  int n_places = 0;
  collect(root, schema, 0, n_places, form);
  return form;
}

Json parameter_schema(const Json& root, const std::string& name) {
  const Json* at = &root;
  for (int depth = 0; depth < max_depth && at != nullptr && at->is_object() && at->contains("$ref"); ++depth) at = referred_schema(root, (*at)["$ref"]);
  const Json properties = at != nullptr && at->is_object() ? at->value("properties", Json()) : Json();
  return properties.is_object() ? properties.value(name, Json(true)) : Json(true);
}

std::string parameter_value(std::string text, const ParameterForm& form) {
  for (const Json& value : form.values) {
    if (value.is_string() ? value == text : dump_json(value) == text) return dump_json(value);
  }
  const bool only_text = form.types == std::set<std::string>{"string"};
  if (!only_text) {
    try {
      const Json value = parse_json(text, "parameter");
      const std::string type = type_of(value);
      const bool listed = form.types.contains(type) || (type == "integer" && form.has("number")) || form.has("any");
      if (type != "string" && (listed || !form.has("string"))) return dump_json(value);
    } catch (const Error&) {  // text then
    }
  }
  return dump_json(Json(std::move(text)));
}

}  // namespace engine
