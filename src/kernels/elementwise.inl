// Norms, rotary embedding, activations and other maps and reductions over one vector. Included inside the anonymous namespace of isa.cpp.
//
// A vector's tail goes through the same lane code as its body (on a padded copy), so an element's value never depends on its position.

/// y[i] = f(x[i]).
template <class Fn>
KERNEL_INLINE void map(const float* x, float* y, int64_t n, Fn f) {
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) store(y + i, f(load(x + i)));
  if (i < n) store_first(y + i, f(load_first<F32>(x + i, n - i)), n - i);
}

/// y[i] = f(a[i], b[i]).
template <class Fn>
KERNEL_INLINE void map(const float* a, const float* b, float* y, int64_t n, Fn f) {
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) store(y + i, f(load(a + i), load(b + i)));
  if (i < n) store_first(y + i, f(load_first<F32>(a + i, n - i), load_first<F32>(b + i, n - i)), n - i);
}

/// Sum of f(x[i]), where f(0) may be anything: `f` gets a vector and how many of its lanes count. Four accumulators, because one
/// would wait for its own latency.
template <class Fn>
KERNEL_INLINE float sum_of(const float* x, int64_t n, Fn f) {
  F acc[4] = {F(0.0f), F(0.0f), F(0.0f), F(0.0f)};
  int64_t i = 0;
  for (; i + 4 * lanes <= n; i += 4 * lanes) {
    for (int j = 0; j < 4; ++j) acc[j] = acc[j] + f(load(x + i + j * lanes), lanes);
  }
  for (; i + lanes <= n; i += lanes) acc[0] = acc[0] + f(load(x + i), lanes);
  if (i < n) acc[1] = acc[1] + f(load_first<F32>(x + i, n - i), static_cast<int>(n - i));
  return sum_lanes((acc[0] + acc[1]) + (acc[2] + acc[3]));
}

/// x with the lanes from n on set to zero.
KERNEL_INLINE F first_lanes(F x, int n) {
  if (n == lanes) return x;
  float buffer[lanes];
  store(buffer, x);
  return load_first<F32>(buffer, n);
}

KERNEL_ENTRY void rms_norm(const float* x, const float* weight, float eps, float* y, int64_t n) {
  const float squares = sum_of(x, n, [](F v, int) { return v * v; });
  const F factor(1.0f / __builtin_sqrtf(squares / static_cast<float>(n) + eps));
  if (weight == nullptr) {
    map(x, y, n, [=](F v) { return v * factor; });
  } else {
    map(x, weight, y, n, [=](F v, F w) { return v * factor * w; });
  }
}

KERNEL_ENTRY void layer_norm(const float* x, const float* weight, const float* bias, float eps, float* y, int64_t n) {
  const float mean = sum_of(x, n, [](F v, int) { return v; }) / static_cast<float>(n);
  const F shift(mean);
  const float squares = sum_of(x, n, [=](F v, int count) {
    const F d = first_lanes(v - shift, count);
    return d * d;
  });
  const F factor(1.0f / __builtin_sqrtf(squares / static_cast<float>(n) + eps));
  if (weight == nullptr) {
    map(x, y, n, [=](F v) { return (v - shift) * factor; });
  } else {
    map(x, weight, y, n, [=](F v, F w) { return (v - shift) * factor * w; });
  }
  if (bias != nullptr) map(y, bias, y, n, [](F v, F b) { return v + b; });
}

KERNEL_ENTRY void rope(float* x, const float* cos, const float* sin, int64_t half) {
  float* const upper = x + half;
  int64_t i = 0;
  for (; i + lanes <= half; i += lanes) {
    const F a = load(x + i), b = load(upper + i), c = load(cos + i), s = load(sin + i);
    store(x + i, a * c - b * s);
    store(upper + i, b * c + a * s);
  }
  for (; i < half; ++i) {
    const float a = x[i], b = upper[i];
    x[i] = a * cos[i] - b * sin[i];
    upper[i] = b * cos[i] + a * sin[i];
  }
}

KERNEL_ENTRY void rope_interleaved(float* x, const float* cos, const float* sin, int64_t half) {
  for (int64_t i = 0; i < half; ++i) {
    const float a = x[2 * i], b = x[2 * i + 1];
    x[2 * i] = a * cos[i] - b * sin[i];
    x[2 * i + 1] = b * cos[i] + a * sin[i];
  }
}

KERNEL_INLINE F silu(F x) { return x / (F(1.0f) + exp(F(0.0f) - x)); }
KERNEL_INLINE F gelu(F x) { return F(0.5f) * x * (F(1.0f) + erf(x * F(0.70710678118654752440f))); }
KERNEL_INLINE F gelu_tanh(F x) {
  const F inner = F(0.79788456080286535588f) * (x + F(0.044715f) * x * x * x);
  return F(0.5f) * x * (F(1.0f) + tanh(inner));
}
// A comparison with NaN is false: NaN passes through, as in torch.
KERNEL_INLINE F relu(F x) { return select(x < F(0.0f), F(0.0f), x); }
KERNEL_INLINE F relu2(F x) { return relu(x) * relu(x); }

template <class Fn>
KERNEL_INLINE void gate_with(Fn f, const float* gate, const float* up, float* y, int64_t n) {
  if (up == nullptr) {
    map(gate, y, n, f);
  } else {
    map(gate, up, y, n, [=](F g, F u) { return f(g) * u; });
  }
}

KERNEL_ENTRY void gated_activation(Activation kind, const float* gate, const float* up, float* y, int64_t n) {
  switch (kind) {
    case Activation::silu: return gate_with([](F x) { return silu(x); }, gate, up, y, n);
    case Activation::gelu: return gate_with([](F x) { return gelu(x); }, gate, up, y, n);
    case Activation::gelu_tanh: return gate_with([](F x) { return gelu_tanh(x); }, gate, up, y, n);
    case Activation::relu: return gate_with([](F x) { return relu(x); }, gate, up, y, n);
    case Activation::relu2: return gate_with([](F x) { return relu2(x); }, gate, up, y, n);
    case Activation::count: return;
  }
}

KERNEL_ENTRY void clamped_swiglu(const float* gate, const float* up, float limit, float* y, int64_t n) {
  const F low(-limit), high(limit);
  map(gate, up, y, n, [=](F g, F u) {
    const F a = select(g > high, high, g), raised = select(u < low, low, u), b = select(raised > high, high, raised);
    return (b + F(1.0f)) * (a / (F(1.0f) + exp(F(-1.702f) * a)));
  });
}

KERNEL_ENTRY void add(const float* a, const float* b, float* y, int64_t n) {
  map(a, b, y, n, [](F u, F v) { return u + v; });
}

KERNEL_ENTRY void add_scaled(const float* a, float factor, float* y, int64_t n) {
  const F f(factor);
  map(a, y, y, n, [=](F u, F v) { return fma(u, f, v); });
}

KERNEL_ENTRY void scale(float* x, float factor, int64_t n) {
  const F f(factor);
  map(x, x, n, [=](F v) { return v * f; });
}

KERNEL_ENTRY void clamp(float* x, float low, float high, int64_t n) {
  const F l(low), h(high);
  map(x, x, n, [=](F v) {
    const F raised = select(v < l, l, v);
    return select(raised > h, h, raised);
  });
}

KERNEL_ENTRY void softcap(float* x, float cap, int64_t n) {
  const F c(cap);
  map(x, x, n, [=](F v) { return c * tanh(v / c); });
}

KERNEL_ENTRY float max_of(const float* x, int64_t n) {
  const F lowest(-__builtin_inff());
  F best[4] = {lowest, lowest, lowest, lowest};
  int64_t i = 0;
  // A comparison with NaN is false, so NaN never wins.
  for (; i + 4 * lanes <= n; i += 4 * lanes) {
    for (int j = 0; j < 4; ++j) {
      const F v = load(x + i + j * lanes);
      best[j] = select(v > best[j], v, best[j]);
    }
  }
  for (int j = 1; j < 4; ++j) best[0] = select(best[j] > best[0], best[j], best[0]);
  float result = max_lanes(best[0]);
  for (; i < n; ++i) result = x[i] > result ? x[i] : result;
  return result;
}

KERNEL_ENTRY int64_t argmax(const float* x, int64_t n) {
  const float best = max_of(x, n);
  const F wanted(best);
  int64_t i = 0;
  for (; i + 4 * lanes <= n; i += 4 * lanes) {
    const auto found = ((load(x + i) == wanted) | (load(x + i + lanes) == wanted)) |
                       ((load(x + i + 2 * lanes) == wanted) | (load(x + i + 3 * lanes) == wanted));
    if (any(found)) break;
  }
  // NaN counts as -inf: when nothing is larger, the first element is as good as any.
  if (best == -__builtin_inff()) return 0;
  for (; i < n; ++i) {
    if (x[i] == best) return i;
  }
  return 0;
}

KERNEL_ENTRY double exp_sum(const float* x, float shift, float* y, int64_t n) {
  const F s(shift);
  Doubles low = {}, high = {};
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    store(y + i, exp(load(x + i) - s));
    low += __builtin_convertvector(load_as<HalfFloats>(y + i), Doubles);
    high += __builtin_convertvector(load_as<HalfFloats>(y + i + lanes / 2), Doubles);
  }
  double total = 0;
  for (int j = 0; j < lanes / 2; ++j) total += low[j];
  for (int j = 0; j < lanes / 2; ++j) total += high[j];
  if (i < n) {
    float buffer[lanes];
    store(buffer, exp(load_first<F32>(x + i, n - i) - s));
    for (int64_t j = 0; i + j < n; ++j) {
      y[i + j] = buffer[j];
      total += static_cast<double>(buffer[j]);
    }
  }
  return total;
}
