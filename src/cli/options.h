// The command line: one table of options, one of commands.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "server/server.h"

namespace engine::cli {

/// The command line is wrong: exit code 2.
struct UsageError : Error {
  using Error::Error;
};

/// A question that the program answers and ends: --help, --version. `text` goes to stdout, exit code 0.
struct EarlyAnswer {
  std::string text;
};

enum class DTypeChoice : uint8_t { automatic, float32, bfloat16, float16, int8, int4 };
enum class KvDTypeChoice : uint8_t { automatic, float32, bfloat16, int8 };

struct Setting {
  std::string key, value;
};

/// What the command line said. Fields that a command does not take are at their defaults.
struct Options {
  std::vector<std::string> arguments;  // positionals after MODEL
  std::string model;                   // as given
  std::vector<Setting> settings;       // key=value, in order
  bool quiet = false;

  std::string revision = "main";
  int n_threads = 0;  // 0: default_thread_count()
  std::string isa;    // empty: the best
  DTypeChoice dtype = DTypeChoice::automatic;
  std::string adapter;
  std::string draft;  // MODEL as given
  std::optional<int> group_size;  // int8, int4: columns that share a scale (32)
  std::optional<DTypeChoice> output_dtype;  // int8 or int4
  KvDTypeChoice kv_dtype = KvDTypeChoice::automatic;
  int64_t ctx = 0;    // 0: the model's
  std::optional<uint64_t> mem_bytes;

  std::string chat_template;
  std::string generation_config;
  std::optional<std::string> system_prompt;
  bool allow_special = false;

  std::string load;                    // chat
  std::optional<std::string> prompt;   // generate -p
  std::string messages;                // generate --messages
  std::string json_schema;             // generate --json-schema
  bool raw = false, json = false, stream = false;
  int64_t stride = 0;                  // perplexity
  std::string against;
  bool jsonl = false;                  // tokenize, detokenize, template
  std::string template_file, context_file;
  std::string input, output;           // logits
  std::optional<std::string> calibrate;  // quantize: FILE; empty: the model's own samples
  double bits = 0;
  int64_t calibration_tokens = 16384;
  bool keep_output = false;
  std::optional<uint64_t> shard_bytes;
  int64_t bench_prompt = 0, bench_tokens = 128, bench_runs = 3;
  int connections = 0;                 // pull; 0: the default
  int parallel = 0;                    // serve: sequences side by side; 0: the default
  server::ServerOptions server;        // serve: its own
};

/// A command: a row of the table in options.cpp.
struct Command {
  const char* name;
  uint32_t bit;
  const char* summary;    // one line of `engine --help`
  const char* usage;      // after "engine "
  const char* positional; // lines of help on MODEL and so on, "name\thelp\n"
  bool takes_model, model_required, takes_settings;
  int max_arguments;      // positionals after MODEL; -1: any number
  int (*run)(const Options&);
};

/// Runs `argv` and returns the exit code; errors are printed.
int run(int argc, char** argv);

/// For tests: parses the arguments after the command's name. Throws UsageError, EarlyAnswer.
Options parse_options(const Command& command, const std::vector<std::string>& arguments);
/// Null if there is none of this name.
const Command* find_command(const std::string& name);

/// "4G", "512M", "1.5GiB", "1000000": bytes (powers of 1024). Throws UsageError that names `flag`.
uint64_t parse_size(const std::string& text, const char* flag);

}  // namespace engine::cli
