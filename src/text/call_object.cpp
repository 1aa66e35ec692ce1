// A call as one JSON object.
#include <optional>

#include "base/error.h"
#include "text/call_readers.h"

namespace engine {
namespace {

class ObjectReader final : public CallReader {
 public:
  ObjectReader(AnswerParser& out, const AnswerSyntax& syntax, bool only_usual_keys)
      : out_(out), syntax_(syntax), only_usual_keys_(only_usual_keys) {}

  Step push(char c) override {
    switch (state_) {
      case State::open:
        state_ = State::first_key;
        return c == '{' ? Step::more : Step::wrong;
      case State::first_key:
      case State::next_key:
        if (is_blank(c)) return Step::more;
        if (c == '}' && state_ == State::first_key) return end();
        if (c != '"') return Step::wrong;
        state_ = State::key;
        key_.clear();
        stream_ = {};
        stream_.push(c);
        return Step::more;
      case State::key: {
        const JsonStream::Step step = stream_.push(c);
        if (step == JsonStream::Step::wrong) return Step::wrong;
        if (step == JsonStream::Step::more) key_ += c;
        else state_ = State::colon;
        return Step::more;
      }
      case State::colon:
        if (is_blank(c)) return Step::more;
        state_ = State::before_value;
        return c == ':' && know_key() ? Step::more : Step::wrong;
      case State::before_value:
        if (is_blank(c)) return Step::more;
        state_ = State::value;
        stream_ = {};
        value_.clear();
        is_object_ = c == '{';
        [[fallthrough]];
      case State::value: return value_byte(c);
      case State::after: return after_value(c);
    }
    return Step::wrong;
  }

 private:
  enum class State : uint8_t { open, first_key, next_key, key, colon, before_value, value, after };
  enum class Role : uint8_t { name, arguments, other };

  /// The role of the value that follows; false: such a key is none of a call's.
  bool know_key() {
    if (key_ == "name" || key_ == "tool_name" || key_ == "function") role_ = Role::name;
    else if (key_ == "arguments" || key_ == "parameters") role_ = Role::arguments;
    else role_ = Role::other;
    if (role_ == Role::name) return !name_;
    if (role_ == Role::arguments) return !has_arguments_;
    return !only_usual_keys_ || key_ == "type" || key_ == "id";
  }

  Step value_byte(char c) {
    const JsonStream::Step step = stream_.push(c);
    if (step == JsonStream::Step::wrong) return Step::wrong;
    if (step != JsonStream::Step::beyond) {
      // Arguments go out as they come, once the name is known.
      if (role_ == Role::arguments && is_object_ && name_) {
        if (value_.empty()) out_.begin_call(*name_), value_ = "{";
        out_.add_arguments(std::string_view(&c, 1));
      } else if (role_ != Role::other) {
        value_ += c;
      }
    }
    if (step == JsonStream::Step::more) return Step::more;
    state_ = State::after;
    if (!take_value()) return Step::wrong;
    return step == JsonStream::Step::beyond ? after_value(c) : Step::more;
  }

  bool take_value() {
    if (role_ == Role::other) return true;
    if (role_ == Role::arguments && is_object_ && name_) return has_arguments_ = true;
    if (role_ == Role::arguments) {
      has_arguments_ = true;
      arguments_ = value_ == "null" ? "{}" : value_;
      if (value_.front() == '"') {
        const auto text = text_of(value_);
        if (!text || !is_json_object(*text)) return false;
        arguments_ = *text;
      }
      if (arguments_.front() != '{') return false;
    } else {
      name_ = text_of(value_);
      if (!name_ || !syntax_.functions.contains(*name_)) return false;
    }
    if (name_ && has_arguments_) give(arguments_);
    return true;
  }

  Step after_value(char c) {
    if (is_blank(c)) return Step::more;
    if (c == '}') return end();
    state_ = State::next_key;
    return c == ',' ? Step::more : Step::wrong;
  }

  Step end() {
    if (!name_) return Step::wrong;
    if (!has_arguments_) give("{}");
    return Step::done;
  }

  void give(std::string_view arguments) {
    out_.begin_call(*name_);
    out_.add_arguments(arguments);
  }

  static std::optional<std::string> text_of(const std::string& json) {
    try {
      const Json value = parse_json(json, "call");
      if (value.is_string()) return value.get<std::string>();
    } catch (const Error&) {  // a lone surrogate
    }
    return std::nullopt;
  }
  static bool is_json_object(const std::string& text) {
    try {
      return text.starts_with('{') && parse_json(text, "arguments").is_object();
    } catch (const Error&) {
      return false;
    }
  }

  AnswerParser& out_;
  const AnswerSyntax& syntax_;
  const bool only_usual_keys_;
  State state_ = State::open;
  Role role_ = Role::other;
  JsonStream stream_;
  std::string key_, value_, arguments_;
  std::optional<std::string> name_;
  bool is_object_ = false;  // the value
  bool has_arguments_ = false;
};

}  // namespace

std::unique_ptr<CallReader> read_call_object(AnswerParser& out, const AnswerSyntax& syntax, bool only_usual_keys) {
  return std::make_unique<ObjectReader>(out, syntax, only_usual_keys);
}

}  // namespace engine
