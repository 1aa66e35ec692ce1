#include "runtime/tool_grammar.h"

#include <algorithm>
#include <list>
#include <vector>

#include "base/error.h"
#include "runtime/constraint.h"
#include "runtime/json_schema.h"
#include "text/call_parameters.h"

namespace engine {
namespace {

using Element = Grammar::Element;
using RuleId = Grammar::RuleId;
using Sequence = Grammar::Sequence;
using Body = ToolCallFormat::Body;

constexpr int max_depth = 16, max_choices = 10'000;
constexpr size_t max_key = 200;  // bytes of a parameter's name in tags
constexpr int max_free_key = 64;

bool is_tool_name_char(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' || c == '_' || c == '.';
}

class Compiler {
 public:
  Compiler(const AnswerSyntax& syntax, const ToolGrammarOptions& options)
      : syntax_(syntax), format_(*syntax.format), options_(options), space_(Element::of(json_.space())), gap_(Element::of(b_.add_rule({{}, {byte('\n')}}))) {}

  std::shared_ptr<const Grammar> run() {
    if (format_.body == Body::python || format_.body == Body::literal) throw Error("calls in the format " + std::string(format_.name) + " cannot be asked for here");
    const RuleId call = b_.add_rule();
    for (const auto& [name, parameters] : syntax_.functions) b_.add_alternative(call, one_call(name, parameters));
    const RuleId calls = format_.body == Body::list ? list_of(call) : row_of(call);
    if (options_.text) return b_.finish(text_with(calls));
    if (format_.body == Body::harmony) return b_.finish(calls);
    // A blank before it is what some tokenizers like to begin with.
    return b_.finish(b_.add_rule({{Element::of(calls)}, {byte(' '), Element::of(calls)}}));
  }

 private:
  static Element byte(char c) {
    ByteSet set;
    set.set(static_cast<uint8_t>(c));
    return Element::of(set);
  }
  static void append(Sequence& out, std::string_view text) { append_text(out, text); }
  /// A piece of the format, in which markers may be tokens.
  void append_marker(Sequence& out, std::string_view text) const {
    const std::vector<std::string_view> markers = format_.markers();
    while (!text.empty()) {
      std::string_view piece;
      for (const std::string_view marker : markers) {
        if (text.starts_with(marker) && marker.size() > piece.size() && options_.is_token && options_.is_token(marker)) piece = marker;
      }
      if (!piece.empty()) {
        engine::append_marker(out, piece, options_.is_token);
      } else {
        piece = text.substr(0, 1);
        append(out, piece);
      }
      text.remove_prefix(piece.size());
    }
  }
  bool has_open() const { return !options_.text && !format_.bare; }

  /// The parameters' schema; null: whatever it says, arguments are any object.
  const Json* schema_of(const std::string& name, const Json& parameters) {
    Json schema = parameters.is_null() ? Json{{"type", "object"}, {"properties", Json::object()}, {"additionalProperties", false}} : parameters;
    if (!schema.contains("type") && !schema.contains("$ref") && !schema.contains("anyOf") && !schema.contains("oneOf") && !schema.contains("allOf")) schema["type"] = "object";
    try {
      if (schema.contains("type") && schema["type"] != "object") throw Error("schema.type: expected object");
      // Can it be satisfied at all, and within the limits? Told for this function, not for all of them.
      json_schema_grammar(schema);
    } catch (const Error& error) {
      if (options_.strict.contains(name)) throw Error(name + ": " + error.message);
      return nullptr;
    }
    schemas_.push_back(std::move(schema));
    return &schemas_.back();
  }

  Sequence one_call(const std::string& name, const Json& parameters) {
    const Json* schema = schema_of(name, parameters);
    if (format_.body == Body::parameters) return tagged_call(name, schema);
    const RuleId arguments = schema == nullptr ? json_.object() : json_.schema(*schema, *schema);
    if (format_.body == Body::named) return named_call(name, arguments);
    if (format_.body == Body::harmony) return channel_call(name, arguments);
    Sequence out = {byte('{'), space_};
    append(out, "\"" + std::string(format_.name_key) + "\":");
    out.push_back(space_);
    append(out, "\"" + name + "\"");
    out.insert(out.end(), {space_, byte(','), space_});
    append(out, "\"" + std::string(format_.arguments_key) + "\":");
    out.insert(out.end(), {space_, Element::of(arguments), space_, byte('}')});
    return out;
  }

  Sequence named_call(const std::string& name, RuleId arguments) {
    const bool lines = !format_.call_close.empty();
    Sequence out;
    append_marker(out, format_.name_open);
    append(out, name);
    if (format_.numbered) {
      ByteSet digit;
      for (const char c : std::string_view("0123456789")) digit.set(static_cast<uint8_t>(c));
      out.insert(out.end(), {byte(':'), Element::of(digit)});
    }
    if (lines) out.push_back(gap_);
    append_marker(out, format_.name_close);
    if (lines) out.push_back(gap_);
    out.push_back(Element::of(arguments));
    if (lines) out.push_back(gap_);
    append_marker(out, format_.call_close);
    return out;
  }

  Sequence channel_call(const std::string& name, RuleId arguments) {
    Sequence out;
    if (has_open()) {
      append_marker(out, "<|channel|>");
      append(out, "commentary to=functions.");
    }
    append(out, name);
    if (options_.text) return through_header(std::move(out), arguments);
    append(out, " ");
    append_marker(out, "<|constrain|>");
    append(out, "json");
    append_marker(out, format_.name_close);
    out.push_back(Element::of(arguments));
    return out;
  }

  // --- parameters in tags ---

  Sequence tagged_call(const std::string& name, const Json* schema) {
    Sequence out;
    append_marker(out, format_.name_open);
    append(out, name);
    append_marker(out, format_.name_close);
    Sequence end{gap_};
    append_marker(end, format_.call_close);
    const RuleId close = b_.add_rule({std::move(end)});
    try {
      out.push_back(Element::of(schema == nullptr ? any_members(true, nullptr, close) : members(*schema, close)));
    } catch (const Error& error) {
      if (options_.strict.contains(name)) throw Error(name + ": " + error.message);
      out.push_back(Element::of(any_members(true, nullptr, close)));
    }
    return out;
  }

  RuleId members(const Json& root, RuleId close) {
    const Json* object = &root;
    for (int depth = 0; object->contains("$ref"); ++depth) {
      object = referred_schema(root, (*object)["$ref"]);
      if (object == nullptr || !object->is_object() || depth > max_depth) throw Error("schema.$ref: expected an object's schema");
    }
    if (object->contains("anyOf") || object->contains("oneOf") || object->contains("allOf")) throw Error("schema: expected one object's schema in this model's format of calls");
    const Json none = Json::object();
    const Json& properties = object->contains("properties") ? (*object)["properties"] : none;
    const Json& others = keep(object->contains("additionalProperties") ? (*object)["additionalProperties"] : Json(properties.empty()));
    std::vector<std::string> names, required;
    for (const auto& [key, value] : properties.items()) names.push_back(key);
    for (const Json& key : object->value("required", Json::array())) {
      required.push_back(key.get<std::string>());
      if (!properties.contains(required.back())) names.push_back(required.back());
    }
    RuleId rest = others != false && properties.empty() ? any_members(others, &root, close) : close;
    for (size_t i = names.size(); i-- > 0;) {
      const std::string& key = names[i];
      if (key.empty() || key.size() > max_key || key.find('\n') != std::string::npos || key.find(format_.key_close) != std::string::npos) {
        throw Error("schema.properties: expected names that this model's format of calls can hold");
      }
      Sequence text;
      append(text, key);
      const RuleId here = b_.add_rule({member(std::move(text), properties.contains(key) ? properties[key] : others, &root, rest)});
      if (std::find(required.begin(), required.end(), key) == required.end()) b_.add_alternative(here, {Element::of(rest)});
      rest = here;
    }
    return rest;
  }
  /// Any number of members with any keys.
  RuleId any_members(const Json& value, const Json* root, RuleId close) {
    ByteSet key_byte;
    for (int c = 0; c < 128; ++c) key_byte.set(static_cast<size_t>(c), is_tool_name_char(static_cast<char>(c)));
    const Json& schema = keep(value);
    const RuleId rest = b_.add_rule({{Element::of(close)}});
    RuleId key = b_.add_rule({{}});
    for (int n = 0; n < max_free_key; ++n) key = n + 1 < max_free_key ? b_.add_rule({{}, {Element::of(key_byte), Element::of(key)}}) : b_.add_rule({{Element::of(key_byte), Element::of(key)}});
    b_.add_alternative(rest, member({Element::of(key)}, schema, root == nullptr ? &schema : root, rest));
    return rest;
  }
  Sequence member(Sequence key, const Json& schema, const Json* root, RuleId rest) {
    Sequence out{gap_};
    append_marker(out, format_.key_open);
    out.insert(out.end(), key.begin(), key.end());
    append_marker(out, format_.key_close);
    if (!format_.value_open.empty()) out.push_back(gap_);
    append_marker(out, format_.value_open);
    if (format_.value_lines) out.push_back(byte('\n'));
    Sequence end;
    if (format_.value_lines) end.push_back(byte('\n'));
    append_marker(end, format_.value_close);
    end.push_back(Element::of(rest));
    const RuleId value = b_.add_rule();
    const ParameterForm form = parameter_form(*root, schema);
    n_choices_ = 0;
    add_values(value, schema, *root, form, b_.add_rule({std::move(end)}), rest, 0);
    out.push_back(Element::of(value));
    return out;
  }

  /// Alternatives of `value`: what is read as a value of `schema` (see parameter_value), and then `end`.
  void add_values(RuleId value, const Json& schema, const Json& root, const ParameterForm& form, RuleId end, RuleId rest, int depth) {
    if (depth > max_depth || ++n_choices_ > max_choices) throw Error("schema: expected fewer choices, or fewer levels of them, for a parameter");
    if (schema == false) return;
    if (!schema.is_object()) return b_.add_alternative(value, {Element::of(text(false, end, rest))});
    if (schema.contains("$ref")) return add_values(value, *referred_schema(root, schema["$ref"]), root, form, end, rest, depth + 1);
    for (const char* keyword : {"anyOf", "oneOf", "allOf"}) {
      if (!schema.contains(keyword)) continue;
      for (const Json& choice : schema[keyword]) add_values(value, choice, root, form, end, rest, depth + 1);
      return;
    }
    const ParameterForm own = parameter_form(root, schema);
    for (const Json& named : own.values) {
      Sequence literal;
      append(literal, named.is_string() ? named.get<std::string>() : dump_json(named));
      if (named.is_string() && named.get_ref<const std::string&>().find(format_.value_close) != std::string::npos) throw Error("schema.enum: expected values that this model's format of calls can hold");
      literal.push_back(Element::of(end));
      b_.add_alternative(value, std::move(literal));
    }
    if (own.has("any")) return b_.add_alternative(value, {Element::of(text(false, end, rest))});
    if (own.has("string")) {
      if (schema.contains("minLength") || schema.contains("maxLength")) throw Error("schema: minLength and maxLength are not supported for a parameter in this model's format of calls");
      b_.add_alternative(value, {Element::of(text(form.has("object") || form.has("array"), end, rest))});
    }
    Json others = Json::array();
    for (const std::string& type : own.types) {
      if (type != "string") others.push_back(type);
    }
    if (others.empty()) return;
    Json json = schema;
    json["type"] = others;
    b_.add_alternative(value, {Element::of(json_.schema(keep(std::move(json)), root)), Element::of(end)});
  }

  /// A text as it is. `no_json`: one that cannot be read as a list or an object.
  RuleId text(bool no_json, RuleId end, RuleId rest) {
    FreeText free;
    free.bytes.reset();
    for (size_t c = 0x20; c < 0x7F; ++c) free.bytes.set(c);
    free.bytes.set('\n').set('\t');
    free.wide = json_.wide();
    const std::string marker = (format_.value_lines ? "\n" : "") + std::string(format_.value_close);
    const std::vector<RuleId> states = text_until(b_, marker, free, rest);
    if (options_.is_token && options_.is_token(format_.value_close)) {
      for (size_t i = 0; i + 1 < states.size(); ++i) b_.add_alternative(states[i], {Element::of(end)});
    }
    if (!no_json) return states[0];
    ByteSet first = free.bytes;
    for (const char c : std::string_view("{[ \n\t")) first.reset(static_cast<uint8_t>(c));
    first.reset(static_cast<uint8_t>(marker[0]));
    return b_.add_rule({{Element::of(first), Element::of(states[0])}, {Element::of(end)}});
  }

  const Json& keep(Json schema) {
    schemas_.push_back(std::move(schema));
    return schemas_.back();
  }

  // --- calls beside each other ---

  /// `open` call `close`, one after the other, or several calls between them.
  RuleId row_of(RuleId call) {
    const bool json = format_.body == Body::object, lines = !format_.call_close.empty() || format_.body == Body::parameters;
    const Element between = json ? space_ : gap_;
    const bool several = options_.several && !format_.bare && format_.body != Body::harmony;  // their templates know one call a message
    Sequence one;
    if (has_open() && format_.body != Body::harmony) append_marker(one, format_.open);
    if ((json && !format_.bare) || (lines && !format_.name_open.empty())) one.push_back(between);
    one.push_back(Element::of(call));
    if (several && format_.repeats) {
      const RuleId more = b_.add_rule({{}});
      b_.add_alternative(more, {between, Element::of(call), Element::of(more)});
      one.push_back(Element::of(more));
    }
    if (!format_.close.empty()) {
      if (json || lines) one.push_back(between);
      append_marker(one, format_.close);
    }
    if (!several || options_.text || format_.repeats) return b_.add_rule({std::move(one)});
    const RuleId first = b_.add_rule({std::move(one)}), more = b_.add_rule({{}});
    if (json || lines) b_.add_alternative(more, {between, Element::of(first), Element::of(more)});
    else b_.add_alternative(more, {Element::of(first), Element::of(more)});
    return b_.add_rule({{Element::of(first), Element::of(more)}});
  }

  RuleId list_of(RuleId call) {
    Sequence out;
    if (has_open()) append_marker(out, format_.open);
    out.insert(out.end(), {space_, byte('['), space_, Element::of(call)});
    if (options_.several) {
      const RuleId more = b_.add_rule({{}});
      b_.add_alternative(more, {space_, byte(','), space_, Element::of(call), Element::of(more)});
      out.push_back(Element::of(more));
    }
    out.insert(out.end(), {space_, byte(']')});
    if (!format_.close.empty()) {
      out.push_back(space_);
      append_marker(out, format_.close);
    }
    return b_.add_rule({std::move(out)});
  }

  /// Whatever stands between a function's name and its arguments in harmony's header, in either order.
  Sequence through_header(Sequence name, RuleId arguments) {
    ByteSet between, after_name;
    between.set().reset('{');
    for (size_t c = 0; c < 256; ++c) after_name.set(c, between[c] && !is_tool_name_char(static_cast<char>(c)));
    const RuleId rest = b_.add_rule({{Element::of(arguments)}});
    b_.add_alternative(rest, {Element::of(between), Element::of(rest)});
    name.insert(name.end(), {Element::of(after_name), Element::of(rest)});
    return name;
  }

  /// Any text; where `open` has come, `calls` must follow, and then any text again.
  RuleId text_with(RuleId calls) {
    const std::string_view open = format_.open;
    const RuleId found = b_.add_rule();
    const std::vector<RuleId> states = text_until(b_, open, {.may_end = true}, found);
    RuleId begin = states[0];
    if (format_.bare) {
      // At the beginning and behind a call, a brace opens one.
      begin = b_.add_rule();
      ByteSet blank, other;
      for (const char c : std::string_view(" \n\r\t;,")) blank.set(static_cast<uint8_t>(c));
      other.set().reset('{') &= ~blank;
      other.reset(static_cast<uint8_t>(open[0]));
      b_.add_alternative(begin, {});
      b_.add_alternative(begin, {Element::of(blank), Element::of(begin)});
      b_.add_alternative(begin, {Element::of(other), Element::of(states[0])});
      b_.add_alternative(begin, {byte(open[0]), Element::of(states[1])});
      b_.add_alternative(begin, {Element::of(calls), Element::of(begin)});
    }
    // As a token the marker has the byte of tokens behind it.
    b_.add_alternative(found, {Element::of(calls), Element::of(begin)});
    b_.add_alternative(found, {byte(TokenTable::control_byte), Element::of(calls), Element::of(begin)});
    return begin;
  }

  const AnswerSyntax& syntax_;
  const ToolCallFormat& format_;
  const ToolGrammarOptions& options_;
  JsonGrammar json_;
  Grammar::Builder& b_ = json_.builder();
  const Element space_, gap_;  // blanks in JSON; where lines may end
  int n_choices_ = 0;  // schemas that were looked at for a parameter
  std::list<Json> schemas_;  // where rules were made from must not move
};

}  // namespace

std::shared_ptr<const Grammar> tool_call_grammar(const AnswerSyntax& syntax, const ToolGrammarOptions& options) {
  try {
    return Compiler(syntax, options).run();
  } catch (const Error& error) {
    if (error.message.starts_with("grammar:")) throw Error("tools" + error.message.substr(7));
    throw;
  }
}

}  // namespace engine
