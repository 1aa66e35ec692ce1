#include <cmath>

#include "base/error.h"
#include "model/arch/family.h"

namespace engine {

const Json* ConfigReader::get(std::string_view key) const {
  const auto found = config_.find(key);
  return found == config_.end() || found->is_null() ? nullptr : &*found;
}

bool ConfigReader::has(std::string_view key) const { return get(key) != nullptr; }

void ConfigReader::fail(std::string_view key, std::string_view expected) const {
  const Json* value = get(key);
  std::string got = value != nullptr ? dump_json(*value) : "nothing";
  if (got.size() > 80) got = got.substr(0, 77) + "...";
  throw Error(path_ + ": " + std::string(key) + ": expected " + std::string(expected) + ", got " + got);
}

ConfigReader ConfigReader::object(std::string_view key) const {
  const Json* value = get(key);
  if (value == nullptr || !value->is_object()) fail(key, "an object");
  return ConfigReader(*value, path_ + ": " + std::string(key));
}

int64_t ConfigReader::integer(std::string_view key, int64_t low, int64_t high) const {
  const Json* value = get(key);
  const std::string expected = "a whole number from " + std::to_string(low) + " to " + std::to_string(high);
  if (value == nullptr) fail(key, expected);
  int64_t n = 0;
  if (value->is_number_integer()) {
    if (value->is_number_unsigned() && value->get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) fail(key, expected);
    n = value->get<int64_t>();
  } else if (value->is_number_float() && std::abs(value->get<double>()) < 1e15 &&
             value->get<double>() == std::floor(value->get<double>())) {
    n = static_cast<int64_t>(value->get<double>());  // some configs write sizes as 4096.0
  } else {
    fail(key, expected);
  }
  if (n < low || n > high) fail(key, expected);
  return n;
}

int64_t ConfigReader::integer_or(std::string_view key, int64_t fallback, int64_t low, int64_t high) const {
  return has(key) ? integer(key, low, high) : fallback;
}

double ConfigReader::number(std::string_view key) const {
  const Json* value = get(key);
  if (value == nullptr || !value->is_number() || !std::isfinite(value->get<double>())) fail(key, "a finite number");
  return value->get<double>();
}

double ConfigReader::number_or(std::string_view key, double fallback) const { return has(key) ? number(key) : fallback; }

double ConfigReader::positive(std::string_view key) const {
  const Json* value = get(key);
  if (value == nullptr || !value->is_number() || !std::isfinite(value->get<double>()) || value->get<double>() <= 0) {
    fail(key, "a number above 0");
  }
  return value->get<double>();
}

double ConfigReader::positive_or(std::string_view key, double fallback) const {
  return has(key) ? positive(key) : fallback;
}

bool ConfigReader::boolean_or(std::string_view key, bool fallback) const {
  const Json* value = get(key);
  if (value == nullptr) return fallback;
  if (!value->is_boolean()) fail(key, "true or false");
  return value->get<bool>();
}

std::string ConfigReader::string_or(std::string_view key, std::string_view fallback) const {
  const Json* value = get(key);
  if (value == nullptr) return std::string(fallback);
  if (!value->is_string()) fail(key, "a string");
  return value->get<std::string>();
}

std::vector<double> ConfigReader::numbers(std::string_view key) const {
  const Json* value = get(key);
  if (value == nullptr || !value->is_array()) fail(key, "a list of numbers");
  std::vector<double> out;
  for (const Json& v : *value) {
    if (!v.is_number() || !std::isfinite(v.get<double>())) fail(key, "a list of finite numbers");
    out.push_back(v.get<double>());
  }
  return out;
}

void ConfigReader::only(std::string_view key, const Json& expected) const {
  const Json* value = get(key);
  if (value != nullptr && *value != expected) fail(key, dump_json(expected) + " (another value is not supported)");
}

}  // namespace engine
