// Rotary frequencies as config.json asks for them (Transformers' modeling_rope_utils, in double precision).
#include <algorithm>
#include <cmath>
#include <numbers>
#include <stdexcept>

#include "oracle.h"

namespace oracle {

namespace {

constexpr double two_pi = 2 * std::numbers::pi;

// theta^(-2i / n_rot) for i < n_rot / 2.
Vector plain_frequencies(double theta, size_t n_rot) {
  Vector f = Vector::from_shape({n_rot / 2});
  for (size_t i = 0; i < f.size(); ++i) f(i) = std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(n_rot));
  return f;
}

// Llama 3.1: frequencies whose wavelength is short stay, long ones are divided by `factor`, those between are blended.
Vector llama3_frequencies(const Config& p, double theta, size_t n_rot) {
  const double factor = p.number("factor", 8), low = p.number("low_freq_factor", 1), high = p.number("high_freq_factor", 4);
  const double original = p.number("original_max_position_embeddings", 8192);
  Vector f = plain_frequencies(theta, n_rot);
  for (double& w : f) {
    const double turns = original * w / two_pi;  // within the original context
    if (turns > high) continue;
    if (turns < low) {
      w /= factor;
    } else {
      const double keep = (turns - low) / (high - low);
      w = (1 - keep) * w / factor + keep * w;
    }
  }
  return f;
}

// YaRN (Peng et al., 2023): channels that turn more than beta_fast times within the original context stay, those that turn less than
// beta_slow times are interpolated, with a linear ramp over the channel index between.
Vector yarn_frequencies(const Config& p, double theta, size_t n_rot, double factor, double original) {
  const double n = static_cast<double>(n_rot);
  const auto channel_of = [&](double turns) { return n * std::log(original / (turns * two_pi)) / (2 * std::log(theta)); };
  double low = channel_of(p.number("beta_fast", 32)), high = channel_of(p.number("beta_slow", 1));
  if (p.flag("truncate", true)) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, n - 1);
  if (low == high) high += 0.001;
  Vector f = plain_frequencies(theta, n_rot);
  for (size_t i = 0; i < f.size(); ++i) {
    const double interpolate = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    f(i) = f(i) / factor * interpolate + f(i) * (1 - interpolate);
  }
  return f;
}

double yarn_attention_factor(const Config& p, double factor) {
  if (p.has("attention_factor")) return p.number("attention_factor", 1);
  const auto mscale = [&](double m) { return factor <= 1 ? 1.0 : 0.1 * m * std::log(factor) + 1; };
  const double m = p.number("mscale", 0), m_all = p.number("mscale_all_dim", 0);
  return m != 0 && m_all != 0 ? mscale(m) / mscale(m_all) : mscale(1);
}

// LongRoPE (Ding et al., 2024): a factor per channel, one list for sequences within the original context and one for longer ones, which
// then holds for all positions.
Rope longrope(const Config& p, double theta, size_t n_rot, size_t n_tokens, double max_positions, double original) {
  const auto& list = p.json().at(static_cast<double>(n_tokens) > original ? "long_factor" : "short_factor");
  Rope rope{plain_frequencies(theta, n_rot)};
  for (size_t i = 0; i < rope.inv_freq.size(); ++i) rope.inv_freq(i) /= list.at(i).get<double>();
  const double factor = p.number("factor", max_positions / original);
  const double computed = factor <= 1 ? 1.0 : std::sqrt(1 + std::log(factor) / std::log(original));
  rope.attention_factor = p.number("attention_factor", computed);
  return rope;
}

}  // namespace

Rope make_rope(const Config& config, const engine::Json& parameters, double theta, size_t n_rot, size_t n_tokens) {
  const Config p(parameters);
  theta = p.number("rope_theta", theta);
  const std::string type = p.text("rope_type", p.text("type", "default"));
  const double max_positions = config.number("max_position_embeddings", 2048);
  // A value beside rope_scaling (Phi-3) goes before one inside it.
  const double original =
      config.number("original_max_position_embeddings", p.number("original_max_position_embeddings", max_positions));
  if (type == "default") return {plain_frequencies(theta, n_rot)};
  if (type == "linear") return {plain_frequencies(theta, n_rot) / p.number("factor", 1)};
  if (type == "llama3") return {llama3_frequencies(p, theta, n_rot)};
  if (type == "longrope" || type == "su") return longrope(p, theta, n_rot, n_tokens, max_positions, original);
  if (type == "yarn") {
    const double factor = p.number("factor", max_positions / original);
    return {yarn_frequencies(p, theta, n_rot, factor, original), yarn_attention_factor(p, factor)};
  }
  if (type == "dynamic") {  // the base grows with a sequence that is longer than the trained context
    const double n = static_cast<double>(n_rot), factor = p.number("factor", 1);
    const double length = std::max(static_cast<double>(n_tokens), max_positions);
    return {plain_frequencies(theta * std::pow(factor * length / max_positions - (factor - 1), n / (n - 2)), n_rot)};
  }
  throw std::runtime_error("oracle: unknown rope type " + type);
}

double partial_rotary_factor(const Config& config, double otherwise) {
  const Config inside(config.has("rope_parameters") ? config.json()["rope_parameters"] : engine::Json::object());
  return inside.number("partial_rotary_factor", config.number("partial_rotary_factor", otherwise));
}

Rope make_rope(const Config& config, size_t n_rot, size_t n_tokens) {
  const char* key = config.has("rope_parameters") ? "rope_parameters" : "rope_scaling";
  const engine::Json parameters = config.has(key) ? config.json().at(key) : engine::Json::object();
  return make_rope(config, parameters, config.number("rope_theta", 10000), n_rot, n_tokens);
}

}  // namespace oracle
