// Feeds damaged model files to the loaders for a bounded time:
//
//   fuzz TARGET SECONDS [SEED]       TARGET: safetensors, config, quantized, adapter, tokenizer, jinja, settings, schema
//   fuzz TARGET --replay FILE        one input again
//
// An input must either be accepted and then work, or be refused with an Error of one line. Anything else fails: another exception, a crash (the
// sanitizers see more of them), an input that takes longer than a few seconds, or memory beyond a bound. The input is then left in a file
// fuzz-failure-PID, or after a crash its seed in the file that is named at the start.
#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <exception>
#include <filesystem>
#include <functional>
#include <map>
#include <vector>

#include "../support.h"
#include "../temp_dir.h"
#include "base/error.h"
#include "base/safetensors.h"
#include "model/decoder.h"
#include "mutate.h"
#include "runtime/generation_config.h"
#include "runtime/json_schema.h"
#include "runtime/sampler.h"
#include "text/jinja.h"
#include "text/tokenizer.h"

// support.h declares it for the test programs with a main of their own kind.
namespace engine::test {
bool some_suite_skipped = false;
}

using namespace engine;
using namespace engine::fuzz;

namespace {

constexpr double max_seconds_per_input = 10;  // of the processor, sanitized
constexpr long max_rss_mb = 3000;

/// A kind of input: makes a damaged one, and tries one.
struct Target {
  std::function<std::string(Mutator&)> make;
  std::function<void(const std::string&)> run;
};

std::vector<std::string> directories(const char* under) {
  std::vector<std::string> out;
  for (const auto& entry : std::filesystem::directory_iterator(test::data_file(under))) {
    if (entry.is_directory()) out.push_back(entry.path().string());
  }
  std::sort(out.begin(), out.end());
  return out;
}

std::string u64_bytes(uint64_t n) {
  std::string out(8, '\0');
  for (size_t i = 0; i < 8; ++i) out[i] = static_cast<char>(n >> (8 * i));
  return out;
}

/// A safetensors file with damage to its header, its data or its length.
std::string damaged_safetensors(Mutator& m, const std::string& seed) {
  static const std::vector<std::string> words = {"\"F32\"", "\"I64\"", "\"F4\"", "[0,0]", "[]", "{}", "-1", "9223372036854775807",
                                                 "__metadata__", "\"shape\":", "\"data_offsets\":", "4294967296,4294967296"};
  uint64_t header_size;
  std::memcpy(&header_size, seed.data(), 8);
  const std::string header = seed.substr(8, header_size), data = seed.substr(8 + header_size);
  if (m.one_in(10)) return m.bytes(seed, words);
  std::string damaged = m.one_in(2) ? dump_json(m.json(parse_json(header, "seed"))) : m.bytes(header, words);
  const uint64_t size = m.one_in(10) ? m.below(1000) << m.below(56) : damaged.size();
  return u64_bytes(size) + damaged + (m.one_in(5) ? data.substr(0, m.below(data.size())) : data);
}

/// The same with a sound header: other values, or two tensors (of one size, or it is refused) in each other's place.
std::string changed_safetensors(Mutator& m, std::string file) {
  uint64_t header_size;
  std::memcpy(&header_size, file.data(), 8);
  for (size_t n = m.below(40); n > 0; --n) file[8 + header_size + m.below(file.size() - 8 - header_size)] = static_cast<char>(m.pick(std::span("\0\x01\x7F\x80\xFF", 5)));
  if (!m.one_in(3)) return file;
  Json header = parse_json(file.substr(8, header_size), "seed");
  Json *a = &std::next(header.begin(), static_cast<ptrdiff_t>(m.below(header.size()))).value(), *b = a;
  for (Json& other : header) {
    if (&other != a && other.contains("dtype") && a->contains("dtype") && m.one_in(3)) b = &other;
  }
  std::swap(*a, *b);
  if (m.one_in(3) && a->contains("shape")) (*a)["shape"] = Json::array({1, m.below(4096)});
  const std::string text = dump_json(header);
  return u64_bytes(text.size()) + text + file.substr(8 + header_size);
}

/// What loads must run.
void run_model(const std::string& directory, const LoadOptions& options) {
  const auto model = Model::load(directory, options);
  Team team(1);
  Decoder decoder(model, team, 32, 4);
  KvPool pool(KvLayout::of(model->spec(), kernels::KvFormat::f32), 4);
  KvSequence kv(pool);
  std::vector<int32_t> ids(20);
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(i * 7) % model->spec().vocab_size;
  if (!kv.reserve(20)) throw std::runtime_error("no room for 20 tokens");
  const BatchItem item{&kv, ids, LogitsWanted::last, 20};
  decoder.forward({&item, 1});
}

// --- safetensors ------------------------------------------------------------------------------------------------------------

Target safetensors_target(const test::TempDir& dir) {
  std::vector<std::string> seeds;
  for (const std::string& d : directories("models")) {
    if (std::filesystem::exists(d + "/reference.safetensors")) seeds.push_back(read_text_file(d + "/reference.safetensors"));
  }
  return {[seeds](Mutator& m) { return damaged_safetensors(m, m.pick(std::span(seeds))); },
          [&dir](const std::string& input) {
            const SafetensorsFile file(dir.write("f.safetensors", input));
            std::vector<float> values;
            for (const auto& [name, tensor] : file.tensors()) {  // all bytes that it promises must be there
              values.resize(static_cast<size_t>(tensor.n_elements()));
              to_float(tensor, values.data());
              unsigned sum = 0;
              for (size_t i = 0; i < tensor.n_bytes; ++i) sum += std::to_integer<unsigned>(tensor.data[i]);
              if (sum == 1) std::fputs("", stderr);  // keeps the loop
            }
          }};
}

// --- config.json -------------------------------------------------------------------------------------------------------------

Target config_target(const test::TempDir& dir) {
  // An input is the name of a golden, a line feed, and a config.json for its weights.
  std::vector<std::string> names;
  for (const std::string& d : directories("models")) names.push_back(std::filesystem::path(d).filename());
  for (const std::string& name : names) {
    std::filesystem::create_directory(dir.file(name));
    for (const auto& entry : std::filesystem::directory_iterator(test::data_file("models/" + name))) {
      if (entry.path().filename().string().rfind("model", 0) == 0) std::filesystem::copy(entry.path(), dir.file(name));
    }
  }
  static const std::vector<std::string> words = {"null", "-1", "0", "1e999", "[", "{", "\"rope_scaling\":", "\"head_dim\":8,", "1e9", "true"};
  return {[names](Mutator& m) {
            const std::string& name = m.pick(std::span(names));
            const std::string config = read_text_file(test::data_file("models/" + name + "/config.json"));
            return name + "\n" + (m.one_in(8) ? m.bytes(config, words) : dump_json(m.json(parse_json(config, "seed"))));
          },
          [&dir](const std::string& input) {
            const size_t line = input.find('\n');
            const std::string name = input.substr(0, line);
            dir.write(name + "/config.json", input.substr(line + 1));
            run_model(dir.file(name), {});
          }};
}

// --- quantized checkpoints and adapters ---------------------------------------------------------------------------------------

/// Of an input: a name, a line feed, the length of a JSON file, that file, a safetensors file.
std::string pack(const std::string& name, const std::string& json, const std::string& tensors) {
  return name + "\n" + u64_bytes(json.size()) + json + tensors;
}

struct Packed {
  std::string name, json, tensors;
};

Packed unpack(const std::string& input) {
  const size_t line = input.find('\n');
  uint64_t json_size;
  std::memcpy(&json_size, input.data() + line + 1, 8);
  return {input.substr(0, line), input.substr(line + 9, json_size), input.substr(line + 9 + json_size)};
}

std::string damaged_tensors(Mutator& m, const std::string& path) {
  const std::string seed = read_text_file(path);
  return m.one_in(3) ? seed : m.one_in(3) ? damaged_safetensors(m, seed) : changed_safetensors(m, seed);
}

Target quantized_target(const test::TempDir& dir) {
  static const std::vector<std::string> words = {"null", "-1", "0", "1e999", "[", "{", "\"bits\":", "\"group_size\":", "\"desc_act\":true", "\"sym\":false", "true", "\"group\""};
  return {[names = directories("quantized")](Mutator& m) {
            const std::string& name = m.pick(std::span(names));
            Json config = read_json_file(name + "/config.json");
            std::string text;
            if (m.one_in(2)) config["quantization_config"] = m.json(config["quantization_config"]);
            text = m.one_in(10) ? m.bytes(dump_json(config), words) : dump_json(config);
            return pack(name, text, damaged_tensors(m, name + "/model.safetensors"));
          },
          [&dir](const std::string& input) {
            const Packed files = unpack(input);
            dir.write("config.json", files.json);
            dir.write("model.safetensors", files.tensors);
            LoadOptions options;
            run_model(dir.path(), options);
            options.dtype = WeightDType::i8;
            run_model(dir.path(), options);
          }};
}

Target adapter_target(const test::TempDir& dir) {
  static const std::vector<std::string> words = {"null", "-1", "0", "1e999", "[", "{", "\"r\":", "\"lora_alpha\":", "\"rank_pattern\":", "true", "\".*\""};
  return {[](Mutator& m) {
            static const std::pair<const char*, const char*> known[] = {{"plain", "llama-untied"}, {"patterns", "llama-untied"}, {"fused", "phi3"}};
            const auto& [name, base] = known[m.below(std::size(known))];
            const std::string from = test::data_file(std::string("adapters/") + name);
            const std::string config = read_text_file(from + "/adapter_config.json");
            return pack(test::data_file(std::string("models/") + base), m.one_in(8) ? m.bytes(config, words) : dump_json(m.json(parse_json(config, "seed"))),
                        damaged_tensors(m, from + "/adapter_model.safetensors"));
          },
          [&dir](const std::string& input) {
            const Packed files = unpack(input);
            dir.write("adapter_config.json", files.json);
            dir.write("adapter_model.safetensors", files.tensors);
            LoadOptions options;
            options.adapter = dir.path();
            run_model(files.name, options);
          }};
}

// --- settings and the sampler -----------------------------------------------------------------------------------------------------

Target settings_target(const test::TempDir&) {
  static const std::vector<std::string> words = {"null", "-1", "0", "1e999", "1e-30", "1e300", "0.5", "[", "{", "true", "\"top_p\":0.9,", "\"temperature\":1e-29,"};
  // An input is a size, that many logits and a generation_config.json.
  return {[](Mutator& m) {
            const Json seed = {{"max_new_tokens", 5}, {"max_length", 20}, {"min_new_tokens", 1}, {"min_length", 0}, {"max_time", 1.5}, {"stop_strings", {"a", "b"}},
                               {"do_sample", true}, {"temperature", 0.7}, {"top_k", 5}, {"top_p", 0.9}, {"min_p", 0.05}, {"typical_p", 0.9},
                               {"epsilon_cutoff", 0.001}, {"eta_cutoff", 0.001}, {"repetition_penalty", 1.1}, {"no_repeat_ngram_size", 2},
                               {"bad_words_ids", {{1, 2}, {3}}}, {"suppress_tokens", {4}}, {"begin_suppress_tokens", {5}}, {"bos_token_id", 0},
                               {"eos_token_id", {1, 2}}, {"seed", 7}};
            static const float odd[] = {0, -0.0f, 1, -1, 1e-38f, 30, -30, 1e9f, -1e9f, 3e38f, -3e38f, HUGE_VALF, -HUGE_VALF, NAN};
            std::vector<float> logits(1 + m.below(600));
            const size_t oddness = m.below(4) * 20;
            for (float& x : logits) x = m.below(100) < oddness ? odd[m.below(std::size(odd) - (m.one_in(2) ? 3 : 0))] : static_cast<float>(m.below(1000)) / 50;
            const std::string config = m.one_in(5) ? m.bytes(dump_json(seed), words) : dump_json(m.json(seed));
            return u64_bytes(logits.size()) + std::string(reinterpret_cast<const char*>(logits.data()), logits.size() * 4) + config;
          },
          [](const std::string& input) {
            uint64_t n;
            std::memcpy(&n, input.data(), 8);
            std::vector<float> logits(n);
            std::memcpy(logits.data(), input.data() + 8, n * 4);
            for (const bool lenient : {true, false}) {
              GenerationConfig config;
              config.apply(parse_json(std::string_view(input).substr(8 + n * 4), "settings"), "settings", lenient);
              GenerationConfig again;
              again.apply(config.to_json(), "again", false);
              Sampler sampler(config, static_cast<int32_t>(n), 3, 0);
              std::vector<int32_t> tokens = {0, static_cast<int32_t>(n) - 1, static_cast<int32_t>(n) / 2};
              for (int i = 0; i < 4; ++i) {
                std::vector<float> copy = logits;
                const int32_t token = sampler.sample(copy, tokens);
                if (token < 0 || token >= static_cast<int32_t>(n)) throw std::runtime_error("a token beyond the vocabulary");
                tokens.push_back(token);
              }
            }
          }};
}

// --- JSON Schemas ---------------------------------------------------------------------------------------------------------------

Target schema_target(const test::TempDir&) {
  std::vector<Json> seeds;
  for (const char* text :
       {R"({"type": "object", "properties": {"a": {"type": "string", "minLength": 1, "maxLength": 5}, "b": {"type": ["integer", "null"]}}, "required": ["a"], "additionalProperties": false})",
        R"({"type": "array", "items": {"anyOf": [{"type": "number"}, {"enum": ["x", 1, null, [2]]}]}, "minItems": 2, "maxItems": 4})",
        R"({"$defs": {"tree": {"type": "object", "properties": {"v": {"const": {"k": [1]}}, "children": {"type": "array", "items": {"$ref": "#/$defs/tree"}}}}}, "$ref": "#/$defs/tree"})",
        R"({"allOf": [{"prefixItems": [{"type": "boolean"}, {"oneOf": [{"const": 1}, {"type": "string"}]}], "items": false, "type": "array"}], "title": "t", "description": "d"})"}) {
    seeds.push_back(parse_json(text, "seed"));
  }
  static const std::vector<std::string> words = {"\"$ref\":\"#\"", "\"type\":", "\"maxItems\":100000", "\"minLength\":99999999", "[", "{", "true", "\"anyOf\":[{},{}]", "1e999"};
  return {[seeds](Mutator& m) {
            Json seed = m.pick(std::span(seeds));
            if (m.one_in(3)) seed["$defs"]["other"] = m.pick(std::span(seeds));
            return m.one_in(5) ? m.bytes(dump_json(seed), words) : dump_json(m.json(seed));
          },
          [](const std::string& input) {
            const auto grammar = json_schema_grammar(parse_json(input, "schema"));
            // Down a path of allowed bytes; some bytes are always tried first, so that lists and strings end.
            GrammarMatcher matcher(grammar);
            std::mt19937_64 random(input.size());
            for (int i = 0; i < 2000 && !matcher.finished(); ++i) {
              std::string next;
              for (const char c : std::string("\"]}:,{[tfn0123abx ")) {
                if (matcher.accepts(std::string_view(&c, 1))) next += c;
              }
              if (next.empty()) {
                for (int c = 0; c < 256; ++c) {
                  const char byte = static_cast<char>(c);
                  if (matcher.accepts(std::string_view(&byte, 1))) next += byte;
                }
              }
              if (next.empty()) {
                if (!matcher.complete()) throw std::runtime_error("a text that nothing may follow and that is not complete");
                break;
              }
              matcher.advance(std::string_view(next).substr(random() % next.size(), 1));
            }
          }};
}

// --- tokenizer.json ------------------------------------------------------------------------------------------------------------

Target tokenizer_target(const test::TempDir& dir) {
  const std::string source = test::data_file("models/tiny-chat/");
  std::vector<Json> seeds = {read_json_file(source + "tokenizer.json")};
  // Other pipelines around the same vocabulary.
  for (const char* change : {R"({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Split", "pattern": {"Regex": "\\s+|\\p{L}+|\\p{N}{1,3}"},
                                  "behavior": "Isolated", "invert": false}, {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                                  "use_regex": false}]}, "normalizer": {"type": "NFC"}})",
                             R"({"pre_tokenizer": null, "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "_"},
                                  {"type": "Replace", "pattern": {"String": " "}, "content": "_"}]},
                                  "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "_"}, "content": " "},
                                  {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}})",
                             R"({"pre_tokenizer": {"type": "Metaspace", "replacement": "_", "prepend_scheme": "first", "split": false},
                                  "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}},
                                  {"Sequence": {"id": "A", "type_id": 0}}], "pair": [], "special_tokens": {"<|endoftext|>":
                                  {"id": "<|endoftext|>", "ids": [297], "tokens": ["<|endoftext|>"]}}}})"}) {
    Json seed = seeds[0];
    seed.update(parse_json(change, "change"));
    seeds.push_back(std::move(seed));
  }
  std::filesystem::copy(source + "tokenizer_config.json", dir.path());
  static const std::vector<std::string> words = {"\"type\":", "null", "\"Regex\":\"(a+)+$\"", "\"Sequence\"", "\\u0000", "\\ud83d", "[[", "}}", "-1"};
  return {[seeds](Mutator& m) {
            const Json& seed = m.pick(std::span(seeds));
            return m.one_in(8) ? m.bytes(dump_json(seed), words) : dump_json(m.json(seed));
          },
          [&dir](const std::string& input) {
            dir.write("tokenizer.json", input);
            const Tokenizer tokenizer = Tokenizer::from_directory(dir.path());
            for (const char* text : {"", "Hello, wide world! 12345  \n\n\tx", "\xE4\xBD\xA0\xE5\xA5\xBD \xF0\x9F\x98\x80 e\xCC\x81 \xFF\xFE", "<|im_start|>a<|im_end|>"}) {
              const std::vector<int32_t> ids = tokenizer.encode(text, true);
              tokenizer.decode(ids, true);
              Detokenizer detokenizer(tokenizer, false);
              for (const int32_t id : ids) detokenizer.push(id);
              detokenizer.flush();
            }
            for (const int32_t id : {-1, 0, 299, 1 << 30}) tokenizer.decode(std::span(&id, 1), false);
            tokenizer.encode(std::string(3000, 'a') + std::string(3000, ' '), false);
          }};
}

// --- Jinja ------------------------------------------------------------------------------------------------------------------

Target jinja_target(const test::TempDir&) {
  std::vector<std::string> seeds = {
      read_json_file(test::data_file("models/tiny-chat/tokenizer_config.json"))["chat_template"].get<std::string>(),
      "{% for m in messages %}{{ loop.index0 ~ m.role|upper + m['content'] | trim }}{% else %}none{% endfor %}",
      "{% macro f(x, y=2) %}{{ x * y }}{% endmacro %}{% set ns = namespace(n=0) %}{% for i in range(5) %}{% set ns.n = ns.n + i %}{% endfor %}{{ f(ns.n) }}",
      "{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | join(', ') | tojson(indent=2) }}",
      "{% if tools is defined and tools %}{{ tools | tojson }}{% elif messages[0].role == 'x' %}{% else %}{{ 'a' if 1 < 2 <= 3 else [1, 2][::-1] }}{% endif %}",
      "{% call(x) f() %}{{ x }}{% endcall %}{% filter upper %}a{% endfilter %}{{ '%s %05.2f' % ('a', 1.5) }}{{ {'a': [1, (2, 3)]}.items() | list }}",
      "{{ 'a,b'.split(',')[0].strip().replace('a', 'bb').startswith('b') and not false or none }}{{ 7 // 2 ** 3 % -5 }}{#- c -#}"};
  static const std::vector<std::string> words = {"{{", "}}", "{%", "%}", "{#", "#}", "{%-", "-%}", "for", "endfor", "in", "if", "endif", "set", "macro", "(", ")", "[",
                                                 "]", "'", "|", "~", "**", "//", "'a' * 999999999", "range(999999999)", "loop", "recursive", "self", "|list", "|join",
                                                 "|tojson", "{% raw %}", "namespace()", ".__class__", "-9223372036854775808", "1e999", "strftime_now('%Y')"};
  const Json context = parse_json(R"({"messages": [{"role": "system", "content": "be \u00e9"}, {"role": "user", "content": "<|im_end|>"}],
      "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}], "add_generation_prompt": true, "bos_token": "<s>"})", "context");
  return {[seeds](Mutator& m) {
            std::string text = m.pick(std::span(seeds));
            if (m.one_in(4)) text += m.pick(std::span(seeds));
            return m.bytes(text, words);
          },
          [context](const std::string& input) {
            const JinjaTemplate t(input);
            JinjaTemplate::Options options;
            options.limits.max_steps = 200'000;
            options.limits.max_output_bytes = 1 << 20;
            size_t n = 0;
            for (const TextSpan& span : t.render(context, options)) n += span.text.size();
            if (n > size_t{1} << 20) throw std::runtime_error("more output than the limit allows");
          }};
}

// --- running ------------------------------------------------------------------------------------------------------------------

/// Tries one input. Returns what went wrong, or nothing.
std::string attempt(const Target& target, const std::string& input) {
  const std::clock_t start = std::clock();
  try {
    target.run(input);
  } catch (const Error& e) {
    if (e.message.empty()) return "an Error without a message";
    // raise_exception's message is the template's own; all others are one line.
    if (e.message.size() > 10'000) return "an Error of " + std::to_string(e.message.size()) + " bytes";
  } catch (const std::exception& e) {
    return std::string("an exception that is no Error: ") + e.what();
  }
  const double seconds = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
  if (seconds > max_seconds_per_input) return "took " + std::to_string(seconds) + " s";
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  if (usage.ru_maxrss / 1024 > max_rss_mb) return "memory grew to " + std::to_string(usage.ru_maxrss / 1024) + " MB";
  return "";
}

int fail(const std::string& problem, const std::string& input) {
  const std::string path = "fuzz-failure-" + std::to_string(getpid());
  if (std::FILE* f = std::fopen(path.c_str(), "wb")) {
    std::fwrite(input.data(), 1, input.size(), f);
    std::fclose(f);
  }
  std::fprintf(stderr, "fuzz: %s; the input is in %s\n", problem.c_str(), path.c_str());
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  const std::map<std::string, Target (*)(const test::TempDir&)> targets = {
      {"safetensors", safetensors_target}, {"config", config_target}, {"quantized", quantized_target}, {"adapter", adapter_target},
      {"tokenizer", tokenizer_target}, {"jinja", jinja_target}, {"settings", settings_target}, {"schema", schema_target}};
  if (argc < 3 || targets.count(argv[1]) == 0) {
    std::fprintf(stderr, "usage: fuzz safetensors|config|quantized|adapter|tokenizer|jinja|settings|schema SECONDS [SEED] | --replay FILE\n");
    return 2;
  }
  const test::TempDir dir;
  const Target target = targets.at(argv[1])(dir);
  if (std::strcmp(argv[2], "--replay") == 0 && argc > 3) {
    const std::string input = read_text_file(argv[3]);
    const std::string problem = attempt(target, input);
    std::fprintf(stderr, "fuzz: %s\n", problem.empty() ? "nothing wrong" : problem.c_str());
    return problem.empty() ? 0 : 1;
  }
  const double seconds = std::atof(argv[2]);
  const uint64_t first_seed = argc > 3 ? std::strtoull(argv[3], nullptr, 10) : 1;
  const auto start = std::chrono::steady_clock::now();
  uint64_t n = 0;
  // After a crash this file holds the seed; `fuzz TARGET 0.01 SEED` makes the input again.
  const int seed_file = open(dir.file("seed").c_str(), O_WRONLY | O_CREAT, 0600);
  std::fprintf(stderr, "fuzz: the seed in work is in %s\n", dir.file("seed").c_str());
  for (; std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() < seconds; ++n) {
    Mutator mutator(first_seed + n);
    const std::string input = target.make(mutator);
    const std::string number = std::to_string(first_seed + n) + "\n";
    if (pwrite(seed_file, number.data(), number.size(), 0) < 0) return 2;
    const std::string problem = attempt(target, input);
    if (!problem.empty()) return fail(problem, input);
  }
  std::fprintf(stderr, "fuzz: %llu inputs\n", static_cast<unsigned long long>(n));
  return n > 0 ? 0 : 1;
}
