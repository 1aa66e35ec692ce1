// Checkpoints in quantized formats of other programs. config.json's quantization_config names the format; a row of the table in
// importers.cpp makes the importer for it, which finds a weight's tensors by name and reads them as rows of float32, or as integers
// with scales where a kernel format holds them as they are. The binder does the rest.
#pragma once

#include <memory>
#include <span>
#include <string>

#include "model/arch/family.h"
#include "model/matrix_source.h"

namespace engine {

class Importer {
 public:
  virtual ~Importer() = default;
  /// True if the matrix `name` ("model.layers.0.mlp.up_proj.weight") is stored in this format; false: it is a plain tensor, or not there.
  virtual bool holds(const Binder& binder, const std::string& name) const = 0;
  /// All rows of such a matrix [n_rows, n_cols]; null: a problem was noted with the binder.
  virtual std::unique_ptr<MatrixSource> open(Binder& binder, const std::string& name, int64_t n_rows, int64_t n_cols) const = 0;
};

/// A row of the table.
struct ImportFormat {
  const char* method;  // quantization_config's quant_method
  const char* format;  // its `format` (compressed-tensors has many); null: any, or none
  /// Reads the options and refuses those that it does not know. Null: the family reads these tensors itself (GPT-OSS's MXFP4).
  std::unique_ptr<Importer> (*make)(const ConfigReader& quantization);
};

std::span<const ImportFormat> import_formats();

/// "compressed-tensors pack-quantized", for people.
std::string import_name(const ImportFormat& format);

/// The row for config.json's quantization_config; null if it has none. An unknown method is refused by name.
const ImportFormat* find_import_format(const ConfigReader& config);

/// The object that describes the quantization: quantization_config, or compression_config as older files call it.
ConfigReader quantization_config(const ConfigReader& config);

// --- one file each -----------------------------------------------------------------------------------------------------------------

std::unique_ptr<Importer> make_gptq(const ConfigReader& quantization);
std::unique_ptr<Importer> make_awq(const ConfigReader& quantization);
std::unique_ptr<Importer> make_bitsandbytes(const ConfigReader& quantization);
std::unique_ptr<Importer> make_float_quantized(const ConfigReader& quantization);
std::unique_ptr<Importer> make_pack_quantized(const ConfigReader& quantization);
std::unique_ptr<Importer> make_int_quantized(const ConfigReader& quantization);
std::unique_ptr<Importer> make_fp8(const ConfigReader& quantization);
std::unique_ptr<Importer> make_fbgemm_fp8(const ConfigReader& quantization);

// --- shared by them ----------------------------------------------------------------------------------------------------------------

/// "x.weight" -> "x"; a name without that ending as it is.
std::string module_of(const std::string& name);

/// Throws for a key that is not among `known`: an option that nobody looked at could change every value.
void refuse_unknown_keys(const ConfigReader& config, std::span<const char* const> known);

/// value = weight[r][c] * scale[r / block_rows][c / block_cols]. `weight` [n_rows, n_cols] has a float type (8 bits too) or I8,
/// `scales` a float type and as many elements as there are blocks.
std::unique_ptr<MatrixSource> scaled_rows(const TensorView& weight, const TensorView& scales, int64_t block_rows, int64_t block_cols);

/// The group of the kernel formats that a scale for every `n` columns of `n_cols` fits (a wider group is cut into several with the same
/// scale); 0: none.
int kernel_group(int64_t n, int64_t n_cols);

/// The nearest finite float16. False where its precision does not reach: overflow, or subnormal and not exact.
bool narrow_scale(float scale, uint16_t* out);

}  // namespace engine
