// `engine quantize`: a model directory in int8 or int4.
#include "quantize/quantize.h"

#include <cstdio>

#include "cli/commands.h"
#include "cli/load.h"
#include "cli/plan.h"
#include "cli/progress.h"
#include "cli/terminal.h"
#include "runtime/perplexity.h"

namespace engine::cli {
namespace {

QuantizeOptions quantize_options(const Options& options) {
  QuantizeOptions how;
  if (options.dtype == DTypeChoice::int8) how.format = kernels::Format::i8;
  else if (options.dtype != DTypeChoice::int4) throw UsageError("--dtype: expected int8 or int4", "usage: engine quantize MODEL OUT --dtype int8|int4");
  how.group = options.group_size.value_or(how.group);
  how.keep_output = options.keep_output;
  how.output = output_format(options);
  if (options.keep_output && options.output_dtype) throw UsageError("--output-dtype: not together with --keep-output");
  if (options.shard_bytes) how.max_shard_bytes = *options.shard_bytes;
  how.calibrate = options.calibrate.has_value();
  how.bits = options.bits;
  how.n_tokens = options.calibration_tokens;
  if (!how.calibrate && options.bits != 0) throw UsageError("--bits: needs --calibrate, which finds where bits are worth the most");
  if (options.bits != 0 && how.format != kernels::Format::i4) throw UsageError("--bits: goes with --dtype int4");
  return how;
}

/// The text to calibrate with, if there is one, and the token that texts begin with.
void read_calibration(const std::string& directory, const Options& options, QuantizeOptions* how) {
  if (options.calibrate->empty()) {
    const Json config = read_json_file(directory + "/config.json", size_t{16} << 20);
    const auto bos = config.is_object() ? config.find("bos_token_id") : config.end();
    if (bos != config.end() && bos->is_number_integer() && bos->get<int64_t>() >= 0) how->bos = bos->get<int32_t>();
    return;
  }
  const Tokenizer tokenizer = Tokenizer::from_directory(directory);
  how->text = tokenizer.encode(read_text_file(*options.calibrate), false);
  if (how->text.size() < 16) throw Error(*options.calibrate + ": expected a text of some length, got " + std::to_string(how->text.size()) + " tokens");
  if (!tokenizer.bos_token().empty()) how->bos = tokenizer.token_to_id(tokenizer.bos_token());
}

std::string table_line(const ModuleReport& r) {
  char line[256];
  std::snprintf(line, sizeof line, "%-48s %5.2f  %.6f  %.6f  %7lld%s\n", printable(r.module, true).c_str(), r.bits, r.rounding_error, r.error,
                static_cast<long long>(r.n_tokens), r.rounded ? "  too few: rounded to nearest" : "");
  return line;
}

constexpr char table_head[] = "module                                            bits  rounded   written    tokens\n";

Json json_report(const QuantizeSummary& s, const std::vector<ModuleReport>& reports, const PerplexityResult* original, const PerplexityResult* result) {
  Json answer = {{"modules", s.n_modules}, {"bits", s.bits}, {"output_quantized", s.output_quantized}, {"unsuited", s.n_unsuited},
                 {"source_bytes", s.source_bytes}, {"bytes", s.bytes}};
  if (result != nullptr) {
    answer["tokens"] = result->n_tokens;
    answer["perplexity"] = result->perplexity;
    answer["original_perplexity"] = original->perplexity;
    answer["mean_kl"] = result->mean_kl;
    answer["top1_agreement"] = result->top1_agreement;
  }
  if (reports.empty()) return answer;
  Json table = Json::array();
  for (const ModuleReport& r : reports) {
    table.push_back({{"module", r.module}, {"bits", r.bits}, {"rounding_error", r.rounding_error}, {"error", r.error}, {"tokens", r.n_tokens},
                     {"rounded", r.rounded}});
  }
  answer["table"] = table;
  return answer;
}

std::string text_summary(const std::string& out, const QuantizeSummary& s, kernels::Format output) {
  char line[256];
  std::snprintf(line, sizeof line, "%s: %zu modules, %.3f bits a weight%s, %s (from %s)\n", printable(out, true).c_str(), s.n_modules, s.bits,
                !s.output_quantized ? "" : output == kernels::Format::i4 ? ", output matrix int4" : ", output matrix int8", bytes_text(s.bytes).c_str(), bytes_text(s.source_bytes).c_str());
  std::string text = line;
  if (s.n_unsuited > 0) text += std::to_string(s.n_unsuited) + " matrices stay as they are: they are no linear modules of their own\n";
  return text;
}

}  // namespace

int run_quantize(const Options& options) {
  if (options.arguments.empty() || options.arguments[0].empty()) throw UsageError("OUT is missing", "usage: engine quantize MODEL OUT --dtype int8|int4");
  QuantizeOptions how = quantize_options(options);
  select_isa(options);
  const std::string directory = resolve_model(options.model, options.revision);
  const std::string& out = options.arguments[0];
  if (how.calibrate) read_calibration(directory, options, &how);
  Team team(options.n_threads > 0 ? options.n_threads : default_thread_count());

  std::optional<EndGuard> end(std::in_place);
  InterruptGuard guard(false);
  std::optional<Progress> bar;
  std::string at;
  how.progress = [&](const char* what, uint64_t done, uint64_t total) {
    if (at != what) bar.emplace(at = what, options.quiet);
    bar->update(done, total);
    return !guard.interrupted() && !end->asked();
  };
  std::vector<ModuleReport> reports;
  how.report = [&](const ModuleReport& report) { reports.push_back(report); };
  const QuantizeSummary summary = quantize_model(directory, out, team, how);
  bar.reset();
  end.reset();
  if (summary.stopped) return exit_interrupted;

  PerplexityResult original, result;
  if (how.calibrate && !summary.held_out.empty()) {
    bar.emplace("comparing", options.quiet);
    PerplexityOptions compare;
    compare.context = summary.held_out_length;
    compare.progress = [&](int64_t done, int64_t total) { bar->update(static_cast<uint64_t>(done), static_cast<uint64_t>(total)); };
    LoadOptions load;
    load.team = &team;
    const std::shared_ptr<const Model> model = Model::load(directory, load);
    original = perplexity(model, team, summary.held_out, how.bos, compare);
    result = perplexity(Model::load(out, load), team, summary.held_out, how.bos, compare, model);
    bar.reset();
  }
  const bool compared = result.n_tokens > 0;
  if (options.json) {
    write_stdout(dump_json(json_report(summary, reports, compared ? &original : nullptr, compared ? &result : nullptr)) + "\n");
    return exit_done;
  }
  std::string text;
  if (!reports.empty()) text += table_head;
  for (const ModuleReport& r : reports) text += table_line(r);
  text += text_summary(out, summary, how.output);
  if (compared) {
    char line[256];
    std::snprintf(line, sizeof line, "perplexity %.4f, was %.4f; mean KL divergence %.6f, same top token %.2f%% (%lld tokens that were not calibrated with)\n",
                  result.perplexity, original.perplexity, result.mean_kl, 100 * result.top1_agreement, static_cast<long long>(result.n_tokens));
    text += line;
  }
  if (!options.quiet) write_stdout(text);
  return exit_done;
}

}  // namespace engine::cli
