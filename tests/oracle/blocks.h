// The building blocks of decoder-only transformers in double precision, written for reading: each function is its formula. Sequences are
// computed as a whole, with no cache, no batch and no threads.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>
#include <xtensor/xtensor.hpp>

namespace oracle {

using Vector = xt::xtensor<double, 1>;
using Matrix = xt::xtensor<double, 2>;  // activations: [T, n]; weights: [n_out, n_in]
using Cube = xt::xtensor<double, 3>;    // [T, heads, d_head]; weights of experts: [n_experts, n_out, n_in]

/// y = x W^T + b: x [T, n_in], w [n_out, n_in], b [n_out] or empty.
Matrix linear(const Matrix& x, const Matrix& w, const Vector& b = {});

/// x / sqrt(mean(x^2) + eps) * w, along the last axis (Zhang and Sennrich, 2019).
Matrix rms_norm(const Matrix& x, const Vector& w, double eps);
/// (x - mean) / sqrt(variance + eps) * w + b, along the last axis (Ba et al., 2016). w and b may be empty.
Matrix layer_norm(const Matrix& x, const Vector& w, const Vector& b, double eps);

/// softmax along the last axis; -inf entries get 0.
Matrix softmax(const Matrix& x);

/// Element by element: "silu", "gelu" (with erf), "gelu_pytorch_tanh" (also "gelu_new"), "relu". Throws std::runtime_error for others.
Matrix activation(const std::string& name, const Matrix& x);

/// [T, heads * d] seen as [T, heads, d] and back.
Cube split_heads(const Matrix& x, size_t n_heads);
Matrix join_heads(const Cube& x);

/// Applies a norm over each head's channels: f gets the rows [T * heads, d].
Cube per_head(const Cube& x, const std::function<Matrix(const Matrix&)>& f);

/// Rotary position embedding (Su et al., 2021). Token t stands at position t.
struct Rope {
  Vector inv_freq;              // [n_rot / 2]: pair i turns by t * inv_freq[i]
  double attention_factor = 1;  // multiplies the rotated channels (YaRN, longrope)
};

/// Rotates the first n_rot channels of each head, pairing channel i with i + n_rot/2 ("rotate half"), or 2i with 2i + 1 if interleaved.
Cube apply_rope(const Cube& x, const Rope& rope, bool interleaved = false);

struct AttentionOptions {
  double scale = 0;    // multiplies q . k; 0: 1 / sqrt(d_head)
  size_t window = 0;   // query i sees keys j with i - window < j <= i; 0: all j <= i
  size_t chunk = 0;    // query i sees keys j <= i of its own chunk of so many positions; 0: all (Llama 4)
  double softcap = 0;  // scores become softcap * tanh(score / softcap); 0: off (Gemma 2)
  Vector sinks{};      // [n_heads] one more logit in each head's softmax, whose probability is dropped; empty: none (GPT-OSS)
};

/// softmax(q k^T * scale + causal mask) v with grouped heads: query head h reads kv head h / (n_heads / n_kv_heads).
/// q [T, n_heads, d], k and v [T, n_kv_heads, d]; result [T, n_heads * d].
Matrix attention(const Cube& q, const Cube& k, const Cube& v, const AttentionOptions& options);

}  // namespace oracle
