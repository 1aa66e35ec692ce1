#include "text/answer_parser.h"

#include <algorithm>
#include <utility>

#include "text/call_readers.h"

namespace engine {
namespace {

using Body = ToolCallFormat::Body;
using Kind = AnswerPart::Kind;
constexpr std::string_view between_thoughts = "\n\n";

const ToolCallFormat no_calls{.name = "none", .body = Body::object, .open = {}};

/// Formats whose calls stand between markers, or begin the answer; and thoughts in tags.
class MarkerParser final : public AnswerParser {
 public:
  explicit MarkerParser(const AnswerSyntax& syntax) : syntax_(syntax), format_(syntax.format != nullptr ? *syntax.format : no_calls) {
    if (syntax.thoughts != nullptr) think_open_ = syntax.thoughts->opening(), think_close_ = syntax.thoughts->close;
    may_repeat_ = syntax.thoughts != nullptr && syntax.begins_thinking;
    if (may_repeat_) state_ = State::thought;
  }

  void push(std::string_view text) override {
    for (const char c : text) byte(c);
  }

  void finish() override {
    switch (state_) {
      case State::text:
        if ((n_calls() > 0 || after_thought_) && at_head_ && held_.empty()) break;  // blanks behind a call or a thought
        add(Kind::text, take_blanks());
        add(Kind::text, held_);
        break;
      case State::thought:
        think(held_);
        break;
      case State::opened:
      case State::call: break_call(raw_); break;
      case State::list:
        if (n_in_list_ == 0) break_call(raw_);
        break;
      case State::closing: break;  // the call is whole; what came of the marker behind it says nothing
    }
  }

 private:
  enum class State : uint8_t { text, thought, opened, list, call, closing };

  void byte(char c) {
    if (state_ == State::text) return text_byte(c);
    if (state_ == State::thought) return thought_byte(c);
    raw_ += c;
    switch (state_) {
      case State::opened: return opened_byte(c);
      case State::list: return list_byte(c);
      case State::call: return call_byte(c);
      default: return closing_byte(c);
    }
  }

  // --- outside calls ---

  /// What may stand between calls and says nothing.
  bool is_between(char c) const { return is_blank(c) || (format_.bare && at_head_ && n_calls() > 0 && (c == ';' || c == ',')); }

  void text_byte(char c) {
    if (format_.bare && at_head_ && c == '{') {
      raw_ = take_blanks() + c;
      state_ = State::opened;
      return opened_byte(c);
    }
    held_ += c;
    if (at_head_ && !think_open_.empty() && think_open_.starts_with(held_)) {
      if (held_.size() < think_open_.size()) return;
      held_.clear();
      blanks_.clear();
      state_ = State::thought;
      thought_begun_ = false;
      return;
    }
    const bool opens = !format_.open.empty() && held_.ends_with(format_.open);
    const size_t kept = opens ? format_.open.size() : beginning_of(format_.open, held_);
    for (const char shown : std::string_view(held_).substr(0, held_.size() - kept)) show(shown);
    held_.erase(0, held_.size() - kept);
    if (!opens) return;
    raw_ = take_blanks() + std::exchange(held_, {});
    state_ = State::opened;
  }
  /// Text, but for blanks that may stand before a call.
  void show(char c) {
    if (is_between(c)) {
      blanks_ += c;
      return;
    }
    add(Kind::text, take_blanks());
    at_head_ = false;
    add(Kind::text, std::string_view(&c, 1));
  }
  /// The blanks before what comes, but those behind a thought belong to its tag.
  std::string take_blanks() {
    std::string blanks = std::exchange(blanks_, {});
    if (at_head_ && after_thought_) blanks.clear();
    return blanks;
  }

  void thought_byte(char c) {
    held_ += c;
    if (may_repeat_ && think_open_.starts_with(held_)) {
      if (held_.size() < think_open_.size()) return;
      held_.clear();
      may_repeat_ = false;
      return;
    }
    if (held_.ends_with(think_close_)) {
      think(std::string_view(held_).substr(0, held_.size() - think_close_.size()));
      held_.clear();
      blanks_.clear();
      at_head_ = after_thought_ = true;
      state_ = State::text;
      return;
    }
    const size_t kept = beginning_of(think_close_, held_);
    think(std::string_view(held_).substr(0, held_.size() - kept));
    held_.erase(0, held_.size() - kept);
  }
  /// More of a thought, but for blanks that may be its last; it has none before its first word.
  void think(std::string_view text) {
    for (const char c : text) {
      if (is_blank(c)) {
        if (thought_begun_) blanks_ += c;
        continue;
      }
      if (!thought_begun_ && thought_) add(Kind::reasoning, between_thoughts);
      thought_begun_ = thought_ = true;
      may_repeat_ = false;
      add(Kind::reasoning, blanks_);
      add(Kind::reasoning, std::string_view(&c, 1));
      blanks_.clear();
    }
  }

  // --- inside ---

  void opened_byte(char c) {
    if (is_blank(c)) return;
    n_in_list_ = 0;
    in_list_ = c == '[';
    item_wanted_ = true;
    if (in_list_) {
      state_ = State::list;
    } else if (c == '{') {
      begin(read_call_object(*this, syntax_, format_.bare), c);
    } else if (format_.body == Body::named || format_.body == Body::parameters) {
      begin(read_named_call(*this, syntax_), c);
    } else if (format_.body == Body::literal || format_.body == Body::python) {
      begin(read_literal_call(*this, syntax_), c);
    } else {
      broken(c);
    }
  }

  void begin(std::unique_ptr<CallReader> reader, char c) {
    reader_ = std::move(reader);
    state_ = State::call;
    call_byte(c);
  }

  void list_byte(char c) {
    if (is_blank(c)) return;
    if (item_wanted_) {
      if (c == '{') begin(read_call_object(*this, syntax_, false), c);
      else if (format_.body == Body::python) begin(read_literal_call(*this, syntax_), c);
      else broken(c);
    } else if (c == ',') {
      item_wanted_ = true;
    } else if (c == ']') {
      close();
    } else {
      again();
    }
  }

  void call_byte(char c) {
    const CallReader::Step step = reader_->push(c);
    if (step == CallReader::Step::wrong) return broken(c);
    if (step == CallReader::Step::more) return;
    end_call();
    ++n_in_list_;
    raw_.clear();
    item_wanted_ = false;
    if (in_list_) state_ = State::list;
    else close();
  }

  void close() {
    raw_.clear();
    at_head_ = true;
    after_thought_ = false;
    closing_.clear();
    state_ = format_.close.empty() && format_.call_close.empty() ? State::text : State::closing;
  }

  /// Behind a call: the markers that end it, each of which may be missing, or another call between the same ones.
  void closing_byte(char c) {
    if (closing_.empty() && is_blank(c)) return;
    closing_ += c;
    const auto may_be = [&](std::string_view marker) { return marker.starts_with(closing_); };
    if (closing_ == format_.close) {
      raw_.clear();
      state_ = State::text;
    } else if (closing_ == format_.call_close) {
      raw_.clear();
      closing_.clear();
    } else if (format_.repeats && closing_ == format_.name_open) {
      reader_ = read_named_call(*this, syntax_);
      for (const char seen : closing_) reader_->push(seen);
      state_ = State::call;
    } else if (!may_be(format_.close) && !may_be(format_.call_close) && !(format_.repeats && may_be(format_.name_open))) {
      again();
    }
  }

  /// What came since the last call is something else.
  void again() {
    state_ = State::text;
    at_head_ = true;
    for (const char c : std::exchange(raw_, {})) byte(c);
  }

  /// No call; the byte that shows it may begin something new.
  void broken(char c) {
    raw_.pop_back();
    break_call(std::exchange(raw_, {}));
    state_ = State::text;
    at_head_ = false;
    byte(c);
  }

  const AnswerSyntax& syntax_;
  const ToolCallFormat& format_;
  State state_ = State::text;
  std::string think_open_, think_close_;  // empty: no thoughts
  bool at_head_ = true;         // nothing but blanks since the beginning, a thought or a call
  bool after_thought_ = false;  // since a thought
  bool thought_ = false;        // there was one that is not empty
  bool thought_begun_ = false;  // the one under way is not empty
  bool may_repeat_ = false;     // some models begin with the tag that the prompt ended with
  std::string blanks_;   // outside: may stand before a call; in a thought: before its end
  std::string held_;     // behind them: may become a marker
  std::string raw_;      // inside: the text since the blanks before the marker, or since the last call
  std::unique_ptr<CallReader> reader_;
  bool in_list_ = false, item_wanted_ = false;
  int n_in_list_ = 0;
  std::string closing_;  // what has come of a marker behind a call
};

}  // namespace

size_t beginning_of(std::string_view marker, std::string_view text) {
  if (marker.empty()) return 0;
  for (size_t n = std::min(marker.size() - 1, text.size()); n > 0; --n) {
    if (text.substr(text.size() - n) == marker.substr(0, n)) return n;
  }
  return 0;
}

void AnswerParser::add(Kind kind, std::string_view text) {
  if (text.empty()) return;
  if (parts_.empty() || parts_.back().kind != kind) parts_.push_back({kind, {}});
  parts_.back().text += text;
}

void AnswerParser::begin_call(std::string_view name) {
  parts_.push_back({Kind::call_begin, std::string(name)});
  in_call_ = true;
}

void AnswerParser::end_call() {
  parts_.push_back({Kind::call_end, {}});
  in_call_ = false;
  ++n_calls_;
}

void AnswerParser::break_call(std::string_view text) {
  if (std::exchange(in_call_, false)) parts_.push_back({Kind::call_broken, std::string(text)});
  else add(Kind::text, text);
}

std::vector<AnswerPart> AnswerParser::take() { return std::exchange(parts_, {}); }

std::unique_ptr<AnswerParser> make_answer_parser(const AnswerSyntax& syntax) {
  if (syntax.format != nullptr && syntax.format->body == Body::harmony) return make_harmony_parser(syntax);
  return std::make_unique<MarkerParser>(syntax);
}

}  // namespace engine
