// `engine perplexity`: how well a model predicts a text, and how far it is from another model.
#include "runtime/perplexity.h"

#include <cstdio>

#include "cli/commands.h"
#include "cli/load.h"
#include "cli/progress.h"
#include "cli/terminal.h"

namespace engine::cli {
namespace {

struct Text {
  std::vector<int32_t> ids;
  std::optional<int32_t> bos;
};

Text encode_file(const std::string& directory, const std::string& path) {
  const Tokenizer tokenizer = Tokenizer::from_directory(directory);
  Text text;
  text.ids = tokenizer.encode(read_text_file(path), false);
  if (!tokenizer.bos_token().empty()) text.bos = tokenizer.token_to_id(tokenizer.bos_token());
  return text;
}

std::string text_answer(const PerplexityResult& result, const Options& options) {
  char line[160];
  std::snprintf(line, sizeof line, "perplexity %.6f (%lld tokens, mean negative log-likelihood %.6f)\n", result.perplexity,
                static_cast<long long>(result.n_tokens), result.nll);
  std::string out = line;
  if (!options.against.empty()) {
    std::snprintf(line, sizeof line, ": mean KL divergence %.6f, same top token %.2f%%\n", result.mean_kl, 100 * result.top1_agreement);
    out += "against " + printable(options.against, true) + line;
  }
  return out;
}

std::string json_answer(const PerplexityResult& result, const Options& options) {
  Json answer = {{"tokens", result.n_tokens}, {"nll", result.nll}, {"perplexity", result.perplexity}};
  if (!options.against.empty()) {
    answer["mean_kl"] = result.mean_kl;
    answer["top1_agreement"] = result.top1_agreement;
  }
  return dump_json(answer) + "\n";
}

}  // namespace

int run_perplexity(const Options& options) {
  if (options.arguments.empty()) throw UsageError("FILE is missing", "usage: engine perplexity MODEL FILE");
  select_isa(options);
  const std::string directory = resolve_model(options.model, options.revision);
  const Text text = encode_file(directory, options.arguments[0]);
  Team team(options.n_threads > 0 ? options.n_threads : default_thread_count());
  const std::shared_ptr<const Model> model = load_model(directory, options, team);
  std::shared_ptr<const Model> against;
  if (!options.against.empty()) {
    Options as_stored = options;  // so that a model can be compared with its own quantized self
    as_stored.dtype = DTypeChoice::automatic;
    as_stored.output_dtype.reset();
    as_stored.group_size.reset();
    as_stored.kv_dtype = KvDTypeChoice::automatic;
    against = load_model(resolve_model(options.against, options.revision), as_stored, team);
  }

  Progress bar("computing", options.quiet);
  PerplexityOptions how;
  how.context = options.ctx;
  how.stride = options.stride;
  how.kv_format = kv_format(options, *model);
  how.progress = [&bar](int64_t done, int64_t total) { bar.update(static_cast<uint64_t>(done), static_cast<uint64_t>(total)); };
  const PerplexityResult result = perplexity(model, team, text.ids, text.bos, how, against);
  bar.clear();
  write_stdout(options.json ? json_answer(result, options) : text_answer(result, options));
  return exit_done;
}

}  // namespace engine::cli
