#include "runtime/json_schema.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <set>
#include <span>

#include "base/error.h"

namespace engine {
namespace {

using Builder = Grammar::Builder;
using Element = Grammar::Element;
using RuleId = Grammar::RuleId;
using Sequence = Grammar::Sequence;

constexpr int max_schema_depth = 64;
constexpr size_t max_properties = 256, max_choices = 512, max_name_bytes = 256;
constexpr size_t max_items = 256, max_length = 4096;
constexpr int max_digits = 15;  // of a whole number, so that a double holds it, and of a fraction
constexpr int max_indent = 32;
constexpr int max_exclusion_depth = 16, max_exclusion_steps = 100'000;  // into two schemas, to see whether both can hold
constexpr int no_limit = -1;

ByteSet range(int low, int high) {
  ByteSet set;
  for (int byte = low; byte <= high; ++byte) set.set(static_cast<size_t>(byte));
  return set;
}
ByteSet any_of(std::string_view bytes) {
  ByteSet set;
  for (const char c : bytes) set.set(static_cast<uint8_t>(c));
  return set;
}
Element byte(char c) { return Element::of(any_of(std::string_view(&c, 1))); }
Element bytes(int low, int high) { return Element::of(range(low, high)); }

void append(Sequence& out, std::string_view text) {
  for (const char c : text) out.push_back(byte(c));
}
Sequence literal(std::string_view text) {
  Sequence out;
  append(out, text);
  return out;
}

/// The rules of JSON itself.
class JsonRules {
 public:
  explicit JsonRules(Builder& builder) : b(builder) {
    // RFC 3629's table of well-formed sequences.
    const Element tail = bytes(0x80, 0xBF);
    wide = b.add_rule({{bytes(0xC2, 0xDF), tail},
                       {bytes(0xE0, 0xE0), bytes(0xA0, 0xBF), tail},
                       {bytes(0xE1, 0xEC), tail, tail},
                       {bytes(0xED, 0xED), bytes(0x80, 0x9F), tail},
                       {bytes(0xEE, 0xEF), tail, tail},
                       {bytes(0xF0, 0xF0), bytes(0x90, 0xBF), tail, tail},
                       {bytes(0xF1, 0xF3), tail, tail, tail},
                       {bytes(0xF4, 0xF4), bytes(0x80, 0x8F), tail, tail}});
    plain = (range(0x20, 0x7F) & ~any_of("\"\\"));
    const Element hex = Element::of(any_of("0123456789abcdefABCDEF")), d = Element::of(any_of("dD"));
    const Element not_d = Element::of(any_of("0123456789abcefABCEF"));
    character = b.add_rule({{Element::of(plain)},
                            {Element::of(wide)},
                            {byte('\\'), Element::of(any_of("\"\\/bfnrt"))},
                            {byte('\\'), byte('u'), not_d, hex, hex, hex},
                            {byte('\\'), byte('u'), d, bytes('0', '7'), hex, hex},
                            {byte('\\'), byte('u'), d, Element::of(any_of("89abAB")), hex, hex,  // a pair of surrogates is one character
                             byte('\\'), byte('u'), d, Element::of(any_of("cdefCDEF")), hex, hex}});
    string_end = repeat(character, 0, no_limit, {byte('"')});
    string = b.add_rule({{byte('"'), Element::of(string_end)}});

    const RuleId indent = repeat(b.add_rule({{byte(' ')}}), 0, max_indent, {});
    space = b.add_rule({{}, {byte(' ')}, {byte('\n'), Element::of(indent)}});

    const RuleId digit = b.add_rule({{bytes('0', '9')}});
    const RuleId whole = b.add_rule({{byte('0')}, {bytes('1', '9'), Element::of(repeat(digit, 0, max_digits - 1, {}))}});
    integer = b.add_rule({{Element::of(whole)}, {byte('-'), Element::of(whole)}});
    const RuleId fraction = b.add_rule({{}, {byte('.'), Element::of(repeat(digit, 1, max_digits, {}))}});
    const RuleId sign = b.add_rule({{}, {Element::of(any_of("+-"))}});
    const RuleId exponent = b.add_rule({{}, {Element::of(any_of("eE")), Element::of(sign), Element::of(repeat(digit, 1, 2, {}))}});
    number = b.add_rule({{Element::of(integer), Element::of(fraction), Element::of(exponent)}});
    boolean = b.add_rule({literal("true"), literal("false")});
    null = b.add_rule({literal("null")});

    value = b.add_rule();
    object = open_object(Element::of(string), value);
    const RuleId more = list_end(value);
    array = b.add_rule({{byte('['), Element::of(space), byte(']')}, {byte('['), Element::of(space), Element::of(value), Element::of(more)}});
    for (const RuleId rule : {string, number, object, array, boolean, null}) b.add_alternative(value, {Element::of(rule)});
  }

  /// `item` from `low` to `high` times, then `end`.
  RuleId repeat(RuleId item, int low, int high, Sequence end) {
    RuleId rule = b.add_rule({end});
    if (high == no_limit) {
      b.add_alternative(rule, {Element::of(item), Element::of(rule)});
      high = low;
    }
    for (int n_before = high - 1; n_before >= 0; --n_before) {
      std::vector<Sequence> alternatives{{Element::of(item), Element::of(rule)}};
      if (n_before >= low) alternatives.push_back(end);
      rule = b.add_rule(std::move(alternatives));
    }
    return rule;
  }

  /// The rest of a list after an item: more of them, and the bracket.
  RuleId list_end(RuleId item) {
    const RuleId rule = b.add_rule();
    b.add_alternative(rule, {Element::of(space), byte(']')});
    b.add_alternative(rule, {Element::of(space), byte(','), Element::of(space), Element::of(item), Element::of(rule)});
    return rule;
  }

  /// The rest of an object after a member.
  RuleId object_end(const Element& key, RuleId member_value) {
    const RuleId rule = b.add_rule();
    b.add_alternative(rule, {Element::of(space), byte('}')});
    b.add_alternative(rule, {Element::of(space), byte(','), Element::of(space), key, byte(':'), Element::of(space), Element::of(member_value),
                             Element::of(rule)});
    return rule;
  }
  /// An object with any number of members.
  RuleId open_object(const Element& key, RuleId member_value) {
    const RuleId end = object_end(key, member_value);
    return b.add_rule({{byte('{'), Element::of(space), byte('}')},
                       {byte('{'), Element::of(space), key, byte(':'), Element::of(space), Element::of(member_value), Element::of(end)}});
  }

  /// A whole text: a blank before it is what tokenizers like to begin with.
  RuleId text(RuleId rule) { return b.add_rule({{Element::of(rule)}, {byte(' '), Element::of(rule)}}); }

  Builder& b;
  ByteSet plain;
  RuleId wide, character, string_end, string, space, integer, number, boolean, null, value, object, array;
};

bool is_annotation(std::string_view key) {
  static const std::set<std::string_view> names = {"title",   "description", "default",  "examples", "$schema",     "$id",      "$comment",     "$defs",
                                                   "definitions", "deprecated",  "readOnly", "writeOnly", "discriminator", "$anchor"};
  return names.contains(key);
}

std::string shown(const Json& value) {
  const std::string text = dump_json(value);
  return value.is_structured() || text.size() > 60 ? value.type_name() : text;
}

class SchemaCompiler {
 public:
  SchemaCompiler(JsonRules& json, const Json& root) : root_(root), builder_(json.b), json_(json) {}

  RuleId run(const Json& schema) { return rule_of(schema, "schema"); }

 private:
  [[noreturn]] static void fail(const std::string& path, const std::string& what) {
    throw Error((path.size() > 300 ? path.substr(0, 300) + "..." : path) + ": " + what);
  }

  RuleId rule_of(const Json& schema, const std::string& path) {
    const auto known = rules_.find(&schema);
    if (known != rules_.end()) return known->second;
    const RuleId rule = builder_.add_rule();
    rules_.emplace(&schema, rule);
    if (++depth_ > max_schema_depth) fail(path, "expected at most " + std::to_string(max_schema_depth) + " levels, got more");
    compile(schema, path, rule);
    --depth_;
    return rule;
  }

  void become(RuleId rule, RuleId other) { builder_.add_alternative(rule, {Element::of(other)}); }

  void compile(const Json& schema, const std::string& path, RuleId rule) {
    if (schema.is_boolean()) {
      if (schema.get<bool>()) become(rule, json_.value);
      return;
    }
    if (!schema.is_object()) fail(path, "expected a schema (an object, true or false), got " + shown(schema));
    check_keywords(schema, path);
    if (schema.contains("$ref")) {
      alone(schema, path, {"$ref"});
      return become(rule, rule_of(resolve(schema["$ref"], path + ".$ref"), path + ".$ref"));
    }
    for (const char* keyword : {"anyOf", "oneOf", "allOf"}) {
      if (!schema.contains(keyword)) continue;
      alone(schema, path, {keyword});
      return compile_choices(schema[keyword], path + "." + keyword, keyword, rule);
    }
    if (const std::optional<Json> values = values_of(schema, path)) {
      alone(schema, path, {"enum", "const", "type"});
      for (const Json& value : *values) builder_.add_alternative(rule, literal(dump_json(value)));  // as dump_json writes them
      return;
    }
    for (const std::string& type : types_of(schema, path)) {
      if (type == "object") become(rule, object_rule(schema, path));
      else if (type == "array") become(rule, array_rule(schema, path));
      else if (type == "string") become(rule, string_rule(schema, path));
      else if (type == "any") become(rule, json_.value);
      else become(rule, type == "integer" ? json_.integer : type == "number" ? json_.number : type == "boolean" ? json_.boolean : json_.null);
    }
  }

  static void check_keywords(const Json& schema, const std::string& path) {
    static const std::set<std::string> known = {"type",     "properties", "required", "additionalProperties", "items", "prefixItems",
                                                "minItems", "maxItems",   "minLength", "maxLength",           "enum",  "const",
                                                "anyOf",    "oneOf",      "allOf",     "$ref"};
    for (const auto& [key, value] : schema.items()) {
      if (!known.contains(key) && !is_annotation(key)) fail(path, "keyword '" + key.substr(0, 100) + "' is not supported");
    }
  }
  static void alone(const Json& schema, const std::string& path, const std::vector<std::string>& allowed) {
    for (const auto& [key, value] : schema.items()) {
      if (is_annotation(key) || std::find(allowed.begin(), allowed.end(), key) != allowed.end()) continue;
      fail(path, "keyword '" + key + "' beside '" + (schema.contains(allowed[0]) ? allowed[0] : allowed[1]) + "' is not supported");
    }
  }

  const Json& resolve(const Json& ref, const std::string& path) const {
    if (!ref.is_string()) fail(path, "expected a string, got " + shown(ref));
    const std::string& text = ref.get_ref<const std::string&>();
    if (text == "#") return root_;
    if (text.starts_with("#/")) {
      try {
        const Json::json_pointer pointer(text.substr(1));
        if (root_.contains(pointer)) return root_[pointer];
      } catch (const Json::exception&) {
        // told below
      }
    }
    fail(path, "expected a place in this schema (#/$defs/NAME), got '" + text.substr(0, 100) + "'");
  }

  void compile_choices(const Json& choices, const std::string& path, const std::string& keyword, RuleId rule) {
    if (!choices.is_array() || choices.empty()) fail(path, "expected a list of schemas, got " + shown(choices));
    if (choices.size() > max_choices) fail(path, "expected at most " + std::to_string(max_choices) + " schemas, got " + std::to_string(choices.size()));
    if (keyword == "allOf" && choices.size() > 1) fail(path, "more than one schema is not supported");
    if (keyword == "oneOf") check_exclusive(choices, path);
    for (size_t i = 0; i < choices.size(); ++i) become(rule, rule_of(choices[i], path + "[" + std::to_string(i) + "]"));
  }

  /// What satisfies one of several must satisfy no other: nothing here could take back what a model has begun for one of them.
  void check_exclusive(const Json& choices, const std::string& path) {
    for (size_t i = 0; i < choices.size(); ++i) {
      for (size_t k = i + 1; k < choices.size(); ++k) {
        if (exclude_each_other(choices[i], choices[k], path, 0)) continue;
        fail(path, "expected schemas that exclude each other (by type, const, enum, or such a property that both require), got [" + std::to_string(i) + "] and [" +
                       std::to_string(k) + "], which may hold at once; anyOf takes them");
      }
    }
  }
  /// False where that is not plain to see.
  bool exclude_each_other(const Json& a, const Json& b, const std::string& path, int depth) {
    if (depth > max_exclusion_depth || ++n_exclusion_steps_ > max_exclusion_steps) return false;
    if (a == false || b == false) return true;
    if (!a.is_object() || !b.is_object()) return false;
    const auto with_b = [&](const Json& part) { return exclude_each_other(part, b, path, depth + 1); };
    if (a.contains("$ref")) return with_b(resolve(a["$ref"], path));
    for (const char* keyword : {"anyOf", "oneOf", "allOf"}) {
      if (a.contains(keyword)) return a[keyword].is_array() && std::all_of(a[keyword].begin(), a[keyword].end(), with_b);
    }
    if (b.contains("$ref") || b.contains("anyOf") || b.contains("oneOf") || b.contains("allOf")) return exclude_each_other(b, a, path, depth + 1);

    const std::optional<Json> a_values = values_of(a, path), b_values = values_of(b, path);
    const std::vector<std::string> a_types = types_of(a, path), b_types = types_of(b, path);
    const auto among = [](const Json& value, const std::vector<std::string>& types) {
      return std::any_of(types.begin(), types.end(), [&](const std::string& type) { return has_type(value, type); });
    };
    if (a_values && b_values) {
      return std::none_of(a_values->begin(), a_values->end(), [&](const Json& v) { return std::find(b_values->begin(), b_values->end(), v) != b_values->end(); });
    }
    if (a_values) return std::none_of(a_values->begin(), a_values->end(), [&](const Json& v) { return among(v, b_types); });
    if (b_values) return std::none_of(b_values->begin(), b_values->end(), [&](const Json& v) { return among(v, a_types); });
    bool objects = false;
    for (const std::string& x : a_types) {
      for (const std::string& y : b_types) {
        if (x == "any" || y == "any" || (x == y && x != "object") || (x == "integer" && y == "number") || (x == "number" && y == "integer")) return false;
        objects |= x == y;
      }
    }
    return !objects || exclude_as_objects(a, b, path, depth) || exclude_as_objects(b, a, path, depth);
  }
  /// `a` requires a property that `b` does not allow, or requires too, with a schema that excludes a's.
  bool exclude_as_objects(const Json& a, const Json& b, const std::string& path, int depth) {
    const Json none = Json::object(), no_names = Json::array();
    const auto part = [](const Json& schema, const char* key, const Json& otherwise) -> const Json& { return schema.contains(key) ? schema[key] : otherwise; };
    const Json &a_properties = part(a, "properties", none), &b_properties = part(b, "properties", none), &b_required = part(b, "required", no_names);
    if (!a_properties.is_object() || !b_properties.is_object()) return false;  // told elsewhere
    for (const Json& name : part(a, "required", no_names)) {
      if (!name.is_string()) continue;
      const auto& key = name.get_ref<const std::string&>();
      if (!b_properties.contains(key)) {
        if (b.contains("additionalProperties") && b["additionalProperties"] == false) return true;
        continue;
      }
      const bool both = std::find(b_required.begin(), b_required.end(), name) != b_required.end();
      if (both && a_properties.contains(key) && exclude_each_other(a_properties[key], b_properties[key], path, depth + 1)) return true;
    }
    return false;
  }

  static bool has_type(const Json& value, const std::string& type) {
    if (type == "integer") return value.is_number() && std::trunc(value.get<double>()) == value.get<double>();
    if (type == "number") return value.is_number();
    if (type == "string") return value.is_string();
    if (type == "boolean") return value.is_boolean();
    if (type == "null") return value.is_null();
    if (type == "object") return value.is_object();
    return type == "array" ? value.is_array() : true;
  }

  /// The values that `enum`, `const` and `type` leave; null: the schema names none.
  static std::optional<Json> values_of(const Json& schema, const std::string& path) {
    if (!schema.contains("enum") && !schema.contains("const")) return std::nullopt;
    const Json values = schema.contains("enum") ? schema["enum"] : Json::array({schema["const"]});
    if (!values.is_array() || values.empty()) fail(path + ".enum", "expected a list of values, got " + shown(values));
    if (values.size() > max_choices) fail(path + ".enum", "expected at most " + std::to_string(max_choices) + " values, got " + std::to_string(values.size()));
    const std::vector<std::string> types = types_of(schema, path);
    Json out = Json::array();
    for (const Json& value : values) {
      if (schema.contains("const") && value != schema["const"]) continue;
      if (std::any_of(types.begin(), types.end(), [&](const std::string& type) { return has_type(value, type); })) out.push_back(value);
    }
    return out;
  }

  /// The types that a value may have; "any" if nothing says it. Where `type` is missing, the keywords that are given tell what is meant.
  static std::vector<std::string> types_of(const Json& schema, const std::string& path) {
    static const std::set<std::string> known = {"object", "array", "string", "integer", "number", "boolean", "null"};
    std::vector<std::string> out;
    if (schema.contains("type")) {
      const Json& type = schema["type"];
      const Json list = type.is_array() ? type : Json::array({type});
      if (list.empty()) fail(path + ".type", "expected at least one type, got none");
      for (const Json& item : list) {
        if (!item.is_string() || !known.contains(item.get<std::string>())) fail(path + ".type", "expected a type of JSON, got " + shown(item));
        const std::string name = item.get<std::string>();
        if (std::find(out.begin(), out.end(), name) == out.end()) out.push_back(name);
      }
      // Whole numbers are numbers.
      if (std::find(out.begin(), out.end(), "number") != out.end()) std::erase(out, "integer");
      return out;
    }
    const auto any = [&](std::initializer_list<const char*> keywords) {
      return std::any_of(keywords.begin(), keywords.end(), [&](const char* k) { return schema.contains(k); });
    };
    if (any({"properties", "required", "additionalProperties"})) out.emplace_back("object");
    if (any({"items", "prefixItems", "minItems", "maxItems"})) out.emplace_back("array");
    if (any({"minLength", "maxLength"})) out.emplace_back("string");
    if (out.empty()) out.emplace_back("any");
    return out;
  }

  static std::optional<int> bound(const Json& schema, const char* keyword, size_t most, const std::string& path) {
    if (!schema.contains(keyword)) return std::nullopt;
    const Json& value = schema[keyword];
    const bool whole = value.is_number_integer() && value >= 0;
    if (!whole || value > most) {
      fail(path + "." + keyword, "expected a whole number from 0 to " + std::to_string(most) + ", got " + shown(value));
    }
    return value.get<int>();
  }

  RuleId string_rule(const Json& schema, const std::string& path) {
    const int low = bound(schema, "minLength", max_length, path).value_or(0);
    const int high = bound(schema, "maxLength", max_length, path).value_or(no_limit);
    if (low == 0 && high == no_limit) return json_.string;
    if (high != no_limit && low > high) return builder_.add_rule();  // nothing
    RuleId rest = json_.string_end;
    if (high != no_limit) {
      // The end of a string of at most n characters is in that of one of n + 1.
      while (string_ends_.size() <= static_cast<size_t>(high - low)) {
        const RuleId longer = builder_.add_rule({{byte('"')}});
        if (!string_ends_.empty()) builder_.add_alternative(longer, {Element::of(json_.character), Element::of(string_ends_.back())});
        string_ends_.push_back(longer);
      }
      rest = string_ends_[static_cast<size_t>(high - low)];
    }
    for (int n = 0; n < low; ++n) rest = builder_.add_rule({{Element::of(json_.character), Element::of(rest)}});
    return builder_.add_rule({{byte('"'), Element::of(rest)}});
  }

  RuleId array_rule(const Json& schema, const std::string& path) {
    const int low = bound(schema, "minItems", max_items, path).value_or(0);
    int high = bound(schema, "maxItems", max_items, path).value_or(no_limit);
    std::vector<RuleId> items;
    if (schema.contains("prefixItems")) {
      const Json& prefix = schema["prefixItems"];
      if (!prefix.is_array() || prefix.size() > max_items) fail(path + ".prefixItems", "expected a list of at most " + std::to_string(max_items) + " schemas, got " + shown(prefix));
      for (size_t i = 0; i < prefix.size(); ++i) items.push_back(rule_of(prefix[i], path + ".prefixItems[" + std::to_string(i) + "]"));
    }
    const int n_prefix = static_cast<int>(items.size());
    RuleId item = json_.value;
    if (schema.contains("items")) item = rule_of(schema["items"], path + ".items");
    else if (n_prefix > 0) high = high == no_limit ? n_prefix : std::min(high, n_prefix);
    if (high != no_limit && low > high) return builder_.add_rule();  // nothing
    // From the end to the beginning: what may follow n items.
    const Element space = Element::of(json_.space);
    int n = high != no_limit ? high : std::max({low, n_prefix, 1});
    RuleId rest;
    if (high == no_limit) rest = json_.list_end(item);
    else rest = builder_.add_rule({{space, byte(']')}});
    for (; n > 0; --n) {
      const RuleId here = builder_.add_rule();
      const Element next = Element::of(n <= n_prefix ? items[static_cast<size_t>(n) - 1] : item);
      if (n > 1) builder_.add_alternative(here, {space, byte(','), space, next, Element::of(rest)});
      else builder_.add_alternative(here, {space, next, Element::of(rest)});
      if (n - 1 >= low) builder_.add_alternative(here, {space, byte(']')});
      rest = here;
    }
    return builder_.add_rule({{byte('['), Element::of(rest)}});
  }

  RuleId object_rule(const Json& schema, const std::string& path) {
    struct Property {
      std::string name;
      RuleId value;
      bool required;
    };
    std::vector<Property> properties;
    if (schema.contains("properties")) {
      if (!schema["properties"].is_object()) fail(path + ".properties", "expected an object, got " + shown(schema["properties"]));
      for (const auto& [name, value] : schema["properties"].items()) properties.push_back({name, rule_of(value, path + ".properties." + name), false});
    }
    std::optional<RuleId> additional;
    if (schema.contains("additionalProperties")) {
      const Json& others = schema["additionalProperties"];
      if (others != false) additional = rule_of(others, path + ".additionalProperties");
    } else if (properties.empty()) {
      additional = json_.value;
    }
    if (schema.contains("required")) {
      if (!schema["required"].is_array()) fail(path + ".required", "expected a list of names, got " + shown(schema["required"]));
      for (const Json& name : schema["required"]) {
        if (!name.is_string()) fail(path + ".required", "expected names, got " + shown(name));
        const auto found = std::find_if(properties.begin(), properties.end(), [&](const Property& p) { return p.name == name; });
        if (found != properties.end()) found->required = true;
        else if (additional) properties.push_back({name.get<std::string>(), *additional, true});
        else fail(path + ".required", "expected names of properties, got " + shown(name));
        if (properties.size() > max_properties) break;  // told below
      }
    }
    if (properties.size() > max_properties) fail(path, "expected at most " + std::to_string(max_properties) + " properties, got more");

    const Element space = Element::of(json_.space);
    std::vector<std::string> names;
    for (const Property& p : properties) {
      if (p.name.size() > max_name_bytes) fail(path, "expected names of at most " + std::to_string(max_name_bytes) + " bytes, got " + std::to_string(p.name.size()));
      names.push_back(p.name);
    }
    // From the end to the beginning: what may follow when some member (first: none) has come.
    RuleId rest, first;
    if (additional) {
      const Element key = other_key(names);
      rest = json_.object_end(key, *additional);
      first = builder_.add_rule({{space, byte('}')}, {space, key, byte(':'), space, Element::of(*additional), Element::of(rest)}});
    } else {
      rest = first = builder_.add_rule({{space, byte('}')}});
    }
    for (size_t i = properties.size(); i-- > 0;) {
      const Property& p = properties[i];
      Sequence member{space};
      append(member, dump_json(p.name) + ":");
      member.insert(member.end(), {space, Element::of(p.value), Element::of(rest)});
      Sequence next{space, byte(',')};
      next.insert(next.end(), member.begin(), member.end());
      const RuleId here_first = builder_.add_rule({std::move(member)}), here = builder_.add_rule({std::move(next)});
      if (!p.required) {
        become(here_first, first);
        become(here, rest);
      }
      first = here_first;
      rest = here;
    }
    return builder_.add_rule({{byte('{'), Element::of(first)}});
  }

  /// A key that is none of `names`. Beside names it has no escapes, which could spell one of them, and no character beyond ASCII where a name has one.
  Element other_key(const std::vector<std::string>& names) {
    if (names.empty()) return Element::of(json_.string);
    if (!free_key_) {
      free_key_ = builder_.add_rule({{byte('"')}});
      builder_.add_alternative(*free_key_, {Element::of(json_.plain), Element::of(*free_key_)});
      builder_.add_alternative(*free_key_, {Element::of(json_.wide), Element::of(*free_key_)});
    }
    std::vector<std::string> sorted(names);
    std::sort(sorted.begin(), sorted.end());
    return Element::of(builder_.add_rule({{byte('"'), Element::of(key_after(sorted, 0))}}));
  }
  /// What follows the first n bytes that all `names` (sorted) begin with.
  RuleId key_after(std::span<const std::string> names, size_t n) {
    const RuleId rule = builder_.add_rule();
    ByteSet taken;
    bool any_wide = false, is_name = false;
    for (size_t i = 0; i < names.size();) {
      if (names[i].size() == n) {
        is_name = true;
        ++i;
        continue;
      }
      const auto c = static_cast<uint8_t>(names[i][n]);
      size_t end = i;
      while (end < names.size() && names[end].size() > n && static_cast<uint8_t>(names[end][n]) == c) ++end;
      taken.set(c);
      any_wide |= c >= 0x80;
      if (json_.plain[c]) builder_.add_alternative(rule, {byte(static_cast<char>(c)), Element::of(key_after(names.subspan(i, end - i), n + 1))});
      i = end;
    }
    builder_.add_alternative(rule, {Element::of(json_.plain & ~taken), Element::of(*free_key_)});
    if (!any_wide) builder_.add_alternative(rule, {Element::of(json_.wide), Element::of(*free_key_)});
    if (!is_name) builder_.add_alternative(rule, {byte('"')});
    return rule;
  }

  const Json& root_;
  Builder& builder_;
  JsonRules& json_;
  std::map<const Json*, RuleId> rules_;
  std::optional<RuleId> free_key_;
  std::vector<RuleId> string_ends_;  // of at most n characters
  int depth_ = 0, n_exclusion_steps_ = 0;
};

}  // namespace

struct JsonGrammar::Impl {
  Builder builder;
  JsonRules json{builder};
};
JsonGrammar::JsonGrammar() : impl_(std::make_unique<Impl>()) {}
JsonGrammar::~JsonGrammar() = default;
Builder& JsonGrammar::builder() { return impl_->builder; }
RuleId JsonGrammar::space() const { return impl_->json.space; }
RuleId JsonGrammar::object() const { return impl_->json.object; }
RuleId JsonGrammar::wide() const { return impl_->json.wide; }
RuleId JsonGrammar::schema(const Json& schema, const Json& root) { return SchemaCompiler(impl_->json, root).run(schema); }

std::shared_ptr<const Grammar> json_object_grammar() {
  Builder builder;
  JsonRules json(builder);
  return builder.finish(json.text(json.object));
}

std::shared_ptr<const Grammar> json_schema_grammar(const Json& schema) {
  try {
    Builder builder;
    JsonRules json(builder);
    return builder.finish(json.text(SchemaCompiler(json, schema).run(schema)));
  } catch (const Error& error) {
    if (error.message.starts_with("grammar:")) throw Error("schema" + error.message.substr(7));
    throw;
  }
}

}  // namespace engine
