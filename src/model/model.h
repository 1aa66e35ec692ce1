// A loaded model: spec and weights. Immutable after load and safe to share between threads and decoders.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "base/safetensors.h"
#include "base/threads.h"
#include "model/spec.h"

namespace engine {

/// y = x W^T + bias.
struct Linear {
  kernels::Matrix w;            // [n_out, n_in]; data null: absent
  const float* bias = nullptr;  // [n_out] or null
  explicit operator bool() const { return w.data != nullptr; }
};

struct NormWeights {
  const float* weight = nullptr;  // [n]
  const float* bias = nullptr;    // [n] or null
};

struct ExpertWeights {
  Linear gate;  // [d_expert, d_model]
  Linear up;    // [d_expert, d_model]
  Linear down;  // [d_model, d_expert]
};

struct LayerWeights {
  NormWeights attn_norm, ffn_norm;            // [d_model], before; null where the spec has no pre_norm
  NormWeights attn_post_norm, ffn_post_norm;  // [d_model], after
  NormWeights q_norm, k_norm;                 // see QkNorm
  Linear wq;                                  // [n_heads * d_head, d_model]
  Linear wk, wv;                              // [n_kv_heads * d_head, d_model]
  Linear wo;                                  // [d_model, n_heads * d_head]
  const float* sinks = nullptr;               // [n_heads]
  Linear w_gate, w_up;                        // [d_ff, d_model]
  Linear w_down;                              // [d_model, d_ff]
  Linear w_router;                            // [n_experts, d_model]
  std::vector<ExpertWeights> experts;         // [n_experts]
  ExpertWeights shared;                       // d_shared wide
  Linear shared_gate;                         // [1, d_model]
};

struct Weights {
  kernels::Matrix embedding;  // [vocab_size, d_model]
  Linear output;              // [vocab_size, d_model]; the embedding itself when tied
  NormWeights final_norm;     // [d_model]
  std::vector<LayerWeights> layers;
};

/// Weights in memory. `automatic` keeps each tensor as the checkpoint has it.
/// int8 and int4 quantize every large matrix; routers, norms and biases stay exact.
enum class WeightDType : uint8_t { automatic, f32, bf16, f16, i8, i4 };

/// Which tensor a matrix came from, for who writes the model again.
struct BoundMatrix {
  const kernels::Matrix* matrix;
  std::string tensor;         // its name
  int64_t first_row = 0, row_step = 1;
  bool output = false;        // the output matrix; of a model with tied embeddings `tensor` is the embedding's
  bool exact = false;         // never quantized
  std::string output_tensor;  // the output matrix's own name, there or not
};

struct LoadOptions {
  WeightDType dtype = WeightDType::automatic;
  int group = 32;        // i8, i4: columns that share a scale: 32, 64 or 128
  kernels::Format output = kernels::Format::i8;  // beside i4: the output matrix, i8 or i4
  std::string adapter;   // directory of a LoRA adapter to be merged; empty: none
  bool bind_only = false;  // check everything and plan, convert nothing: weights must not be read, weight_bytes() tells what they would take
  std::vector<BoundMatrix>* bound = nullptr;  // filled in, if not null; for plain checkpoints
  Team* team = nullptr;  // converts in parallel; null: this thread alone
  /// Called now and then while converting, with bytes done and in all; may be empty.
  std::function<void(uint64_t done, uint64_t total)> progress;
};

/// Matrices of a foreign quantized format that became one of our formats, and what that cost: relative RMS error is
/// sqrt(squared_error / squared_sum), over a sixteenth of the rows.
struct ImportedWeights {
  int n_matrices = 0;
  double squared_error = 0, squared_sum = 0;
};

/// One line of `inspect`'s list of tensors.
struct TensorInfo {
  std::string name;
  Shape shape;
  std::string dtype;
  uint64_t n_bytes;
};

class Model {
 public:
  /// Reads config.json, picks the family, maps the checkpoint, binds and checks every tensor (all missing or mis-shaped ones are reported in
  /// one Error), converts where asked.
  static std::shared_ptr<const Model> load(const std::string& directory, const LoadOptions& options = {});
  ~Model();

  const ModelSpec& spec() const { return spec_; }
  const Weights& weights() const { return weights_; }
  const std::string& directory() const { return directory_; }

  /// True if any matrix needs quantized activations.
  bool quantized() const { return quantized_; }
  uint64_t n_parameters() const { return n_parameters_; }
  uint64_t n_active_parameters() const { return n_active_parameters_; }  // read for one token (embedding table not counted unless tied)
  /// Bytes that stay in use: mapped and converted weights.
  uint64_t weight_bytes() const { return mapped_bytes_ + owned_bytes_; }
  uint64_t owned_bytes() const { return owned_bytes_; }
  /// Of the mapped bytes, an embedding that is no output matrix: a row a token is looked up, the rest stays in the file.
  uint64_t lookup_bytes() const { return lookup_bytes_; }
  /// Weight bytes read to decode one token (active experts only).
  uint64_t active_bytes() const { return active_bytes_; }
  std::vector<TensorInfo> tensors() const;
  /// True if parts for images stand beside it in the checkpoint, which are not loaded.
  bool wrapped() const { return wrapped_; }
  /// The foreign format of the checkpoint ("gptq"), empty if it has none; and what became of its matrices, by kernel format.
  int n_adapted() const { return n_adapted_; }  // matrices that an adapter changed
  const std::string& import_format() const { return import_format_; }
  std::span<const ImportedWeights> imported() const { return imported_; }
  /// Names of the families that can be loaded, for messages.
  static std::vector<std::string> architectures();

 private:
  friend class Binder;
  Model() = default;
  ModelSpec spec_;
  Weights weights_;
  std::string directory_;
  std::unique_ptr<Checkpoint> checkpoint_;
  std::vector<Buffer> owned_;  // vectors widened to float32, converted matrices
  uint64_t n_parameters_ = 0, n_active_parameters_ = 0, mapped_bytes_ = 0, owned_bytes_ = 0, lookup_bytes_ = 0, active_bytes_ = 0;
  bool quantized_ = false, wrapped_ = false;
  int n_adapted_ = 0;
  std::string import_format_;
  std::array<ImportedWeights, kernels::n_formats> imported_;
};

}  // namespace engine
