#include "cli/options.h"

#include <CLI/CLI.hpp>
#include <charconv>
#include <cmath>

#include "cli/commands.h"
#include "cli/help.h"
#include "demo/demo.h"
#include "kernels/kernels.h"
#include "runtime/generation_config.h"

namespace engine::cli {
namespace {

enum CommandBit : uint32_t {
  in_chat = 1, in_generate = 2, in_inspect = 4, in_perplexity = 8, in_tokenize = 16, in_detokenize = 32, in_template = 64,
  in_logits = 128, in_version = 256, in_serve = 512, in_bench = 1024, in_check = 2048, in_quantize = 4096, in_pull = 8192, in_completions = 1 << 14, in_man = 1 << 15
};
constexpr uint32_t generating = in_chat | in_generate;
constexpr uint32_t computing = generating | in_serve | in_perplexity | in_logits | in_bench | in_check;
constexpr uint32_t with_model = computing | in_inspect | in_quantize | in_tokenize | in_detokenize | in_template;

// Commands that run the demo model where none is named.
#ifdef ENGINE_DEMO
constexpr uint32_t with_demo = in_chat | in_generate | in_serve | in_inspect | in_bench;
#define OR_DEMO "; left out: the demo model inside"
#else
constexpr uint32_t with_demo = 0;
#define OR_DEMO ""
#endif

constexpr char model_help[] = "MODEL\ta Hugging Face model directory, or a Hub id (ORG/NAME) that is in the local cache\n";
constexpr char demo_model_help[] = "MODEL\ta Hugging Face model directory, or a Hub id (ORG/NAME) that is in the local cache" OR_DEMO "\n";
constexpr char model_settings_help[] =
    "MODEL\ta Hugging Face model directory, or a Hub id (ORG/NAME) that is in the local cache" OR_DEMO "\n"
    "key=value\tgeneration settings with Transformers' names: do_sample=False temperature=0.7 top_p=0.9 max_new_tokens=100 (default: 256) "
    "stop_strings='[\"###\"]' ...\n";

const std::vector<Command>& command_table() {
  static const std::vector<Command> table = {
      {"chat", in_chat, "talk with a model", "chat [MODEL] [options] [key=value ...]", model_settings_help, true, true, true, 0, run_chat},
      {"generate", in_generate, "answer one prompt and end", "generate [MODEL] [-p TEXT|--messages F] [options] [key=value ...]",
       model_settings_help, true, true, true, 0, run_generate},
#ifdef ENGINE_HTTP
      {"serve", in_serve, "answer over HTTP: OpenAI's interface and a chat page", "serve [MODEL] [options] [key=value ...]", model_settings_help, true,
       true, true, 0, run_serve},
#endif
      {"pull", in_pull, "fetch a model from the Hugging Face Hub into the cache", "pull ORG/NAME [--revision REV] [options]",
       "ORG/NAME\ta model of the Hub; what is not yet in the cache is fetched, and what was begun is continued\n", true, true, false, 0, run_pull},
      {"inspect", in_inspect, "show what a model is and the memory it needs", "inspect [MODEL] [options]", demo_model_help, true, true, false,
       0, run_inspect},
      {"check", in_check, "verify a model directory and say how to mend it", "check MODEL [options]", model_help, true, true, false, 0, run_check},
      {"perplexity", in_perplexity, "measure how well a model predicts a text", "perplexity MODEL FILE [options]",
       "MODEL\ta Hugging Face model directory, or a Hub id (ORG/NAME) that is in the local cache\nFILE\ta UTF-8 text\n", true, true,
       false, 1, run_perplexity},
      {"tokenize", in_tokenize, "turn text into token ids", "tokenize MODEL [TEXT] [--jsonl]",
       "MODEL\ta Hugging Face model directory, or a Hub id (ORG/NAME) that is in the local cache\n"
       "TEXT\twhat to encode; left out: all of stdin\n",
       true, true, false, 1, run_tokenize},
      {"detokenize", in_detokenize, "turn token ids into text", "detokenize MODEL [IDS...] [--jsonl]",
       "MODEL\ta Hugging Face model directory, or a Hub id (ORG/NAME) that is in the local cache\n"
       "IDS\tnumbers; left out: read from stdin\n",
       true, true, false, -1, run_detokenize},
      {"template", in_template, "render chat templates",
       "template render --jsonl\n       engine template render (MODEL | --template FILE) --context FILE",
       "MODEL\ta Hugging Face model directory, or a Hub id (ORG/NAME) that is in the local cache\n", true, false, false, 1, run_template},
      {"bench", in_bench, "measure prefill and decode speed against the machine's limits", "bench [MODEL] [-p 512] [-n 128] [-r 3] [options]",
       demo_model_help, true, true, false, 0, run_bench},
      {"quantize", in_quantize, "write a model in int8 or int4", "quantize MODEL OUT --dtype int8|int4 [options]",
       "MODEL\ta Hugging Face model directory, or a Hub id (ORG/NAME) that is in the local cache\n"
       "OUT\tthe directory to write, in the compressed-tensors layout; it must not exist\n",
       true, true, false, 1, run_quantize},
      {"logits", in_logits, "compute the logits of token ids", "logits MODEL --input F.safetensors --output G.safetensors", model_help, true,
       true, false, 0, run_logits},
      {"completions", in_completions, "print completions for a shell", "completions bash|zsh|fish",
       "SHELL\tbash, zsh or fish; the first line of what is printed says where it goes\n", false, false, false, 1, run_completions},
      {"man", in_man, "print the manual page", "man", "", false, false, false, 0, run_man},
      {"version", in_version, "version, compiler, instruction sets, threads", "version [--json]", "", false, false, false, 0, run_version},
  };
  return table;
}

// --- values ---------------------------------------------------------------------------------------------------------------

[[noreturn]] void bad_value(const char* flag, const std::string& expected, const std::string& got) {
  throw UsageError(std::string(flag) + ": expected " + expected + ", got '" + got + "'");
}

int64_t parse_count(const std::string& text, const char* flag, int64_t low, int64_t high) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || value < low || value > high) {
    bad_value(flag, "a whole number from " + std::to_string(low) + " to " + std::to_string(high), text);
  }
  return value;
}

double parse_bits(const std::string& text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || !(value >= 4 && value <= 8.5)) bad_value("--bits", "a number from 4 to 8.5", text);
  return value;
}

template <class T>
struct Named {
  const char* name;
  T value;
};

template <class T, size_t N>
T parse_name(const std::string& text, const char* flag, const Named<T> (&known)[N]) {
  std::string list;
  for (const Named<T>& row : known) {
    if (text == row.name) return row.value;
    list += std::string(list.empty() ? "" : ", ") + row.name;
  }
  bad_value(flag, "one of " + list, text);
}

constexpr Named<DTypeChoice> dtype_names[] = {{"auto", DTypeChoice::automatic},
                                              {"float32", DTypeChoice::float32},
                                              {"bfloat16", DTypeChoice::bfloat16},
                                              {"float16", DTypeChoice::float16},
                                              {"int8", DTypeChoice::int8},
                                              {"int4", DTypeChoice::int4}};
constexpr Named<DTypeChoice> quantized_names[] = {{"int8", DTypeChoice::int8}, {"int4", DTypeChoice::int4}};
constexpr Named<int> group_names[] = {{"32", 32}, {"64", 64}, {"128", 128}};
constexpr Named<KvDTypeChoice> kv_dtype_names[] = {
    {"float32", KvDTypeChoice::float32}, {"bfloat16", KvDTypeChoice::bfloat16}, {"int8", KvDTypeChoice::int8}};

constexpr Named<server::LogFormat> log_names[] = {{"text", server::LogFormat::text}, {"json", server::LogFormat::json}};

// --- the table of options ---------------------------------------------------------------------------------------------------

using Apply = void (*)(Options&, const std::string& value);

template <auto Member>
void set_text(Options& options, const std::string& value) {
  options.*Member = value;
}
template <auto Member>
void set_flag(Options& options, const std::string&) {
  options.*Member = true;
}
template <auto Member>
void set_path(Options& options, const std::string& value) {
  if (value.empty()) throw UsageError("a file name is empty");
  options.*Member = value;
}

template <auto& known>
std::string names_in() {
  std::string names;
  for (const auto& row : known) names += (names.empty() ? "" : " ") + std::string(row.name);
  return names;
}
std::string level_names() {
  int n_levels = 0;
  const kernels::Level* levels = kernels::levels(&n_levels);
  std::string names;
  for (int i = 0; i < n_levels; ++i) names += (i > 0 ? " " : "") + std::string(levels[i].name);
  return names;
}

template <auto Outer, auto Member>
void set_path(Options& options, const std::string& value) {
  if (value.empty()) throw UsageError("an option's value is empty");
  (options.*Outer).*Member = value;
}

struct Row {
  const char* name;    // "--threads"
  const char* letter;  // "-t", or null
  const char* value;   // "N"; "[FILE]": may be left out; null: a flag
  uint32_t commands;
  const char* help;
  Apply apply;
  std::string (*choices)() = nullptr;  // the words it may be, with blanks between
};

void set_dtype(Options& o, DTypeChoice dtype) {
  if (o.dtype != DTypeChoice::automatic && o.dtype != dtype) throw UsageError("--dtype, --load-in-8bit, --load-in-4bit: expected one type of weights, got two");
  o.dtype = dtype;
}

const Row rows[] = {
    {"--host", nullptr, "ADDRESS", in_serve, "address to listen at: a number, localhost or unix:PATH (default: 127.0.0.1; 0.0.0.0: all)",
     set_path<&Options::server, &server::ServerOptions::host>},
    {"--listen", nullptr, "ADDRESS", in_serve, "the same as --host", set_path<&Options::server, &server::ServerOptions::host>},
    {"--port", nullptr, "N", in_serve, "port to listen at (default: 8000; 0: any that is free)",
     [](Options& o, const std::string& v) { o.server.port = static_cast<int>(parse_count(v, "--port", 0, 65535)); }},
    {"--api-key", nullptr, "KEY", in_serve, "clients must send it (seen by others in the list of processes: rather --api-key-file)",
     set_path<&Options::server, &server::ServerOptions::api_key>},
    {"--api-key-file", nullptr, "FILE", in_serve, "keys that clients may send, one a line; read again on SIGHUP",
     set_path<&Options::server, &server::ServerOptions::api_key_file>},
    {"--model-name", nullptr, "NAME", in_serve, "what clients call the model (default: its directory's name)",
     set_path<&Options::server, &server::ServerOptions::model_name>},
    {"--parallel", nullptr, "N", in_serve | in_bench, "answers computed side by side (default: serve 4, bench 1)",
     [](Options& o, const std::string& v) { o.parallel = static_cast<int>(parse_count(v, "--parallel", 1, 256)); }},
    {"--queue", nullptr, "N", in_serve, "answers that may wait beyond those; then 503 (default: 64)",
     [](Options& o, const std::string& v) { o.server.service.max_queue = static_cast<int>(parse_count(v, "--queue", 0, 10000)); }},
    {"--request-timeout", nullptr, "S", in_serve, "seconds from a request to the end of its answer (default: 600)",
     [](Options& o, const std::string& v) { o.server.request_timeout_s = static_cast<double>(parse_count(v, "--request-timeout", 1, 1000000)); }},
    {"--read-timeout", nullptr, "S", in_serve, "seconds for a client to send a request, or to take what is sent (default: 30)",
     [](Options& o, const std::string& v) {
       o.server.http.read_timeout = o.server.http.write_timeout = std::chrono::seconds(parse_count(v, "--read-timeout", 1, 3600));
     }},
    {"--drain", nullptr, "S", in_serve, "seconds for answers to end after SIGTERM (default: 30)",
     [](Options& o, const std::string& v) { o.server.drain_s = static_cast<double>(parse_count(v, "--drain", 0, 86400)); }},
    {"--max-body", nullptr, "SIZE", in_serve, "largest request (default: 4M)",
     [](Options& o, const std::string& v) { o.server.http.max_body_bytes = parse_size(v, "--max-body"); }},
    {"--max-connections", nullptr, "N", in_serve, "clients at once (default: 256)",
     [](Options& o, const std::string& v) { o.server.max_connections = static_cast<int>(parse_count(v, "--max-connections", 1, 10000)); }},
    {"--allow-host", nullptr, "NAME", in_serve, "name in addresses that lead here, besides localhost and numbers; '*': any",
     [](Options& o, const std::string& v) { o.server.allowed_hosts.push_back(v); }},
    {"--cors", nullptr, "ORIGIN", in_serve, "web pages that may use the server: https://example.org or '*' (default: only its own)",
     set_path<&Options::server, &server::ServerOptions::cors_origin>},
    {"--log", nullptr, "FORMAT", in_serve, "log on stderr: text or json",
     [](Options& o, const std::string& v) { o.server.log = parse_name(v, "--log", log_names); }, names_in<log_names>},
    {"--prompt", "-p", "TEXT", in_generate, "the prompt: one message from the user; left out: all of stdin", set_text<&Options::prompt>},
    {"--messages", nullptr, "FILE", in_generate, "a JSON list of {\"role\", \"content\"}; '-': stdin", set_path<&Options::messages>},
    {"--raw", nullptr, nullptr, in_generate, "the prompt goes to the model as it is, without the chat template; control tokens in it count",
     set_flag<&Options::raw>},
    {"--json-schema", nullptr, "FILE", in_generate, "the answer is JSON as this JSON Schema describes it; '-': stdin", set_path<&Options::json_schema>},
    {"--stream", nullptr, nullptr, in_generate, "write the answer as it comes (always so on a terminal)", set_flag<&Options::stream>},
    {"--load", nullptr, "FILE", in_chat, "go on with a chat that !save wrote", set_path<&Options::load>},
    {"--system-prompt", nullptr, "TEXT", generating, "what the model is told before the conversation", set_text<&Options::system_prompt>},
    {"--chat-template", nullptr, "FILE|NAME", generating | in_serve | in_template,
     "a Jinja template in place of the model's own, or a built-in one: chatml, llama3, mistral, gemma, zephyr, raw",
     set_path<&Options::chat_template>, [] { return std::string("chatml llama3 mistral gemma zephyr raw"); }},
    {"--generation-config", nullptr, "FILE", generating | in_serve, "settings in the form of generation_config.json",
     set_path<&Options::generation_config>},
    {"--seed", nullptr, "N", generating, "start of the random numbers; the same seed gives the same answer",
     [](Options& o, const std::string& v) {
       parse_count(v, "--seed", 0, INT64_MAX);
       o.settings.push_back({"seed", v});
     }},
    {"--allow-special", nullptr, nullptr, generating, "control tokens written in messages count as such (unsafe with text from others)",
     set_flag<&Options::allow_special>},
    {"--jsonl", nullptr, nullptr, in_tokenize | in_detokenize | in_template, "one JSON object a line on stdin, one answer a line on stdout",
     set_flag<&Options::jsonl>},
    {"--template", nullptr, "FILE", in_template, "the Jinja template", set_path<&Options::template_file>},
    {"--context", nullptr, "FILE", in_template, "a JSON object with the template's variables; '-': stdin", set_path<&Options::context_file>},
    {"--input", nullptr, "FILE", in_logits, "safetensors with int64 input_ids [B, T]", set_path<&Options::input>},
    {"--output", nullptr, "FILE", in_logits, "safetensors to write, with float32 logits [B, T, V]", set_path<&Options::output>},
    {"--stride", nullptr, "N", in_perplexity, "score windows that overlap: the last N tokens of each", [](Options& o, const std::string& v) {
       o.stride = parse_count(v, "--stride", 1, INT64_C(1) << 40);
     }},
    {"--against", nullptr, "MODEL2", in_perplexity, "also the mean KL divergence from MODEL2 (as it comes, without --dtype and --kv-dtype) and how often both put the same token first",
     set_path<&Options::against>},
    {"--ctx", nullptr, "N", generating | in_serve | in_inspect | in_perplexity, "positions the context may take (default: the model's own)",
     [](Options& o, const std::string& v) { o.ctx = parse_count(v, "--ctx", 1, INT64_C(1) << 40); }},
    {"--mem", nullptr, "SIZE", generating | in_serve | in_inspect, "hard limit for weights, KV cache and scratch together (4G, 512M)",
     [](Options& o, const std::string& v) { o.mem_bytes = parse_size(v, "--mem"); }},
    {"--dtype", nullptr, "TYPE", in_quantize, "int8 or int4",
     [](Options& o, const std::string& v) { o.dtype = parse_name(v, "--dtype", quantized_names); }, names_in<quantized_names>},
    {"--calibrate", nullptr, "[FILE]", in_quantize, "make up for rounding errors, with a text like those the model will see; without FILE with the model's own samples",
     [](Options& o, const std::string& v) { o.calibrate = v; }},
    {"--bits", nullptr, "B", in_quantize, "with --calibrate and int4: bits a weight on the whole, scales included (4.6); more go to where they are worth the most",
     [](Options& o, const std::string& v) { o.bits = parse_bits(v); }},
    {"--calibration-tokens", nullptr, "N", in_quantize, "how much of FILE or of samples to use (default: 16384)",
     [](Options& o, const std::string& v) { o.calibration_tokens = parse_count(v, "--calibration-tokens", 64, 1 << 24); }},
    {"--keep-output", nullptr, nullptr, in_quantize, "leave the output matrix as it is (default: int8, and no longer tied to the embedding)",
     set_flag<&Options::keep_output>},
    {"--shard-size", nullptr, "SIZE", in_quantize, "largest file of weights (default: 5G)",
     [](Options& o, const std::string& v) { o.shard_bytes = parse_size(v, "--shard-size"); }},
    {"--dtype", nullptr, "TYPE", computing | in_inspect, "weights in memory: auto (as in the file), float32, bfloat16, float16, int8 or int4",
     [](Options& o, const std::string& v) { set_dtype(o, parse_name(v, "--dtype", dtype_names)); }, names_in<dtype_names>},
    {"--load-in-8bit", nullptr, nullptr, computing | in_inspect, "the same as --dtype int8",
     [](Options& o, const std::string&) { set_dtype(o, DTypeChoice::int8); }},
    {"--load-in-4bit", nullptr, nullptr, computing | in_inspect, "the same as --dtype int4",
     [](Options& o, const std::string&) { set_dtype(o, DTypeChoice::int4); }},
    {"--adapter", nullptr, "DIR", computing | in_inspect, "LoRA adapter (PEFT) to merge into the weights", set_path<&Options::adapter>},
    {"--draft", nullptr, "MODEL", generating | in_serve,
     "a small model with the same tokenizer that guesses tokens ahead: the same answers, sooner", set_path<&Options::draft>},
    {"--group-size", nullptr, "G", computing | in_inspect | in_quantize, "int8 and int4: columns that share a scale: 32, 64 or 128 (default: 32)",
     [](Options& o, const std::string& v) { o.group_size = parse_name(v, "--group-size", group_names); }, names_in<group_names>},
    {"--output-dtype", nullptr, "TYPE", computing | in_inspect | in_quantize,
     "with --dtype int4: the output matrix in int8 or int4 (default: int8); int4 is faster, and less exact where it shows the most",
     [](Options& o, const std::string& v) { o.output_dtype = parse_name(v, "--output-dtype", quantized_names); }, names_in<quantized_names>},
    {"--kv-dtype", nullptr, "TYPE", computing | in_inspect, "keys and values in memory: float32, bfloat16 or int8 (default: float32; bfloat16 beside int8 or int4 weights)",
     [](Options& o, const std::string& v) { o.kv_dtype = parse_name(v, "--kv-dtype", kv_dtype_names); }, names_in<kv_dtype_names>},
    {"--threads", "-t", "N", computing | in_inspect | in_quantize | in_version, "threads (default: the physical cores this process may use)",
     [](Options& o, const std::string& v) { o.n_threads = static_cast<int>(parse_count(v, "--threads", 1, 1024)); }},
    {"--isa", nullptr, "NAME", computing | in_quantize | in_version, "instruction set; `engine version` lists them (also: ENGINE_ISA)",
     set_text<&Options::isa>, level_names},
    {"--connections", nullptr, "N", in_pull, "files fetched at the same time (default: 4)",
     [](Options& o, const std::string& v) { o.connections = static_cast<int>(parse_count(v, "--connections", 1, 32)); }},
    {"--revision", nullptr, "REV", with_model | in_pull, "branch or commit of a Hub id (default: main)", set_text<&Options::revision>},
    {"--prompt-tokens", "-p", "N", in_bench, "tokens of the prompt (default: 512, or what the context leaves)",
     [](Options& o, const std::string& v) { o.bench_prompt = parse_count(v, "--prompt-tokens", 1, 1 << 20); }},
    {"--new-tokens", "-n", "N", in_bench, "tokens decoded after it (default: 128)",
     [](Options& o, const std::string& v) { o.bench_tokens = parse_count(v, "--new-tokens", 1, 1 << 20); }},
    {"--runs", "-r", "N", in_bench, "runs, of which the median counts (default: 3)",
     [](Options& o, const std::string& v) { o.bench_runs = parse_count(v, "--runs", 1, 1000); }},
    {"--json", nullptr, nullptr, in_generate | in_inspect | in_perplexity | in_version | in_bench | in_check | in_quantize, "JSON on stdout", set_flag<&Options::json>},
    {"--quiet", "-q", nullptr, with_model | in_pull, "no progress, timings or warnings", set_flag<&Options::quiet>},
};

const Row* find_row(const std::string& name, uint32_t command) {
  for (const Row& row : rows) {
    if ((row.commands & command) != 0 && (name == row.name || (row.letter != nullptr && name == row.letter))) return &row;
  }
  return nullptr;
}

// --- parsing ----------------------------------------------------------------------------------------------------------------

// Puts CLI11's part (options and their values) in `for_parser`, everything else in `positionals`. CLI11 2.1 by itself would take
// `--name=` as a missing value, swallow "++" and split "[a,b]".
void sort_arguments(const Command& command, const std::vector<std::string>& arguments, std::vector<std::string>* for_parser,
                    std::vector<std::string>* positionals) {
  bool only_positionals = false;
  for (size_t i = 0; i < arguments.size(); i++) {
    const std::string& argument = arguments[i];
    if (only_positionals || argument.size() < 2 || argument[0] != '-') {
      positionals->push_back(argument);
      continue;
    }
    if (argument == "--") {
      only_positionals = true;
      continue;
    }
    const size_t equals = argument.rfind("--", 0) == 0 ? argument.find('=') : std::string::npos;
    const std::string name = argument.substr(0, equals);
    const Row* row = find_row(name, command.bit);
    for_parser->push_back(row != nullptr && row->value != nullptr ? name : argument);
    if (row == nullptr || row->value == nullptr) continue;
    const bool optional = row->value[0] == '[';
    if (equals != std::string::npos) {
      for_parser->push_back(argument.substr(equals + 1));
    } else if (optional && (i + 1 == arguments.size() || arguments[i + 1].rfind("--", 0) == 0 || find_row(arguments[i + 1], command.bit) != nullptr)) {
      for_parser->emplace_back();
    } else if (i + 1 < arguments.size()) {
      for_parser->push_back(arguments[++i]);
    }
  }
}

[[noreturn]] void unknown_option(const Command& command, const std::string& argument) {
  const std::string name = argument.substr(0, argument.find('='));
  std::vector<std::string> known;
  std::string elsewhere;
  for (const Row& row : rows) {
    if ((row.commands & command.bit) != 0) known.emplace_back(row.name);
    else if (name == row.name) elsewhere = row.name;
  }
  if (!elsewhere.empty()) throw UsageError(name + ": not an option of `engine " + command.name + "`");
  const std::string nearest = nearest_word(name, known);
  throw UsageError(name + ": unknown option",
                   nearest.empty() ? std::string("`engine ") + command.name + " --help` lists the options" : "did you mean " + nearest + "?");
}

bool is_setting(const std::string& word) {
  const size_t equals = word.find('=');
  return equals != std::string::npos && word.find('/') >= equals;  // a path may hold '=' too
}

void take_positionals(const Command& command, const std::vector<std::string>& positionals, Options* options) {
  for (const std::string& word : positionals) {
    if (command.takes_settings && is_setting(word)) {
      const size_t equals = word.find('=');
      options->settings.push_back({word.substr(0, equals), word.substr(equals + 1)});
    } else if (command.takes_model && options->model.empty() && command.bit != in_template) {
      if (word.empty()) throw UsageError("MODEL: expected a directory or a Hub id, got an empty argument");
      options->model = word;
    } else {
      options->arguments.push_back(word);
    }
  }
  if (command.bit == in_template) {  // template render [MODEL]
    if (options->arguments.empty() || options->arguments[0] != "render") {
      throw UsageError(options->arguments.empty() ? "template: expected `render` after it"
                                                  : "template: expected `render` after it, got '" + options->arguments[0] + "'");
    }
    options->arguments.erase(options->arguments.begin());
    if (!options->arguments.empty()) {
      options->model = options->arguments[0];
      options->arguments.erase(options->arguments.begin());
    }
    if (!options->arguments.empty()) throw UsageError("unexpected argument '" + options->arguments[0] + "'");
  }
  if (options->model.empty() && (command.bit & with_demo) != 0) options->model = demo::directory;
  if (command.model_required && options->model.empty()) {
    throw UsageError("MODEL is missing", std::string("usage: engine ") + command.usage);
  }
  if (command.max_arguments >= 0 && options->arguments.size() > static_cast<size_t>(command.max_arguments)) {
    throw UsageError("unexpected argument '" + options->arguments[static_cast<size_t>(command.max_arguments)] + "'",
                     command.takes_settings ? "settings are written key=value; a prompt goes after -p" : std::string("usage: engine ") + command.usage);
  }
}

// Settings are checked before anything is loaded.
void check_settings(const Options& options) {
  GenerationConfig config;
  for (const Setting& setting : options.settings) {
    try {
      config.set(setting.key, setting.value);
    } catch (const Error& error) {
      throw UsageError(error.message, error.hint);
    }
  }
}

}  // namespace

uint64_t parse_size(const std::string& text, const char* flag) {
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  std::string unit(end, text.data() + text.size());
  if (unit.size() > 1 && (unit.substr(1) == "iB" || unit.substr(1) == "B")) unit.resize(1);
  const size_t power = unit.empty() ? 0 : std::string_view("BKMGT").find(static_cast<char>(std::toupper(unit[0])));
  const double bytes = number * std::pow(1024.0, static_cast<double>(power));
  if (error != std::errc{} || unit.size() > 1 || power > 4 || !(bytes >= 1) || bytes > 1e18) {
    bad_value(flag, "a size such as 512M or 4G", text);
  }
  return static_cast<uint64_t>(bytes);
}

const Command* find_command(const std::string& name) {
  for (const Command& command : command_table()) {
    if (name == command.name) return &command;
  }
  return nullptr;
}

Options parse_options(const Command& command, const std::vector<std::string>& arguments) {
  std::vector<std::string> for_parser, positionals;
  sort_arguments(command, arguments, &for_parser, &positionals);

  Options options;
  CLI::App app;
  app.set_help_flag();
  app.allow_extras();
  bool help = false;
  app.add_flag("-h,--help", help);
  for (const Row& row : rows) {
    if ((row.commands & command.bit) == 0) continue;
    const std::string names = row.letter == nullptr ? row.name : std::string(row.letter) + "," + row.name;
    if (row.value == nullptr) {
      app.add_flag_callback(names, [&options, &row] { row.apply(options, ""); });
    } else {
      app.add_option_function<std::string>(names, [&options, &row](const std::string& value) { row.apply(options, value); })
          ->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
    }
  }
  std::reverse(for_parser.begin(), for_parser.end());  // CLI11 takes them from the back
  try {
    app.parse(for_parser);
  } catch (const CLI::ArgumentMismatch&) {
    throw UsageError(for_parser.front() + ": a value is missing after it");
  } catch (const CLI::ParseError& error) {
    throw UsageError(error.what());
  }
  if (help) throw EarlyAnswer{command_help(command)};
  for (const std::string& extra : app.remaining()) unknown_option(command, extra);

  take_positionals(command, positionals, &options);
  check_settings(options);
  return options;
}

std::vector<OptionText> option_texts(const Command& command) {
  std::vector<OptionText> texts;
  for (const Row& row : rows) {
    if ((row.commands & command.bit) != 0) texts.push_back({row.name, row.letter, row.value, row.choices == nullptr ? "" : row.choices(), row.help});
  }
  texts.push_back({"--help", "-h", nullptr, "", "this help"});
  return texts;
}

std::vector<const Command*> all_commands() {
  std::vector<const Command*> all;
  for (const Command& command : command_table()) all.push_back(&command);
  return all;
}

}  // namespace engine::cli
