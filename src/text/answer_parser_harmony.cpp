// GPT-OSS's answers (https://github.com/openai/harmony): messages in channels. The prompt ends with "<|start|>assistant"; then come
// "<|channel|>analysis<|message|>TEXT<|end|><|start|>assistant<|channel|>commentary to=functions.NAME <|constrain|>json<|message|>{...}<|call|>" and
// "<|channel|>final<|message|>TEXT<|return|>", the recipient also before the channel.
#include <algorithm>
#include <utility>

#include "text/call_readers.h"

namespace engine {
namespace {

using Kind = AnswerPart::Kind;
constexpr size_t max_header = 300;
constexpr std::string_view message_mark = "<|message|>", recipient = "to=functions.";
constexpr std::string_view header_begins[] = {"<|channel|>", " to=", "<|start|>"};
constexpr std::string_view body_ends[] = {"<|end|>", "<|return|>", "<|call|>", "<|start|>", "<|channel|>"};

class HarmonyParser final : public AnswerParser {
 public:
  explicit HarmonyParser(const AnswerSyntax& syntax) : syntax_(syntax) {}

  void push(std::string_view text) override {
    for (const char c : text) byte(c);
  }

  void finish() override {
    switch (state_) {
      case State::header:
        // A header that leads nowhere is a marker like others, unless it is about a call.
        if (raw_.find(recipient) != std::string::npos) add(Kind::text, raw_);
        break;
      case State::body: add(kind_, held_); break;
      case State::arguments: break_call(raw_); break;
    }
  }

 private:
  enum class State : uint8_t { header, body, arguments };

  void byte(char c) {
    switch (state_) {
      case State::header: return header_byte(c);
      case State::body: return body_byte(c);
      case State::arguments: return argument_byte(c);
    }
  }

  void header_byte(char c) {
    raw_ += c;
    const bool like_one = std::any_of(std::begin(header_begins), std::end(header_begins),
                                      [&](std::string_view begin) { return raw_.starts_with(begin) || begin.starts_with(raw_); });
    if (!like_one || raw_.size() > max_header) {
      add(Kind::text, raw_);
      return leave();
    }
    if (!raw_.ends_with(message_mark)) return;
    if (const size_t to = raw_.find(recipient); to != std::string::npos) {
      const auto begin = raw_.begin() + static_cast<std::ptrdiff_t>(to + recipient.size());
      name_.assign(begin, std::find_if_not(begin, raw_.end(), is_name_char));
      state_ = State::arguments;
      stream_ = {};
      if (!syntax_.functions.contains(name_)) broken();
      return;
    }
    kind_ = raw_.find("<|channel|>analysis") != std::string::npos ? Kind::reasoning : Kind::text;
    raw_.clear();
    state_ = State::body;
  }

  void body_byte(char c) {
    held_ += c;
    size_t kept = 0;
    for (const std::string_view end : body_ends) {
      if (!held_.ends_with(end)) {
        kept = std::max(kept, beginning_of(end, held_));
        continue;
      }
      add(kind_, std::string_view(held_).substr(0, held_.size() - end.size()));
      held_.clear();
      state_ = State::header;
      if (end == "<|start|>" || end == "<|channel|>") raw_ = end;
      return;
    }
    add(kind_, std::string_view(held_).substr(0, held_.size() - kept));
    held_.erase(0, held_.size() - kept);
  }

  void argument_byte(char c) {
    raw_ += c;
    if (!begun_ && is_blank(c)) return;
    const JsonStream::Step step = begun_ || c == '{' ? stream_.push(c) : JsonStream::Step::wrong;
    if (step == JsonStream::Step::wrong) {
      raw_.pop_back();
      broken();
      return body_byte(c);
    }
    if (!std::exchange(begun_, true)) begin_call(name_);
    add_arguments(std::string_view(&c, 1));
    if (step == JsonStream::Step::more) return;
    end_call();
    leave();
  }

  void broken() {
    break_call(raw_);
    leave();
  }

  void leave() {
    raw_.clear();
    begun_ = false;
    kind_ = Kind::text;
    state_ = State::body;
  }

  const AnswerSyntax& syntax_;
  State state_ = State::header;
  Kind kind_ = Kind::text;  // of the body
  std::string raw_;         // the header and, in a call, what came of it
  std::string held_;        // of the body: may become a marker
  std::string name_;
  JsonStream stream_;
  bool begun_ = false;
};

}  // namespace

std::unique_ptr<AnswerParser> make_harmony_parser(const AnswerSyntax& syntax) { return std::make_unique<HarmonyParser>(syntax); }

}  // namespace engine
