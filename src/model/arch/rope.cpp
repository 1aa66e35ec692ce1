// Rotary frequencies, after Transformers' modeling_rope_utils.py, in double precision.
#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/error.h"
#include "model/arch/family.h"

namespace engine {
namespace {

std::vector<double> plain_frequencies(double theta, int n_rot) {
  std::vector<double> f(n_rot / 2);
  for (int i = 0; i < n_rot / 2; ++i) f[i] = std::pow(theta, -2.0 * i / n_rot);
  return f;
}

/// Llama 3.1: long wavelengths divided by `factor`, short ones kept, a ramp between.
void scale_llama3(const ConfigReader& s, double original, std::vector<double>& f) {
  const double factor = s.positive("factor"), low = s.positive("low_freq_factor"), high = s.positive("high_freq_factor");
  for (double& v : f) {
    const double wavelength = 2 * std::numbers::pi / v;
    if (wavelength > original / low) {
      v /= factor;
    } else if (wavelength >= original / high) {
      const double smooth = (original / wavelength - low) / (high - low);
      v = (1 - smooth) * v / factor + smooth * v;
    }
  }
}

double yarn_mscale(double scale, double mscale) { return scale <= 1 ? 1.0 : 0.1 * mscale * std::log(scale) + 1.0; }

/// YaRN (https://arxiv.org/abs/2309.00071): interpolate slow channels, keep fast ones.
void scale_yarn(const ConfigReader& s, double theta, int64_t max_positions, double original, RopeSpec& rope) {
  const double factor = s.positive_or("factor", static_cast<double>(max_positions) / original);
  const double beta_fast = s.positive_or("beta_fast", 32), beta_slow = s.positive_or("beta_slow", 1);
  if (s.has("attention_factor")) {
    rope.attention_factor = s.positive("attention_factor");
  } else if (s.has("mscale") && s.has("mscale_all_dim") && s.number("mscale") != 0 && s.number("mscale_all_dim") != 0) {
    rope.attention_factor = yarn_mscale(factor, s.number("mscale")) / yarn_mscale(factor, s.number("mscale_all_dim"));
  } else {
    rope.attention_factor = yarn_mscale(factor, 1);
  }
  const auto correction_dim = [&](double rotations) {
    return rope.n_rot * std::log(original / (rotations * 2 * std::numbers::pi)) / (2 * std::log(theta));
  };
  double low = correction_dim(beta_fast), high = correction_dim(beta_slow);
  if (s.boolean_or("truncate", true)) low = std::floor(low), high = std::ceil(high);  // GPT-OSS says false
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(rope.n_rot - 1));
  if (low == high) high += 0.001;
  for (int i = 0; i < rope.n_rot / 2; ++i) {
    const double ramp = std::clamp((i - low) / (high - low), 0.0, 1.0);
    rope.inv_freq[i] = rope.inv_freq[i] / factor * ramp + rope.inv_freq[i] * (1 - ramp);
  }
}

/// Phi-3's longrope: a factor for each channel, one list for sequences up to the original length and one beyond.
void scale_longrope(const ConfigReader& s, int64_t max_positions, int64_t original, RopeSpec& rope) {
  rope.original_positions = original;
  const double ratio = s.has("factor") ? s.positive("factor")
                                       : static_cast<double>(max_positions) / static_cast<double>(rope.original_positions);
  rope.attention_factor =
      s.has("attention_factor") ? s.positive("attention_factor")
      : ratio <= 1              ? 1.0
                   : std::sqrt(1 + std::log(ratio) / std::log(static_cast<double>(rope.original_positions)));
  const std::vector<double> short_factor = s.numbers("short_factor"), long_factor = s.numbers("long_factor");
  const auto check = [&](const char* key, const std::vector<double>& list) {
    const bool positive = std::all_of(list.begin(), list.end(), [](double v) { return v > 0; });
    if (list.size() != rope.inv_freq.size() || !positive) {
      s.fail(key, "a list of " + std::to_string(rope.inv_freq.size()) + " numbers above 0");
    }
  };
  check("short_factor", short_factor);
  check("long_factor", long_factor);
  rope.long_inv_freq = rope.inv_freq;
  for (size_t i = 0; i < rope.inv_freq.size(); ++i) {
    rope.inv_freq[i] /= short_factor[i];
    rope.long_inv_freq[i] /= long_factor[i];
  }
}

}  // namespace

int parse_rotary_width(const ConfigReader& config, int d_head, double default_factor) {
  double factor = config.positive_or("partial_rotary_factor", default_factor);
  if (config.has("rope_parameters")) factor = config.object("rope_parameters").positive_or("partial_rotary_factor", factor);
  const int n_rot = factor <= 1 ? static_cast<int>(d_head * factor) : 0;
  if (n_rot < 2 || n_rot % 2 != 0) config.fail("partial_rotary_factor", "a share of head_dim that gives an even number");
  return n_rot;
}

RopeSpec parse_rope(const ConfigReader& config, int n_rot, int64_t max_positions, double default_theta) {
  // Transformers 5 writes rope_parameters, which holds rope_theta too; earlier versions rope_scaling beside rope_theta.
  const char* key = config.has("rope_parameters") ? "rope_parameters" : "rope_scaling";
  const Json none = Json::object();
  const ConfigReader s = config.has(key) ? config.object(key) : ConfigReader(none, config.path());
  const double theta = s.has("rope_theta") ? s.positive("rope_theta") : config.positive_or("rope_theta", default_theta);
  if (theta <= 1) config.fail("rope_theta", "a number above 1");

  RopeSpec rope;
  rope.n_rot = n_rot;
  rope.inv_freq = plain_frequencies(theta, n_rot);
  // Phi-3's configs have the trained length beside the rest, where it goes first.
  const ConfigReader& owner = config.has("original_max_position_embeddings") ? config : s;
  const int64_t original = owner.integer_or("original_max_position_embeddings", max_positions, 1, int64_t{1} << 40);
  const std::string type = s.has("rope_type") ? s.string_or("rope_type", "") : s.string_or("type", "default");
  if (type == "linear") {
    const double factor = s.positive("factor");
    for (double& v : rope.inv_freq) v /= factor;
  } else if (type == "dynamic") {
    // Frequencies change only beyond max_position_embeddings, which is where our context ends.
  } else if (type == "llama3") {
    scale_llama3(s, static_cast<double>(original), rope.inv_freq);
  } else if (type == "yarn") {
    scale_yarn(s, theta, max_positions, static_cast<double>(original), rope);
  } else if (type == "longrope" || type == "su") {
    scale_longrope(s, max_positions, original, rope);
  } else if (type != "default") {
    s.fail(s.has("rope_type") ? "rope_type" : "type", "default, linear, dynamic, llama3, yarn or longrope");
  }
  return rope;
}

}  // namespace engine
