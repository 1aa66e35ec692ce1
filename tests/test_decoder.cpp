// Whole models: the decoder against Transformers' logits and against the oracle, on every ISA level, and its promise of equal bits.
#include "model/decoder.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <random>

#include "base/error.h"
#include "decoder_rig.h"
#include "levels.h"
#include "oracle/oracle.h"
#include "random_model.h"
#include "support.h"
#include "temp_dir.h"

using namespace engine;
using namespace engine::test;

namespace {

constexpr double tolerance = 5e-4;  // of the logits' standard deviation, for float32 arithmetic

/// Directories of goldens in `root`, in order of name.
std::vector<std::string> golden_directories(const std::string& root) {
  std::vector<std::string> out;
  for (const auto& entry : std::filesystem::directory_iterator(root)) {
    if (std::filesystem::exists(entry.path() / "reference.safetensors")) out.push_back(entry.path().string());
  }
  std::sort(out.begin(), out.end());
  return out;
}

void check_decoder(const std::string& directory) {
  CAPTURE(directory);
  const Reference reference(directory);
  const auto model = Model::load(directory);
  on_every_level([&] {
    Rig rig(model, 1);
    for (size_t i = 0; i < reference.n_prompts; ++i) {
      CAPTURE(i);
      CHECK(relative_difference(rig.logits(reference.prompts[i]), reference.of_prompt(i)) < tolerance);
      CHECK(rig.greedy(reference.prompts[i], static_cast<int>(reference.greedy[i].size())) == reference.greedy[i]);
    }
    CHECK(rig.pool.used_blocks() == 0);
  });
}

void check_oracle(const std::string& directory, double limit) {
  CAPTURE(directory);
  const Reference reference(directory);
  const oracle::Oracle oracle(directory);
  for (size_t i = 0; i < reference.n_prompts; ++i) {
    CAPTURE(i);
    CHECK(relative_difference(oracle.logits(reference.prompts[i]), reference.of_prompt(i)) < limit);
    // Given the greedy ids, every step must choose the next of them.
    Ids ids = reference.prompts[i];
    ids.insert(ids.end(), reference.greedy[i].begin(), reference.greedy[i].end() - 1);
    const oracle::Matrix logits = oracle.logits(ids);
    Ids chosen;
    for (size_t t = reference.n_tokens - 1; t < ids.size(); ++t) {
      size_t best = 0;
      for (size_t v = 1; v < logits.shape(1); ++v) best = logits(t, v) > logits(t, best) ? v : best;
      chosen.push_back(static_cast<int32_t>(best));
    }
    CHECK(chosen == reference.greedy[i]);
  }
}

Ids random_ids(size_t n, int vocab_size, uint64_t seed) {
  std::mt19937_64 random(seed);
  Ids ids(n);
  for (int32_t& id : ids) id = static_cast<int32_t>(random() % static_cast<uint64_t>(vocab_size));
  return ids;
}

struct Shape4 {
  const char* architecture;
  const char* model_type;
  int d_model, n_heads, n_kv_heads, d_head, d_ff, vocab_size;
  DType dtype;
  const char* more;  // further keys of config.json
};

// Odd head counts, head sizes 80 and 96, widths that no SIMD width divides.
const Shape4 shapes[] = {
    {"LlamaForCausalLM", "llama", 240, 3, 3, 80, 333, 97, DType::bf16, "{}"},
    {"LlamaForCausalLM", "llama", 96, 5, 1, 96, 130, 301, DType::f32,
     R"({"tie_word_embeddings": true, "rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", "factor": 16, "low_freq_factor": 1,
         "high_freq_factor": 4, "original_max_position_embeddings": 128}})"},
    {"LlamaForCausalLM", "llama", 72, 6, 2, 20, 101, 128, DType::f16,
     R"({"attention_bias": true, "mlp_bias": true, "rope_scaling": {"type": "linear", "factor": 2.5}})"},
    {"LlamaForCausalLM", "llama", 68, 2, 1, 34, 77, 128, DType::f32,
     R"({"rope_parameters": {"rope_type": "yarn", "rope_theta": 10000, "factor": 4, "original_max_position_embeddings": 64,
         "beta_fast": 16, "beta_slow": 0.5}})"},
    {"MistralForCausalLM", "mistral", 112, 7, 7, 16, 150, 111, DType::bf16, R"({"sliding_window": 33})"},
    {"MistralForCausalLM", "mistral", 64, 4, 2, 40, 96, 111, DType::f16, R"({"sliding_window": null})"},
    {"Qwen2ForCausalLM", "qwen2", 90, 9, 3, 10, 123, 149, DType::bf16,
     R"({"tie_word_embeddings": true, "use_sliding_window": true, "sliding_window": 50, "max_window_layers": 1})"},
    {"Qwen3ForCausalLM", "qwen3", 80, 3, 1, 48, 131, 150, DType::f32, R"({"rope_theta": 1e6, "rms_norm_eps": 1e-6})"},
};

Json config_of(const Shape4& s) {
  Json config = {{"architectures", {s.architecture}}, {"model_type", s.model_type}, {"hidden_size", s.d_model},
                 {"num_attention_heads", s.n_heads}, {"num_key_value_heads", s.n_kv_heads}, {"head_dim", s.d_head},
                 {"intermediate_size", s.d_ff}, {"vocab_size", s.vocab_size}, {"num_hidden_layers", 2}, {"rms_norm_eps", 1e-5},
                 {"hidden_act", "silu"}, {"max_position_embeddings", 2048}, {"bos_token_id", 1}, {"eos_token_id", 2}};
  config.update(parse_json(s.more, "more"));
  return config;
}

}  // namespace

TEST_CASE("own goldens: logits and greedy ids on every level") {
  const auto directories = golden_directories(data_file("models"));
  REQUIRE(directories.size() >= 28);
  for (const std::string& directory : directories) check_decoder(directory);
}

TEST_CASE("own goldens: the oracle agrees with Transformers") {
  // Transformers computes norms and rotary angles in float32 even when the rest is float64.
  for (const std::string& directory : golden_directories(data_file("models"))) check_oracle(directory, 2e-5);
}

TEST_CASE("text models beside parts for images: the names of Transformers 5 too") {
  for (const char* name : {"gemma3-images", "mistral3-images"}) {
    CAPTURE(std::string(name));
    const std::string from = data_file(std::string("models/") + name);
    const SafetensorsFile file(from + "/model.safetensors");
    std::vector<NamedTensor> tensors;
    for (const auto& [stored, view] : file.tensors()) {
      constexpr std::string_view outer = "language_model.";
      std::string renamed = stored.starts_with(outer) ? stored.substr(outer.size()) : "model." + stored;
      if (stored.starts_with(outer) && renamed.starts_with("model.")) renamed.insert(6, outer);
      tensors.push_back({renamed, view});
    }
    const TempDir dir;
    write_safetensors(dir.file("model.safetensors"), tensors);
    std::filesystem::copy_file(from + "/config.json", dir.file("config.json"));
    const Reference reference(from);
    const auto model = Model::load(dir.path());
    CHECK(model->wrapped());
    CHECK(relative_difference(Rig(model, 1).logits(reference.prompts[0]), reference.of_prompt(0)) < tolerance);
  }
}

TEST_CASE("shared goldens: logits and greedy ids on every level") {
  FIXTURE_OR_RETURN(root, "models");
  const auto directories = golden_directories(root);
  REQUIRE(directories.size() >= 15);
  for (const std::string& directory : directories) check_decoder(directory);
}

TEST_CASE("shared goldens: the oracle agrees with them") {
  FIXTURE_OR_RETURN(root, "models");
  for (const std::string& directory : golden_directories(root)) check_oracle(directory, 2e-6);
}

TEST_CASE("the chat model's greedy answers") {
  const std::string directory = data_file("models/tiny-chat");
  const Json cases = read_json_file(directory + "/chat_cases.json")["cases"];
  const auto model = Model::load(directory);
  REQUIRE(cases.size() >= 4);
  on_every_level([&] {
    Rig rig(model, 1);
    for (const Json& c : cases) {
      const Ids expected = c["token_ids"].get<Ids>();
      CHECK(rig.greedy(c["prompt_ids"].get<Ids>(), static_cast<int>(expected.size())) == expected);
    }
  });
}

TEST_CASE("drawn shapes with prompts of 200 tokens: the decoder agrees with the oracle on every level") {
  uint64_t seed = 1;
  for (const Shape4& shape : shapes) {
    CAPTURE(shape.architecture);
    CAPTURE(shape.d_head);
    const TempDir dir;
    write_random_model(dir.path(), config_of(shape), shape.dtype, ++seed);
    const Ids ids = random_ids(200, shape.vocab_size, seed);
    const oracle::Matrix expected = oracle::Oracle(dir.path()).logits(ids);
    const double spread = standard_deviation(expected);
    CHECK(spread > 2);  // the comparison would say little about dull logits
    CHECK(spread < 5);
    const auto model = Model::load(dir.path());
    on_every_level([&] {
      Rig rig(model, 2);
      CHECK(relative_difference(rig.logits(ids), expected) < tolerance);
    });
  }
}

namespace {

std::shared_ptr<const Model> load_as(const std::string& directory, WeightDType dtype) {
  LoadOptions options;
  options.dtype = dtype;
  return Model::load(directory, options);
}

struct BitsCase {
  std::string directory;
  size_t n_tokens;
  WeightDType dtype = WeightDType::automatic;
};

}  // namespace

TEST_CASE("equal bits whatever the threads and the chunks of the prompt") {
  std::vector<BitsCase> cases;
  const TempDir dirs[3];
  for (int i = 0; i < 3; ++i) {  // dense, tied with llama3 rope, and with a window; 530 tokens span two segments of attention
    const Shape4& shape = shapes[i == 2 ? 4 : i];
    write_random_model(dirs[i].path(), config_of(shape), shape.dtype, 7);
    cases.push_back({dirs[i].path(), size_t{i == 0 ? 530u : 100u}});
    if (i > 0) cases.push_back({dirs[i].path(), 70, i == 1 ? WeightDType::i8 : WeightDType::i4});  // rows so narrow that int8 takes them twice
  }
  for (const std::string& directory : golden_directories(data_file("models"))) cases.push_back({directory, 66});
  for (const auto& [directory, n_tokens, dtype] : cases) {
    CAPTURE(directory);
    const auto model = load_as(directory, dtype);
    const Ids ids = random_ids(n_tokens, model->spec().vocab_size, 3);
    on_every_level([&] {
      const std::vector<float> expected = Rig(model, 1).logits(ids);
      const std::vector<size_t> chunks[] = {{1, 7, 64}, {7, 64, ids.size()}, {64, ids.size()}};
      for (int n_threads = 1; n_threads <= 3; ++n_threads) {
        CAPTURE(n_threads);
        Rig rig(model, n_threads);
        for (size_t chunk : chunks[n_threads - 1]) {
          CAPTURE(chunk);
          CHECK(rig.logits(ids, chunk) == expected);
        }
      }
    });
  }
}

TEST_CASE("equal bits alone and in ragged batches that mix prompt chunks and single tokens") {
  std::vector<BitsCase> cases;
  for (const std::string& directory : golden_directories(data_file("models"))) cases.push_back({directory, 0});
  cases.push_back({cases[0].directory, 0, WeightDType::i8});
  for (const auto& [directory, n_tokens, dtype] : cases) {
    CAPTURE(directory);
    const auto model = load_as(directory, dtype);
    on_every_level([&] {
      Rig alone(model, 1), together(model, 2);
      std::mt19937_64 random(5);
      std::vector<Ids> ids;
      std::vector<std::vector<float>> expected, got;
      std::vector<KvSequence> kv;
      for (size_t length : {1, 70, 33, 5, 48, 17}) {
        ids.push_back(random_ids(length, alone.vocab_size(), random()));
        expected.push_back(alone.logits(ids.back()));
        kv.emplace_back(together.pool);
      }
      got.resize(ids.size());
      for (bool any = true; any;) {  // each step takes some of the sequences, each with a chunk of its own length
        std::vector<BatchItem> batch;
        std::vector<size_t> members;
        any = false;
        for (size_t i = 0; i < ids.size(); ++i) {
          const size_t done = static_cast<size_t>(kv[i].size());
          if (done == ids[i].size()) continue;
          any = true;
          if (random() % 4 == 0) continue;
          const size_t n = std::min<size_t>(random() % 2 == 0 ? 1 : 1 + random() % 24, ids[i].size() - done);
          REQUIRE(kv[i].reserve(static_cast<int64_t>(done + n)));
          batch.push_back({&kv[i], std::span(ids[i]).subspan(done, n), LogitsWanted::all, static_cast<int64_t>(ids[i].size())});
          members.push_back(i);
        }
        if (batch.empty()) continue;
        std::shuffle(members.begin(), members.end(), std::mt19937(static_cast<uint32_t>(random())));
        std::sort(batch.begin(), batch.end(), [&](const BatchItem& a, const BatchItem& b) {
          const auto place = [&](const BatchItem& x) { return std::find(members.begin(), members.end(), x.kv - kv.data()); };
          return place(a) < place(b);
        });
        together.decoder.forward(batch);
        int row = 0;
        for (size_t b = 0; b < batch.size(); ++b) {
          for (size_t t = 0; t < batch[b].tokens.size(); ++t) {
            const auto logits = together.decoder.logits(row++);
            got[members[b]].insert(got[members[b]].end(), logits.begin(), logits.end());
          }
        }
        CHECK(row == together.decoder.n_logit_rows());
      }
      for (size_t i = 0; i < ids.size(); ++i) {
        CAPTURE(i);
        CHECK(got[i] == expected[i]);
      }
    });
  }
}

TEST_CASE("MXFP4 experts stay MXFP4 whatever is asked for; with int8 activations too bits are equal for any threads and chunks") {
  FIXTURE_OR_RETURN(directory, "models/gptoss-mxfp4");
  const Reference reference(directory);
  const struct {
    WeightDType dtype;
    kernels::Format format;
    double limit;  // of the greatest difference, in units of the logits' spread
  } cases[] = {{WeightDType::automatic, kernels::Format::mxfp4, tolerance}, {WeightDType::f32, kernels::Format::mxfp4, tolerance},
               {WeightDType::bf16, kernels::Format::mxfp4, tolerance},      {WeightDType::i8, kernels::Format::mxfp4_i8, 0.6}};
  for (const auto& c : cases) {
    CAPTURE(static_cast<int>(c.dtype));
    LoadOptions options;
    options.dtype = c.dtype;
    on_every_level([&] {
      const auto model = Model::load(directory, options);  // int8 is packed as the level wants it
      for (const LayerWeights& layer : model->weights().layers) {
        for (const ExpertWeights& e : layer.experts) {
          CHECK((e.gate.w.format == c.format && e.up.w.format == c.format && e.down.w.format == c.format));
        }
      }
      const std::vector<float> expected = Rig(model, 1).logits(reference.prompts[0]);
      CHECK(relative_difference(expected, reference.of_prompt(0)) < c.limit);
      for (int n_threads = 1; n_threads <= 3; ++n_threads) {
        for (const size_t chunk : {size_t{1}, size_t{7}, size_t{20}}) {
          CAPTURE(chunk);
          CHECK(Rig(model, n_threads).logits(reference.prompts[0], chunk) == expected);
        }
      }
    });
  }
}

TEST_CASE("logits wanted: none, last and all give the rows of the full pass") {
  const auto model = Model::load(data_file("models/llama3-tied"));
  Rig rig(model, 2);
  const size_t v = static_cast<size_t>(rig.vocab_size());
  std::vector<Ids> ids;
  std::vector<std::vector<float>> full;
  std::vector<KvSequence> kv;
  for (uint64_t i = 0; i < 4; ++i) {
    ids.push_back(random_ids(5 + i, rig.vocab_size(), i));
    full.push_back(rig.logits(ids.back()));
    kv.emplace_back(rig.pool);
    REQUIRE(kv.back().reserve(static_cast<int64_t>(ids.back().size())));
  }
  const BatchItem batch[] = {{&kv[0], ids[0], LogitsWanted::last, 0},
                             {&kv[1], ids[1], LogitsWanted::none, 0},
                             {&kv[2], ids[2], LogitsWanted::all, 0},
                             {&kv[3], ids[3], LogitsWanted::last, 0}};
  rig.decoder.forward(batch);
  std::vector<std::vector<float>> expected = {{full[0].end() - static_cast<ptrdiff_t>(v), full[0].end()}};
  for (size_t t = 0; t < ids[2].size(); ++t) {
    expected.emplace_back(full[2].begin() + static_cast<ptrdiff_t>(t * v), full[2].begin() + static_cast<ptrdiff_t>((t + 1) * v));
  }
  expected.emplace_back(full[3].end() - static_cast<ptrdiff_t>(v), full[3].end());
  REQUIRE(rig.decoder.n_logit_rows() == static_cast<int>(expected.size()));
  for (size_t row = 0; row < expected.size(); ++row) {
    CAPTURE(row);
    const auto logits = rig.decoder.logits(static_cast<int>(row));
    CHECK(std::vector<float>(logits.begin(), logits.end()) == expected[row]);
  }
  for (size_t i = 0; i < 4; ++i) CHECK(kv[i].size() == static_cast<int64_t>(ids[i].size()));
}

TEST_CASE("equal bits with a shared prefix, and the sharers do not disturb each other") {
  for (const char* name : {"llama3-tied", "mistral-window", "qwen3"}) {
    CAPTURE(name);
    Rig rig(Model::load(data_file(std::string("models/") + name)), 2);
    const int v = rig.vocab_size();
    const Ids trunk = random_ids(40, v, 1);
    std::vector<float> ignored;
    KvSequence first(rig.pool);
    rig.feed(first, trunk, 40, ignored);
    const int64_t blocks_of_trunk = rig.pool.used_blocks();
    for (int64_t n : {0, 1, 15, 16, 17, 32, 39, 40}) {
      CAPTURE(n);
      Ids branch(trunk.begin(), trunk.begin() + n);
      const Ids tail = random_ids(25, v, 100 + static_cast<uint64_t>(n));
      branch.insert(branch.end(), tail.begin(), tail.end());
      const std::vector<float> whole = rig.logits(branch);
      KvSequence other = first.share(n);
      CHECK(other.size() == n);
      std::vector<float> got;
      rig.feed(other, tail, 4, got);
      CHECK(got == std::vector<float>(whole.begin() + n * v, whole.end()));
      // The first sequence goes on, in blocks that it may have shared a moment ago, and takes its steps back.
      const Ids more = random_ids(9, v, 7);
      Ids longer = trunk;
      longer.insert(longer.end(), more.begin(), more.end());
      const std::vector<float> all = rig.logits(longer);
      std::vector<float> went_on;
      rig.feed(first, more, 3, went_on);
      CHECK(went_on == std::vector<float>(all.begin() + 40 * v, all.end()));
      first.truncate(40);
    }
    CHECK(rig.pool.used_blocks() == blocks_of_trunk);
    // What a sharer writes over (a cut prefix that is continued differently) stays its own.
    KvSequence second = first.share(40);
    first.truncate(0);
    second.truncate(21);
    const Ids tail = random_ids(30, v, 9);
    Ids branch(trunk.begin(), trunk.begin() + 21);
    branch.insert(branch.end(), tail.begin(), tail.end());
    std::vector<float> got;
    rig.feed(second, tail, 30, got);
    const std::vector<float> whole = rig.logits(branch);
    CHECK(got == std::vector<float>(whole.begin() + 21 * v, whole.end()));
  }
}

TEST_CASE("weights converted at load: bf16 and f16 rounded as asked, float32 exact") {
  const std::string directory = data_file("models/llama-untied");  // stored as f16
  const Ids ids = random_ids(20, 100, 1);
  const std::vector<float> stored = Rig(Model::load(directory), 1).logits(ids);
  LoadOptions options;
  options.dtype = WeightDType::f32;
  CHECK(relative_difference(Rig(Model::load(directory, options), 1).logits(ids), stored) < 1e-5);
  options.dtype = WeightDType::f16;
  CHECK(Rig(Model::load(directory, options), 1).logits(ids) == stored);
  options.dtype = WeightDType::bf16;
  const double rounded = relative_difference(Rig(Model::load(directory, options), 1).logits(ids), stored);
  CHECK(rounded > 1e-4);
  CHECK(rounded < 0.5);
}
