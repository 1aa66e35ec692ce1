#include "runtime/tool_grammar.h"

#include <algorithm>
#include <list>
#include <vector>

#include "base/error.h"
#include "runtime/constraint.h"
#include "runtime/json_schema.h"

namespace engine {
namespace {

using Element = Grammar::Element;
using RuleId = Grammar::RuleId;
using Sequence = Grammar::Sequence;
using Body = ToolCallFormat::Body;

bool is_tool_name_char(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' || c == '_' || c == '.';
}

class Compiler {
 public:
  Compiler(const AnswerSyntax& syntax, const ToolGrammarOptions& options)
      : syntax_(syntax), format_(*syntax.format), options_(options), space_(Element::of(json_.space())) {}

  std::shared_ptr<const Grammar> run() {
    if (format_.body == Body::parameters) throw Error("calls in the format " + std::string(format_.name) + " cannot be asked for here");
    const RuleId call = b_.add_rule();
    for (const auto& [name, parameters] : syntax_.functions) b_.add_alternative(call, one_call(name, arguments(name, parameters)));
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
  void append_marker(Sequence& out, std::string_view marker) const { engine::append_marker(out, marker, options_.is_token); }
  bool has_open() const { return !options_.text && !format_.bare; }

  /// The parameters' schema as a rule.
  RuleId arguments(const std::string& name, const Json& parameters) {
    const bool strict = options_.strict.contains(name);
    // Whatever it says, arguments are an object.
    Json schema = parameters.is_null() ? Json{{"type", "object"}, {"properties", Json::object()}, {"additionalProperties", false}} : parameters;
    if (!schema.contains("type") && !schema.contains("$ref") && !schema.contains("anyOf") && !schema.contains("oneOf") && !schema.contains("allOf")) schema["type"] = "object";
    try {
      if (schema.contains("type") && schema["type"] != "object") throw Error("schema.type: expected object");
      schemas_.push_back(std::move(schema));
      const RuleId rule = json_.schema(schemas_.back());
      // Can it be satisfied at all, and within the limits? Told for this function, not for all of them.
      json_schema_grammar(schemas_.back());
      return rule;
    } catch (const Error& error) {
      if (strict) throw Error(name + ": " + error.message);
      return json_.object();
    }
  }

  Sequence one_call(const std::string& name, RuleId arguments) {
    Sequence out;
    if (format_.body == Body::object || format_.body == Body::list) {
      out = {byte('{'), space_};
      append(out, "\"" + std::string(format_.name_key) + "\":");
      out.push_back(space_);
      append(out, "\"" + name + "\"");
      out.insert(out.end(), {space_, byte(','), space_});
      append(out, "\"" + std::string(format_.arguments_key) + "\":");
      out.insert(out.end(), {space_, Element::of(arguments), space_, byte('}')});
      return out;
    }
    if (format_.body == Body::harmony) {
      if (has_open()) {
        append_marker(out, "<|channel|>");
        append(out, "commentary to=functions.");
      }
      append(out, name);
      if (options_.text) return through_header(std::move(out), arguments);
      append(out, " ");
      append_marker(out, "<|constrain|>");
      append(out, "json");
    } else {
      append(out, name);
    }
    append_marker(out, format_.name_close);
    out.push_back(Element::of(arguments));
    return out;
  }

  /// `open` call `close`, one after the other.
  RuleId row_of(RuleId call) {
    const bool json = format_.body == Body::object;
    Sequence one;
    if (has_open() && format_.body != Body::harmony) {
      append_marker(one, format_.open);
      if (json) one.push_back(space_);
    } else if (json && !format_.bare) {
      one.push_back(space_);
    }
    one.push_back(Element::of(call));
    if (!format_.close.empty()) {
      if (json) one.push_back(space_);
      append_marker(one, format_.close);
    }
    // Templates with bare calls and harmony's know one call a message.
    if (!options_.several || options_.text || format_.bare || format_.body == Body::harmony) return b_.add_rule({std::move(one)});
    const RuleId first = b_.add_rule({std::move(one)}), more = b_.add_rule({{}});
    if (json) b_.add_alternative(more, {space_, Element::of(first), Element::of(more)});
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
  const Element space_;
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
