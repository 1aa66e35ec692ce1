#include "model/binder.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"

namespace engine {
namespace {

using kernels::Format;

/// The format in which a tensor of this type is used in place; count: it must be converted.
Format format_in_place(DType dtype) {
  switch (dtype) {
    case DType::f32: return Format::f32;
    case DType::bf16: return Format::bf16;
    case DType::f16: return Format::f16;
    default: return Format::count;
  }
}

Format wanted_format(WeightDType dtype, DType stored) {
  switch (dtype) {
    case WeightDType::f32: return Format::f32;
    case WeightDType::bf16: return Format::bf16;
    case WeightDType::f16: return Format::f16;
    case WeightDType::automatic: break;
  }
  const Format in_place = format_in_place(stored);
  return in_place == Format::count ? Format::f32 : in_place;
}

bool is_float(DType dtype) { return dtype == DType::f64 || format_in_place(dtype) != Format::count; }

int64_t element_bytes(Format format) { return format == Format::f32 ? 4 : 2; }

/// Rows [first, first + n) of a matrix.
TensorView slice_rows(const TensorView& t, int64_t first, int64_t n) {
  TensorView out = t;
  const size_t row_bytes = t.n_bytes / static_cast<size_t>(t.shape[0]);
  out.shape[0] = n;
  out.data = t.data + first * row_bytes;
  out.n_bytes = n * row_bytes;
  return out;
}

}  // namespace

Binder::Binder(Model& model, const Checkpoint& checkpoint, const LoadOptions& options)
    : model_(model), checkpoint_(checkpoint), options_(options) {}

std::byte* Binder::own(size_t n_bytes) {
  model_.owned_.emplace_back(n_bytes, n_bytes >= (size_t{4} << 20));
  model_.owned_bytes_ += n_bytes;
  return model_.owned_.back().data();
}

const TensorView* Binder::expect(const std::string& name, const Shape& shape) {
  const TensorView* t = checkpoint_.find(name);
  if (t == nullptr) {
    problems_.push_back(name + " is missing");
  } else if (t->shape != shape) {
    problems_.push_back(name + " expected " + shape_string(shape) + ", got " + shape_string(t->shape));
  } else if (!is_float(t->dtype)) {
    problems_.push_back(name + " expected F32, BF16 or F16, got " + std::string(dtype_name(t->dtype)));
  } else {
    return t;
  }
  return nullptr;
}

void Binder::matrix(kernels::Matrix& out, const std::string& name, int64_t n_rows, int64_t n_cols, Rows rows) {
  const TensorView* t = expect(name, {rows.total > 0 ? rows.total : n_rows, n_cols});
  if (t == nullptr) return;
  const TensorView part = slice_rows(*t, rows.first, n_rows);
  const Format format = wanted_format(options_.dtype, t->dtype);
  out = {part.data, n_rows, n_cols, format};
  model_.n_parameters_ += static_cast<uint64_t>(n_rows * n_cols);
  if (format == format_in_place(t->dtype)) {
    model_.mapped_bytes_ += part.n_bytes;
  } else {
    conversions_.push_back({&out, part, name});
    converted_bytes_ += part.n_bytes;
  }
}

void Binder::linear(Linear& out, const std::string& prefix, int64_t n_out, int64_t n_in, bool bias, Rows rows) {
  matrix(out.w, prefix + ".weight", n_out, n_in, rows);
  if (bias) out.bias = vector(prefix + ".bias", n_out, 0, rows);
}

const float* Binder::vector(const std::string& name, int64_t n, float add, Rows rows) {
  const TensorView* t = expect(name, {rows.total > 0 ? rows.total : n});
  if (t == nullptr) return nullptr;
  float* out = reinterpret_cast<float*>(own(static_cast<size_t>(n) * sizeof(float)));
  to_float(slice_rows(*t, rows.first, n), out);
  if (add != 0) std::for_each(out, out + n, [add](float& v) { v += add; });
  model_.n_parameters_ += static_cast<uint64_t>(n);
  return out;
}

void Binder::norm(NormWeights& out, const std::string& prefix, int64_t n, bool bias) {
  out.weight = vector(prefix + ".weight", n, spec().norm_plus_one ? 1.0f : 0.0f);
  if (bias) out.bias = vector(prefix + ".bias", n);
}

/// Widens row by row and narrows to `format`, rows spread over the team.
void Binder::convert(const Conversion& job, Format format, uint64_t total_bytes) {
  const int64_t n_rows = job.out->n_rows, n_cols = job.out->n_cols;
  std::byte* out = own(static_cast<size_t>(n_rows * n_cols * element_bytes(format)));
  const auto rows = [&](int64_t begin, int64_t end) {
    std::vector<float> wide(static_cast<size_t>(n_cols));
    for (int64_t r = begin; r < end; ++r) {
      float* target = format == Format::f32 ? reinterpret_cast<float*>(out) + r * n_cols : wide.data();
      to_float(slice_rows(job.rows, r, 1), target);
      if (format == Format::f32) continue;
      uint16_t* narrow = reinterpret_cast<uint16_t*>(out) + r * n_cols;
      for (int64_t c = 0; c < n_cols; ++c) {
        narrow[c] = format == Format::bf16 ? float_to_bf16(wide[c]) : float_to_f16(wide[c]);
      }
    }
  };
  if (options_.team != nullptr) {
    options_.team->run([&](Worker& worker) { worker.for_chunks(n_rows, 16, rows); });
  } else {
    rows(0, n_rows);
  }
  *job.out = {out, n_rows, n_cols, format};
  converted_bytes_ += job.rows.n_bytes;
  if (options_.progress) options_.progress(converted_bytes_, total_bytes);
}

void Binder::finish() {
  if (!problems_.empty()) {
    constexpr size_t most = 8;
    std::string list;
    for (size_t i = 0; i < problems_.size() && i < most; ++i) list += (i > 0 ? "; " : "") + problems_[i];
    if (problems_.size() > most) list += "; and " + std::to_string(problems_.size() - most) + " more";
    throw Error(model_.directory_ + ": " + std::to_string(problems_.size()) + " tensors do not fit " +
                model_.spec_.architecture + ": " + list);
  }
  const uint64_t total = std::exchange(converted_bytes_, 0);
  for (const Conversion& job : conversions_) convert(job, wanted_format(options_.dtype, job.rows.dtype), total);
}

}  // namespace engine
