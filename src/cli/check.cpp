// `engine check`: is a model directory complete and sound, and what would mend it?
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <optional>

#include "cli/commands.h"
#include "cli/load.h"
#include "cli/terminal.h"
#include "runtime/perplexity.h"

namespace engine::cli {
namespace {

enum class Verdict : uint8_t { good, absent, wrong };

struct Finding {
  std::string part;
  Verdict verdict = Verdict::good;
  std::string text, hint;
};

/// Everything that is looked at, once it could be loaded; a part that cannot be loaded leaves the others to be checked.
struct Subject {
  const Options& options;
  std::string directory;
  Team team;
  std::shared_ptr<const Model> model;
  std::optional<Tokenizer> tokenizer;
};

bool file_exists(const std::string& path) {
  std::error_code ignored;
  return std::filesystem::is_regular_file(path, ignored);
}

Finding wrong(std::string text, std::string hint = {}) { return {{}, Verdict::wrong, std::move(text), std::move(hint)}; }
Finding good(std::string text) { return {{}, Verdict::good, std::move(text), {}}; }
Finding absent(std::string text, std::string hint = {}) { return {{}, Verdict::absent, std::move(text), std::move(hint)}; }

// --- the parts ------------------------------------------------------------------------------------------------------------------------

/// Tensors of layers that config.json does not count: they would be left out without a word. Names that begin otherwise than those of the
/// model's own layers are of other parts, which it need not have.
std::vector<std::string> uncounted_layers(const Subject& s) {
  const auto number_at = [](const std::string& name) {  // where a layer's number stands
    size_t at = 0;
    while (at < name.size() && !(name[at] >= '0' && name[at] <= '9' && at > 0 && name[at - 1] == '.')) ++at;
    return at;
  };
  std::string prefix;
  for (const TensorInfo& tensor : s.model->tensors()) {
    const size_t at = number_at(tensor.name);
    if (at < tensor.name.size()) prefix = tensor.name.substr(0, at);
  }
  std::vector<std::string> out;
  const Checkpoint checkpoint(s.directory);
  for (const auto& [name, tensor] : checkpoint.tensors()) {
    const bool of_layer = !prefix.empty() && name.starts_with(prefix) && number_at(name) == prefix.size();
    if (of_layer && std::atoll(name.c_str() + prefix.size()) >= s.model->spec().n_layers) out.push_back(name);
  }
  return out;
}

Finding check_tensors(Subject& s) {
  s.model = load_model(s.directory, s.options, s.team);
  const ModelSpec& spec = s.model->spec();
  std::string text = std::to_string(s.model->tensors().size()) + " tensors, " + std::to_string(s.model->n_parameters()) + " parameters of " +
                     spec.architecture;
  if (!s.model->import_format().empty()) text += ", " + s.model->import_format();
  const std::vector<std::string> beyond = uncounted_layers(s);
  if (beyond.empty()) return good(text);
  return wrong(text + "; " + std::to_string(beyond.size()) + " more belong to layers beyond the " + std::to_string(spec.n_layers) + " of config.json: " + beyond[0],
               "config.json may be of another model: see num_hidden_layers");
}

bool has_exponent(DType dtype) {
  return dtype == DType::f32 || dtype == DType::bf16 || dtype == DType::f16 || dtype == DType::f64 || dtype == DType::f8_e4m3 ||
         dtype == DType::f8_e5m2 || dtype == DType::f8_e8m0;
}

/// Every number of every float tensor of the files.
Finding check_values(Subject& s) {
  const Checkpoint checkpoint(s.directory);
  constexpr int64_t chunk = 1 << 16;
  std::string first;
  int64_t n_tensors = 0, n_bad = 0;
  for (const auto& [name, tensor] : checkpoint.tensors()) {
    if (!has_exponent(tensor.dtype)) continue;
    ++n_tensors;
    const size_t size = static_cast<size_t>(dtype_bits(tensor.dtype) / 8);
    std::atomic<int64_t> bad = 0;
    s.team.run([&](Worker& worker) {
      std::vector<float> values(chunk);
      worker.for_chunks(tensor.n_elements(), chunk, [&](int64_t begin, int64_t end) {
        const size_t n = static_cast<size_t>(end - begin);
        to_float({tensor.dtype, {end - begin}, tensor.data + static_cast<size_t>(begin) * size, n * size}, values.data());
        bad += std::count_if(values.begin(), values.begin() + static_cast<ptrdiff_t>(n), [](float v) { return !std::isfinite(v); });
      });
    });
    if (bad == 0) continue;
    if (first.empty()) first = name + " has " + std::to_string(bad.load());
    n_bad += bad;
  }
  if (n_bad == 0) return good("all numbers of " + std::to_string(n_tensors) + " float tensors are finite");
  return wrong(std::to_string(n_bad) + " numbers are infinite or not a number: " + first,
               "the file was damaged or written by a run that diverged: fetch it again");
}

/// Texts of many scripts. Not all tokenizers give back every character, but what they give back must come out the same again.
Finding check_tokenizer(Subject& s) {
  if (!file_exists(s.directory + "/tokenizer.json")) {
    return wrong("there is no tokenizer.json",
                 "a tokenizer.model can be converted with Transformers: AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)");
  }
  s.tokenizer.emplace(Tokenizer::from_directory(s.directory));
  static constexpr const char* texts[] = {
      "Hello, world!", "  two blanks\n\n\ttab and lines\r\n", "1234567890 3.14 1e-5", "naïve café Ångström", "Привет, мир",
      "你好，世界。日本語のテキスト", "مرحبا بالعالم", "🙂👩‍👩‍👧 emoji", "for (int i = 0; i < n; ++i) { x[i] += 1; }"};
  int n_exact = 0;
  for (const char* text : texts) {
    const std::vector<int32_t> ids = s.tokenizer->encode(text, false);
    const std::string once = s.tokenizer->decode(ids, false);
    n_exact += once == text;
    const std::string twice = s.tokenizer->decode(s.tokenizer->encode(once, false), false);
    if (once != twice) {
      return wrong(std::string("'") + text + "' becomes '" + once + "' and that '" + twice + "'", "tokenizer.json and the vocabulary do not belong together");
    }
  }
  if (s.model == nullptr) return good(std::to_string(n_exact) + " of 9 texts come back exactly");
  const int32_t n_ids = s.tokenizer->vocab_size();
  if (n_ids > s.model->spec().vocab_size) {
    return wrong("it has ids up to " + std::to_string(n_ids - 1) + ", the model " + std::to_string(s.model->spec().vocab_size) + " rows of embeddings",
                 "tokenizer.json is of another model, or tokens were added without resizing the embeddings");
  }
  return good(std::to_string(n_ids) + " ids, " + std::to_string(n_exact) + " of 9 texts come back exactly");
}

Finding check_template(Subject& s) {
  const std::optional<ChatTemplate> found = ChatTemplate::from_directory(s.directory);
  if (!found) return absent("there is none, as in base models", "chat with --chat-template FILE or a built-in one");
  const Json user = {{"role", "user"}, {"content", "First question?"}};
  const Json turns = {user, {{"role", "assistant"}, {"content", "An answer."}}, {{"role", "user"}, {"content", "Second question?"}}};
  for (const Json& messages : {Json::array({user}), turns}) {
    const std::string text = found->render_text(messages, {});
    for (const Json& message : messages) {
      if (text.find(message["content"].get<std::string>()) == std::string::npos) {
        return wrong(found->origin() + ": it leaves out what " + message["role"].get<std::string>() + " says");
      }
    }
  }
  return good(found->origin() + " renders" + (found->supports_system_role() ? "" : ", it has no place for a system message"));
}

Finding check_settings(Subject& s) {
  const std::string path = s.directory + "/generation_config.json";
  if (!file_exists(path)) return absent("there is no generation_config.json: Transformers' defaults count");
  GenerationConfig config;
  config.apply(read_json_file(path), path, true);
  for (const int32_t id : config.eos_token_id) {
    if (s.model != nullptr && id >= s.model->spec().vocab_size) {
      return wrong("eos_token_id " + std::to_string(id) + " is beyond the vocabulary of " + std::to_string(s.model->spec().vocab_size),
                   "correct eos_token_id in generation_config.json");
    }
  }
  return good("generation_config.json can be followed");
}

Finding check_forward(Subject& s) {
  if (s.model == nullptr) return absent("not tried: the model could not be loaded");
  std::vector<int64_t> ids;
  if (s.tokenizer) {
    for (const int32_t id : s.tokenizer->encode("The quick brown fox jumps over the lazy dog.", true)) ids.push_back(id);
  }
  const int64_t vocab = s.model->spec().vocab_size;
  std::erase_if(ids, [vocab](int64_t id) { return id >= vocab; });
  for (int64_t i = 0; ids.size() < 8; ++i) ids.push_back(i % vocab);
  ids.resize(std::min(ids.size(), static_cast<size_t>(s.model->spec().max_positions)));
  int64_t bad = 0;
  double sum = 0, squares = 0, n = 0;
  batch_logits(s.model, s.team, ids, 1, static_cast<int64_t>(ids.size()), [&](int64_t, int64_t, std::span<const float> logits) {
    for (const double v : logits) {
      if (!std::isfinite(v)) ++bad;
      else sum += v, squares += v * v, ++n;
    }
  }, kv_format(s.options, *s.model));
  if (bad > 0) {
    return wrong(std::to_string(bad) + " logits of " + std::to_string(ids.size()) + " tokens are infinite or not a number",
                 "if all weights are finite, config.json may not be the one these weights were trained with");
  }
  const double spread = std::sqrt(std::max(squares / n - sum / n * (sum / n), 0.0));
  if (spread < 1e-6) return wrong("all logits are equal", "the weights may never have been filled");
  char text[96];
  std::snprintf(text, sizeof text, "logits of %zu tokens are finite, with a standard deviation of %.3g", ids.size(), spread);
  return good(text);
}

struct Part {
  const char* name;
  Finding (*check)(Subject&);
};

constexpr Part parts[] = {{"tensors", check_tensors},   {"values", check_values},     {"tokenizer", check_tokenizer},
                          {"template", check_template}, {"settings", check_settings}, {"forward pass", check_forward}};

constexpr const char* verdict_names[] = {"ok", "none", "wrong"};

}  // namespace

int run_check(const Options& options) {
  select_isa(options);
  Subject subject{options, resolve_model(options.model, options.revision), Team(options.n_threads > 0 ? options.n_threads : default_thread_count()),
                  nullptr, std::nullopt};
  Json list = Json::array();
  bool all_good = true;
  for (const Part& part : parts) {
    Finding finding;
    try {
      finding = part.check(subject);
    } catch (const Error& error) {  // a finding, and the next part has its turn
      finding = wrong(error.message, error.hint);
    }
    all_good &= finding.verdict != Verdict::wrong;
    const char* verdict = verdict_names[static_cast<int>(finding.verdict)];
    if (options.json) {
      list.push_back({{"part", part.name}, {"verdict", verdict}, {"text", finding.text}, {"hint", finding.hint.empty() ? Json() : Json(finding.hint)}});
      continue;
    }
    std::string line = verdict + std::string(7 - std::strlen(verdict), ' ') + part.name + ": " + printable(finding.text, true) + "\n";
    if (!finding.hint.empty()) line += "       " + printable(finding.hint, true) + "\n";
    write_stdout(line);
  }
  if (options.json) write_stdout(dump_json({{"path", subject.directory}, {"ok", all_good}, {"parts", std::move(list)}}) + "\n");
  return all_good ? exit_done : exit_failed;
}

}  // namespace engine::cli
