// Random checkpoints of drawn shapes, written as Hugging Face directories.
#pragma once

#include <cstdint>
#include <string>

#include "base/json.h"
#include "base/tensor.h"

namespace engine::test {

/// Writes config.json and model.safetensors with random weights of the shapes that `config` implies, for the dense families Llama, Mistral,
/// Qwen2 and Qwen3. Weights are drawn so that logits have a standard deviation of about 3, attention is selective and embeddings are small (the norms'
/// epsilon counts). `dtype`: f32, bf16 or f16.
void write_random_model(const std::string& directory, const Json& config, DType dtype, uint64_t seed);

}  // namespace engine::test
