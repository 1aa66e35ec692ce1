// Broken and unsupported configurations: each refused in one line that names the key and what was expected.
#include <doctest/doctest.h>

#include <filesystem>

#include "base/error.h"
#include "base/json.h"
#include "model/model.h"
#include "support.h"
#include "temp_dir.h"

using namespace engine;
using namespace engine::test;

namespace {

struct Case {
  const char* model;    // of tests/data/models
  const char* changes;  // keys of config.json; null removes one
  const char* words;    // that the message has
};

const Case cases[] = {
    // sizes
    {"qwen2", R"({"hidden_size": 0})", "hidden_size: expected a whole number from 1"},
    {"qwen2", R"({"hidden_size": -28})", "hidden_size: expected a whole number from 1"},
    {"qwen2", R"({"hidden_size": "28"})", "hidden_size: expected a whole number"},
    {"qwen2", R"({"hidden_size": 28.5})", "hidden_size: expected a whole number"},
    {"qwen2", R"({"hidden_size": 99999999999})", "hidden_size"},
    {"qwen2", R"({"hidden_size": null})", "hidden_size: expected a whole number from 1 to 1048576, got nothing"},
    {"qwen2", R"({"hidden_size": 56})", "expected [96, 56], got [96, 28]"},
    {"qwen2", R"({"num_hidden_layers": 0})", "num_hidden_layers"},
    {"qwen2", R"({"num_hidden_layers": 3})", "model.layers.2.input_layernorm.weight is missing"},
    {"qwen2", R"({"num_hidden_layers": 1000000})", "num_hidden_layers"},
    {"qwen2", R"({"num_attention_heads": 0})", "num_attention_heads"},
    {"qwen2", R"({"num_attention_heads": 5, "num_key_value_heads": 5})", "num_attention_heads: expected a divisor of hidden_size"},
    {"qwen2", R"({"num_key_value_heads": 0})", "num_key_value_heads"},
    {"qwen2", R"({"num_key_value_heads": -1})", "num_key_value_heads"},
    {"qwen2", R"({"num_key_value_heads": 3})", "num_key_value_heads: expected a divisor of num_attention_heads (7), got 3"},
    {"qwen2", R"({"num_key_value_heads": 14})", "num_key_value_heads: expected a divisor of num_attention_heads (7), got 14"},
    {"qwen2", R"({"head_dim": 0})", "head_dim"},
    {"qwen2", R"({"head_dim": 5})", "head_dim: expected an even number"},
    {"qwen2", R"({"intermediate_size": 0})", "intermediate_size"},
    {"qwen2", R"({"intermediate_size": null})", "intermediate_size"},
    {"qwen2", R"({"intermediate_size": -37})", "intermediate_size"},
    {"qwen2", R"({"vocab_size": 0})", "vocab_size"},
    {"qwen2", R"({"vocab_size": -1})", "vocab_size"},
    {"qwen2", R"({"vocab_size": 97})", "expected [97, 28], got [96, 28]"},
    {"qwen2", R"({"max_position_embeddings": 0})", "max_position_embeddings"},
    // numbers
    {"qwen2", R"({"rope_theta": 0})", "rope_theta: expected a number above 0, got 0"},
    {"qwen2", R"({"rope_theta": -10000})", "rope_theta"},
    {"qwen2", R"({"rope_theta": "NaN"})", "rope_theta"},
    {"qwen2", R"({"rope_theta": [10000]})", "rope_theta"},
    {"qwen2", R"({"rms_norm_eps": 0})", "rms_norm_eps"},
    {"qwen2", R"({"rms_norm_eps": -1e-6})", "rms_norm_eps"},
    {"qwen2", R"({"rms_norm_eps": "small"})", "rms_norm_eps"},
    // ids
    {"qwen2", R"({"eos_token_id": 96})", "eos_token_id: expected a token id below the vocabulary's size of 96, got 96"},
    {"qwen2", R"({"eos_token_id": [2, 1000]})", "eos_token_id"},
    {"qwen2", R"({"eos_token_id": "</s>"})", "eos_token_id"},
    {"qwen2", R"({"bos_token_id": 5000})", "bos_token_id"},
    // options inside known families
    {"qwen2", R"({"hidden_act": "swiglu"})", "hidden_act: expected one of silu"},
    {"qwen2", R"({"hidden_act": 3})", "hidden_act"},
    {"qwen2", R"({"rope_scaling": {"type": "mrope", "mrope_section": [1, 1]}})", "expected default, linear, dynamic, llama3, yarn or longrope, got \"mrope\""},
    {"qwen2", R"({"rope_scaling": {"rope_type": "linear"}})", "factor: expected a number above 0, got nothing"},
    {"qwen2", R"({"rope_scaling": {"rope_type": "linear", "factor": 0}})", "factor"},
    {"qwen2", R"({"rope_scaling": {"rope_type": "llama3", "factor": 8}})", "low_freq_factor"},
    {"qwen2", R"({"rope_scaling": "linear"})", "rope_scaling: expected an object"},
    {"qwen2", R"({"tie_word_embeddings": "yes"})", "tie_word_embeddings: expected true or false"},
    {"qwen2", R"({"use_sliding_window": true, "sliding_window": 0})", "sliding_window"},
    {"qwen2", R"({"use_sliding_window": true, "sliding_window": 8, "layer_types": ["sliding_attention"]})", "layer_types: expected a list of num_hidden_layers (2)"},
    {"qwen2", R"({"use_sliding_window": true, "sliding_window": 8, "layer_types": ["full_attention", "linear_attention"]})", "layer_types"},
    {"phi3-longrope", R"({"rope_scaling": {"rope_type": "longrope", "short_factor": [1, 1], "long_factor": [1, 1]}})", "short_factor: expected a list of 4 numbers"},
    {"phi3", R"({"partial_rotary_factor": 0, "rope_parameters": null})", "partial_rotary_factor"},
    {"gemma2", R"({"query_pre_attn_scalar": 0})", "query_pre_attn_scalar"},
    {"gemma3", R"({"use_bidirectional_attention": true})", "use_bidirectional_attention: expected false (another value is not supported), got true"},
    {"granite", R"({"logits_scaling": 0})", "logits_scaling"},
    {"smollm3", R"({"no_rope_layers": [1, 0]})", "no_rope_layers"},
    // experts
    {"mixtral", R"({"num_experts_per_tok": 6})", "num_experts_per_tok: expected a whole number from 1 to 5, got 6"},
    {"mixtral", R"({"num_experts_per_tok": 0})", "num_experts_per_tok"},
    {"mixtral", R"({"num_local_experts": 0})", "num_local_experts"},
    {"mixtral", R"({"num_local_experts": -5})", "num_local_experts"},
    {"qwen3-moe", R"({"moe_intermediate_size": 0})", "moe_intermediate_size"},
    {"qwen2-moe", R"({"shared_expert_intermediate_size": null})", "expected [5632, 32], got [28, 32]"},
    {"qwen2-moe", R"({"mlp_only_layers": [7]})", "mlp_only_layers"},
    {"gpt-oss", R"({"swiglu_limit": -7})", "swiglu_limit"},
    {"llama4", R"({"attention_chunk_size": 0})", "attention_chunk_size"},
    {"llama4", R"({"layer_types": ["sliding_attention", "full_attention", "full_attention"]})", "chunked_attention or full_attention in every place"},
    {"llama4", R"({"moe_layers": [3]})", "moe_layers: expected indices of layers, got [3]"},
    {"llama4", R"({"attn_temperature_tuning": "yes"})", "attn_temperature_tuning: expected true or false"},
    {"llama4", R"({"no_rope_layers": [1, 0]})", "no_rope_layers: expected a number for each layer"},
    // text models beside parts for images
    {"llama4-images", R"({"text_config": null})", "text_config: expected an object, got nothing"},
    {"llama4-images", R"({"text_config": {"model_type": "llama"}})", "text_config: model_type: expected llama4_text, got \"llama\""},
    // not ours
    {"qwen2", R"({"architectures": ["Lfm2ForCausalLM"]})", "architectures: 'Lfm2ForCausalLM' is not supported"},
    {"qwen2", R"({"architectures": ["LlavaForConditionalGeneration"]})", "'LlavaForConditionalGeneration' is not supported"},
    {"qwen2", R"({"architectures": ["Qwen3NextForCausalLM"]})", "'Qwen3NextForCausalLM'"},
    {"qwen2", R"({"architectures": null, "model_type": "mamba"})", "'mamba'"},
    {"qwen2", R"({"architectures": null, "model_type": null})", "architectur"},
    {"qwen2", R"({"auto_map": {"AutoConfig": "configuration_x.XConfig", "AutoModelForCausalLM": "modeling_x.XForCausalLM"}})", "auto_map"},
    {"qwen2", R"({"auto_map": {"AutoModelForCausalLM": "modeling_qwen2.Qwen2Changed"}, "architectures": ["XForCausalLM"]})", "'XForCausalLM'"},
    {"qwen2", R"({"quantization_config": {"quant_method": "hqq", "bits": 4}})", "quant_method: expected a supported quantization, got 'hqq'"},
    {"qwen2", R"({"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 0}})", "group_size"},
    {"qwen2", R"({"quantization_config": "int4"})", "quantization_config: expected an object"},
};

std::string refusal(const std::string& directory) {
  try {
    Model::load(directory);
  } catch (const Error& error) {
    return error.message;
  }
  return "accepted";
}

void link_weights(const std::string& from, const TempDir& dir) {
  for (const auto& entry : std::filesystem::directory_iterator(std::filesystem::absolute(from))) {
    if (entry.path().filename() != "config.json") std::filesystem::create_symlink(entry.path(), dir.file(entry.path().filename().string()));
  }
}

}  // namespace

TEST_CASE("broken and unsupported configurations are refused in one line that says what and why") {
  for (const Case& c : cases) {
    CAPTURE(std::string(c.changes));
    const std::string from = data_file(std::string("models/") + c.model);
    const TempDir dir;
    link_weights(from, dir);
    Json config = read_json_file(from + "/config.json");
    const Json changes = parse_json(c.changes, "changes");
    for (const auto& [key, value] : changes.items()) {
      if (value.is_null()) config.erase(key);
      else config[key] = value;
    }
    dir.write("config.json", dump_json(config));
    const std::string message = refusal(dir.path());
    CAPTURE(message);
    CHECK(message.find(c.words) != std::string::npos);
    CHECK((message.find("config.json") != std::string::npos || message.find("tensors do not fit") != std::string::npos));
    CHECK(message.find('\n') == std::string::npos);
    CHECK(message.size() < 700);
  }
}

TEST_CASE("files that are no configuration are refused in one line") {
  const std::string from = data_file("models/qwen2");
  const std::string good = dump_json(read_json_file(from + "/config.json"));
  const std::string no_number = good.substr(0, good.find("\"rope_theta\":")) + "\"rope_theta\":NaN}";
  for (const std::string& text : {std::string(), std::string("[]"), good.substr(0, good.size() / 2), std::string("\xff\xfe{}"), no_number}) {
    CAPTURE(text);
    const TempDir dir;
    link_weights(from, dir);
    dir.write("config.json", text);
    const std::string message = refusal(dir.path());
    CAPTURE(message);
    CHECK(message.find("config.json") != std::string::npos);
    CHECK(message.find('\n') == std::string::npos);
  }
}

TEST_CASE("auto_map that names the code of a built-in family is no obstacle") {
  const std::string from = data_file("models/phi3");
  const TempDir dir;
  link_weights(from, dir);
  Json config = read_json_file(from + "/config.json");
  config["auto_map"] = {{"AutoConfig", "configuration_phi3.Phi3Config"}, {"AutoModelForCausalLM", "modeling_phi3.Phi3ForCausalLM"},
                        {"AutoTokenizer", Json::array({"tokenization_x.X", nullptr})}};
  dir.write("config.json", dump_json(config));
  CHECK(refusal(dir.path()) == "accepted");
}
