// Calls whose name stands in the markers: NAME and a JSON object, or NAME and parameters in tags.
#include <algorithm>

#include "text/call_parameters.h"
#include "text/call_readers.h"

namespace engine {
namespace {

constexpr size_t max_name = 64, max_between = 100, max_key = 256;

class NamedReader final : public CallReader {
 public:
  NamedReader(AnswerParser& out, const AnswerSyntax& syntax) : out_(out), syntax_(syntax), format_(*syntax.format) {
    if (format_.name_open.empty()) state_ = State::name;
  }

  Step push(char c) override {
    switch (state_) {
      case State::name_open:
        seen_ += c;
        if (!format_.name_open.starts_with(seen_)) return Step::wrong;
        if (seen_ == format_.name_open) state_ = State::name;
        return Step::more;
      case State::name:
        if (is_name_char(c)) {
          name_ += c;
          return name_.size() <= max_name ? Step::more : Step::wrong;
        }
        if (!syntax_.functions.contains(name_)) return Step::wrong;
        seen_.clear();
        if (format_.name_close.empty()) {
          state_ = State::tags;
          return tag_byte(c);
        }
        state_ = State::between;
        [[fallthrough]];
      case State::between:
        seen_ += c;
        if (seen_.size() > max_between) return Step::wrong;
        if (!seen_.ends_with(format_.name_close)) return Step::more;
        state_ = format_.body == ToolCallFormat::Body::parameters ? State::tags : State::before_arguments;
        seen_.clear();
        return Step::more;
      case State::before_arguments:
        if (is_blank(c)) return Step::more;
        if (c != '{') return Step::wrong;
        out_.begin_call(name_);
        state_ = State::arguments;
        [[fallthrough]];
      case State::arguments: {
        const JsonStream::Step step = stream_.push(c);
        if (step == JsonStream::Step::wrong) return Step::wrong;
        out_.add_arguments(std::string_view(&c, 1));
        return step == JsonStream::Step::last ? Step::done : Step::more;
      }
      case State::tags: return tag_byte(c);
      case State::key:
        key_ += c;
        if (key_.ends_with(format_.key_close)) {
          key_.resize(key_.size() - format_.key_close.size());
          state_ = format_.value_open.empty() ? State::value : State::value_open;
          seen_.clear();
          return Step::more;
        }
        return key_.size() <= max_key && c != '\n' ? Step::more : Step::wrong;
      case State::value_open:
        if (seen_.empty() && is_blank(c)) return Step::more;
        seen_ += c;
        if (!format_.value_open.starts_with(seen_)) return Step::wrong;
        if (seen_ == format_.value_open) {
          state_ = State::value;
          seen_.clear();
        }
        return Step::more;
      case State::value:
        seen_ += c;
        if (seen_.ends_with(format_.value_close)) add_parameter();
        return Step::more;
    }
    return Step::wrong;
  }

 private:
  enum class State : uint8_t { name_open, name, between, before_arguments, arguments, tags, key, value_open, value };

  Step tag_byte(char c) {
    if (seen_.empty() && is_blank(c)) return Step::more;
    seen_ += c;
    if (seen_ == format_.call_close) {
      if (n_parameters_ == 0) out_.begin_call(name_), out_.add_arguments("{");
      out_.add_arguments("}");
      return Step::done;
    }
    if (seen_ == format_.key_open) {
      state_ = State::key;
      key_.clear();
      return Step::more;
    }
    return format_.call_close.starts_with(seen_) || format_.key_open.starts_with(seen_) ? Step::more : Step::wrong;
  }

  void add_parameter() {
    std::string_view text = std::string_view(seen_).substr(0, seen_.size() - format_.value_close.size());
    if (format_.value_lines) {
      if (text.starts_with('\n')) text.remove_prefix(1);
      if (text.ends_with('\n')) text.remove_suffix(1);
    }
    const Json& parameters = syntax_.functions.find(name_)->second;
    const ParameterForm form = parameter_form(parameters, parameter_schema(parameters, key_));
    if (n_parameters_ == 0) out_.begin_call(name_);
    out_.add_arguments((n_parameters_ == 0 ? "{" : ", ") + dump_json(Json(key_)) + ": " + parameter_value(std::string(text), form));
    ++n_parameters_;
    state_ = State::tags;
    seen_.clear();
  }

  AnswerParser& out_;
  const AnswerSyntax& syntax_;
  const ToolCallFormat& format_;
  State state_ = State::name_open;
  std::string seen_, name_, key_;
  JsonStream stream_;
  int n_parameters_ = 0;
};

}  // namespace

std::unique_ptr<CallReader> read_named_call(AnswerParser& out, const AnswerSyntax& syntax) {
  return std::make_unique<NamedReader>(out, syntax);
}

}  // namespace engine
