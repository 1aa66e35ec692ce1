// The table of foreign formats: a new one is one file and one row.
#include <algorithm>

#include "base/error.h"
#include "model/import/importer.h"

namespace engine {

std::span<const ImportFormat> import_formats() {
  static constexpr ImportFormat table[] = {
      {"gptq", nullptr, make_gptq},
      {"awq", nullptr, make_awq},
      {"bitsandbytes", nullptr, make_bitsandbytes},
      {"compressed-tensors", "float-quantized", make_float_quantized},
      {"compressed-tensors", "naive-quantized", make_float_quantized},
      {"compressed-tensors", "pack-quantized", make_pack_quantized},
      {"compressed-tensors", "int-quantized", make_int_quantized},
      {"fp8", nullptr, make_fp8},
      {"fbgemm_fp8", nullptr, make_fbgemm_fp8},
      {"mxfp4", nullptr, nullptr},
  };
  return table;
}

std::string import_name(const ImportFormat& format) {
  return format.format == nullptr ? format.method : std::string(format.method) + " " + format.format;
}

ConfigReader quantization_config(const ConfigReader& config) {
  return config.object(config.has("quantization_config") ? "quantization_config" : "compression_config");
}

const ImportFormat* find_import_format(const ConfigReader& config) {
  if (!config.has("quantization_config") && !config.has("compression_config")) return nullptr;
  const ConfigReader q = quantization_config(config);
  // Files of 2023 say load_in_4bit alone.
  const bool old = !q.has("quant_method") && (q.has("load_in_4bit") || q.has("load_in_8bit"));
  const std::string method = q.string_or("quant_method", old ? "bitsandbytes" : ""), format = q.string_or("format", "");
  std::string known;
  for (const ImportFormat& row : import_formats()) {
    if (method == row.method && (row.format == nullptr || format == row.format)) return &row;
    known += (known.empty() ? "" : ", ") + import_name(row);
  }
  const bool known_method = std::any_of(import_formats().begin(), import_formats().end(),
                                        [&](const ImportFormat& row) { return method == row.method; });
  const std::string got = known_method ? "format '" + format + "' of " + method : method.empty() ? "none" : "'" + method + "'";
  throw Error(q.path() + ": quant_method: expected a supported quantization, got " + got, "supported: " + known);
}

std::string module_of(const std::string& name) {
  constexpr std::string_view ending = ".weight";
  return name.ends_with(ending) ? name.substr(0, name.size() - ending.size()) : name;
}

void refuse_unknown_keys(const ConfigReader& config, std::span<const char* const> known) {
  for (const auto& [key, value] : config.json().items()) {
    if (std::find(known.begin(), known.end(), key) == known.end()) {
      throw Error(config.path() + ": " + key + ": this option is not known, so its effect would be missing");
    }
  }
}

}  // namespace engine
