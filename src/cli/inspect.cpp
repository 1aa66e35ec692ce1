// `engine inspect`: what a model is, and the memory it needs.
#include <cinttypes>
#include <cstdio>
#include <map>

#include "cli/commands.h"
#include "cli/load.h"
#include "cli/plan.h"
#include "cli/terminal.h"
#include "runtime/bench.h"
#include "text/tokenizer.h"

namespace engine::cli {
namespace {

// "1.24 B", "260.0 K"
std::string count_text(uint64_t n) {
  static constexpr const char* units[] = {"", " K", " M", " B", " T"};
  double value = static_cast<double>(n);
  size_t unit = 0;
  while (value >= 1000 && unit + 1 < std::size(units)) value /= 1000, unit++;
  char text[32];
  std::snprintf(text, sizeof text, unit == 0 ? "%.0f%s" : "%.2f%s", value, units[unit]);
  return text;
}

// The template's origin, or why there is none.
struct TemplateInfo {
  std::string origin;  // empty: none
  bool system_role = false;
};

TemplateInfo template_info(const std::string& directory) {
  const std::optional<ChatTemplate> found = ChatTemplate::from_directory(directory);
  if (!found) return {};
  return {found->origin(), found->supports_system_role()};
}

// Physical memory of a server of this model while nobody asks it anything. Requests add the KV blocks that they leave as a cache, and at most
// the plan's scratch.
struct IdleServer {
  uint64_t started = 0;       // 0: not known (no /proc)
  uint64_t weights_read = 0;  // weights in the mapped file become real with the first request
};

// What is not weights or scratch is what this process holds now: the same program, with the same tokenizer. To be asked before anything
// large is touched.
IdleServer idle_server(const std::string& directory, const MemoryPlan& plan) {
  std::optional<Tokenizer> tokenizer;
  try {
    tokenizer.emplace(Tokenizer::from_directory(directory));
  } catch (const Error&) {  // none, or a broken one: `engine check` says so
  }
  const uint64_t resident = process_memory().resident;
  if (resident == 0) return {};
  return {resident + plan.owned_bytes, resident + plan.weight_bytes};
}

// How fast it will decode, from the bandwidth of this machine's memory as it is now.
struct Forecast {
  int n_threads = 0;
  double read_gb_s = 0;
  double limit_tok_s = 0;     // at which every byte of bandwidth goes into weights
  double expected_tok_s = 0;
};

Forecast forecast_speed(const MemoryPlan& plan, const Options& options) {
  constexpr uint64_t probe_bytes = uint64_t{256} << 20;
  Team team(options.n_threads > 0 ? options.n_threads : default_thread_count());
  Forecast forecast;
  forecast.n_threads = team.size();
  forecast.read_gb_s = measure_read_gb_s(team, std::min(probe_bytes, available_memory().bytes / 4));
  forecast.limit_tok_s = forecast.read_gb_s * 1e9 / static_cast<double>(std::max<uint64_t>(plan.active_weight_bytes, 1));
  forecast.expected_tok_s = expected_decode_fraction * forecast.limit_tok_s;
  return forecast;
}

// Bytes by element type, largest first in text: "BF16 988 MiB, F32 20.5 KiB".
std::map<std::string, uint64_t> bytes_by_dtype(const std::vector<TensorInfo>& tensors) {
  std::map<std::string, uint64_t> sums;
  for (const TensorInfo& tensor : tensors) sums[tensor.dtype] += tensor.n_bytes;
  return sums;
}

Json json_report(const Model& model, const std::vector<TensorInfo>& tensors, const TemplateInfo& chat, const MemoryPlan& plan,
                 const IdleServer& idle, const Forecast& forecast) {
  const ModelSpec& spec = model.spec();
  Json list = Json::array();
  for (const TensorInfo& tensor : tensors) {
    list.push_back({{"name", tensor.name}, {"shape", tensor.shape}, {"dtype", tensor.dtype}, {"bytes", tensor.n_bytes}});
  }
  Json by_dtype = Json::object();
  uint64_t bytes = 0;
  for (const auto& [dtype, n] : bytes_by_dtype(tensors)) by_dtype[dtype] = n, bytes += n;
  Json report = {{"path", model.directory()},
                 {"architecture", spec.architecture},
                 {"model_type", spec.model_type},
                 {"parameters", model.n_parameters()},
                 {"active_parameters", model.n_active_parameters()},
                 {"n_tensors", tensors.size()},
                 {"bytes", bytes},
                 {"bytes_by_dtype", by_dtype},
                 {"dtype", spec.torch_dtype.empty() ? Json() : Json(spec.torch_dtype)},
                 {"context", spec.max_positions},
                 {"n_layers", spec.n_layers},
                 {"d_model", spec.d_model},
                 {"n_heads", spec.n_heads},
                 {"n_kv_heads", spec.n_kv_heads},
                 {"d_head", spec.d_head},
                 {"d_ff", spec.d_ff},
                 {"vocab_size", spec.vocab_size},
                 {"tied_embeddings", spec.tied_embeddings}};
  report["quantization"] = model.import_format().empty() ? Json() : Json(model.import_format());
  report["chat_template"] = chat.origin.empty() ? Json() : Json(chat.origin);
  if (!chat.origin.empty()) report["template_system_role"] = chat.system_role;
  report["plan"] = {{"ctx", plan.ctx},
                    {"weights_bytes", plan.weight_bytes},
                    {"owned_bytes", plan.owned_bytes},
                    {"lookup_bytes", plan.lookup_bytes},
                    {"kv_bytes", plan.kv_bytes},
                    {"kv_bytes_per_position", plan.kv_bytes_per_position},
                    {"scratch_bytes", plan.scratch_bytes},
                    {"total_bytes", plan.total_bytes},
                    {"idle_server_bytes", idle.started == 0 ? Json() : Json({{"started", idle.started}, {"weights_read", idle.weights_read}})},
                    {"available_bytes", plan.available.bytes},
                    {"available_by", plan.available.set_by},
                    {"fits", plan.fits},
                    {"largest_ctx", plan.largest_ctx}};
  report["forecast"] = {{"threads", forecast.n_threads},
                        {"read_gb_s", forecast.read_gb_s},
                        {"weights_bytes_active", plan.active_weight_bytes},
                        {"decode_tok_s_limit", forecast.limit_tok_s},
                        {"decode_tok_s", forecast.expected_tok_s}};
  report["tensors"] = std::move(list);
  return report;
}

std::string text_report(const Model& model, const std::vector<TensorInfo>& tensors, const TemplateInfo& chat, const MemoryPlan& plan,
                        const IdleServer& idle, const Forecast& forecast, const Options& options) {
  const ModelSpec& spec = model.spec();
  std::string out;
  const auto line = [&out](std::string_view name, const std::string& value) {
    out += std::string(name) + std::string(14 - name.size(), ' ') + value + "\n";
  };
  const auto number = [](int64_t n) { return std::to_string(n); };
  line("model", model.directory());
  line("architecture", spec.architecture + " (" + spec.model_type + ")");
  line("parameters", count_text(model.n_parameters()) + " (" + std::to_string(model.n_parameters()) + "), " +
                         count_text(model.n_active_parameters()) + " active a token");
  line("layers", number(spec.n_layers) + " of width " + number(spec.d_model) + ", " + number(spec.n_heads) + " heads of " +
                     number(spec.d_head) + ", " + number(spec.n_kv_heads) + " for keys and values, feed-forward " + number(spec.d_ff));
  line("vocabulary", number(spec.vocab_size) + (spec.tied_embeddings ? ", output tied to the embedding" : ""));
  line("context", number(spec.max_positions) + " positions");
  std::string types;
  uint64_t bytes = 0;
  for (const auto& [dtype, n] : bytes_by_dtype(tensors)) {
    types += (types.empty() ? "" : ", ") + dtype + " " + bytes_text(n);
    bytes += n;
  }
  line("tensors", std::to_string(tensors.size()) + ", " + bytes_text(bytes) + " (" + types + ")");
  if (!model.import_format().empty()) line("quantized", model.import_format());
  line("chat template", chat.origin.empty() ? "none" : chat.origin + (chat.system_role ? "" : ", without a system role"));
  out += "\nmemory for a context of " + number(plan.ctx) + ":\n";
  line("  weights", bytes_text(plan.weight_bytes) + (plan.lookup_bytes > 0 ? ", besides " + bytes_text(plan.lookup_bytes) + " that stay in the file" : ""));
  line("  KV cache", bytes_text(plan.kv_bytes) + " (" + bytes_text(plan.kv_bytes_per_position) + " a position)");
  line("  scratch", bytes_text(plan.scratch_bytes));
  std::string verdict = plan.fits ? ": fits" : ": does not fit";
  if (!plan.fits && plan.largest_ctx > 0) verdict += ", --ctx " + number(plan.largest_ctx) + " would";
  line("  in all", bytes_text(plan.total_bytes) + " of " + bytes_text(plan.available.bytes) +
                       (options.mem_bytes ? " (--mem)" : std::string(" that ") + plan.available.set_by + " leaves") + verdict);
  if (idle.started > 0) {
    line("  idle server", bytes_text(idle.started) + (idle.weights_read > idle.started ? " once started, " + bytes_text(idle.weights_read) + " once it has read its weights" : "") +
                              "; scratch and KV cache come with requests");
  }
  char speed[256];
  std::snprintf(speed, sizeof speed,
                "\nspeed with %d thread%s:\n"
                "  memory      %.1f GB/s read, measured now; %s of weights a token\n"
                "  decode      about %.*f tok/s expected, %.*f at most\n",
                forecast.n_threads, forecast.n_threads == 1 ? "" : "s", forecast.read_gb_s, bytes_text(plan.active_weight_bytes).c_str(),
                forecast.expected_tok_s < 10 ? 1 : 0, forecast.expected_tok_s, forecast.limit_tok_s < 10 ? 1 : 0, forecast.limit_tok_s);
  return out + speed;
}

}  // namespace

int run_inspect(const Options& options) {
  const std::string directory = resolve_model(options.model, options.revision);
  const std::shared_ptr<const Model> model = load_plan(directory, options);
  const TemplateInfo chat = template_info(directory);
  const MemoryPlan plan = plan_memory(model, options);
  const std::vector<TensorInfo> tensors = model->tensors();
  const IdleServer idle = idle_server(directory, plan);
  const Forecast forecast = forecast_speed(plan, options);
  write_stdout(options.json ? dump_json(json_report(*model, tensors, chat, plan, idle, forecast)) + "\n"
                            : printable(text_report(*model, tensors, chat, plan, idle, forecast, options)));
  return exit_done;
}

}  // namespace engine::cli
