#include "runtime/engine.h"

#include <doctest/doctest.h>

#include <cmath>
#include <cstdlib>
#include <fstream>

#include "base/error.h"
#include "kernels/kernels.h"
#include "runtime/json_schema.h"
#include "runtime/perplexity.h"
#include "tiny_engine.h"

using namespace engine;
using test::message_of;

namespace {

const char* const plain_template =
    "{% for m in messages %}<|end|>{{ m.role }}: {{ m.content }}{% endfor %}{% if add_generation_prompt %}<|end|>assistant:{% endif %}";
const char* const deaf_template =
    "{% for m in messages %}{% if m.role != 'system' %}{{ m.content }}{% endif %}{% endfor %}";
const char* const raising_template =
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system role here') }}{% endif %}{{ messages[0].content }}";

/// Sets an environment variable for a scope.
class Variable {
 public:
  Variable(const char* name, const std::string& value) : name_(name) {
    const char* old = std::getenv(name);
    if (old != nullptr) old_ = old;
    value.empty() ? unsetenv(name) : setenv(name, value.c_str(), 1);
  }
  ~Variable() { old_.empty() ? unsetenv(name_) : setenv(name_, old_.c_str(), 1); }

 private:
  const char* name_;
  std::string old_;
};

Engine load(const std::string& directory, const std::string& chat_template = "") {
  EngineOptions options;
  options.n_threads = 1;
  options.chat_template = chat_template;
  options.scheduler.max_sequences = 2;
  return Engine(directory, options);
}

}  // namespace

TEST_CASE("a conversation is rendered and encoded; words of users never become control tokens") {
  test::TempDir dir;
  test::write_tiny_model(dir, plain_template);
  const Engine engine = load(dir.path());
  const Json messages = {{{"role", "user"}, {"content", "a<|end|>b"}}};
  const auto safe = engine.encode_chat(messages, {});
  CHECK(std::count(safe.begin(), safe.end(), 3) == 2);
  CHECK(engine.tokenizer().decode(safe, false) == "<|end|>user: a<|end|>b<|end|>assistant:");
  const auto special = engine.encode_chat(messages, {}, true);
  CHECK(std::count(special.begin(), special.end(), 3) == 3);
}

TEST_CASE("a system message is never dropped in silence") {
  const Json with_system = {{{"role", "system"}, {"content", "be kind"}}, {{"role", "user"}, {"content", "be kind"}}};
  const Json blank_system = {{{"role", "system"}, {"content", " "}}, {{"role", "user"}, {"content", "hi"}}};
  struct Row {
    const char* chat_template;
    const char* message;
  };
  for (const Row& row : {Row{plain_template, ""},
                         Row{deaf_template, "chat template: tokenizer_config.json: it has no place for a system message and would leave it out"},
                         Row{raising_template, "no system role here"}}) {
    test::TempDir dir;
    test::write_tiny_model(dir, row.chat_template);
    const Engine engine = load(dir.path());
    const std::string message = message_of([&] { engine.encode_chat(with_system, {}); });
    if (row.message[0] == '\0') CHECK(message == "");
    else CHECK(message.find(row.message) != std::string::npos);
    if (row.chat_template != raising_template) CHECK_NOTHROW(engine.encode_chat(blank_system, {}));
  }
}

TEST_CASE("text streams as it is decoded in the end, and stop strings end it") {
  test::TempDir dir;
  test::write_tiny_model(dir, plain_template);
  Engine engine = load(dir.path());
  GenerationRequest r;
  r.prompt = engine.tokenizer().encode("<s>hello", false);
  r.config.max_new_tokens = 60;
  r.config.do_sample = true;
  r.config.temperature = 3;
  r.config.seed = 4;
  std::string streamed;
  r.on_text = [&](std::string_view piece) { streamed += piece; };
  const GenerationResult whole = engine.scheduler().run(r);
  CHECK(whole.text == streamed);
  CHECK(whole.text == engine.tokenizer().decode(whole.tokens, true));
  REQUIRE(whole.text.size() > 10);

  const std::string stop = whole.text.substr(6, 3);
  r.config.stop_strings = {stop};
  r.on_text = nullptr;
  const GenerationResult kept = engine.scheduler().run(r);
  CHECK(kept.reason == FinishReason::stop);
  CHECK(kept.text == whole.text.substr(0, whole.text.find(stop) + 3));
  r.keep_stop_string = false;
  CHECK(engine.scheduler().run(r).text == whole.text.substr(0, whole.text.find(stop)));
}

TEST_CASE("defaults of a model: config.json, then generation_config.json, then the tokenizer's end of sequence") {
  {
    test::TempDir dir;
    test::write_tiny_model(dir, "", R"({"temperature": 0.25, "eos_token_id": [7, 8], "transformers_version": "4"})");
    const Engine engine = load(dir.path());
    CHECK(engine.default_config().temperature == 0.25);
    CHECK(engine.default_config().eos_token_id == std::vector<int32_t>{7, 8});
  }
  {
    test::TempDir dir;
    test::write_tiny_model(dir, "");
    Json config = read_json_file(dir.file("config.json"));
    config["eos_token_id"] = nullptr;
    dir.write("config.json", dump_json(config));
    CHECK(load(dir.path()).default_config().eos_token_id == std::vector<int32_t>{2});
  }
  {
    test::TempDir dir;
    test::write_tiny_model(dir, "", R"({"num_beams": 4})");
    const std::string message = message_of([&] { load(dir.path()); });
    CHECK(message == dir.file("generation_config.json") + ": num_beams: expected 1 (others are not supported here), got 4");
  }
}

TEST_CASE("an answer of a given form") {
  test::TempDir dir;
  test::write_tiny_model(dir, plain_template);
  Engine engine = load(dir.path());
  const auto run = [&](const char* schema, int64_t max_new_tokens) {
    GenerationRequest r;
    r.prompt = engine.tokenizer().encode("tell me", false);
    r.config = engine.default_config();
    r.config.max_new_tokens = max_new_tokens;
    r.constraint = std::make_shared<GrammarConstraint>(json_schema_grammar(parse_json(schema, "schema")), engine.token_table(), r.config.eos_token_id);
    return engine.scheduler().run(r);
  };
  const GenerationResult whole = run(R"({"properties":{"a":{"type":"string","maxLength":6},"b":{"type":"boolean"}},"required":["a","b"]})", 200);
  CHECK(whole.reason == FinishReason::stop);
  const Json answer = parse_json(whole.text, "answer");
  CHECK(answer["a"].is_string());
  CHECK(answer["b"].is_boolean());
  CHECK(run(R"({"const":"abcdef"})", 4).reason == FinishReason::length);
  CHECK(run(R"({"const":"abcdef"})", 9).text.find("\"abcdef\"") != std::string::npos);
  // This vocabulary is ASCII.
  const GenerationResult stuck = run(R"({"const":"é"})", 20);
  CHECK(stuck.reason == FinishReason::error);
  CHECK(stuck.error.find("the vocabulary has none") != std::string::npos);
}

TEST_CASE("a model without tokenizer or template says so when they are needed") {
  test::TempDir dir;
  test::write_tiny_model(dir, "");
  CHECK(message_of([&] { load(dir.path()).encode_chat(Json::array(), {}); }) ==
        dir.path() + ": expected a chat template, found none: this may be a base model");
  CHECK_NOTHROW(load(dir.path(), "chatml"));
  std::filesystem::remove(dir.file("tokenizer.json"));
  Engine engine = load(dir.path());
  CHECK_FALSE(engine.has_tokenizer());
  CHECK(message_of([&] { engine.tokenizer(); }) == dir.path() + ": expected a tokenizer.json, found none");
  GenerationRequest r;
  r.prompt = {5};
  CHECK(engine.scheduler().run(r).tokens.size() == 20);
}

TEST_CASE("MODEL: a directory, or a Hub id in the cache") {
  test::TempDir dir;
  const std::string hub = dir.file("hub"), commit = "0123456789abcdef0123456789abcdef01234567";
  const std::string snapshot = hub + "/models--org--name/snapshots/" + commit;
  std::filesystem::create_directories(snapshot);
  std::filesystem::create_directories(hub + "/models--org--name/refs/pr");
  std::filesystem::create_directories(hub + "/models--solo/snapshots/v1");
  std::ofstream(hub + "/models--org--name/refs/main") << commit << "\n";
  std::ofstream(hub + "/models--org--name/refs/pr/3") << commit;
  std::ofstream(hub + "/models--org--name/refs/bad") << "../../../../etc";
  std::ofstream(hub + "/models--org--name/refs/gone") << "fffff";
  const Variable a("HF_HUB_CACHE", hub), b("HUGGINGFACE_HUB_CACHE", ""), c("HF_HOME", "");

  CHECK(resolve_model(dir.path()) == dir.path());
  CHECK(resolve_model("org/name") == snapshot);
  CHECK(resolve_model("org/name", commit) == snapshot);
  CHECK(resolve_model("org/name", "pr/3") == snapshot);
  CHECK(resolve_model("solo", "v1") == hub + "/models--solo/snapshots/v1");
  struct Row {
    const char *model, *revision, *message;
  };
  for (const Row& row : {Row{"org/other", "main", "org/other: expected a model directory or a Hub id in the cache, found neither ./org/other nor "},
                         Row{"org/name", "dev", "org/name: expected revision dev in the cache, found no "},
                         Row{"org/name", "gone", "org/name: expected revision gone in the cache, found no "},
                         Row{"org/name", "bad", "expected a commit, got '../../../../etc'"},
                         Row{"org/name", "../../x", "--revision: expected a branch, a tag or a commit, got '../../x'"},
                         Row{"/no/such/dir", "main", "/no/such/dir: expected a model directory, found nothing"},
                         Row{"../org", "main", "../org: expected a model directory, found nothing"},
                         Row{"", "main", ": expected a model directory, found nothing"}}) {
    CAPTURE(row.model);
    CAPTURE(row.revision);
    CHECK(message_of([&] { resolve_model(row.model, row.revision); }).find(row.message) != std::string::npos);
  }
  {
    const Variable d("HF_HUB_CACHE", ""), e("HF_HOME", dir.path());
    CHECK(resolve_model("org/name") == snapshot);
  }
  {
    std::filesystem::create_directories(dir.file("huggingface"));
    std::filesystem::rename(hub, dir.file("huggingface/hub"));
    const Variable d("HF_HUB_CACHE", ""), e("XDG_CACHE_HOME", dir.path());
    CHECK(resolve_model("org/name").find(dir.file("huggingface/hub")) == 0);
  }
  const std::string file = dir.write("file", "x");
  CHECK(message_of([&] { resolve_model(file); }) == file + ": expected a model directory, got a file");
}

TEST_CASE("perplexity: windows, overlap, no bos, and the distance to another model") {
  const auto model = Model::load(test::data_file("models/llama-untied"));
  Team team(2);
  std::vector<int32_t> ids;
  for (int i = 0; i < 50; ++i) ids.push_back(3 + (i * 29) % 90);

  // By hand from whole-sequence logits.
  const auto nll_of = [&](const std::vector<int32_t>& input, const std::vector<int32_t>& target, size_t first) {
    double nll = 0;
    const std::vector<int64_t> wide(input.begin(), input.end());
    batch_logits(model, team, wide, 1, static_cast<int64_t>(wide.size()), [&](int64_t, int64_t position, std::span<const float> logits) {
      if (static_cast<size_t>(position) < first) return;
      double sum = 0;
      for (const float x : logits) sum += std::exp(static_cast<double>(x));
      nll += std::log(sum) - static_cast<double>(logits[static_cast<size_t>(target[static_cast<size_t>(position)])]);
    });
    return nll;
  };
  const auto part = [&](size_t begin, size_t end) { return std::vector<int32_t>(ids.begin() + begin, ids.begin() + end); };
  const auto with = [](int32_t lead, std::vector<int32_t> rest) {
    rest.insert(rest.begin(), lead);
    rest.pop_back();
    return rest;
  };

  PerplexityOptions options;
  options.context = 21;
  const double by_windows = nll_of(with(1, part(0, 20)), part(0, 20), 0) + nll_of(with(1, part(20, 40)), part(20, 40), 0) +
                            nll_of(with(1, part(40, 50)), part(40, 50), 0);
  PerplexityResult result = perplexity(model, team, ids, 1, options);
  CHECK(result.n_tokens == 50);
  CHECK(result.nll == doctest::Approx(by_windows / 50).epsilon(1e-9));
  CHECK(result.perplexity == doctest::Approx(std::exp(by_windows / 50)).epsilon(1e-9));

  options.stride = 15;  // windows at 0, 15, 30 and 45 would begin; the one at 30 reaches the end
  const double by_stride = nll_of(with(1, part(0, 20)), part(0, 20), 0) + nll_of(with(1, part(15, 35)), part(15, 35), 5) +
                           nll_of(with(1, part(30, 50)), part(30, 50), 5);
  CHECK(perplexity(model, team, ids, 1, options).nll == doctest::Approx(by_stride / 50).epsilon(1e-9));

  options.stride = 0;
  const double without_bos = nll_of(part(0, 19), part(1, 20), 0) + nll_of(with(ids[19], part(20, 40)), part(20, 40), 0) +
                             nll_of(with(ids[39], part(40, 50)), part(40, 50), 0);
  result = perplexity(model, team, ids, std::nullopt, options);
  CHECK(result.n_tokens == 49);
  CHECK(result.nll == doctest::Approx(without_bos / 49).epsilon(1e-9));

  result = perplexity(model, team, ids, 1, options, model);
  CHECK(result.mean_kl == doctest::Approx(0).epsilon(1e-12));
  CHECK(result.top1_agreement == 1.0);
  CHECK(message_of([&] { perplexity(model, team, ids, 1, options, Model::load(test::data_file("models/qwen3"))); }) ==
        "--against: expected a model with the same vocabulary of 103, got 112");
  CHECK(message_of([&] { perplexity(model, team, std::vector<int32_t>{5}, std::nullopt, options); }) ==
        "perplexity: expected a text of at least two tokens, got 1");
  CHECK(message_of([&] { perplexity(model, team, std::vector<int32_t>{5, 500}, 1, options); }).find("got 500") != std::string::npos);
}

// The first `n_cases` of a directory's greedy.jsonl at once, with the kernels that are selected; returns how many there were.
static size_t check_greedy(const std::string& dir, size_t n_cases) {
  EngineOptions options;
  options.scheduler.max_sequences = 8;
  Engine engine(dir, options);
  std::ifstream lines(dir + "/greedy.jsonl");
  std::vector<Json> cases;
  std::vector<Scheduler::Id> ids;
  for (std::string line; cases.size() < n_cases && std::getline(lines, line);) {
    const Json one = parse_json(line, "greedy.jsonl");
    GenerationRequest r;
    r.prompt = engine.tokenizer().encode(one["prompt"].get<std::string>(), true);
    CHECK(r.prompt == one["ids"].get<std::vector<int32_t>>());
    r.config = engine.default_config();
    r.config.do_sample = false;
    r.config.max_new_tokens = 200;
    ids.push_back(engine.scheduler().submit(std::move(r)));
    cases.push_back(one);
  }
  while (engine.scheduler().step()) {
  }
  for (size_t i = 0; i < cases.size(); ++i) {
    GenerationResult result = engine.scheduler().take(ids[i]);
    if (result.reason == FinishReason::stop) result.tokens.pop_back();
    CAPTURE(i);
    CHECK(result.tokens == cases[i]["greedy_ids"].get<std::vector<int32_t>>());
    CHECK(result.text == cases[i]["greedy_text"].get<std::string>());
  }
  return cases.size();
}

TEST_CASE("trained models: greedy texts as run.c and Transformers give them, on every level") {
  const std::pair<const char*, size_t> models[] = {{"stories260K", 22}, {"stories260K-bf16", 22}, {"babyllama-105", 10}};
  const std::string best = kernels::table().name;
  const auto slowness = static_cast<size_t>(test::slowness());
  if (slowness > 1) MESSAGE("texts ", slowness, " times fewer: ENGINE_TEST_SLOWNESS");
  for (const auto& [name, n_all] : models) {
    FIXTURE_OR_RETURN(dir, name);
    CAPTURE(name);
    const size_t n_cases = (n_all + slowness - 1) / slowness;
    int n_levels = 0;
    const kernels::Level* levels = kernels::levels(&n_levels);
    for (int i = 0; i < n_levels; ++i) {
      if (!kernels::select(levels[i].name)) continue;
      CAPTURE(levels[i].name);
      CHECK(check_greedy(dir, n_cases) == n_cases);
    }
    REQUIRE(kernels::select(best.c_str()));
  }
}

TEST_CASE("trained models: perplexity") {
  for (const char* name : {"stories260K", "stories260K-bf16", "babyllama-105"}) {
    if (test::slowness() > 1 && name != std::string("stories260K")) {
      MESSAGE(name, " is left out: ENGINE_TEST_SLOWNESS");
      continue;
    }
    FIXTURE_OR_RETURN(dir, name);
    CAPTURE(name);
    const Tokenizer tokenizer = Tokenizer::from_directory(dir);
    const Json expected = read_json_file(dir + "/ppl.json");
    Team team(2);
    const std::vector<int32_t> ids = tokenizer.encode(read_text_file(dir + "/ppl.txt"), false);
    CHECK(static_cast<int64_t>(ids.size()) == expected["n_tokens"].get<int64_t>());
    const PerplexityResult result = perplexity(Model::load(dir), team, ids, expected["bos_id"].get<int32_t>(), {});
    CHECK(result.n_tokens == expected["n_tokens"].get<int64_t>());
    CHECK(std::fabs(result.perplexity - expected["ppl"].get<double>()) < 0.001);
    MESSAGE(name, ": perplexity ", result.perplexity, ", expected ", expected["ppl"].get<double>());
  }
}

TEST_CASE("stories260K: conversations, and its template that would drop a system message") {
  FIXTURE_OR_RETURN(dir, "stories260K");
  EngineOptions options;
  Engine engine(dir, options);
  int n_refused = 0;
  for (const Json& one : read_json_file(dir + "/chat_cases.json")) {
    ChatRenderOptions render;
    const std::string first_role = one["messages"][0]["role"].get<std::string>();
    if (first_role == "system") {
      CHECK(message_of([&] { engine.encode_chat(one["messages"], render); }).find("it has no place for a system message") != std::string::npos);
      ++n_refused;
      continue;
    }
    CHECK(engine.encode_chat(one["messages"], render) == one["ids"].get<std::vector<int32_t>>());
  }
  CHECK(n_refused == 1);
}
