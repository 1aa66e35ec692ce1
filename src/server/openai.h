// OpenAI's HTTP interface. Everything that knows its names is in openai_*.cpp; another vendor's would be files beside them and a line in routes.cpp.
#pragma once

#include <functional>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "server/app.h"

namespace engine::server {

std::span<const Route> openai_routes();
Reply openai_error(const ApiError& error);

// --- shared by the files of this dialect ---------------------------------------------------------------------------------

/// The fields of a request, each looked up once. Null counts as not given. What nobody asked for is an error in the end.
class Fields {
 public:
  /// Parses `body`, with limits on size and depth. Throws ApiError.
  explicit Fields(const std::string& body);

  const Json* find(const char* name);  // null pointer: not given
  std::optional<std::string> text(const char* name);
  std::optional<bool> boolean(const char* name);
  std::optional<int64_t> integer(const char* name, int64_t low, int64_t high);
  std::optional<double> number(const char* name, double low, double high);
  /// OpenAI's own fields that change nothing here.
  void ignore(std::initializer_list<const char*> names);
  /// Fields that would change the answer if they were supported: only values that ask for nothing are taken.
  void only(const char* name, std::initializer_list<Json> neutral);
  const Json& object() const { return object_; }
  /// Throws ApiError that names every field that was not looked up.
  void finish() const;

 private:
  Json object_;
  std::set<std::string> known_;
};

[[noreturn]] void bad_field(const std::string& name, const std::string& expected, const Json& got);

struct Generation {
  Work work;
  bool stream = false, include_usage = false;
  std::string model;
};

/// Throws ApiError 404 if a request's `model` is another one than is served.
void check_model(const App& app, const std::string& name);

/// Fields that chat, completions and responses have in common: sampling, penalties, stops, GenerationConfig's, the model's name.
/// `max_tokens_name`: the field that bounds the answer; `default_max_tokens`: where nothing does, 0: the context.
Generation read_generation(App& app, Fields& fields, std::initializer_list<const char*> max_tokens_names, int64_t default_max_tokens);
/// Adds a prompt; throws ApiError if it leaves no room for an answer, with the counts.
void add_prompt(App& app, Generation& generation, std::vector<int32_t> prompt, const char* param);
/// The form that an answer must have, {"type": "text"}, {"type": "json_object"} or {"type": "json_schema", ...}, from the field `field`. The schema
/// with its name stands in an object "json_schema" of its own (chat), or beside the type (responses).
void read_answer_format(App& app, const Json& format, const std::string& field, bool schema_inside, Work& work);
/// A conversation checked, and put into the form that templates know: contents as text, "developer" as "system".
Json read_messages(const Json& messages);
/// The tools of a request, and what it wants of them.
struct Tools {
  Json offered;                   // in the form that templates know; null: none
  bool required = false;          // the answer must be a call
  std::string only;               // of this function; empty: of any
  bool parallel = true;           // more than one may come
  std::set<std::string> strict;   // functions whose schema must be kept to
};
/// Reads tools, tool_choice and parallel_tool_calls.
Tools read_tools(Fields& fields);
/// Puts the tools where the chat template looks for them.
void offer_tools(const App& app, const Tools& tools, ChatRenderOptions& render);
/// How answers to `g`'s prompt are to be read (thoughts, calls), and what they must be. Throws ApiError for what the model's format of calls does not allow.
void read_answers(App& app, const Tools& tools, Generation& g);
/// `tool_calls` of a message for templates: arguments as objects.
Json checked_tool_calls(const Json& calls, const std::string& where);
/// Templates and encodes. Throws ApiError if there are tools and the template leaves them out.
std::vector<int32_t> encode_conversation(App& app, const Json& messages, const ChatRenderOptions& render);

/// One choice as it grows.
struct ChoiceState {
  std::string text;
  std::vector<TokenRecord> tokens;
  std::optional<GenerationResult> result;
};

/// Submits, and waits until the scheduler has taken it. Throws ApiError, Busy. `gone`: the client has left.
std::shared_ptr<Answer> start_answer(App& app, Work work, const std::function<bool()>& gone);
/// Waits for everything. Cancels and throws if the client leaves, the deadline passes before anything was said, or generating fails.
std::vector<ChoiceState> collect_answer(App& app, Answer& answer, const std::function<bool()>& gone);
/// Hands every piece to on_piece as it comes, with comments in between for progress and silence. Returns the results; empty if the client left.
/// Throws ApiError if generating fails.
std::vector<GenerationResult> stream_answer(App& app, Answer& answer, Sink& sink, const std::function<void(const Answer::Piece&)>& on_piece);

const char* openai_finish_reason(FinishReason reason);
Json usage_of(const Work& work, const std::vector<GenerationResult>& results);
/// How many tokens a text takes: about as many as it was generated with.
int64_t count_tokens(const App& app, const std::string& text);
std::string event_text(const Json& data);  // "data: {...}\n\n"
/// The text of one token as it would stand inside a text.
std::string token_text(const App& app, int32_t id);
int64_t unix_time();

/// `POST /v1/chat/completions` and `/v1/completions`.
Reply handle_chat(App& app, const Request& request);
Reply handle_completions(App& app, const Request& request);

}  // namespace engine::server
